"""A search from its settings to its result.

A run is a pure function of its settings and of the metrics; the store only spares
measurements. So a killed run is resumed by starting it again: it repeats its own
steps with metrics from the store until it comes to something new.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from tqdm import tqdm

from matar_tf.errors import SearchError
from matar_tf.evolution._evaluations import Evaluations
from matar_tf.evolution._genome import Genome, GenomeCodec
from matar_tf.evolution._nsga2 import Member, generations
from matar_tf.evolution._pareto import Values, box, hypervolume, pareto_front
from matar_tf.evolution._proposals import Proposer
from matar_tf.evolution._request import check_request, named_genomes
from matar_tf.evolution._store import EvaluationStore
from matar_tf.evolution._surrogate import Surrogate, SurrogateFactory
from matar_tf.evolution.options import SearchOptions
from matar_tf.evolution.problem import BatchEvaluator, SearchProblem
from matar_tf.policy import Policy
from matar_tf.results import (
    Candidate,
    Generation,
    Objective,
    Provenance,
    SearchResult,
    StopReason,
)

__all__ = [
    "Convergence",
    "measure_widest",
    "references_of",
    "search",
    "search_order",
]

_MIN_GAIN: Final = 1e-4  # of the hypervolume; smaller gains do not renew the patience
_MAX_BARREN_COHORTS: Final = 25  # one after the other, without a feasible policy


def search(
    problem: SearchProblem,
    evaluate_many: BatchEvaluator,
    *,
    options: SearchOptions,
    provenance: Provenance,
    store: EvaluationStore | None = None,
    memory: dict[Policy, Mapping[str, float]] | None = None,
    surrogate: SurrogateFactory = Surrogate,
    progress: bool = False,
) -> SearchResult:
    """Searches the policies with the best trade-offs between the objectives.

    The first cohort holds the seeds of the problem and all uniform policies. Ctrl-C
    ends the search with the front so far.

    Args:
      problem: What is searched, for which target.
      evaluate_many: Measures the metrics of policies, in any order.
      options: The settings.
      provenance: Where the result comes from; its digests are the key of the store.
      store: Metrics of this and earlier runs; without it nothing is kept.
      memory: Metrics by policy that earlier searches of the same network left here,
        for this target or another; this search starts from them and adds its own.
      surrogate: Makes the guess of metrics from those measured.
      progress: Whether to show a progress bar.

    Returns:
      The front, the references and the history. The front depends on the problem,
      the metrics, the options and the memory only.

    Raises:
      SearchError: If the request cannot be met, or no policy meets the constraints.
    """
    if provenance.seed != options.seed:
        raise SearchError(
            f"Expected the seed of the options ({options.seed}) in the provenance, "
            f"got {provenance.seed}; give both the same."
        )
    check_request(problem, options)
    named = named_genomes(problem)
    memory = {} if memory is None else memory
    total = min(options.max_evaluations, problem.codec().num_genomes)
    # The parts of tqdm that are typed are not the ones used here.
    with cast("Any", tqdm)(total=total, unit="policy", disable=not progress) as bar:
        evaluations = Evaluations(
            problem,
            evaluate_many,
            objectives=options.objectives,
            limits=options.limits,
            provenance=provenance,
            store=store,
            memory=memory,
            on_measured=bar.update,
        )
        minutes = math.inf if options.max_minutes is None else options.max_minutes
        deadline = time.monotonic() + 60.0 * minutes
        convergence = Convergence(
            evaluations, options.objectives, problem.metric_names, bar, deadline
        )

        def found(stop_reason: StopReason) -> SearchResult:
            if not evaluations.entries:
                raise SearchError(evaluations.describe_infeasible())
            return SearchResult(
                target=problem.target,
                objectives=options.objectives,
                front=_front(evaluations, options.objectives, problem.metric_names),
                references=tuple(
                    replace(candidate, name=name)
                    for name, candidate in references_of(problem, evaluations, named)
                ),
                num_evaluated=evaluations.num_evaluated,
                num_reused=evaluations.num_reused,
                stop_reason=stop_reason,
                history=convergence.history(),
                provenance=provenance,
            )

        try:
            evaluations.measure_beside(deadline=deadline)
            reason = _explore(
                problem, evaluations, convergence, named, options, surrogate
            )
            measure_widest(problem, evaluations, named)
            return found(reason)
        except KeyboardInterrupt:  # also while the front is picked
            if not evaluations.entries:
                raise
            if convergence.is_behind:
                convergence.close_generation()
            return found(StopReason.INTERRUPTED)


def _widest(problem: SearchProblem, named: Mapping[str, Genome]) -> list[str]:
    """Returns the name of the widest uniform policy, if it has one: others' measure."""
    return [name for name in problem.space.uniform_names()[:1] if name in named]


