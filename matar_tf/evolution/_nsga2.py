"""The generation loop of NSGA-II: survivors by DEAP, parents and offspring by us.

Randomness comes only from the `random.Random` that is handed in. That is why DEAP's
tournament, crossover and mutation are not used: they draw from the global generator.

Reference:
  Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, 2002.
  Deviations: a policy that breaks a constraint is never evaluated, so infeasible
  members are ordered by their number of violations, then by how far their metrics
  miss a limit, then by their widths; a genome is proposed only once; widths are
  ordered, so mutation prefers neighbouring widths; a child of widths that may not
  stand together is mended.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Container, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import deap.base  # pyright: ignore[reportMissingTypeStubs]
import deap.tools  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.evolution._genome import Genome, GenomeCodec
from matar_tf.evolution._pareto import Values, dominates

__all__ = [
    "Breeder",
    "Guide",
    "Member",
    "Ranked",
    "Unguided",
    "crossover",
    "first_cohort",
    "generations",
    "mutate",
    "select_survivors",
    "tournament",
]

_ATTEMPTS_PER_CHILD = 20
_MUTATED_GENES = 1.5  # of an individual, on average, where no probability is given
_NEIGHBOUR_PROB = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A genome and what is known of it.

    Attributes:
      genome: The genome.
      values: The minimised objectives; empty for an infeasible genome.
      num_violations: Number of constraints and limits that the policy breaks.
      shortfall: By how much its metrics miss their limits, in shares of these.
    """

    genome: Genome
    values: Values = ()
    num_violations: int = 0
    shortfall: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """A survivor with its crowding distance; larger is lonelier and better."""

    member: Member
    crowding: float


