"""What operators compute on tensors of 16 bits, in NumPy.

Only TFLite's builtin kernels take them. Accumulators have 64 bits there and factors 15;
functions are straight lines between 257 or 513 places. Operators that are not here
compute as with 8 bits.

Sources: TensorFlow Lite, ``kernels/internal/common.h`` and ``common.cc``,
``kernels/internal/reference/integer_ops``, ``reference/softmax.h``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from matar_tf.operators import registrar
from matar_tf.tflite._arithmetic import builtin_sum
from matar_tf.tflite._elementwise import reduced_axes
from matar_tf.tflite._rounding import multiply_away_from_zero, quantized_multiplier
from matar_tf.tflite._site import Computation, Site, saturate, scale_of
from matar_tf.tflite._tables import exact_gelu, rough_gelu

__all__ = ["SIMULATED_AT_16", "multiply_by_15_bits", "multiply_by_31_bits"]

SIMULATED_AT_16: Final[dict[str, Computation]] = {}  # by the operator's name
_simulates = registrar(SIMULATED_AT_16)

_SUM_BITS: Final = 15  # after the point of what is added
_ONE: Final = 1 << 15
_NUM_STEPS: Final = 512  # of a table


def multiply_by_15_bits(acc: np.ndarray, real: Any) -> np.ndarray:
    """Returns ``acc * real`` as kernels with 64-bit accumulators do, halves up.

    A result beyond 32 bits wraps.

    Args:
      acc: Whole numbers, int64.
      real: Factors, one for all or one for each channel.
    """
    multiplier, shift = quantized_multiplier(real)
    multiplier = np.where(shift < -31, 0, multiplier)
    right = 15 - np.where(shift < -31, 0, shift).astype(np.int64)
    factor = np.minimum((multiplier + _ONE) >> 16, _ONE - 1)
    return ((acc * factor + (np.int64(1) << (right - 1))) >> right).astype(np.int32)


def multiply_by_31_bits(acc: np.ndarray, real: Any) -> np.ndarray:
    """Returns ``acc * real`` as dense kernels of 64 bits do, halves up."""
    multiplier, shift = quantized_multiplier(real)
    right = 31 - np.where(shift < -31, 0, shift).astype(np.int64)
    return (acc * multiplier + (np.int64(1) << (right - 1))) >> right


@_simulates("ADD")
def _add(site: Site) -> np.ndarray:
    return builtin_sum(site, 1, _SUM_BITS)


@_simulates("SUB")
def _subtract(site: Site) -> np.ndarray:
    return builtin_sum(site, -1, _SUM_BITS)


@_simulates("MEAN")
def _mean(site: Site) -> np.ndarray:
    """The factor is divided by the number of values, which are added without it."""
    axes = reduced_axes(site)
    count = math.prod(site.x.shape[axis] for axis in axes)
    acc = site.x.sum(axis=axes, keepdims=bool(site.options.keepDims), dtype=np.int64)
    source, out = (float(scale_of(one)[0]) for one in (site.tensor(0), site.out))
    multiplier, shift = (int(one) for one in quantized_multiplier(source / out))
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    factor = np.array((multiplier << extra) // count)
    return saturate(multiply_away_from_zero(acc, factor, np.array(shift - extra)), site)


def _table(
    scales: tuple[Any, Any], zero_point: int, function: Callable[[Any], Any]
) -> np.ndarray:
    """Returns the values of a function at 513 places, moved to where lines fit best.

    Args:
      scales: Steps of input and output, in the precision that the kernel reckons in.
      zero_point: That of the input.
      function: What it computes, of an array.
    """
    kind = np.asarray(scales[0]).dtype.type
    low, high = (scales[0] * kind(end - zero_point) for end in (-_ONE, _ONE - 1))
    step = (high - low) / kind(_NUM_STEPS)
    lowest, highest = (scales[1] * kind(end) for end in (-_ONE, _ONE - 1))
    unit = kind(2 * _ONE) / (highest - lowest)
    places = low + np.arange(_NUM_STEPS).astype(kind) * step
    following = low + np.arange(1, _NUM_STEPS + 1).astype(kind) * step
    ends = [function(x).astype(kind) * unit for x in (places, following)]
    middle = _rounded(function(places + step / kind(2)).astype(kind) * unit)
    at_places = _rounded(ends[0])
    between = _rounded((ends[1] + at_places) / kind(2))
    bias = _rounded((between - middle) / kind(2))
    last = _rounded(function(np.array([high])).astype(kind) * unit)
    return np.clip(np.append(at_places - bias, last), -_ONE, _ONE - 1).astype(np.int64)


def _rounded(x: np.ndarray) -> np.ndarray:
    """Returns whole numbers; halves go away from zero."""
    return np.copysign(np.floor(np.abs(x).astype(np.float64) + 0.5), x).astype(x.dtype)


def _looked_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns what lines between the places of a table make of 16-bit numbers."""
    place, rest = (values >> 7) + _NUM_STEPS // 2, values & 0x7F
    base = table[place]
    return base + (((table[place + 1] - base) * rest + 64) >> 7)


