"""What operators of two tensors compute, in NumPy.

The builtin kernels count sums and products in 16 bits: what is beyond 2^15 steps of the
output wraps there, and saturates here. Those for microcontrollers count in 32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from matar_tf.tflite._rounding import (
    multiply_away_from_zero,
    quantized_multiplier,
    requantize,
)
from matar_tf.tflite._site import Site, saturate, scale_of, simulates
from matar_tf.tflite._tables import by_table

__all__ = ["builtin_sum", "sum_factors"]  # computations register themselves

# Ratios of steps, from the first up to the second, that XNNPACK takes of each input of
# a sum over its output, and of a product. It leaves others to the builtin kernels.
_SUM_RATIOS: Final = (2.0**-10, 2.0**8)
_PRODUCT_RATIOS: Final = (2.0**-16, 2.0**8)
_SUM_BITS: Final = 20  # after the point of what the builtin kernels add


@simulates("ADD")
def _add(site: Site) -> np.ndarray:
    return _sum(site, 1)


@simulates("SUB")
def _subtract(site: Site) -> np.ndarray:
    return _sum(site, -1)


def _sum(site: Site, sign: int) -> np.ndarray:
    """The first input plus `sign` times the second, each times a fixed-point factor."""
    a, b = (site.levels(place).astype(np.int64) for place in (0, 1))
    scales = [scale_of(site.tensor(place))[0] for place in (0, 1)]
    scale = scale_of(site.out)[0]
    taken = sum_factors(scales, scale) if site.kernels == "xnnpack" else None
    if taken is not None:
        factors, shift = taken
        acc = a * factors[0] + sign * b * factors[1]
        return saturate((acc + (1 << (shift - 1))) >> shift, site)
    return builtin_sum(site, sign, _SUM_BITS)


def builtin_sum(site: Site, sign: int, sum_bits: int) -> np.ndarray:
    """Returns what the builtin kernels make: the first input plus or minus the second.

    Args:
      site: The operator.
      sign: 1 or -1.
      sum_bits: Those after the point of what is added.
    """
    a, b = (site.levels(place).astype(np.int64) for place in (0, 1))
    scales = [scale_of(site.tensor(place))[0] for place in (0, 1)]
    scale = scale_of(site.out)[0]
    twice = 2.0 * float(max(scales))
    parts: list[np.ndarray] = []
    for x, one in ((a, scales[0]), (b, scales[1])):
        multiplier, right = quantized_multiplier(np.float64(one) / twice)
        bits = sum_bits
        if sign > 0 and site.kernels != "tflm":
            # The vector code of sums shifts once; that of differences is not vectors.
            bits, right = bits + int(right), np.zeros_like(right)
        shifted = (x << max(bits, 0)) >> max(-bits, 0)
        parts.append(multiply_away_from_zero(shifted, multiplier, right))
    final = quantized_multiplier(np.float64(twice / (2.0**sum_bits * float(scale))))
    total = parts[0] + sign * parts[1]
    return saturate(multiply_away_from_zero(total, *final), site)


def sum_factors(
    scales: Sequence[np.float32], scale: np.float32
) -> tuple[list[int], int] | None:
    """Returns what XNNPACK multiplies two levels of a sum by, and shifts it back by.

    Args:
      scales: Steps of the inputs.
      scale: That of the output.

    Returns:
      Two factors and a shift to the right; None if XNNPACK does not take the sum.
    """
    ratios = [one / scale for one in scales]
    if not all(_SUM_RATIOS[0] <= ratio < _SUM_RATIOS[1] for ratio in ratios):
        return None
    shift = 20 - (math.frexp(float(max(ratios)))[1] - 1)
    return [int(np.rint(float(ratio) * 2.0**shift)) for ratio in ratios], shift


@simulates("MUL")
def _multiply(site: Site) -> np.ndarray:
    acc = site.levels(0).astype(np.int64) * site.levels(1)
    kind = np.float64 if site.kernels == "tflm" else np.float32
    scales = [scale_of(site.tensor(place)).astype(kind) for place in (0, 1)]
    ratio = scales[0] * scales[1] / scale_of(site.out)
    low, high = _PRODUCT_RATIOS
    if site.kernels == "xnnpack" and low <= ratio[0] < high:
        first, second = site.operator.inputs
        if first == second:  # which XNNPACK takes for a function
            return by_table(site, np.square, kernels=site.kernels)
        return saturate(requantize(acc, ratio, site.kernels), site)
    return saturate(multiply_away_from_zero(acc, *quantized_multiplier(ratio)), site)


@simulates("MAXIMUM")
def _maximum(site: Site) -> np.ndarray:
    return np.maximum(*map(np.asarray, site.inputs))


@simulates("MINIMUM")
def _minimum(site: Site) -> np.ndarray:
    return np.minimum(*map(np.asarray, site.inputs))
