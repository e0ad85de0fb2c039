"""Which widths may stand together: legal genomes, and the way back to them.

A target that takes only some pairs of widths ties the weights of a layer to its input.
One input may be read by several layers, a kernel belongs to one: so the ties are stars,
an activation gene in the middle and genes of weights around it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["Legality", "Tie"]

# Genes of an activation and of weights, and the choices that may stand together.
Tie: TypeAlias = tuple[int, int, Collection[tuple[int, int]]]
_Genome: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Star:
    """A gene, and those that are tied to it.

    Attributes:
      owner: The gene in the middle.
      members: The other genes: their legal choices for each choice of the owner.
    """

    owner: int
    members: Mapping[int, tuple[tuple[int, ...], ...]]

    @property
    def genes(self) -> tuple[int, ...]:
        """The owner, then the members."""
        return (self.owner, *self.members)

    def allows(self, genome: Sequence[int]) -> bool:
        """Returns whether the choices of a genome may stand together."""
        choice = genome[self.owner]
        return all(
            genome[gene] in legal[choice] for gene, legal in self.members.items()
        )

    def combinations(self, num_choices: int) -> list[tuple[int, ...]]:
        """Returns all legal choices of `genes`."""
        found: list[tuple[int, ...]] = []
        for choice in range(num_choices):
            options = [legal[choice] for legal in self.members.values()]
            found += [(choice, *rest) for rest in itertools.product(*options)]
        return found

    def mended(self, genome: Sequence[int], anchor: int) -> list[int]:
        """Returns a genome in which all follow one gene, each as little as it must."""
        genes = list(genome)
        if anchor != self.owner:
            legal = self.members[anchor]
            fitting = [i for i, choices in enumerate(legal) if genes[anchor] in choices]
            genes[self.owner] = _nearest(genes[self.owner], fitting)
        for gene, legal in self.members.items():
            genes[gene] = _nearest(genes[gene], legal[genes[self.owner]])
        return genes


class Legality:
    """Genomes whose tied genes may stand together.

    Args:
      sizes: Number of choices of each gene.
      ties: Pairs of genes of which only some choices are legal. A gene of weights that
        is tied to several activations follows the first; what that leaves illegal, the
        constraints of the target find.

    Attributes:
      num_genomes: Number of legal genomes.
    """

    def __init__(self, sizes: Sequence[int], ties: Sequence[Tie] = ()) -> None:
        members: dict[int, dict[int, tuple[tuple[int, ...], ...]]] = {}
        tied: set[int] = set()
        for owner, gene, legal in ties:
            if gene in tied:
                continue
            tied.add(gene)
            members.setdefault(owner, {})[gene] = tuple(
                tuple(b for b in range(sizes[gene]) if (a, b) in legal)
                for a in range(sizes[owner])
            )
        self._sizes: Final = tuple(sizes)
        self._stars: Final = tuple(
            _Star(owner=owner, members=genes) for owner, genes in members.items()
        )
        loose = set(range(len(sizes))).difference(*(one.genes for one in self._stars))
        self.num_genomes: Final = math.prod(
            [sizes[gene] for gene in loose]
            + [
                sum(
                    math.prod(len(legal[choice]) for legal in star.members.values())
                    for choice in range(sizes[star.owner])
                )
                for star in self._stars
            ]
        )

    def allows(self, genome: Sequence[int]) -> bool:
        """Returns whether all tied genes of a genome may stand together."""
        return all(star.allows(genome) for star in self._stars)

    def allowed(self, owner: int, choice: int, gene: int) -> Collection[int] | None:
        """Returns the legal choices of a gene beside one of another; None for all."""
        for star in self._stars:
            if star.owner == owner and gene in star.members:
                return star.members[gene][choice]
        return None

    def mended(self, genome: _Genome, rng: random.Random | None = None) -> _Genome:
        """Returns the genome, its tied genes changed where they must be.

        Args:
          genome: Any genome; a legal one is returned as it is.
          rng: Draws the gene that the others of its star follow; without it they follow
            the activation.
        """
        for star in self._stars:
            if not star.allows(genome):
                anchor = star.owner if rng is None else rng.choice(star.genes)
                genome = tuple(star.mended(genome, anchor))
        return genome

    def all_genomes(self) -> Iterator[_Genome]:
        """Yields every legal genome once, in a fixed order; for tiny spaces."""
        owners = {star.owner: star for star in self._stars}
        tied = {gene for star in self._stars for gene in star.members}
        places = [gene for gene in range(len(self._sizes)) if gene not in tied]
        options = [
            owners[gene].combinations(self._sizes[gene])
            if gene in owners
            else [(choice,) for choice in range(self._sizes[gene])]
            for gene in places
        ]
        genes = [
            one
            for gene in places
            for one in (owners[gene].genes if gene in owners else (gene,))
        ]
        for chosen in itertools.product(*options):
            found = dict(zip(genes, itertools.chain(*chosen), strict=True))
            yield tuple(found[gene] for gene in range(len(self._sizes)))


def _nearest(choice: int, legal: Collection[int]) -> int:
    """Returns the legal choice nearest to one, the wider of two; itself if none is."""
    return min(legal, key=lambda one: (abs(one - choice), -one), default=choice)
