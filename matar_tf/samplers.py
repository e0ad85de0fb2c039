"""Samplers: drawing policies at random, for training batches and for statistics.

A sampler is a function of a policy space and a NumPy generator. Pure: the same
generator state gives the same policy.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from matar_tf.errors import PolicyError
from matar_tf.policy import ALL_BITS, Policy, parse_uniform_name
from matar_tf.space import PolicySpace

__all__ = [
    "BandSampler",
    "IndependentSampler",
    "LegalSampler",
    "MixtureSampler",
    "Sampler",
    "UniformSampler",
    "balanced_policies",
    "draw_policies",
    "spread_policies",
]


class Sampler(Protocol):
    """Draws a policy of a space."""

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy."""
        ...


@dataclass(frozen=True, kw_only=True)
class IndependentSampler:
    """Every entry draws its own width, all widths alike.

    Attributes:
      bits: Widths to draw from, such as ``(2, 4, 8)``; an entry that allows none of
        them draws from all of its own. Empty for all.

    Raises:
      PolicyError: If a width is none of 2..8.
    """

    bits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not set(self.bits) <= set(ALL_BITS):
            raise PolicyError(
                f"Expected widths in {list(ALL_BITS)}, got {list(self.bits)}."
            )

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy."""
        return Policy(
            weights=_choose(space.weights, self.bits, rng),
            activations=_choose(space.activations, self.bits, rng),
        )


@dataclass(frozen=True, kw_only=True)
class BandSampler:
    """Every entry draws its own width, from a band for its kind.

    One band is for weights, one for activations. The ends of a band are two widths,
    drawn in proportion to ``1 / n``, so that policies of any average width come up.
    Entry by entry from all widths, nearly all policies lie about the middle: weights of
    2 to 4 bits everywhere, as searches find them, are hardly ever drawn.
    """

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy; entries with no width of the band draw from all."""
        return Policy(
            weights=_in_a_band(space.weights, rng),
            activations=_in_a_band(space.activations, rng),
        )


def _in_a_band(
    entries: Mapping[str, tuple[int, ...]], rng: np.random.Generator
) -> dict[str, int]:
    widths = sorted({width for bits in entries.values() for width in bits})
    shares = 1.0 / np.array(widths)
    low, high = np.sort(rng.choice(widths, 2, p=shares / shares.sum()))
    return _choose(entries, range(low, high + 1), rng)


def _choose(
    entries: Mapping[str, tuple[int, ...]],
    wanted: Container[int],
    rng: np.random.Generator,
) -> dict[str, int]:
    """Returns a width of each entry, of all where it has none that is wanted."""
    chosen: dict[str, int] = {}
    for (name, bits), draw in zip(
        entries.items(), rng.random(len(entries)), strict=True
    ):
        choices = [width for width in bits if width in wanted] or bits
        chosen[name] = choices[int(draw * len(choices))]
    return chosen


@dataclass(frozen=True, kw_only=True)
class UniformSampler:
    """One width for all weights and one for all activations.

    A policy with every layer at 2 bits is hardly ever drawn entry by entry; this one
    draws it often.

    Attributes:
      names: Names of the policies to draw from, such as ``("w8a8", "w2a2")``, all
        alike; empty for those that the space has.
      mixed: Without names: whether weights and activations may have different widths,
        which they have anyway where the space leaves no other choice. A policy of
        ``w`` and ``a`` bits is drawn in proportion to ``1 / sqrt(w * a)``: narrow
        grids need the most training.
    """

    names: tuple[str, ...] = ()
    mixed: bool = False

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy.

        Raises:
          PolicyError: If the space has no uniform policy, or none of such a name.
        """
        names = self.names or self._names(space)
        if not names:
            raise PolicyError(
                "Expected a space with uniform policies, but its entries share no "
                "width; use IndependentSampler()."
            )
        shares = np.ones(len(names))
        if not self.names:
            widths = np.array([parse_uniform_name(name) for name in names])
            shares = widths.prod(axis=1) ** -0.5
        return space.named(str(rng.choice(names, p=shares / shares.sum())))

    def _names(self, space: PolicySpace) -> tuple[str, ...]:
        # Entries without a choice keep their widths under any name.
        free = PolicySpace(
            weights={name: bits for name, bits in space.weights.items() if bits[1:]},
            activations={
                name: bits for name, bits in space.activations.items() if bits[1:]
            },
        )
        both_free = free.weights and free.activations
        alike = free.uniform_names() if both_free and not self.mixed else ()
        return alike or free.uniform_names(mixed=True)


@dataclass(frozen=True, kw_only=True)
class MixtureSampler:
    """Asks one of several samplers, chosen at random.

    Attributes:
      samplers: The samplers.
      probs: Probability of each; they sum to 1.
    """

    samplers: tuple[Sampler, ...] = (
        UniformSampler(),
        IndependentSampler(bits=(2, 4, 8)),
        IndependentSampler(),
    )
    probs: tuple[float, ...] = (0.5, 0.2, 0.3)

    def __post_init__(self) -> None:
        if (
            len(self.samplers) != len(self.probs)
            or not abs(sum(self.probs) - 1.0) <= 1e-6
            or not min(self.probs, default=-1.0) >= 0
        ):
            raise PolicyError(
                f"Expected one probability for each of {len(self.samplers)} samplers, "
                f"none below 0, summing to 1, got {self.probs}."
            )

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy."""
        index = int(np.searchsorted(np.cumsum(self.probs), rng.random(), side="right"))
        return self.samplers[min(index, len(self.samplers) - 1)](space, rng)


