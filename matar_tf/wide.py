"""Activations of 16 bits: their steps, which follow from narrower ones.

They learn nothing of their own, so that every artifact has them: all else is that of
the widest width, such as the statistics of batch norms.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from matar_tf.parameters import TensorParameters, activation_range
from matar_tf.policy import WIDE_BITS, row_of

__all__ = ["WIDE_RANGE", "step_at", "wide_factor"]

WIDE_RANGE: Final = (-(2 ** (WIDE_BITS - 1)), 2 ** (WIDE_BITS - 1) - 1)


def wide_factor(num_bits: int, *, signed: bool) -> np.float32:
    """Returns the step of 16 bits over that of a narrower grid.

    The largest magnitude of that grid becomes the highest level, 32767.
    """
    low, high = activation_range(num_bits, signed=signed)
    return np.float32(max(-low, high) / WIDE_RANGE[1])


def step_at(tensor: TensorParameters, width: int) -> np.float32:
    """Returns the step of a tensor at one of its widths, or at 16 bits."""
    step = np.float32(tensor.step[row_of(tensor.bits, width)])
    if width == WIDE_BITS:
        step *= wide_factor(tensor.bits[-1], signed=tensor.signed)
    return step
