"""Pareto dominance and hypervolume; all objectives are minimised.

The only dominance code of the project, apart from DEAP's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import moocore  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from matar_tf.errors import SearchError

__all__ = ["Values", "box", "dominates", "hypervolume", "pareto_front"]

Values: TypeAlias = tuple[float, ...]

_MARGIN = 0.1  # of the range, so that the ends of a front count too


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether a point is no worse than another in all objectives, better in one.

    Infinities compare as numbers; equal points do not dominate each other.

    Raises:
      SearchError: If the points differ in length or hold a NaN.
    """
    if len(first) != len(second):
        raise SearchError(
            "Expected two points with the same number of objectives, got "
            f"{list(first)} and {list(second)}."
        )
    _check_no_nan((first, second))
    return all(a <= b for a, b in zip(first, second, strict=True)) and any(
        a < b for a, b in zip(first, second, strict=True)
    )


def pareto_front(points: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Returns the indices, ascending, of the points that no other dominates.

    Of points that are equal in all objectives, the first one stays.

    Raises:
      SearchError: If a point holds a NaN.
    """
    _check_no_nan(points)
    table = np.asarray(points, dtype=np.float64)
    kept: list[int] = []
    # In lexicographic order only an earlier point can dominate or equal a later one.
    order = sorted(range(len(points)), key=lambda i: (tuple(points[i]), i))
    left = np.asarray(order)
    while left.size:
        kept.append(int(left[0]))
        left = left[~np.all(table[left[0]] <= table[left], axis=1)]
    return tuple(sorted(kept))


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Returns the volume that a set of points dominates, up to a reference point.

    A point that is not better than the reference in every objective adds nothing.
    The volume is infinite if a point that adds something is minus infinity somewhere.

    Raises:
      SearchError: If a point holds a NaN or has another length than the reference.
    """
    _check_no_nan((*points, reference))
    for point in points:
        if len(point) != len(reference):
            raise SearchError(
                f"Expected points with {len(reference)} objectives, as the reference "
                f"point has, got {list(point)}."
            )
    inside = [
        tuple(point)
        for point in points
        if all(a < b for a, b in zip(point, reference, strict=True))
    ]
    if not inside:
        return 0.0
    if any(-math.inf in point for point in inside) or math.inf in reference:
        return math.inf
    if len(reference) == 1:
        return reference[0] - min(inside)[0]
    volume = cast("Any", moocore).hypervolume(
        np.asarray(inside), ref=np.asarray(reference)
    )
    return float(volume)


def box(points: Sequence[Values]) -> tuple[Values, Values]:
    """Returns the best value in each objective, and a point beyond the worst.

    The second point lies a tenth of the range beyond the worst value; where all
    values are equal, a tenth of their size, or 1.
    """
    best = tuple(min(column) for column in zip(*points, strict=True))
    worst = tuple(max(column) for column in zip(*points, strict=True))
    return best, tuple(
        high + ((high - low) * _MARGIN or abs(high) * _MARGIN or 1.0)
        for low, high in zip(best, worst, strict=True)
    )


def _check_no_nan(points: Sequence[Sequence[float]]) -> None:
    for point in points:
        if any(map(math.isnan, point)):
            raise SearchError(
                f"Expected numbers in all objectives, got {list(point)}; a NaN cannot "
                "be compared."
            )
