"""The best of measured policies, by what is expected of them.

The luckiest of many is none of the best: objectives, and limits on metrics, are of what
is expected, whatever it is that expects it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from matar_tf.errors import SearchError
from matar_tf.evolution._acquisition import choose_widening
from matar_tf.evolution._evaluations import Evaluations
from matar_tf.evolution._genome import Genome
from matar_tf.evolution._limits import Limit
from matar_tf.evolution._pareto import Values, pareto_front
from matar_tf.evolution._request import named_genomes
from matar_tf.evolution._run import measure_widest, references_of, search
from matar_tf.evolution._store import EvaluationStore
from matar_tf.evolution._surrogate import Surrogate
from matar_tf.evolution._thinning import thinned
from matar_tf.evolution.options import SearchOptions
from matar_tf.evolution.problem import BatchEvaluator, SearchProblem
from matar_tf.likeness import Array
from matar_tf.policy import Policy
from matar_tf.results import Candidate, Provenance, SearchResult

__all__ = [
    "Choosing",
    "Expected",
    "choose_by_expected",
    "chosen",
    "known_genomes",
    "on_costs",
]

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


def choose_by_expected(  # noqa: PLR0913
    result: SearchResult,
    problem: SearchProblem,
    evaluate_many: BatchEvaluator,
    expect: Callable[[Mapping[Policy, Mapping[str, float]]], Expected],
    *,
    names: Mapping[str, str],
    widest: Policy,
    metric_names: Sequence[str],
    options: SearchOptions,
    store: EvaluationStore | None,
    memory: dict[Policy, Mapping[str, float]],
) -> SearchResult:
    """Returns the result of a search with the front of what is expected.

    Args:
      result: Of a search that went by what it measured.
      problem: This and all but the memory are as for `search_in_rounds`.
      evaluate_many: Measures the widest policy, if it is not known.
      expect: Returns what to expect of those that are known.
      names: See there.
      widest: See there.
      metric_names: See there.
      options: See there.
      store: See there.
      memory: Metrics of all policies that are known; the search was among those who
        filled it.

    Raises:
      SearchError: If no policy is expected to meet the limits on metrics.
    """
    evaluations = Evaluations(
        problem,
        evaluate_many,
        objectives=options.objectives,
        limits=on_costs(problem, options),
        provenance=result.provenance,
        store=store,
        memory=memory,
        on_measured=lambda: None,
    )
    choosing = Choosing(
        problem, evaluations, expect, names, widest, options, result.provenance
    )
    known = known_genomes(evaluations)
    evaluations.measure(known, len(known))
    named = named_genomes(problem)
    measure_widest(problem, evaluations, named)
    result = replace(
        result,
        objectives=choosing.options.objectives,
        num_evaluated=result.num_evaluated + evaluations.num_evaluated,
    )
    return chosen(choosing, named, metric_names, result)


def on_costs(problem: SearchProblem, options: SearchOptions) -> tuple[Limit, ...]:
    """Returns the limits that are on no metric."""
    return tuple(one for one in options.limits if one.name not in problem.metric_names)


def known_genomes(evaluations: Evaluations) -> list[Genome]:
    """Returns the policies of a space that are known, in the order of the memory."""
    codec = evaluations.codec
    return [
        codec.encode(policy)
        for policy in evaluations.memory
        if codec.space.contains(policy)
    ]


class Choosing:
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


def chosen(
    choosing: Choosing,
    named: Mapping[str, Genome],
    metric_names: Sequence[str],
    result: SearchResult,
) -> SearchResult:
    """Returns a result with front and references, by what is expected of them."""
    evaluations, options = choosing.evaluations, choosing.options
    if not evaluations.entries:
        raise SearchError(evaluations.describe_infeasible())
    expected = choosing.expected()
    kept = choosing.dressed(expected)
    if not kept:
        bounds = ", ".join(
            f"{one.name} of {one.bound:g} at {'least' if one.is_minimum else 'most'}"
            for one in options.limits
        )
        raise SearchError(
            f"Expected a policy with {bounds} on target {result.target!r}, got none "
            f"among {len(evaluations.entries)} measured; relax a limit."
        )
    values = [choosing.values(one) for one in kept]
    cost = next(
        index
        for index, one in enumerate(options.objectives)
        if one.name not in expected.names
    )
    best = sorted(
        pareto_front(values), key=lambda index: (values[index][cost], values[index])
    )
    references = dict(references_of(choosing.problem, evaluations, named))
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