def measure_widest(
    problem: SearchProblem, evaluations: Evaluations, named: Mapping[str, Genome]
) -> None:
    """Measures the widest uniform policy, if there is one; it may break a limit."""
    for name in _widest(problem, named):
        evaluations.measure_reference(evaluations.codec.decode(named[name]))


def references_of(
    problem: SearchProblem, evaluations: Evaluations, named: Mapping[str, Genome]
) -> Iterator[tuple[str, Candidate]]:
    """Yields the names that policies were asked for by, and what was measured.

    The widest uniform policy is among them even if it breaks a limit.
    """
    widest = _widest(problem, named)
    for name, (candidate, _) in evaluations.beside.items():
        yield name, candidate
    for name, genome in named.items():
        if genome in evaluations.entries:
            yield name, evaluations.entries[genome][0]
        elif name in widest and genome in evaluations.failed:
            yield name, evaluations.failed[genome][0]
        elif name in widest and evaluations.reference is not None:
            yield name, evaluations.reference


def search_order(problems: Sequence[SearchProblem]) -> list[int]:
    """Returns indices of problems in the order to search them: small spaces first.

    What the first measures, larger spaces mostly hold as well, and not the other way
    round. By name where spaces are of one size, so that no front depends on the order
    in which targets were named.
    """

    def key(index: int) -> tuple[int, str]:
        return problems[index].codec().num_genomes, problems[index].target

    return sorted(range(len(problems)), key=key)


class Convergence:
    """The state of the front after each generation."""

    def __init__(
        self,
        evaluations: Evaluations,
        objectives: tuple[Objective, ...],
        metric_names: tuple[str, ...],
        bar: Any,
        deadline: float,
    ) -> None:
        self.deadline = deadline
        self._evaluations = evaluations
        self._metric_index = next(
            i for i, one in enumerate(objectives) if one.name in metric_names
        )
        self._metric = objectives[self._metric_index]
        self._bar = bar
        self._num_seen = 0
        self._num_known = 0
        self._front: list[Values] = []
        self._rows: list[tuple[int, int, list[Values]]] = []
        self._best_front: list[Values] = []
        self.num_idle = 0

    @property
    def is_behind(self) -> bool:
        """Whether something was measured since a generation was closed."""
        now = self._evaluations.num_known, len(self._evaluations.entries)
        return now != (self._num_known, self._num_seen)

    def close_generation(self) -> None:
        """Takes in what the evaluations have learned since the last call."""
        members = [member for _, member in self._evaluations.entries.values()]
        points = self._front + [one.values for one in members[self._num_seen :]]
        num_new = self._evaluations.num_known - self._num_known
        self._num_known = self._evaluations.num_known
        self._num_seen = len(members)
        self._front = [points[index] for index in pareto_front(points)]
        counts = self._evaluations.num_evaluated, self._evaluations.num_reused
        self._rows.append((*counts, self._front))
        # Old and new front in the same box, so that the box may grow with the front.
        if self._share(self._front, self._front) > (1 + _MIN_GAIN) * self._share(
            self._best_front, self._front
        ):
            self._best_front = self._front
            self.num_idle = 0
        elif num_new:  # what measures nothing cannot gain anything
            self.num_idle += 1
        shown: dict[str, object] = {
            "generation": len(self._rows) - 1,
            "evaluated": counts[0],
            "reused": counts[1],
        }
        if self._front:
            row = self._row(len(self._rows) - 1, self._front)
            shown["hypervolume"] = f"{row.hypervolume:.4f}"
            shown[f"best {self._metric.name}"] = f"{row.best_metric:.4f}"
        left = (self.deadline - time.monotonic()) / 60.0
        if math.isfinite(left):
            shown["minutes left"] = f"{left:.1f}"
        self._bar.set_postfix(shown)

    def history(self) -> tuple[Generation, ...]:
        """Returns one row for each generation that had a feasible policy by then."""
        return tuple(
            self._row(index, self._front)
            for index, (_, _, front) in enumerate(self._rows)
            if front
        )

    def _row(self, index: int, box_front: list[Values]) -> Generation:
        num_evaluated, num_reused, front = self._rows[index]
        best = min(values[self._metric_index] for values in front)
        return Generation(
            generation=index,
            num_evaluated=num_evaluated,
            num_reused=num_reused,
            best_metric=self._metric.from_minimized(best),
            hypervolume=self._share(front, box_front),
        )

    @staticmethod
    def _share(front: list[Values], box_front: list[Values]) -> float:
        """Returns the hypervolume of a front as a share of the box of another."""
        if not front:
            return 0.0
        best, reference = box(box_front)
        sides = [high - low for low, high in zip(best, reference, strict=True)]
        scaled = [
            tuple(
                (value - low) / side
                for value, low, side in zip(values, best, sides, strict=True)
            )
            for values in front
        ]
        return hypervolume(scaled, (1.0,) * len(best))


