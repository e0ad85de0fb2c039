"""Functions of fixed-point numbers as gemmlowp computes them, in NumPy.

TensorFlow Lite for Microcontrollers has no floating point in its int8 sigmoid, tanh and
softmax: it works on 32-bit numbers with some bits before the point.

Source: gemmlowp, ``fixedpoint/fixedpoint.h``. Numbers come as int64, so that none of
the products below overflows.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from matar_tf.tflite._rounding import divide_by_power, high_product

__all__ = [
    "exp_of_negative",
    "one_over_one_plus",
    "sigmoid",
    "tanh",
]

_ONE: Final = 2**31 - 1  # of a number without bits before the point
# exp(-2**k) for k from -2 on, without bits before the point.
_POWERS: Final = (
    *(1672461947, 1302514674, 790015084, 290630308, 39332535, 720401),
    242,
)
_NEWTON_STEPS: Final = 3
_TWO: Final = 2**29  # 1 with two bits before the point
_FIRST_GUESS: Final = (1515870810, -1010580540)  # 48 / 17, -32 / 17, likewise


def _enlarged(x: np.ndarray, bits: int) -> np.ndarray:
    """Returns numbers with fewer bits before the point; they saturate."""
    limit = (1 << (31 - bits)) - 1
    moved = np.where(x > limit, 2**31 - 1, x << bits)
    return np.where(x < -limit, -(2**31), moved)


def exp_of_negative(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """Returns exp(a), without bits before the point.

    Args:
      a: Numbers of at most 0, with `integer_bits` (5 at most) before the point.
      integer_bits: See above.
    """
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    within = (a & (quarter - 1)) - quarter
    result = _exp_within_a_quarter(_enlarged(within, integer_bits))
    remainder = within - a
    for exponent, power in enumerate(_POWERS, start=-2):
        if integer_bits > exponent:
            is_set = (remainder & (1 << (fraction_bits + exponent))) != 0
            result = np.where(is_set, high_product(result, power), result)
    return np.where(a == 0, _ONE, result)


def _exp_within_a_quarter(a: np.ndarray) -> np.ndarray:
    """Returns exp(a) for a in [-1/4, 0), by a Taylor series around -1/8."""
    at_centre, third = 1895147668, 715827883  # exp(-1/8), 1/3
    x = a + (1 << 28)
    square = high_product(x, x)
    cube, fourth = high_product(square, x), high_product(square, square)
    rest = high_product(divide_by_power(fourth, 2) + cube, third) + square
    return at_centre + high_product(x + divide_by_power(rest, 1), at_centre)


def _twice_over_one_plus(a: np.ndarray) -> np.ndarray:
    """Returns 2 / (1 + a) for a in [0, 1), two bits before the point, by Newton."""
    half_denominator = (a + _ONE + 1) // 2
    x = _FIRST_GUESS[0] + high_product(half_denominator, _FIRST_GUESS[1])
    for _ in range(_NEWTON_STEPS):
        error = _TWO - high_product(half_denominator, x)
        x = x + _enlarged(high_product(x, error), 2)
    return x


def one_over_one_plus(a: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + a) for a in [0, 1), all without bits before the point."""
    return _enlarged(_twice_over_one_plus(a), 1)


def sigmoid(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """Returns 1 / (1 + exp(-a)), without bits before the point."""
    positive = one_over_one_plus(exp_of_negative(-np.abs(a), integer_bits))
    result = np.where(a > 0, positive, _ONE - positive)
    return np.where(a == 0, 1 << 30, result)


def tanh(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """Returns the hyperbolic tangent, without bits before the point."""
    power = exp_of_negative(-np.abs(a), integer_bits + 1)  # of twice the number
    positive = _enlarged(_twice_over_one_plus(power) - _TWO, 2)
    return np.where(a == 0, 0, np.where(a < 0, -positive, positive))
