"""How integer kernels bring an accumulator onto the grid of their output.

XNNPACK multiplies by a float32 scale and rounds halves to even. The builtin kernels
multiply by a 31-bit fixed-point number and round twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "multiply_away_from_zero",
    "multiply_twice_rounded",
    "quantized_multiplier",
    "requantize",
]


def quantized_multiplier(real: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns 31-bit multipliers and left shifts: ``real = m * 2**(shift - 31)``."""
    fraction, exponent = np.frexp(np.asarray(real, np.float64))
    multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    overflow = multiplier == 2**31
    multiplier = np.where(overflow, multiplier // 2, multiplier)
    return multiplier, exponent + overflow


def multiply_twice_rounded(
    x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """A rounding doubling high multiply, then a rounding right shift; halves up.

    The x86 kernels (ruy) round halves up in both places. The reference code of
    gemmlowp rounds them away from zero, which differs for negative accumulators.
    """
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    high = ((x.astype(np.int64) << left) * multiplier + 2**30) >> 31
    return (high + ((np.int64(1) << right) >> 1)) >> right


def multiply_away_from_zero(
    x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """As `multiply_twice_rounded`, but by the reference code of gemmlowp.

    The shift rounds halves away from zero, the multiply rounds them up.
    """
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    product = (x.astype(np.int64) << left) * multiplier
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    high = np.sign(nudged) * (np.abs(nudged) >> 31)
    half = (np.int64(1) << right) >> 1
    return np.sign(high) * ((np.abs(high) + half) >> right)


def requantize(acc: np.ndarray, real: np.ndarray, kernels: str) -> np.ndarray:
    """Returns ``round(acc * real)`` as the kernels round it; `real` per channel."""
    if kernels == "xnnpack":
        scaled = acc.astype(np.float32) * real.astype(np.float32)
        return np.rint(np.clip(scaled, -1e6, 1e6)).astype(np.int32)
    multiplier, shift = quantized_multiplier(real)
    return multiply_twice_rounded(acc, multiplier, shift).astype(np.int32)