class _Individual:
    """What DEAP wants to see: an object with a fitness."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.fitness = _fitness_class(len(member.values))(member.values)


@functools.cache
def _fitness_class(num_objectives: int) -> type[Any]:
    # A plain subclass does what deap.creator does, without its global names.
    base = cast("type[Any]", deap.base.Fitness)  # pyright: ignore[reportUnknownMemberType]
    return type("Fitness", (base,), {"weights": (-1.0,) * num_objectives})


def select_survivors(members: Iterable[Member], size: int) -> tuple[Ranked, ...]:
    """Returns the best members: feasible ones by NSGA-II, then the nearly feasible."""
    feasible: list[_Individual] = []
    infeasible: list[Member] = []
    for member in members:
        if member.num_violations:
            infeasible.append(member)
        else:
            feasible.append(_Individual(member))
    # An empty list would make DEAP index the last of no fronts.
    select = cast("Any", deap.tools).selNSGA2
    chosen = cast(
        "list[_Individual]",
        # The divide-and-conquer sort: the other takes quadratic time.
        select(feasible, size, nd="log") if feasible and size else [],
    )
    survivors = [
        Ranked(member=one.member, crowding=float(one.fitness.crowding_dist))
        for one in chosen
    ]
    infeasible.sort(key=_distance)
    survivors += [
        Ranked(member=member, crowding=0.0)
        for member in infeasible[: size - len(survivors)]
    ]
    return tuple(survivors)


def tournament(population: Sequence[Ranked], rng: random.Random) -> Member:
    """Returns the better of two members drawn at random.

    A feasible member beats an infeasible one, fewer violations beat more, then a
    dominating member beats a dominated one, then the lonelier member wins.
    """
    first, second = rng.choice(population), rng.choice(population)
    a, b = first.member, second.member
    if a.num_violations or b.num_violations:
        return min(a, b, key=_distance)
    if dominates(a.values, b.values):
        return a
    if dominates(b.values, a.values) or second.crowding > first.crowding:
        return b
    return a


def crossover(first: Genome, second: Genome, rng: random.Random) -> Genome:
    """Returns a genome that takes each gene from either parent, half and half."""
    draw = rng.random
    return tuple([a if draw() < 0.5 else b for a, b in zip(first, second, strict=True)])


def mutate(
    genome: Genome, sizes: Sequence[int], prob: float, rng: random.Random
) -> Genome:
    """Returns a genome in which some genes differ; at least one does.

    Args:
      genome: The genome to vary.
      sizes: Number of choices of each gene.
      prob: Probability that a gene changes.
      rng: Source of randomness.
    """
    genes, draw = list(genome), rng.random
    chosen = [index for index in range(len(genes)) if draw() < prob]
    for index in chosen or [rng.randrange(len(genes))]:
        genes[index] = _other_choice(genes[index], sizes[index], rng)
    return tuple(genes)


def first_cohort(
    codec: GenomeCodec, seeds: Iterable[Genome], size: int, rng: random.Random
) -> list[Genome]:
    """Returns the seeds, filled up with ladder and random genomes, without doubles.

    Half of a cohort is not from seeds, unless the space is too small for that.
    """
    cohort = list(dict.fromkeys(seeds))
    seen = set(cohort)
    num_rungs = max(size - len(cohort), size // 2)
    for rung in range(num_rungs):
        # Every fourth one is random; the others climb from narrow to wide.
        for _ in range(_ATTEMPTS_PER_CHILD):
            genome = (
                codec.random_genome(rng)
                if rung % 4 == 3
                else codec.ladder_genome((rung + rng.random()) / num_rungs, rng)
            )
            if genome not in seen:
                seen.add(genome)
                cohort.append(genome)
                break
    return cohort


class Breeder(Protocol):
    """Makes children of a population."""

    def __call__(
        self,
        population: Sequence[Ranked],
        number: int,
        avoid: Container[Genome] = (),
    ) -> list[Genome]:
        """Returns new genomes, `number` at most; none that was measured or avoided."""
        ...


class Guide(Protocol):
    """Knows more about genomes than what NSGA-II sees."""

    def plan(self) -> list[Genome]:
        """Returns more genomes to propose, once the first cohort is known."""
        ...

    def propose(
        self, population: Sequence[Ranked], breed: Breeder, size: int
    ) -> list[Genome]:
        """Returns the genomes of a generation, `size` at most."""
        ...


class Unguided:
    """The guide of a plain NSGA-II: proposes what was bred."""

    def plan(self) -> list[Genome]:
        """Returns nothing."""
        return []

    def propose(
        self, population: Sequence[Ranked], breed: Breeder, size: int
    ) -> list[Genome]:
        """Returns children of the population."""
        return breed(population, size)


def generations(
    codec: GenomeCodec,
    seeds: Iterable[Genome],
    *,
    population_size: int,
    crossover_prob: float,
    mutation_prob: float | None,
    rng: random.Random,
    guide: Guide | None = None,
) -> Generator[list[Genome], Sequence[Member], None]:
    """Yields cohorts of new genomes and receives them back as members.

    No genome is yielded twice. Ends when no new genome can be found.

    Args:
      codec: The codec of the space.
      seeds: Genomes of the first cohort, all of which are kept.
      population_size: Number of survivors, and of offspring in a generation.
      crossover_prob: Probability that a child has two parents.
      mutation_prob: Probability that a gene changes; None for a fixed number of genes.
      rng: Source of randomness.
      guide: Plans the second cohort and proposes the later ones; None for children
        of the survivors.
    """
    guide = Unguided() if guide is None else guide
    if mutation_prob is None:
        mutation_prob = min(_MUTATED_GENES / max(len(codec.sizes), 1), 0.5)
    cohort = first_cohort(codec, seeds, population_size, rng)
    seen = set(cohort)
    num_legal = sum(map(codec.is_legal, seen))
    population: tuple[Ranked, ...] = ()
    planned: list[Genome] | None = None

    def breed(
        population: Sequence[Ranked], number: int, avoid: Container[Genome] = ()
    ) -> list[Genome]:
        """Returns children; random genomes in the place of doubles."""
        children: dict[Genome, None] = {}
        for _ in range(_ATTEMPTS_PER_CHILD * number):
            if len(children) == min(number, codec.num_genomes - num_legal):
                break
            child = _breed(population, codec, crossover_prob, mutation_prob, rng)
            if child in seen or child in children or child in avoid:
                child = codec.random_genome(rng)
            if child not in seen and child not in avoid:
                children[child] = None
        return list(children)

    while cohort:
        members = yield cohort
        population = select_survivors(
            [*(ranked.member for ranked in population), *members], population_size
        )
        cohort = []
        if planned is None:
            planned = guide.plan()
            cohort = [one for one in dict.fromkeys(planned) if one not in seen]
        if not cohort:
            cohort = guide.propose(population, breed, population_size)
        seen.update(cohort)
        num_legal += sum(map(codec.is_legal, cohort))


def _breed(
    population: Sequence[Ranked],
    codec: GenomeCodec,
    crossover_prob: float,
    mutation_prob: float,
    rng: random.Random,
) -> Genome:
    child = tournament(population, rng).genome
    if rng.random() < crossover_prob:
        child = crossover(child, tournament(population, rng).genome, rng)
    return codec.mended(mutate(child, codec.sizes, mutation_prob, rng), rng)


def _other_choice(gene: int, size: int, rng: random.Random) -> int:
    if rng.random() < _NEIGHBOUR_PROB:
        neighbours = [i for i in (gene - 1, gene + 1) if 0 <= i < size]
        return rng.choice(neighbours)
    return (gene + rng.randrange(1, size)) % size


def _distance(member: Member) -> tuple[int, float, int, Genome]:
    """Orders members by feasibility: fewer violations, then nearer, then narrower."""
    genome = member.genome
    return member.num_violations, member.shortfall, sum(genome), genome
