"""Multiplying by fixed-point numbers as the builtin kernels do."""

from __future__ import annotations

from matar_tf.keras._compat import Tensor, tf

__all__ = ["fixed_point", "multiply"]

_FRACTION_BITS = 52  # of a float64, without the one before the point
_EXPONENT_OF_HALF = 1022
_BITS = 31  # of a multiplier
_MOST_RIGHT = 62  # nothing is left of an int64 that shifts so far, and more overflows


def fixed_point(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a 31-bit multiplier and a left shift, int64 scalars.

    They stand for ``multiplier * 2**(shift - 31)``, the multiplier from ``2**30`` on.

    Args:
      factor: A float64 scalar above 0; 0 becomes so small that nothing is left.
    """
    stored = tf.bitcast(factor, tf.int64)
    one = tf.bitwise.left_shift(tf.constant(1, tf.int64), _FRACTION_BITS)
    shift = stored // one - _EXPONENT_OF_HALF
    dropped = 1 << (_FRACTION_BITS + 1 - _BITS)
    multiplier = (stored % one + one + dropped // 2) // dropped
    carry = multiplier // 2**_BITS
    return multiplier // (1 + carry), shift + carry


def multiply(x: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """Returns whole numbers (int64) times ``multiplier * 2**(shift - 31)``, rounded.

    As gemmlowp's reference code: the product by the multiplier has halves rounded up,
    what is shifted to the right has them rounded away from zero.
    """
    left, right = tf.maximum(shift, 0), tf.clip_by_value(-shift, 0, _MOST_RIGHT)
    products = tf.bitwise.left_shift(x, left) * multiplier + 2 ** (_BITS - 1)
    high = tf.bitwise.right_shift(products, _BITS)
    half = tf.bitwise.left_shift(tf.ones_like(right), right) // 2
    return tf.sign(high) * tf.bitwise.right_shift(tf.abs(high) + half, right)