@dataclass(frozen=True, kw_only=True)
class LegalSampler:
    """Draws policies that given targets can run.

    Attributes:
      spaces: The legal space of each target (`matar_tf.targets.legal_space`); one is
        chosen at random each time.
      sampler: How to draw within it.
    """

    spaces: tuple[PolicySpace, ...]
    sampler: Sampler = IndependentSampler()

    def __post_init__(self) -> None:
        if not self.spaces:
            raise PolicyError("Expected the legal space of at least one target.")

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy; it is checked against `space`."""
        legal = self.spaces[int(rng.integers(len(self.spaces)))]
        policy = self.sampler(legal, rng)
        space.validate(policy)
        return policy


def draw_policies(
    space: PolicySpace, sampler: Sampler, num_policies: int, seed: Sequence[int] | int
) -> tuple[Policy, ...]:
    """Returns policies drawn one after the other from one seed."""
    rng = np.random.default_rng(seed)
    return tuple(sampler(space, rng) for _ in range(num_policies))


def balanced_policies(
    space: PolicySpace, num_policies: int, seed: Sequence[int] | int
) -> tuple[Policy, ...]:
    """Returns policies in which all pairs of widths come up about equally often.

    Any weight entry and any activation entry of 7 widths each meet in each of their 49
    pairs once in every 49 policies; of independent draws many pairs come up rarely. Of
    an entry with fewer widths than others, some come up at most twice as often as
    others. Entries are shuffled anew for every round of pairs.
    """
    rng = np.random.default_rng(seed)
    entries = [*space.weights.values(), *space.activations.values()]
    period = max(map(len, entries))
    cut = len(space.weights)
    orders: list[list[int]] = []
    policies: list[Policy] = []
    for number in range(num_policies):
        place = number % period**2
        if place == 0:
            orders = [rng.permutation(bits).tolist() for bits in entries]
        # Weights change with every policy, activations after a period.
        steps = (number % period, place // period)
        chosen = [
            order[steps[index >= cut] % len(order)]
            for index, order in enumerate(orders)
        ]
        policies.append(
            Policy(
                weights=dict(zip(space.weights, chosen[:cut], strict=True)),
                activations=dict(zip(space.activations, chosen[cut:], strict=True)),
            )
        )
    return tuple(policies)


def spread_policies(
    space: PolicySpace, num_policies: int, seed: Sequence[int] | int
) -> tuple[Policy, ...]:
    """Returns all kinds of policies: uniform ones, bands of widths, any mixes.

    Uniform ones, weights and activations of one width each, are up to a quarter, half
    of the others are bands (`BandSampler`), half balanced (`balanced_policies`): of
    mixes alone nearly all have some entry of two bits, which tells little of policies
    that have none.
    """
    names = space.uniform_names(mixed=True)
    share = max(1, num_policies // 4)
    uniform = [space.named(name) for name in names[:: -(-len(names) // share) or 1]]
    num_bands = (num_policies - len(uniform)) // 2
    return (
        *uniform,
        *draw_policies(space, BandSampler(), num_bands, seed),
        *balanced_policies(space, num_policies - len(uniform) - num_bands, seed),
    )
