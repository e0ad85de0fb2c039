"""How integer kernels bring an accumulator onto the grid of their output.

XNNPACK multiplies by a float32 scale and rounds halves to even. The builtin kernels
multiply by a 31-bit fixed-point number and round twice; so do those of TensorFlow Lite
for Microcontrollers (``tensorflow/lite/kernels/internal/common.cc``), which are the
reference kernels, and CMSIS-NN (``arm_nn_requantize``). Hardware without multipliers
there shifts (`_shifting`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from matar_tf.tflite._shifting import shifted

__all__ = [
    "divide_by_power",
    "high_product",
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
    return divide_by_power(high_product(x.astype(np.int64) << left, multiplier), right)


def high_product(a: np.ndarray, b: Any) -> np.ndarray:
    """Returns ``a * b / 2**31``, halves up (``SaturatingRoundingDoublingHighMul``)."""
    product = a * b
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    return np.sign(nudged) * (np.abs(nudged) >> 31)


def divide_by_power(x: np.ndarray, exponent: Any) -> np.ndarray:
    """Returns ``x / 2**exponent``, halves away from zero (``RoundingDivideByPOT``)."""
    half = (np.int64(1) << exponent) >> 1
    return np.sign(x) * ((np.abs(x) + half) >> exponent)


def requantize(acc: np.ndarray, real: np.ndarray, kernels: str) -> np.ndarray:
    """Returns ``round(acc * real)`` as the kernels round it; `real` per channel."""
    if kernels == "xnnpack":
        scaled = acc.astype(np.float32) * real.astype(np.float32)
        return np.rint(np.clip(scaled, -1e6, 1e6)).astype(np.int32)
    if kernels == "shift":
        return np.clip(shifted(acc, real), -(2**20), 2**20).astype(np.int32)
    multiply = multiply_away_from_zero if kernels == "tflm" else multiply_twice_rounded
    return multiply(acc, *quantized_multiplier(real)).astype(np.int32)
