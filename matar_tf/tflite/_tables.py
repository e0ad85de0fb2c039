"""What functions compute, in NumPy: int8 has 256 numbers, a table of each function.

Both kinds of kernels fill their tables in float32 with the functions of the C library,
which NumPy's agree with when computed in double precision and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from matar_tf.tflite._site import Site, scale_of, simulates, zero_point_of

# Functions of operators register themselves.
__all__ = ["by_table", "exact_gelu", "rough_gelu"]

_INT8 = np.arange(-128, 128, dtype=np.int32)


def by_table(
    site: Site, function: Callable[[np.ndarray], np.ndarray], *, kernels: str
) -> np.ndarray:
    """Looks up what a function makes of each level, float64 to float64.

    Args:
      site: The operator.
      function: What it computes.
      kernels: Which kernels fill the table: XNNPACK rounds halves to even, zero point
        included, the builtin ones away from zero before it is added.
    """
    levels = (_INT8 - zero_point_of(site.tensor(0))).astype(np.float32)
    x = (levels * scale_of(site.tensor(0))[0]).astype(np.float64)
    with np.errstate(over="ignore"):
        scaled = function(x).astype(np.float32) * (
            np.float32(1) / scale_of(site.out)[0]
        )
    zero_point = np.float32(zero_point_of(site.out))
    if kernels == "xnnpack":
        stored = np.rint(scaled + zero_point)
    else:
        halves_up = np.floor(np.abs(scaled).astype(np.float64) + 0.5)
        stored = np.copysign(halves_up, scaled) + zero_point
    table = np.clip(stored, *site.limits()).astype(np.int8)
    return table[site.x.astype(np.int32) - _INT8[0]]


@simulates("LOGISTIC")
def _sigmoid(site: Site) -> np.ndarray:
    def sigmoid(x: np.ndarray) -> np.ndarray:
        if site.kernels == "xnnpack":
            return 1.0 / (1.0 + np.exp(-x))
        power = np.exp(-x).astype(np.float32)
        return np.float32(1) / (np.float32(1) + power)

    return by_table(site, sigmoid, kernels=site.kernels)


@simulates("TANH")
def _tanh(site: Site) -> np.ndarray:
    return by_table(site, np.tanh, kernels=site.kernels)


@simulates("ELU")
def _elu(site: Site) -> np.ndarray:
    def elu(x: np.ndarray) -> np.ndarray:
        return np.where(x < 0, np.expm1(x), x)

    return by_table(site, elu, kernels=site.kernels)


@simulates("EXP")
def _exp(site: Site) -> np.ndarray:
    """XNNPACK takes none."""
    return by_table(site, np.exp, kernels="builtin")


@simulates("GELU")
def _gelu(site: Site) -> np.ndarray:
    """XNNPACK takes none; every step of the sum rounds to float32."""
    function = rough_gelu if site.options.approximate else exact_gelu
    return by_table(site, function, kernels="builtin")


def exact_gelu(values: np.ndarray) -> np.ndarray:
    """Returns GELU, every step in float32, as the C library computes it."""
    x = values.astype(np.float32)
    tails = [math.erfc(one) for one in x * np.float32(-math.sqrt(0.5))]
    return np.float32(0.5) * x * np.array(tails, np.float32)


def rough_gelu(values: np.ndarray) -> np.ndarray:
    """As TensorFlow approximates it, by a hyperbolic tangent."""
    x = values.astype(np.float32)
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    half = np.float32(0.5) * x
    return half * (np.float32(1) + np.tanh(inner.astype(np.float64)).astype(np.float32))


@simulates("SOFTMAX")
def _softmax(site: Site) -> np.ndarray:
    """XNNPACK takes none; powers are added one by one, in float32."""
    stored = site.x.astype(np.int32)
    below = stored.max(axis=-1, keepdims=True) - stored
    slope = -scale_of(site.tensor(0))[0] * np.float32(site.options.beta)
    powers = np.exp((slope * below.astype(np.float32)).astype(np.float64))
    powers = powers.astype(np.float32)
    total = np.add.accumulate(powers, axis=-1)[..., -1:]
    shares = powers * (np.float32(1) / (total * scale_of(site.out)[0]))
    levels = np.floor(shares.astype(np.float64) + 0.5) + zero_point_of(site.out)
    return np.clip(levels, *site.limits()).astype(np.int8)