def _explore(
    problem: SearchProblem,
    evaluations: Evaluations,
    convergence: Convergence,
    named: Mapping[str, Genome],
    options: SearchOptions,
    surrogate: SurrogateFactory,
) -> StopReason:
    """Measures generation by generation, until there is a reason to stop."""
    codec = evaluations.codec
    proposer: Proposer | None = None
    if codec.num_genomes <= options.max_evaluations:
        proposals = _enumeration(codec, named.values(), options.population_size)
        patience = None
    else:
        proposer = Proposer(problem, evaluations, options, surrogate)
        proposals = generations(
            codec,
            proposer.first_genomes(named),
            population_size=options.population_size,
            crossover_prob=options.crossover_prob,
            mutation_prob=options.mutation_prob,
            rng=random.Random(options.seed),
            guide=proposer,
        )
        patience = options.patience
    probes = frozenset[Genome]() if proposer is None else proposer.probes
    num_seen = num_barren = 0
    cohort = next(proposals)
    while True:
        num_known = evaluations.num_known
        members = evaluations.measure(
            cohort,
            options.max_evaluations - num_known,
            probes=probes,
            deadline=convergence.deadline,
        )
        num_seen += len(members)
        num_barren = 0 if evaluations.num_known > num_known else num_barren + 1
        convergence.close_generation()
        if num_seen == codec.num_genomes:
            return StopReason.ENUMERATED
        if evaluations.num_known == options.max_evaluations:
            return StopReason.MAX_EVALUATIONS
        if time.monotonic() >= convergence.deadline:
            return StopReason.MAX_MINUTES
        if (
            patience is not None
            and evaluations.entries
            and convergence.num_idle >= patience
        ):
            return StopReason.PATIENCE
        # An enumeration ends by itself.
        if proposer is not None and num_barren >= _MAX_BARREN_COHORTS:
            return StopReason.EXHAUSTED
        try:
            cohort = proposals.send(members)
        except StopIteration:
            return StopReason.EXHAUSTED


def _enumeration(
    codec: GenomeCodec, seeds: Iterable[Genome], size: int
) -> Generator[list[Genome], Sequence[Member], None]:
    """Yields all legal genomes in cohorts, the seeds first."""
    first = dict.fromkeys(filter(codec.is_legal, seeds))
    others = (genome for genome in codec.all_genomes() if genome not in first)
    genomes = itertools.chain(first, others)
    # Never all at once: a space of millions may be given minutes.
    while cohort := list(itertools.islice(genomes, size)):
        yield cohort


def _front(
    evaluations: Evaluations,
    objectives: tuple[Objective, ...],
    metric_names: tuple[str, ...],
) -> tuple[Candidate, ...]:
    """Returns the Pareto front of all that was measured, cheapest first."""
    entries = [evaluations.entries[genome] for genome in sorted(evaluations.entries)]
    entries += evaluations.beside.values()
    kept = [
        entries[index] for index in pareto_front([one.values for _, one in entries])
    ]
    cost_index = next(
        i for i, one in enumerate(objectives) if one.name not in metric_names
    )
    kept.sort(key=lambda entry: (entry[1].values[cost_index], entry[1].values[::-1]))
    return tuple(
        replace(candidate, name=f"policy_{index:02d}")
        for index, (candidate, _) in enumerate(kept)
    )
