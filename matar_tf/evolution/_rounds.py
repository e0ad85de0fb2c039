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
from dataclasses import replace
from typing import Any, Final, Protocol, cast

from tqdm import tqdm

from matar_tf.errors import SearchError
from matar_tf.evolution._acquisition import choose_widening
from matar_tf.evolution._evaluations import Evaluations
from matar_tf.evolution._genome import Genome
from matar_tf.evolution._pareto import Values, pareto_front
from matar_tf.evolution._request import check_request, named_genomes
from matar_tf.evolution._run import (
    Convergence,
    measure_widest,
    references_of,
    search,
)
from matar_tf.evolution._store import EvaluationStore
from matar_tf.evolution._surrogate import Surrogate
from matar_tf.evolution._thinning import thinned
from matar_tf.evolution.options import SearchOptions
from matar_tf.evolution.problem import BatchEvaluator, SearchProblem
from matar_tf.likeness import Array
from matar_tf.policy import Policy
from matar_tf.results import (
    Candidate,
    Provenance,
    SearchResult,
    StopReason,
)

__all__ = ["Expected", "most_measured", "search_in_rounds"]

NUM_ROUNDS: Final = 4
_SHARE: Final = 4  # a quarter of the evaluations: the guesses stand in for the others
_SMALLEST_ROUND: Final = 4  # policies
_CERTAIN: Final = 1e-6  # deviation of what is not measured
_FREE_EVALUATIONS: Final = 400  # of a search on guesses


class Expected(BatchEvaluator, Protocol):
    """What to expect of policies: a batch evaluator whose figures cost nothing."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the figures, and of their bounds."""
        ...

    def surrogate(self, policies: Sequence[Policy], values: Array) -> Surrogate:
        """Returns a surrogate that knows these figures."""
        ...


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
    on_costs = tuple(
        one for one in options.limits if one.name not in problem.metric_names
    )
    with cast("Any", tqdm)(total=num_new, unit="policy", disable=not progress) as bar:
        evaluations = Evaluations(
            problem,
            evaluate_many,
            objectives=options.objectives,
            limits=on_costs,
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
        rounds = _Rounds(
            problem, evaluations, expect, names, widest, options, provenance
        )

        def found(reason: StopReason) -> SearchResult:
            return _result(
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


class _Rounds:
    """Chooses what to measure, from what is expected.

    Attributes:
      evaluations: What was measured.
      options: Those of a search on what is expected.
    """

    def __init__(
        self,
        problem: SearchProblem,
        evaluations: Evaluations,
        expect: Callable[[Mapping[Policy, Mapping[str, float]]], Expected],
        names: Mapping[str, str],
        widest: Policy,
        options: SearchOptions,
        provenance: Provenance,
    ) -> None:
        self.problem = problem
        self.evaluations = evaluations
        self._expect = expect
        self._widest = widest
        self._metric = next(
            index
            for index, one in enumerate(options.objectives)
            if one.name in problem.metric_names
        )
        self._provenance = provenance
        self.options = replace(
            options,
            objectives=tuple(
                replace(one, name=names.get(one.name, one.name))
                for one in options.objectives
            ),
            limits=tuple(
                replace(one, name=names.get(one.name, one.name))
                for one in options.limits
            ),
            max_evaluations=_FREE_EVALUATIONS,
            planned_evaluations=None,
            patience=None,
            max_minutes=None,
        )

    def expected(self) -> Expected:
        """Returns what to expect after all that was measured."""
        self.evaluations.learn([self._widest])
        return self._expect(self.evaluations.memory)

    def widening(self, number: int) -> list[Genome]:
        """Returns policies that would widen the front most, of those not measured."""
        expected = self.expected()
        found = search(
            replace(self.problem, metric_names=expected.names),
            expected,
            options=self.options,
            provenance=self._provenance,
            surrogate=expected.surrogate,
        )
        if found.interrupted:  # it kept the interrupt to itself
            raise KeyboardInterrupt
        free = found.front
        known = self.evaluations.known()
        genomes = [self.evaluations.codec.encode(one.policy) for one in free]
        new = [index for index, one in enumerate(genomes) if one not in known]
        values = [self.values(one) for one in free]
        front = [self.values(one) for one in self.dressed(expected)]
        chosen = choose_widening(
            front or values,
            [values[index] for index in new],
            [_CERTAIN] * len(new),
            metric=self._metric,
            number=number,
        )
        return [genomes[new[index]] for index in chosen]

    def dressed(self, expected: Expected) -> list[Candidate]:
        """Returns the measured policies with what is expected, that keep to limits."""
        entries = self.evaluations.entries
        measured = [entries[genome][0] for genome in sorted(entries)]
        if not measured:  # none of those to start from keeps to the limits
            return []
        figures = dict(expected([one.policy for one in measured]))
        limits = [one for one in self.options.limits if one.name in expected.names]
        found = [
            replace(one, metrics={**one.metrics, **figures[one.policy]})
            for one in measured
        ]
        return [
            one
            for one in found
            if not any(limit.violation(one.metrics) for limit in limits)
        ]

    def values(self, one: Candidate) -> Values:
        """Returns the minimised objectives of a policy with what is expected of it."""
        return tuple(x.to_minimized(one.value(x)) for x in self.options.objectives)


def _explore(
    rounds: _Rounds,
    convergence: Convergence,
    named: Mapping[str, Genome],
    num_new: int,
    deadline: float,
) -> StopReason:
    """Measures round by round; what earlier searches know comes first."""
    evaluations, codec = rounds.evaluations, rounds.evaluations.codec
    known = [
        codec.encode(policy)
        for policy in evaluations.memory
        if codec.space.contains(policy)
    ]
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


def _result(
    rounds: _Rounds,
    named: Mapping[str, Genome],
    metric_names: Sequence[str],
    result: SearchResult,
) -> SearchResult:
    """Returns a result with front and references, by what is expected of them."""
    evaluations, options = rounds.evaluations, rounds.options
    if not evaluations.entries:
        raise SearchError(evaluations.describe_infeasible())
    expected = rounds.expected()
    kept = rounds.dressed(expected)
    if not kept:
        bounds = ", ".join(
            f"{one.name} of {one.bound:g} at {'least' if one.is_minimum else 'most'}"
            for one in options.limits
        )
        raise SearchError(
            f"Expected a policy with {bounds} on target {result.target!r}, got none "
            f"among {len(evaluations.entries)} measured; relax a limit."
        )
    values = [rounds.values(one) for one in kept]
    cost = next(
        index
        for index, one in enumerate(options.objectives)
        if one.name not in expected.names
    )
    best = sorted(
        pareto_front(values), key=lambda index: (values[index][cost], values[index])
    )
    references = dict(references_of(rounds.problem, evaluations, named))
    figures = dict(expected(list({one.policy: 0 for one in references.values()})))

    def shown(one: Candidate, name: str) -> Candidate:
        names = (*metric_names, *expected.names)
        return replace(one, name=name, metrics={key: one.metrics[key] for key in names})

    front = [shown(kept[index], f"policy_{at:02d}") for at, index in enumerate(best)]
    named_ones = [
        shown(replace(one, metrics={**one.metrics, **figures[one.policy]}), name)
        for name, one in references.items()
    ]
    result = replace(result, front=tuple(front), references=tuple(named_ones))
    return thinned(result, options.population_size)
