"""Intervals of figures, computed or given, and where both come from."""

from __future__ import annotations

from collections.abc import Mapping

from matar_tf.figures import (
    DISAGREEMENT,
    JOINED,
    PREDICTED,
    Figure,
    bound_names,
    is_expected,
)
from matar_tf.results import SearchResult

__all__ = ["interval_of", "is_predicted", "origin_of"]


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


def origin_of(result: SearchResult, packaged: str, *, has_share: bool) -> str:
    """Returns where the metrics of a result come from, in sentences.

    Args:
      result: The result.
      packaged: What is to be said of the float network.
      has_share: Whether there is a share of samples, which has an interval.
    """
    number, versions = result.provenance.num_samples, result.provenance.versions
    if is_predicted(result):
        return (
            "Metrics are predicted, with their 95 % intervals, from "
            f"{versions[PREDICTED]}{packaged}; measure the policy that you choose."
        )
    measured = {name for one in result.front for name in one.metrics}
    word = "Accuracy" if "accuracy" in measured else "Shares"
    if "agreement" in measured:
        word = "Agreement with the widest policy"
    found = f"Metrics on {number} samples{packaged}."
    if has_share:
        found = f"{word} on {number} samples, with its 95 % Wilson interval{packaged}."
    if JOINED in versions:
        found += (
            f" Expected: of these samples and of the developer's, {versions[JOINED]}."
        )
    elif any(is_expected(name) for name in measured):
        found += (
            " Expected: what samples like these would give, by how far outputs are "
            "from the widest policy's, too."
        )
    return f"{found} {versions[DISAGREEMENT]}" if DISAGREEMENT in versions else found
