"""Policies of least summed drop for a ladder of budgets, by dynamic programming.

A cost is taken to be that of the widest policy, plus what each entry changes alone,
plus what the entries of a layer's weights and of its input change together: exact where
layers add up and nothing else decides what one costs. Choosing one width for each entry
is then a multiple-choice knapsack problem, solved for all budgets at once.

Reference:
  Kellerer et al., Knapsack Problems, 2004, section 11.5; Hubara et al., Accurate Post
  Training Quantization With Small Calibration Sets, ICML 2021: widths by such sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from matar_tf.evolution._genome import Genome, GenomeCodec, with_choices
from matar_tf.evolution.problem import SearchProblem

__all__ = ["budget_ladder", "gene_pairs"]

_NUM_STEPS = 2000  # between the least and the largest cost; costs are rounded to them

Array = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]


def gene_pairs(problem: SearchProblem, codec: GenomeCodec) -> list[tuple[int, int]]:
    """Returns the pairs of a problem as genes; those that are not free are left out."""
    found = dict.fromkeys(codec.gene_pair(*names) for names in problem.pairs)
    return [pair for pair in found if pair is not None]


def budget_ladder(
    codec: GenomeCodec,
    drops: Sequence[Sequence[float]],
    cost: Callable[[Genome], float],
    pairs: Iterable[tuple[int, int]],
    num_rungs: int,
) -> list[Genome]:
    """Returns the genomes of least drop for a ladder of budgets.

    Budgets evenly spaced in cost, from low to high, then those that bring evenly spaced
    drops: where few bits save little time, drop falls steeply between two of the
    former. Budgets are met to within the rounding of the costs to 2,000 steps.

    Args:
      codec: The codec of the space.
      drops: Of each choice of each gene; see `matar_tf.evolution._seeding`.
      cost: What is to be saved, of a genome; of one whose widths may not stand
        together, that of the mended one.
      pairs: Genes whose choices decide a part of the cost together: one of weights, in
        its first pair only, and one of an activation, in any number of pairs.
      num_rungs: How many budgets between the least and the largest cost, and how many
        drops between those of their policies; the lowest cost alone if 1.
    """
    groups = _groups(codec, cost, pairs)
    low = sum(float(one.reach(np.min).min()) for one in groups)
    high = sum(float(one.reach(_largest).max()) for one in groups)
    if not high > low:
        return []
    step = (high - low) / _NUM_STEPS
    least = np.zeros(_NUM_STEPS + 1)
    solved: list[_Solved] = []
    for group in groups:
        least, choices = _solve(group, drops, step, least)
        solved.append(choices)
    shares = [rung / max(num_rungs - 1, 1) for rung in range(num_rungs)]
    places = [round(_NUM_STEPS * share) for share in shares]
    # Never rises from one budget to the next.
    drop = [least[0] + (least[-1] - least[0]) * share for share in shares]
    places += [int(np.argmax(least <= one)) for one in drop]
    found: dict[Genome, None] = {}
    for place in places:
        genome = [0] * len(codec.sizes)
        for choices in reversed(solved):
            place = choices.trace(place, genome)
        found[tuple(genome)] = None
    return list(found)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A gene, and those whose costs depend on its choice.

    Attributes:
      gene: The gene.
      costs: Of its choices, ``[num_choices]``.
      members: Each other gene with its costs, ``[num_choices, its_num_choices]``;
        infinite where the two may not stand together.
    """

    gene: int
    costs: Array
    members: tuple[tuple[int, Array], ...]

    def reach(self, pick: Callable[..., Array]) -> Array:
        """Returns the least or largest cost of the group for each of its choices."""
        return self.costs + sum(pick(costs, axis=1) for _, costs in self.members)


