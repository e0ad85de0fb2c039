"""Which of some guesses are worth measuring: those that would widen the front most.

The worth of a candidate is the hypervolume that it is expected to add: its costs are
known, its metric is a normal distribution around the guess. At every point of a grid
over the costs, the front attains some level of the metric; a candidate that costs no
more lowers that level by what the distribution leaves below it.

Reference:
  Emmerich et al., Single- and multiobjective evolutionary optimization assisted by
  Gaussian random field metamodels, 2006: expected improvement of the hypervolume.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import scipy.special  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.evolution._pareto import Values, box

__all__ = ["choose_widening", "expected_improvement"]

Array = npt.NDArray[np.float64]

_NUM_POINTS: Final = 256  # of the grid, for each axis but one


def expected_improvement(level: Array, mean: Array, deviation: Array) -> Array:
    """Returns ``E max(level - X, 0)`` of normal ``X``, elementwise; deviations > 0."""
    z = (level - mean) / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return deviation * (z * cast("Any", scipy.special).ndtr(z) + density)


def choose_widening(
    front: Sequence[Values],
    candidates: Sequence[Values],
    deviations: Sequence[float],
    *,
    metric: int,
    number: int,
) -> list[int]:
    """Returns indices of the candidates to measure, the most promising first.

    One after the other: each lowers the levels by what is expected of it, so that the
    next one is worth most elsewhere. Candidates that promise nothing are left out.

    Args:
      front: Minimised objectives of what was measured, at least one.
      candidates: Minimised objectives as guessed.
      deviations: Standard deviations of the guessed metric, above 0.
      metric: Index of the metric; the other objectives are taken as certain.
      number: How many to return, at most.
    """
    if not candidates or number < 1:
        return []
    others = [index for index in range(len(front[0])) if index != metric]
    low = np.asarray(box([*front, *candidates])[0])
    high = np.asarray(box(front)[1])
    points = low[others] + _grid(len(others)) * (high - low)[others]
    table = np.asarray(candidates)
    reaches = _reaches(table[:, others], points)
    measured = np.asarray(front)
    levels = np.where(
        _reaches(measured[:, others], points), measured[:, [metric]], high[metric]
    ).min(axis=0)
    means, spread = table[:, [metric]], np.asarray(deviations)[:, None]

    def gains(index: int | slice) -> Array:
        improvement = expected_improvement(levels, means[index], spread[index])
        return np.where(reaches[index], improvement, 0.0)

    # Gains only shrink as levels fall, so only the one on top is computed again.
    every = gains(slice(None)).sum(axis=1).tolist()
    waiting = [(-worth, index) for index, worth in enumerate(every)]
    heapq.heapify(waiting)
    chosen: list[int] = []
    while waiting and len(chosen) < number:
        _, index = heapq.heappop(waiting)
        found = gains(index)
        worth = float(found.sum())
        if waiting and -worth > waiting[0][0]:
            heapq.heappush(waiting, (-worth, index))
        elif worth > 0.0:
            chosen.append(index)
            levels = levels - found
    return chosen


def _reaches(costs: Array, points: Array) -> npt.NDArray[np.bool_]:
    """Returns whether a row costs no more than a point, ``[num_rows, num_points]``."""
    return np.all(costs[:, None, :] <= points[None, :, :], axis=2)


def _grid(num_axes: int) -> Array:
    """Returns points that fill the unit cube evenly, ``[num_points, num_axes]``.

    Multiples of powers of the root of ``x**(d+1) = x + 1``, modulo 1.
    """
    root = 2.0
    for _ in range(30):
        root = (1.0 + root) ** (1.0 / (num_axes + 1))
    steps = root ** -np.arange(1.0, num_axes + 1.0)
    numbers = np.arange(float(_NUM_POINTS * num_axes))[:, None]
    return (0.5 + numbers * steps) % 1.0
