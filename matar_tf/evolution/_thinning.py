"""Fronts that are no longer than people read.

Where nothing is measured a front may be long, of policies that hardly differ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from matar_tf.evolution._acquisition import choose_widening
from matar_tf.results import SearchResult

__all__ = ["thinned"]

_CERTAIN: Final = 1e-9  # deviation of a metric, as a share of its range


def thinned(result: SearchResult, number: int) -> SearchResult:
    """Returns a result with a front of so many policies at most.

    The best ones of each objective stay, then those that widen the front most, one
    after the other.

    Args:
      result: What a search found.
      number: Of policies, at least the number of objectives.
    """
    front = result.front
    if len(front) <= number:
        return result
    objectives = result.objectives
    values = [
        tuple(one.to_minimized(policy.value(one)) for one in objectives)
        for policy in front
    ]
    metric = next(
        index for index, one in enumerate(objectives) if one.name in front[0].metrics
    )
    ends = {
        min(range(len(front)), key=lambda index: (values[index][axis], values[index]))
        for axis in range(len(objectives))
    }
    others = [index for index in range(len(front)) if index not in ends]
    column = [row[metric] for row in values]
    spread = max(max(column) - min(column), _CERTAIN) * _CERTAIN
    chosen = choose_widening(
        [values[index] for index in sorted(ends)],
        [values[index] for index in others],
        [spread] * len(others),
        metric=metric,
        number=number - len(ends),
    )
    kept = sorted({*ends, *(others[index] for index in chosen)})
    return replace(
        result,
        front=tuple(
            replace(front[index], name=f"policy_{place:02d}")
            for place, index in enumerate(kept)
        ),
    )