@dataclass(frozen=True, kw_only=True)
class _Solved:
    """The best choices of a group for every budget.

    Attributes:
      group: The group.
      best: Choice of its gene for each budget, ``[num_steps + 1]``.
      steps: What each of these choices takes of the budget.
      members: For each of these choices and each other gene, in order: its best choice
        for each budget, and what each of its choices takes.
    """

    group: _Group
    best: Steps
    steps: Steps
    members: tuple[tuple[tuple[Steps, Steps], ...], ...]

    def trace(self, place: int, genome: list[int]) -> int:
        """Fills in the genes of the group; returns what is left of the budget."""
        choice = int(self.best[place])
        genome[self.group.gene] = choice
        for (gene, _), (best, steps) in zip(
            reversed(self.group.members), reversed(self.members[choice]), strict=True
        ):
            genome[gene] = int(best[place])
            place -= int(steps[genome[gene]])
        return place - int(self.steps[choice])


def _groups(
    codec: GenomeCodec,
    cost: Callable[[Genome], float],
    pairs: Iterable[tuple[int, int]],
) -> list[_Group]:
    widest = tuple(size - 1 for size in codec.sizes)
    base = cost(widest)

    def changed(*choices: tuple[int, int]) -> float:
        return cost(with_choices(widest, *choices)) - base

    alone = [
        np.asarray([changed((gene, choice)) for choice in range(size)])
        for gene, size in enumerate(codec.sizes)
    ]
    members: dict[int, dict[int, Array]] = {gene: {} for gene in range(len(alone))}
    owned: set[int] = set()
    for gene, owner in pairs:
        if gene not in owned:
            owned.add(gene)
            # Beside a gene at its widest, the other one changes what it does alone.
            cells = np.tile(alone[gene], (codec.sizes[owner], 1))
            for a, b in itertools.product(*(range(s - 1) for s in cells.shape)):
                cells[a, b] = changed((owner, a), (gene, b)) - alone[owner][a]
            for choice, row in enumerate(cells):
                allowed = codec.allowed(owner, choice, gene)
                if allowed is not None:
                    row[[b for b in range(len(row)) if b not in allowed]] = np.inf
            members[owner][gene] = cells
    return [
        _Group(gene=gene, costs=alone[gene], members=tuple(members[gene].items()))
        for gene in range(len(alone))
        if gene not in owned
    ]


def _solve(
    group: _Group, drops: Sequence[Sequence[float]], step: float, least: Array
) -> tuple[Array, _Solved]:
    """Adds a group to the least drops ``[num_steps + 1]`` of those before it."""
    # Costs of members count from the least of them, the rest falls to the group's gene.
    owner = group.reach(np.min)
    steps = np.rint((owner - owner.min()) / step).astype(np.int64)
    rows: list[Array] = []
    chosen: list[tuple[tuple[Steps, Steps], ...]] = []
    for choice, taken in enumerate(steps):
        row = _shifted(least, int(taken)) + drops[group.gene][choice]
        traces: list[tuple[Steps, Steps]] = []
        for gene, costs in group.members:
            offsets = (costs[choice] - costs[choice].min()) / step
            # Infinite ones are beyond every budget.
            member_steps = np.rint(np.minimum(offsets, _NUM_STEPS + 1)).astype(np.int64)
            options = np.stack(
                [
                    _shifted(row, int(one)) + drop
                    for one, drop in zip(member_steps, drops[gene], strict=True)
                ]
            )
            traces.append((options.argmin(axis=0), member_steps))
            row = options.min(axis=0)
        rows.append(row)
        chosen.append(tuple(traces))
    table = np.stack(rows)
    return table.min(axis=0), _Solved(
        group=group, best=table.argmin(axis=0), steps=steps, members=tuple(chosen)
    )


def _largest(costs: Array, axis: int) -> Array:
    return np.where(np.isfinite(costs), costs, -np.inf).max(axis=axis)


def _shifted(row: Array, number: int) -> Array:
    """Returns what is known for budgets that are less by so many steps."""
    return np.concatenate([np.full(number, np.inf), row])[: len(row)]
