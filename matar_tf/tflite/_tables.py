"""What functions compute, in NumPy: int8 has 256 numbers, a table of each function.

Both kinds of kernels fill their tables in float32 with the functions of the C library,
which NumPy's agree with when computed in double precision and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from matar_tf.tflite import _fixed_point as fixed_point
from matar_tf.tflite._rounding import (
    divide_by_power,
    high_product,
    multiply_away_from_zero,
    quantized_multiplier,
)
from matar_tf.tflite._site import Site, saturate, scale_of, simulates, zero_point_of

# Functions of operators register themselves.
__all__ = ["by_table", "exact_gelu", "rough_gelu"]

_INTEGER_BITS: Final = 4  # before the point, of what sigmoid and tanh are made of
_SUM_BITS: Final = 12  # before the point of a sum of powers
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
    if site.kernels == "tflm":
        return _by_fixed_point(site, fixed_point.sigmoid, 8)

    def sigmoid(x: np.ndarray) -> np.ndarray:
        if site.kernels == "xnnpack":
            return 1.0 / (1.0 + np.exp(-x))
        power = np.exp(-x).astype(np.float32)
        return np.float32(1) / (np.float32(1) + power)

    return by_table(site, sigmoid, kernels=site.kernels)


@simulates("TANH")
def _tanh(site: Site) -> np.ndarray:
    if site.kernels == "tflm":
        return _by_fixed_point(site, fixed_point.tanh, 7)
    return by_table(site, np.tanh, kernels=site.kernels)


def _by_fixed_point(
    site: Site, function: Callable[[np.ndarray, int], np.ndarray], output_bits: int
) -> np.ndarray:
    """What ``integer_ops/logistic.h`` and ``tanh.h`` compute, 4 bits before the point.

    Args:
      site: The operator.
      function: Of numbers and their bits before the point.
      output_bits: Those after the point of a level of the output.
    """
    scale = float(scale_of(site.tensor(0))[0])
    multiplier, shift = quantized_multiplier(scale * 2.0 ** (31 - _INTEGER_BITS))
    radius = math.floor(math.ldexp(15.0, 31 - _INTEGER_BITS - int(shift)))
    levels = site.levels().astype(np.int64)
    within = np.clip(levels, -radius, radius)
    made = function(multiply_away_from_zero(within, multiplier, shift), _INTEGER_BITS)
    made = divide_by_power(made, 31 - output_bits)
    # Halves of what they can say: these saturate whatever the zero point is.
    made = np.where(levels >= radius, 2**30, made)
    made = np.where(levels <= -radius, -(2**30), made)
    return saturate(made, site)


@simulates("ELU")
def _elu(site: Site) -> np.ndarray:
    def elu(x: np.ndarray) -> np.ndarray:
        if site.kernels == "tflm":
            below = np.exp(np.minimum(x, 0)).astype(np.float32) - np.float32(1)
            return np.where(x < 0, below, x)
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
    if site.kernels == "tflm":
        return _softmax_by_fixed_point(site)
    stored = site.x.astype(np.int32)
    below = stored.max(axis=-1, keepdims=True) - stored
    slope = -scale_of(site.tensor(0))[0] * np.float32(site.options.beta)
    powers = np.exp((slope * below.astype(np.float32)).astype(np.float64))
    powers = powers.astype(np.float32)
    total = np.add.accumulate(powers, axis=-1)[..., -1:]
    shares = powers * (np.float32(1) / (total * scale_of(site.out)[0]))
    levels = np.floor(shares.astype(np.float64) + 0.5) + zero_point_of(site.out)
    return np.clip(levels, *site.limits()).astype(np.int8)


def _softmax_by_fixed_point(site: Site) -> np.ndarray:
    """What ``internal/reference/softmax.h`` computes: powers with 5 bits before it."""
    bits = 5
    factor = float(site.options.beta) * float(scale_of(site.tensor(0))[0])
    multiplier, shift = quantized_multiplier(
        min(factor * 2.0 ** (31 - bits), 2.0**31 - 1)
    )
    least = -math.floor(math.ldexp(31.0, 31 - bits - int(shift)))
    stored = site.x.astype(np.int64)
    below = stored - stored.max(axis=-1, keepdims=True)
    counts = below >= least
    scaled = high_product(np.maximum(below, least) << shift, multiplier)
    powers = np.where(counts, fixed_point.exp_of_negative(scaled, bits), 0)
    total = divide_by_power(powers, _SUM_BITS).sum(axis=-1, keepdims=True)
    room = 32 - np.floor(np.log2(total)).astype(np.int64) - 1  # leading zeros
    share = fixed_point.one_over_one_plus((total << room) - 2**31)
    levels = divide_by_power(high_product(powers, share), _SUM_BITS - room + 23)
    return saturate(np.where(counts, levels, 0), site)
