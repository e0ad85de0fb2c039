"""Axes of plots: scaled to the front, with what lies beyond marked at their edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Axis", "axis_of"]

_MARGIN: Final = 0.08  # of the length: room for marks and names
_MOST_AROUND: Final = 0.5  # of the front's length, on each side, for references
_PERCENT: Final = "%"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis.

    Attributes:
      low: Where it begins.
      high: Where it ends.
    """

    low: float
    high: float

    def side_of(self, value: float) -> int:
        """Returns -1 below the axis, 1 above it, 0 on it."""
        return (value > self.high) - (value < self.low)

    def nearest(self, value: float) -> float:
        """Returns the place on the axis that is nearest to a value."""
        return min(max(value, self.low), self.high)


def axis_of(
    front: Sequence[float], others: Sequence[float] = (), unit: str = ""
) -> Axis:
    """Returns an axis on which all of a front lies, and others that are near it.

    Others that are farther than half of the front's length are left beyond the edge;
    where the front has no length, none is. Percents end at 0 and 100.

    Args:
      front: What must be on the axis, intervals included.
      others: What may be.
      unit: Of the values.
    """
    low, high = min(front), max(front)
    around = _MOST_AROUND * (high - low) if high > low else float("inf")
    near = [one for one in others if low - around <= one <= high + around]
    low, high = min([low, *near]), max([high, *near])
    margin = _MARGIN * (high - low or abs(high) or 1.0)
    low, high = low - margin, high + margin
    if unit == _PERCENT:
        low, high = max(low, 0.0), min(high, 100.0)
    return Axis(low=low, high=high)
