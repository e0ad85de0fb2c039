"""Scales of a network: free ones, or powers of two.

Hardware without multipliers behind its accumulators shifts them: it takes powers of two
alone (TI's NPU at 8 bits, MAX78000, many FPGAs).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from matar_tf.errors import MatarError, shown

__all__ = [
    "FREE",
    "POWER_OF_TWO",
    "SCALES",
    "are_powers_of_two",
    "check_scale",
    "next_powers_of_two",
]

FREE: Final = "free"
POWER_OF_TWO: Final = "power_of_two"
SCALES: Final = (FREE, POWER_OF_TWO)
_HALF: Final = 0.5  # mantissa of a power of two


def check_scale(scale: object, error: type[MatarError]) -> str:
    """Returns which scales a network has.

    Raises:
      MatarError: Of the given kind, if there are no such ones.
    """
    if not isinstance(scale, str) or scale not in SCALES:
        raise error(f"Expected a scale among {list(SCALES)}, got {shown(scale)}.")
    return scale


def are_powers_of_two(values: Any) -> bool:
    """Whether all numbers are powers of two, above 0 and finite."""
    numbers = np.asarray(values, np.float64)
    fractions, _ = np.frexp(numbers)
    return bool(np.all(fractions == _HALF))


def next_powers_of_two(values: Any) -> np.ndarray:
    """Returns the least powers of two that are not below some numbers above 0."""
    numbers = np.asarray(values)
    fractions, exponents = np.frexp(numbers)
    exponents = exponents - (fractions == _HALF)
    return np.ldexp(np.ones_like(numbers), exponents)
