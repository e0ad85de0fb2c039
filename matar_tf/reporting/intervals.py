"""Intervals of figures: computed of what was measured, given of what was predicted."""

from __future__ import annotations

from collections.abc import Mapping

from matar_tf.figures import PREDICTED, Figure, bound_names
from matar_tf.results import SearchResult

__all__ = ["interval_of", "is_predicted"]


def is_predicted(result: SearchResult) -> bool:
    """Returns whether nobody has measured the metrics of a result."""
    return PREDICTED in result.provenance.versions


def interval_of(
    figures: Mapping[str, float | None], column: Figure, num_samples: int
) -> tuple[float, float] | None:
    """Returns the bounds of a figure's 95 % interval, in its own unit.

    Args:
      figures: Of a policy, by name; the bounds may be among them.
      column: The figure.
      num_samples: That a share was measured on; 0 for none.

    Returns:
      The bounds; None if there are none.
    """
    low, high = (figures.get(name) for name in bound_names(column.name))
    if low is not None and high is not None:
        return low, high
    value = figures.get(column.name)
    return None if value is None else column.interval(value, num_samples)
