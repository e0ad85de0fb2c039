"""A search that knows beforehand what to expect: few policies are worth measuring.

Where a guess of every policy costs nothing, generations are bred on guesses alone. A
round of measurements is of policies that promise the best front then, and makes the
guesses better. What is found are the best of the measured policies, by what is expected
of them: the luckiest of many is none of the best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from tqdm import tqdm

from matar_tf.evolution._choosing import (
    Choosing,
    Expected,
    chosen,
    known_genomes,
    on_costs,
)
from matar_tf.evolution._evaluations import Evaluations
from matar_tf.evolution._genome import Genome
from matar_tf.evolution._request import check_request, named_genomes
from matar_tf.evolution._run import Convergence, measure_widest
from matar_tf.evolution._store import EvaluationStore
from matar_tf.evolution.options import SearchOptions
from matar_tf.evolution.problem import BatchEvaluator, SearchProblem
from matar_tf.policy import Policy
from matar_tf.results import Provenance, SearchResult, StopReason

__all__ = ["most_measured", "search_in_rounds"]

NUM_ROUNDS: Final = 4
_SHARE: Final = 4  # a quarter of the evaluations: the guesses stand in for the others
_SMALLEST_ROUND: Final = 4  # policies


def most_measured(options: SearchOptions) -> int:
    """Returns how many policies a search in rounds measures, about."""
    least = min((NUM_ROUNDS + 1) * _SMALLEST_ROUND, options.max_evaluations)
    return max(options.plan // _SHARE, least)


# As `search`, and what it knows beforehand.
def search_in_rounds(  # noqa: PLR0913
    problem: SearchProblem,
    evaluate_many: BatchEvaluator,
    expect: Callable[[Mapping[Policy, Mapping[str, float]]], Expected],
    *,
    names: Mapping[str, str],
    widest: Policy,
    metric_names: Sequence[str],
    num_new: int,
    options: SearchOptions,
    provenance: Provenance,
    store: EvaluationStore | None = None,
    memory: dict[Policy, Mapping[str, float]] | None = None,
    progress: bool = False,
) -> SearchResult:
    """Searches the policies with the best trade-offs, few of which are measured.

    Args:
      problem: As for `search`; its metrics are those that are measured.
      evaluate_many: As for `search`.
      expect: Returns what to expect of policies after some were measured.
      names: What is expected in the place of each measured metric of the search.
      widest: Policy that the others are measured beside; the target need not take it.
      metric_names: Of the measured metrics those that a result shows.
      num_new: Number of policies to measure, about: named ones are measured anyway.
      options: As for `search`.
      provenance: As for `search`.
      store: As for `search`.
      memory: As for `search`.
      progress: Whether to show a progress bar.

    Returns:
      As `search` does. Objectives and limits on metrics are of what is expected; what
      was measured stands beside.

    Raises:
      SearchError: If the request cannot be met, or no policy meets the constraints.
    """
    check_request(problem, options)
    named = named_genomes(problem)
    with cast("Any", tqdm)(total=num_new, unit="policy", disable=not progress) as bar:
        evaluations = Evaluations(
            problem,
            evaluate_many,
            objectives=options.objectives,
            limits=on_costs(problem, options),
            provenance=provenance,
            store=store,
            memory={} if memory is None else memory,
            on_measured=bar.update,
        )
        minutes = math.inf if options.max_minutes is None else options.max_minutes
        deadline = time.monotonic() + 60.0 * minutes
        convergence = Convergence(
            evaluations, options.objectives, problem.metric_names, bar, deadline
        )
        rounds = Choosing(
            problem, evaluations, expect, names, widest, options, provenance
        )

        def found(reason: StopReason) -> SearchResult:
            return chosen(
                rounds,
                named,
                metric_names,
                SearchResult(
                    target=problem.target,
                    objectives=rounds.options.objectives,
                    front=(),
                    references=(),
                    num_evaluated=evaluations.num_evaluated,
                    num_reused=evaluations.num_reused,
                    stop_reason=reason,
                    history=convergence.history(),
                    provenance=provenance,
                ),
            )

        try:
            reason = _explore(rounds, convergence, named, num_new, deadline)
            measure_widest(problem, evaluations, named)
            return found(reason)
        except KeyboardInterrupt:
            if not evaluations.entries:
                raise
            if convergence.is_behind:
                convergence.close_generation()
            return found(StopReason.INTERRUPTED)


def _explore(
    rounds: Choosing,
    convergence: Convergence,
    named: Mapping[str, Genome],
    num_new: int,
    deadline: float,
) -> StopReason:
    """Measures round by round; what earlier searches know comes first."""
    evaluations, codec = rounds.evaluations, rounds.evaluations.codec
    known = known_genomes(evaluations)
    asked = {*rounds.problem.seeds, *codec.space.uniform_names()}
    first = dict.fromkeys(
        [*known, *(genome for name, genome in named.items() if name in asked)]
    )
    is_small = codec.num_genomes <= len(known) + num_new
    cohort = [*(dict.fromkeys([*first, *codec.all_genomes()]) if is_small else first)]
    left = num_new - (len(first) - len(known))
    for num_rounds in range(NUM_ROUNDS, -1, -1):
        evaluations.measure(cohort, len(cohort), deadline=deadline)
        convergence.close_generation()
        if is_small:
            return StopReason.ENUMERATED
        if time.monotonic() >= deadline:
            return StopReason.MAX_MINUTES
        if not num_rounds or left < 1:
            break
        share = max(left // num_rounds, _SMALLEST_ROUND)
        cohort = rounds.widening(min(share, left))
        if not cohort:
            return StopReason.EXHAUSTED
        left -= len(cohort)
    return StopReason.PLANNED
