"""The settings of a search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from matar_tf.errors import SearchError
from matar_tf.evolution._limits import Limit
from matar_tf.evolution.problem import SearchProblem
from matar_tf.numbers import as_integer, as_number
from matar_tf.policy import Policy
from matar_tf.results import Objective

__all__ = ["SearchOptions", "follow_up", "from_nothing"]

_DEFAULT_OBJECTIVES = (
    Objective(name="accuracy", maximize=True),
    Objective(name="latency_ms"),
)
_MIN_POPULATION = 4
_FOLLOW_UP_GENERATIONS = 8


_WHOLE = (
    *("seed", "max_evaluations", "population_size", "oversampling"),
    *("planned_evaluations", "patience"),
)
_OPTIONAL = ("planned_evaluations", "patience", "max_minutes", "mutation_prob")
_NUMBERS = ("max_minutes", "crossover_prob", "mutation_prob")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """The settings of a search; equal settings give equal fronts.

    Attributes:
      seed: Seed of all randomness.
      max_evaluations: Largest number of policies whose metrics the run asks for,
        whether they are measured or come from the store. A space with no more
        policies than that is enumerated instead of searched.
      population_size: Number of survivors, and of offspring in a generation; it may
        be larger than `max_evaluations`. With a surrogate a third of it is measured at
        a time, so that it keeps three times fewer processes busy.
      objectives: What to make better: metrics and costs, at least one of each.
      limits: Bounds on costs and metrics, beside the constraints of the target. A
        policy that breaks one is never in the front, and if the bound is on a cost,
        measured only to learn what one entry's bits do.
      sensitivity: Whether to measure what each entry's bits do alone, and to start
        from the best sums of that; see `matar_tf.evolution._seeding` and `_knapsack`.
      oversampling: Number of children bred for each that is measured, at least;
        `matar_tf.evolution._surrogate` picks among them. 1 for a search without it.
      max_minutes: Time after which the search measures nothing more, by the clock of
        this machine, so that its front is not the same everywhere; None for no limit.
        A policy that is being measured is measured to its end.
      planned_evaluations: Number of evaluations that a search from nothing is planned
        for, in the place of `max_evaluations`, if that is more: the size of its
        generations and what it measures to learn what one entry's bits do. So a search
        of more evaluations goes on with what one of fewer has begun.
      patience: Number of cohorts, measured one after the other, without a gain in
        hypervolume after which the search stops; None to use up `max_evaluations`.
      crossover_prob: Probability that a child has two parents.
      mutation_prob: Probability that a gene of a child changes; None for one or two
        genes of a child, whatever the depth of the network.
    """

    seed: int = 0
    max_evaluations: int = 1000
    population_size: int = 40
    objectives: tuple[Objective, ...] = _DEFAULT_OBJECTIVES
    limits: tuple[Limit, ...] = ()
    sensitivity: bool = True
    oversampling: int = 8
    max_minutes: float | None = None
    planned_evaluations: int | None = None
    patience: int | None = 15
    crossover_prob: float = 0.9
    mutation_prob: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        self._check_kinds()
        if self.population_size < _MIN_POPULATION:
            raise SearchError(
                f"Expected a population_size of at least {_MIN_POPULATION}, got "
                f"{self.population_size}."
            )
        if self.max_minutes is not None and not 0 < self.max_minutes < math.inf:
            raise SearchError(
                f"Expected a finite max_minutes above 0, got {self.max_minutes}; leave "
                "it out for no limit."
            )
        if self.patience is not None and self.patience < 1:
            raise SearchError(
                f"Expected a patience of at least 1 generation, got {self.patience}; "
                "use None for no limit."
            )
        if self.oversampling < 1:
            raise SearchError(
                f"Expected an oversampling of at least 1, got {self.oversampling}."
            )
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name.endswith("_evaluations") and value is not None and value < 1:
                raise SearchError(f"Expected a {name} of at least 1, got {value}.")
            if name.endswith("_prob") and value is not None and not 0 <= value <= 1:
                raise SearchError(
                    f"Expected a {name} in 0..1, got {value}; it is a probability."
                )
        object.__setattr__(self, "limits", tuple(self.limits))
        _check_limits(self.limits)
        names = [objective.name for objective in self.objectives]
        if len(names) < 2 or len(set(names)) != len(names):
            raise SearchError(
                "Expected two or more different objectives, such as accuracy and "
                f"latency_ms, got {names}."
            )

    def _check_kinds(self) -> None:
        """Makes integers Python's own; refuses what is no number."""
        for names, kind in ((_WHOLE, as_integer), (_NUMBERS, as_number)):
            for name in names:
                value = getattr(self, name)
                if value is not None or name not in _OPTIONAL:
                    object.__setattr__(self, name, kind(value, f"as {name}"))
        if not isinstance(self.sensitivity, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SearchError(
                f"Expected True or False as sensitivity, got {self.sensitivity!r}."
            )
        if self.seed < 0:
            raise SearchError(f"Expected a seed of at least 0, got {self.seed}.")

    @property
    def plan(self) -> int:
        """Number of evaluations that a search from nothing is planned for."""
        if self.planned_evaluations is None:
            return self.max_evaluations
        return min(self.planned_evaluations, self.max_evaluations)


def _check_limits(limits: Sequence[Limit]) -> None:
    """Checks that there is one of each kind, and a figure that keeps to both."""
    limited = [(limit.name, limit.is_minimum) for limit in limits]
    if len(set(limited)) != len(limited):
        names = [name for name, _ in limited]
        raise SearchError(
            f"Expected one largest and one smallest figure each, got {names}."
        )
    largest = {one.name: one.bound for one in limits if not one.is_minimum}
    for limit in limits:
        if limit.is_minimum and limit.bound > largest.get(limit.name, math.inf):
            raise SearchError(
                f"Expected a smallest {limit.name} of at most the largest, "
                f"{largest[limit.name]:.10g}, got {limit.bound:.10g}; no policy keeps "
                "to both."
            )


def from_nothing(options: SearchOptions) -> SearchOptions:
    """Returns the options of a search that no other has taught.

    A generation is no larger than the evaluations planned, so that its narrowest
    policies do not use them up.
    """
    size = max(min(options.population_size, options.plan), _MIN_POPULATION)
    return replace(options, population_size=size)


def follow_up(
    options: SearchOptions,
    problem: SearchProblem,
    known: Iterable[Policy],
    *,
    num_new: int,
) -> SearchOptions:
    """Returns the options of a search that starts from what others measured.

    Generations are small: the surrogate learns from each.

    Args:
      options: Those of a search from nothing.
      problem: What is searched.
      known: Policies that others measured; those that this search may not have in its
        front do not count.
      num_new: Policies to measure beside them.
    """
    num_known = sum(
        problem.space.contains(policy)
        and not problem.breach(policy, options.limits).texts
        for policy in known
    )
    smallest = max(num_new // _FOLLOW_UP_GENERATIONS, _MIN_POPULATION)
    size = min(options.population_size, smallest)
    return replace(
        options,
        max_evaluations=num_known + num_new,
        planned_evaluations=None,
        population_size=size,
    )
