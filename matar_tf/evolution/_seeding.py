"""Where a search starts: what each entry's bits do alone, and the best sum of that.

The *drop* of a choice is how much worse a metric gets when one entry of the widest
policy takes it. Drops are taken to add up, and a greedy descent gives up at each
step the bits that cost the least drop for what they save. Costs are the target's
own, so that bits that save nothing are not given up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from matar_tf.evolution._genome import Genome, GenomeCodec, with_choices

__all__ = ["greedy_ladder", "interpolate_drops", "sensitivity_genomes"]

_TINY = 1e-12
_SLACK = 1.05  # a rate this much above the next best is still taken


def sensitivity_genomes(codec: GenomeCodec, max_genomes: int) -> list[Genome]:
    """Returns the widest genome and those with one entry narrowed.

    Every entry at its narrowest choice, then at its middle one, as far as
    `max_genomes` goes; nothing if it does not go round.
    """
    widest = tuple(size - 1 for size in codec.sizes)
    genomes: dict[Genome, None] = {widest: None}
    for choices in (
        [0] * len(codec.sizes),
        [size // 2 for size in codec.sizes],
    ):
        narrowed = {
            with_choices(widest, (gene, choice)): None
            for gene, choice in enumerate(choices)
            if choice < codec.sizes[gene] - 1
        }
        if len(genomes | narrowed) > max_genomes:
            break
        genomes |= narrowed
    return list(genomes) if len(genomes) > 1 else []


def interpolate_drops(
    codec: GenomeCodec, values: Mapping[Genome, float]
) -> list[list[float]] | None:
    """Returns the drop of every choice of every gene, or None if some are unknown.

    Between measured choices a drop follows ``4**-bits``, the power of the noise of
    rounding. Drops are at least 0 and do not fall with fewer bits.

    Args:
      codec: The codec of the space.
      values: A minimised metric of the widest genome and of narrowed ones.
    """
    widest = tuple(size - 1 for size in codec.sizes)
    if widest not in values:
        return None
    drops: list[list[float]] = []
    for gene, widths in enumerate(codec.widths):
        known = {len(widths) - 1: 0.0}
        for choice in range(len(widths) - 1):
            genome = with_choices(widest, (gene, choice))
            if genome in values:
                known[choice] = max(values[genome] - values[widest], 0.0)
        if 0 not in known:
            return None
        drops.append(_interpolate(widths, known))
    return drops


def _interpolate(widths: Sequence[int], known: Mapping[int, float]) -> list[float]:
    """Returns the drop of each choice, the narrowest first."""
    power = [4.0**-width for width in widths]
    found: list[float] = []
    for choice in range(len(widths)):
        low = max(place for place in known if place <= choice)
        high = min(place for place in known if place >= choice)
        span = power[low] - power[high]
        share = (power[choice] - power[high]) / span if span else 0.0
        found.append(known[high] + share * (known[low] - known[high]))
    for choice in reversed(range(len(found) - 1)):
        found[choice] = max(found[choice], found[choice + 1])
    return found


def greedy_ladder(
    codec: GenomeCodec,
    drops: Sequence[Sequence[float]],
    cost: Callable[[Genome], float],
    num_rungs: int,
) -> list[Genome]:
    """Returns genomes from wide to narrow, evenly spaced in cost.

    Args:
      codec: The codec of the space.
      drops: Of each choice of each gene; see `interpolate_drops`.
      cost: What is to be saved, of a genome.
      num_rungs: How many genomes to return, at most.
    """
    genome = tuple(size - 1 for size in codec.sizes)
    path = [(cost(genome), genome)]

    def rated(gene: int, lower: int) -> tuple[float, float, int, int]:
        # What saves nothing comes last, the least drop first.
        saved = path[-1][0] - cost(with_choices(genome, (gene, lower)))
        drop = drops[gene][lower] - drops[gene][genome[gene]]
        is_saving = saved > _TINY * abs(path[-1][0])
        return (
            drop / saved if is_saving else float("inf"),
            drop,
            gene,
            lower,
        )

    # Rates change little from step to step: only the one on top is computed again.
    waiting = [
        rated(gene, lower)
        for gene, size in enumerate(codec.sizes)
        for lower in range(size - 1)
    ]
    heapq.heapify(waiting)
    while waiting:
        _, _, gene, lower = heapq.heappop(waiting)
        if lower >= genome[gene]:
            continue
        now = rated(gene, lower)
        if waiting and now[0] > _SLACK * waiting[0][0]:
            heapq.heappush(waiting, now)
            continue
        genome = with_choices(genome, (gene, lower))
        path.append((cost(genome), genome))
    top, bottom = path[0][0], path[-1][0]
    chosen: dict[Genome, None] = {}
    for rung in range(num_rungs):
        goal = top + (bottom - top) * rung / max(num_rungs - 1, 1)
        chosen[min(path, key=lambda one: abs(one[0] - goal))[1]] = None
    return list(chosen)
