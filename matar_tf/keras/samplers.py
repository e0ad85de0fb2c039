"""Samplers: which policy the next training batch sees.

A sampler is a function of a policy space and a NumPy generator. Pure: the same
generator state gives the same policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from matar_tf.errors import PolicyError
from matar_tf.policy import Policy, PolicySpace

__all__ = [
    "IndependentSampler",
    "LegalSampler",
    "MixtureSampler",
    "Sampler",
    "UniformSampler",
    "draw_policies",
]


class Sampler(Protocol):
    """Draws a policy of a space."""

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy."""
        ...


@dataclass(frozen=True, kw_only=True)
class IndependentSampler:
    """Every entry draws its own width, all widths alike."""

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy."""
        draws = rng.random(len(space.weights) + len(space.activations))
        chosen = [
            bits[int(draw * len(bits))]
            for draw, bits in zip(
                draws,
                (*space.weights.values(), *space.activations.values()),
                strict=True,
            )
        ]
        return Policy(
            weights=dict(zip(space.weights, chosen, strict=False)),
            activations=dict(
                zip(space.activations, chosen[len(space.weights) :], strict=True)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class UniformSampler:
    """One width for all weights and one for all activations.

    A policy with every layer at 2 bits is hardly ever drawn entry by entry; this one
    draws it often.

    Attributes:
      names: Names of the policies to draw from, such as ``("w8a8", "w2a2")``; empty for
        every pair of widths that the space has.
    """

    names: tuple[str, ...] = ()

    def __call__(self, space: PolicySpace, rng: np.random.Generator) -> Policy:
        """Returns the next policy.

        Raises:
          PolicyError: If the space has no uniform policy, or none of such a name.
        """
        names = self.names or space.uniform_names(mixed=True)
        if not names:
            raise PolicyError(
                "Expected a space with uniform policies, but its entries share no "
                "width; use IndependentSampler()."
            )
        return space.named(names[int(rng.integers(len(names)))])


@dataclass(frozen=True, kw_only=True)
class MixtureSampler:
    """Asks one of several samplers, chosen at random.

    Attributes:
      samplers: The samplers.
      probs: Probability of each; they sum to 1.
    """

    samplers: tuple[Sampler, ...] = (UniformSampler(), IndependentSampler())
    probs: tuple[float, ...] = (0.5, 0.5)

    def __post_init__(self) -> None:
        if (
            len(self.samplers) != len(self.probs)
            or abs(sum(self.probs) - 1.0) > 1e-6
            or min(self.probs) < 0
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