@_simulates("EXP")
def _exp(site: Site) -> np.ndarray:
    return _by_table(site, np.exp)


@_simulates("GELU")
def _gelu(site: Site) -> np.ndarray:
    return _by_table(site, rough_gelu if site.options.approximate else exact_gelu)


def _by_table(site: Site, function: Callable[[Any], Any]) -> np.ndarray:
    """Tables are filled in float32, with functions of the C library."""

    def in_float64(x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return function(x.astype(np.float64)).astype(np.float32)

    scales = scale_of(site.tensor(0))[0], scale_of(site.out)[0]
    table = _table(scales, 0, in_float64)
    return _looked_up(site.x.astype(np.int64), table).astype(np.int16)


@_simulates("LOGISTIC")
def _sigmoid(site: Site) -> np.ndarray:
    x = _on_table(site, {0: 0})
    size = np.abs(x)
    place, rest = np.minimum(size >> 9, 255), size & 0x1FF
    first, second = _SIGMOIDS[place], _SIGMOIDS[np.minimum(place + 1, 255)]
    made = (first << 9) + rest * (second - first)
    made = np.where(place == 255, (_ONE - 1) << 10, made)
    made = np.where(x >= 0, made + (1 << 9), (1 << 25) - made + (1 << 9) - 1)
    return (made >> 10).astype(np.int16)


@_simulates("TANH")
def _tanh(site: Site) -> np.ndarray:
    """``2 * sigmoid(2 * x) - 1``."""
    x = _on_table(site, {0: 0, 1: 1})
    size = np.abs(x)
    place, rest = np.minimum(size >> 8, 255), size & 0xFF
    first, second = _SIGMOIDS[place], _SIGMOIDS[np.minimum(place + 1, 255)]
    made = (first << 8) + rest * (second - first)
    made = np.where(place == 255, (2 * _ONE - 1) << 8, made)
    made = np.where(x >= 0, made - (1 << 23) + 128, -made + (1 << 23) + 127)
    return (made >> 8).astype(np.int16)


def _sigmoids() -> np.ndarray:
    """Returns the table of ``sigmoid(n / 24)``, 16 bits after the point.

    Each is moved half the way to where a line to the next is right in the middle.
    """
    at, between, following = (
        2.0**16 / (1.0 + np.exp(-(np.arange(256) + part) / 24.0))
        for part in (0.0, 0.5, 1.0)
    )
    moved = np.rint(at + (between - (at + following) / 2.0) / 2.0)
    moved[-1] = 2**16 - 1
    return moved.astype(np.int64)


_SIGMOIDS: Final = _sigmoids()


def _on_table(site: Site, powers: dict[int, int]) -> np.ndarray:
    """Returns an input in steps of 1 / (3 * 4096), as `_SIGMOIDS` is looked up by.

    Args:
      site: The operator.
      powers: Shifts to the left of inputs in steps of a power of two over 4096 that
        the kernel multiplies by 3 alone.
    """
    scale, x = float(scale_of(site.tensor(0))[0]), site.x.astype(np.int64)
    log2 = math.log2(scale)
    if log2 == round(log2) and round(log2) + 12 in powers:
        return x * (3 << powers[round(log2) + 12])
    factor, shift = scale * 4096.0 * 3.0, 0
    while factor <= 32767.0 / 2.0 and shift <= 30:
        factor, shift = factor * 2.0, shift + 1
    return (x * int(factor) + ((1 << shift) >> 1)) >> shift


@_simulates("SOFTMAX")
def _softmax(site: Site) -> np.ndarray:
    """Powers and the inverse of their sum are looked up."""
    x = site.x.astype(np.int64)
    beta = np.float64(np.float32(site.options.beta))
    ratio = np.float64(scale_of(site.tensor(0))[0]) * beta / (10.0 / 65535.0)
    below = multiply_away_from_zero(
        x - x.max(axis=-1, keepdims=True), *quantized_multiplier(ratio)
    )
    powers = _looked_up(np.clip(below + _ONE - 1, -_ONE, _ONE - 1), _POWERS)
    total = powers.sum(axis=-1, keepdims=True)
    zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    shifted = ((total << (zeros - 1)) + (1 << 13)) >> 14
    inverse = _looked_up(np.clip(shifted - 3 * _ONE, -_ONE, _ONE - 1), _INVERSES)
    right = 31 - zeros
    made = (powers * inverse + (np.int64(1) << (right - 1))) >> right
    return np.clip(made, 0, _ONE - 1).astype(np.int16)


_POWERS: Final = _table(
    (np.float64(10.0 / 65535.0), np.float64(2.0 / 65535.0)), _ONE - 1, np.exp
)
_INVERSES: Final = _table(
    (np.float64(1.0 / 65535.0), np.float64(2.0 / 65535.0)),
    -_ONE,
    lambda x: 1.0 / (1.0 + x),
)
