"""What a search knows beforehand: which policies are worth measuring next."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from matar_tf.evolution._acquisition import choose_widening
from matar_tf.evolution._evaluations import Evaluations
from matar_tf.evolution._genome import Genome
from matar_tf.evolution._knapsack import budget_ladder, gene_pairs
from matar_tf.evolution._nsga2 import Breeder, Member, Ranked, select_survivors
from matar_tf.evolution._pareto import Values, pareto_front
from matar_tf.evolution._seeding import (
    greedy_ladder,
    interpolate_drops,
    sensitivity_genomes,
)
from matar_tf.evolution._surrogate import (
    MIN_SAMPLES,
    Array,
    Surrogate,
    SurrogateFactory,
)
from matar_tf.evolution.options import SearchOptions
from matar_tf.evolution.problem import SearchProblem
from matar_tf.policy import Policy
from matar_tf.results import Objective

__all__ = ["Proposer"]

_SENSITIVITY_SHARE = 3  # a third of the evaluations at most
_NUM_BUDGETS = 10  # for each cost, and as many drops, that the sum is solved for
_BRED = 20  # policies of a generation that the surrogate stands in for, at least
_WARM = 2  # times as many generations where others have taught the surrogate
_NUM_BATCHES = (
    3  # in a generation: the surrogate learns from each before it proposes again
)
_SMALLEST_BATCH = 5  # policies


class Proposer:
    """Plans and makes the proposals of a search from what was evaluated.

    Args:
      problem: What is searched.
      evaluations: What was measured so far.
      options: The settings of the search.
      surrogate: Makes the guess of metrics from those measured.

    Attributes:
      probes: Genomes that tell what each entry's bits do alone: to measure even
        where the target does not take them, or they break a limit.
    """

    def __init__(
        self,
        problem: SearchProblem,
        evaluations: Evaluations,
        options: SearchOptions,
        surrogate: SurrogateFactory = Surrogate,
    ) -> None:
        self._problem = problem
        self._evaluations = evaluations
        self._options = options
        self._make_surrogate = surrogate
        self._warm = tuple(self._taught())
        self._is_warm = len(self._warm) >= MIN_SAMPLES
        is_metric = [one.name in problem.metric_names for one in options.objectives]
        self.probes: frozenset[Genome] = frozenset()
        self._metrics = [index for index, one in enumerate(is_metric) if one]
        self._costs = [index for index, one in enumerate(is_metric) if not one]

    def first_genomes(self, named: Mapping[str, Genome]) -> list[Genome]:
        """Returns what to begin with.

        What earlier searches know and this target takes, and the named policies that
        people ask for; without any such knowledge, all the named ones and what `plan`
        needs to know.

        Args:
          named: Policies to start from, and uniform ones.
        """
        codec = self._evaluations.codec
        if self._is_warm:
            known = [
                codec.encode(policy)
                for policy in self._warm
                if codec.space.contains(policy)
            ]
            asked = {*self._problem.seeds, *codec.space.uniform_names()}
            return known + [one for name, one in named.items() if name in asked]
        if not self._options.sensitivity:
            return list(named.values())
        limit = self._options.plan // _SENSITIVITY_SHARE
        alone = sensitivity_genomes(codec, limit)
        self.probes = frozenset(alone)
        return [*named.values(), *alone]

    def plan(self) -> list[Genome]:
        """Returns what a sum of drops makes best, for each cost objective.

        The best sums of drops for a few budgets, then greedy ones.
        """
        if not self._options.sensitivity:
            return []
        known = self._evaluations.known()
        # The loss tells small drops apart, the accuracy of few samples does not.
        drop = Objective(name="loss")
        if any(drop.name not in metrics for metrics in known.values()):
            drop = self._options.objectives[self._metrics[0]]
        values = {
            genome: drop.to_minimized(metrics[drop.name])
            for genome, metrics in known.items()
        }
        codec = self._evaluations.codec
        drops = interpolate_drops(codec, values)
        if drops is None:
            return []
        number = self._options.population_size // len(self._costs)
        pairs = gene_pairs(self._problem, codec)
        found: list[Genome] = []
        for index in self._costs:
            cost = functools.lru_cache(maxsize=None)(
                functools.partial(self._cost, self._options.objectives[index])
            )
            # Few measurements are left where others have taught: the surrogate's turn.
            num_budgets = min(_NUM_BUDGETS, number)
            solved = budget_ladder(codec, drops, cost, pairs, num_budgets)
            found += solved
            # A compiler may price the costs of a descent: none for nothing.
            rungs = _num_rungs(number - len(solved))
            if rungs:
                found += greedy_ladder(codec, drops, cost, rungs)
        return [codec.mended(genome) for genome in found]

    def propose(
        self, population: Sequence[Ranked], breed: Breeder, size: int
    ) -> list[Genome]:
        """Returns the genomes that promise most, a third of a generation.

        The surrogate stands in for the measurements of some generations; what these
        find is proposed. Infeasible genomes are left out, unless there are no others:
        they could not be measured. Without enough measurements, or if oversampling is
        off, returns children of the population.
        """
        if self._options.oversampling == 1 or len(self._taught()) < MIN_SAMPLES:
            return breed(population, size)
        surrogate = self._surrogate()
        size = max(size // _NUM_BATCHES, min(size, _SMALLEST_BATCH))
        number = max(size, _BRED)
        known = [member for _, member in self._evaluations.entries.values()]
        parents = select_survivors(known, number) or population
        found: dict[Genome, Member] = {}
        times = _WARM if self._is_warm else 1
        for _ in range(times * self._options.oversampling):
            children = breed(parents, number, found)
            members = self._predicted(children, surrogate)
            found.update((member.genome, member) for member in members)
            parents = select_survivors(
                [*(ranked.member for ranked in parents), *members], number
            )
        if not found:
            return breed(population, size)
        return self._choose(list(found.values()), size, surrogate)

    def _taught(self) -> dict[Policy, Mapping[str, float]]:
        """Returns the metrics of what the space has: no 16-bit activations."""
        memory = self._evaluations.memory
        return {one: memory[one] for one in memory if not one.is_wide}

    def _surrogate(self) -> Surrogate:
        memory = self._taught()
        objectives = [self._options.objectives[index] for index in self._metrics]
        figures = [
            [one.to_minimized(metrics[one.name]) for one in objectives]
            for metrics in memory.values()
        ]
        return self._make_surrogate(list(memory), np.asarray(figures))

    def _predicted(
        self, genomes: Sequence[Genome], surrogate: Surrogate
    ) -> list[Member]:
        """Returns the feasible ones as members, their metrics by the surrogate."""
        policies = {
            genome: self._evaluations.codec.decode(genome) for genome in genomes
        }
        feasible = [
            genome
            for genome, policy in policies.items()
            if not self._evaluations.breach(policy).texts
        ]
        if not feasible:
            return []
        predicted = surrogate.predict([policies[genome] for genome in feasible])
        return [
            self._member(genome, row)
            for genome, row in zip(feasible, predicted, strict=True)
        ]

    def _member(self, genome: Genome, predicted: Array) -> Member:
        figures: dict[str, float | None] = {}
        for column, index in enumerate(self._metrics):
            objective = self._options.objectives[index]
            figures[objective.name] = objective.from_minimized(float(predicted[column]))
        limits = [one for one in self._options.limits if one.name in figures]
        broken = [limit for limit in limits if limit.violation(figures)]
        return Member(
            genome=genome,
            values=() if broken else self._values(genome, predicted),
            num_violations=len(broken),
            shortfall=sum(limit.shortfall(figures) for limit in limits),
        )

    def _choose(
        self, candidates: list[Member], size: int, surrogate: Surrogate
    ) -> list[Genome]:
        """Returns the genomes of the candidates that would widen the front most."""
        known = [member.values for _, member in self._evaluations.entries.values()]
        front = [known[index] for index in pareto_front(known)]
        guessed = [one for one in candidates if not one.num_violations]
        chosen: dict[Genome, None] = {}
        if front and guessed:
            policies = [self._evaluations.codec.decode(one.genome) for one in guessed]
            found = choose_widening(
                front,
                [one.values for one in guessed],
                surrogate.deviations(policies)[:, 0].tolist(),
                metric=self._metrics[0],
                number=size,
            )
            chosen.update((guessed[index].genome, None) for index in found)
        # Where nothing would widen the front, what comes nearest to that.
        for ranked in select_survivors(candidates, size):
            if len(chosen) < size:
                chosen[ranked.member.genome] = None
        return list(chosen)

    def _values(self, genome: Genome, predicted: Array) -> Values:
        values = [0.0] * len(self._options.objectives)
        for column, index in enumerate(self._metrics):
            values[index] = float(predicted[column])
        for index in self._costs:
            values[index] = self._cost(self._options.objectives[index], genome)
        return tuple(values)

    def _cost(self, objective: Objective, genome: Genome) -> float:
        """Returns a cost of a genome, mended if its widths may not stand together."""
        codec = self._evaluations.codec
        costs = self._problem.costs(codec.decode(codec.mended(genome)))
        cost = costs[objective.name]
        # That there is a figure was checked before anything was measured.
        return objective.to_minimized(0.0 if cost is None else cost)


def _num_rungs(largest: int) -> int:
    """Returns a length for a ladder: one that holds the rungs of the one of budgets.

    Where there is room for fewer rungs than budgets, as many as there is room for.
    """
    steps = _NUM_BUDGETS - 1
    return max(largest, 0) if largest <= steps else largest - (largest - 1) % steps
