"""The genome: a tuple of choice indices, one for each free entry of a policy space.

Gene ``i`` is the index into the ascending widths of free entry ``i``: 0 is the
narrowest width. Weight entries come first, then activation entries, each in the order
of the network. Entries with a single width are not genes.
"""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TypeAlias

from matar_tf.errors import PolicyError, SearchError
from matar_tf.evolution._repair import Legality, Tie
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace

__all__ = ["Genome", "GenomeCodec", "LegalPairs", "with_choices"]

Genome: TypeAlias = tuple[int, ...]
# Of a weight and an activation entry: the widths that may stand together.
LegalPairs: TypeAlias = Mapping[tuple[str, str], Collection[tuple[int, int]]]

_NUM_REMEMBERED = 4096  # policies; a guided search decodes a genome several times


def with_choices(genome: Genome, *choices: tuple[int, int]) -> Genome:
    """Returns a genome with other choices for some genes, each ``(gene, choice)``."""
    genes = list(genome)
    for gene, choice in choices:
        genes[gene] = choice
    return tuple(genes)


class GenomeCodec:
    """Translates between the policies of a space and genomes.

    Args:
      space: The policy space.
      legal_pairs: The widths of a weight and an activation entry that may stand
        together, where not all may.

    Attributes:
      space: The policy space.
      widths: Ascending widths of each gene, at least 2.
      sizes: Number of choices of each gene.
    """

    def __init__(
        self, space: PolicySpace, legal_pairs: LegalPairs = MappingProxyType({})
    ) -> None:
        self.space = space
        self._weights = [name for name, w in space.weights.items() if len(w) > 1]
        self._activations = [
            name for name, w in space.activations.items() if len(w) > 1
        ]
        self.widths = tuple(
            [space.weights[name] for name in self._weights]
            + [space.activations[name] for name in self._activations]
        )
        self.sizes = tuple(len(widths) for widths in self.widths)
        self._fixed_weights = {name: w[0] for name, w in space.weights.items()}
        self._fixed_activations = {name: w[0] for name, w in space.activations.items()}
        self._legality = Legality(self.sizes, self._ties(legal_pairs))
        self._remembered = functools.lru_cache(_NUM_REMEMBERED)(self._decode)

    def gene_pair(self, weights: str, activation: str) -> tuple[int, int] | None:
        """Returns the genes of a weight and an activation entry, if both are free."""
        if weights not in self._weights or activation not in self._activations:
            return None
        place = len(self._weights) + self._activations.index(activation)
        return self._weights.index(weights), place

    def _ties(self, legal_pairs: LegalPairs) -> list[Tie]:
        ties: list[Tie] = []
        for (weights, activation), widths in legal_pairs.items():
            pair = self.gene_pair(weights, activation)
            if pair is None:
                continue  # of an entry that is not free, only legal widths are left
            gene, owner = pair
            choices = {
                (a, b)
                for a, width in enumerate(self.widths[owner])
                for b, other in enumerate(self.widths[gene])
                if (other, width) in widths
            }
            ties.append((owner, gene, choices))
        return ties

    @property
    def num_genomes(self) -> int:
        """Number of genomes whose widths may stand together."""
        return self._legality.num_genomes

    def is_legal(self, genome: Genome) -> bool:
        """Returns whether the widths of a genome may stand together."""
        return self._legality.allows(genome)

    def allowed(self, owner: int, choice: int, gene: int) -> Collection[int] | None:
        """Returns the choices that a gene may have beside another; None for all."""
        return self._legality.allowed(owner, choice, gene)

    def mended(self, genome: Genome, rng: random.Random | None = None) -> Genome:
        """Returns a genome changed so that its widths may stand together.

        Args:
          genome: Any genome; one whose widths may is returned as it is.
          rng: Draws which of them stay; without it those of activations do.
        """
        return self._legality.mended(genome, rng)

    def decode(self, genome: Genome) -> Policy:
        """Returns the policy of a genome.

        Raises:
          SearchError: If the genome has another length or an index out of range.
        """
        return self._remembered(genome)

    def _decode(self, genome: Genome) -> Policy:
        if (
            len(genome) != len(self.sizes)
            or min(genome, default=0) < 0
            or not all(map(operator.lt, genome, self.sizes))
        ):
            raise SearchError(
                f"Expected a genome with {len(self.sizes)} genes below {self.sizes}, "
                f"got {genome}."
            )
        bits = list(map(operator.getitem, self.widths, genome))
        cut = len(self._weights)
        weights, activations = (
            self._fixed_weights.copy(),
            self._fixed_activations.copy(),
        )
        weights.update(zip(self._weights, bits[:cut], strict=True))
        activations.update(zip(self._activations, bits[cut:], strict=True))
        return Policy(weights=weights, activations=activations)

    def encode(self, policy: Policy) -> Genome:
        """Returns the genome of a policy.

        Raises:
          PolicyError: If the policy does not belong to the space.
        """
        self.space.validate(policy)
        if policy.is_wide:
            raise PolicyError(
                "Expected a policy whose widths are chosen one by one, got one of "
                "16-bit activations; name it among those beside the space."
            )
        bits = [policy.weights[name] for name in self._weights]
        bits += [policy.activations[name] for name in self._activations]
        return tuple(
            widths.index(width) for widths, width in zip(self.widths, bits, strict=True)
        )

    def all_genomes(self) -> Iterator[Genome]:
        """Yields every genome whose widths may stand together; for tiny spaces."""
        return self._legality.all_genomes()

    def random_genome(self, rng: random.Random) -> Genome:
        """Returns a genome in which every choice is equally likely, then mended."""
        return self.mended(tuple(rng.randrange(size) for size in self.sizes), rng)

    def ladder_genome(self, level: float, rng: random.Random) -> Genome:
        """Returns a genome near a level, 0 for the narrowest and 1 for the widest.

        Each gene takes one of the two choices beside the level, so that genomes of
        evenly spaced levels spread evenly over the costs. Genomes with independent
        random genes do not: they crowd around the middle.
        """
        genome = tuple(
            min(int(level * (size - 1) + rng.random()), size - 1) for size in self.sizes
        )
        return self.mended(genome, rng)
