"""What breaks a limit of a target, and where: the nouns of all constraints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matar_tf.workload import LayerWorkload

__all__ = ["Site", "Violation", "sentence_of", "violation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One breach of a target's limit.

    Attributes:
      constraint: Name of the function that found it.
      message: The limit, what was expected and what came.
      layer: Name of the layer; None for a limit on the whole network.
      weights: The weight entry of the policy that takes part in it, if any.
      activations: The activation entry of the policy that takes part in it, if any.
      excess: How far past the limit, relative to it; 1 for a width that is not taken.
    """

    constraint: str
    message: str
    layer: str | None = None
    weights: str | None = None
    activations: str | None = None
    excess: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A layer and its shapes.

    Attributes:
      layer: The layer.
      weight_bits: Width of its weights; None without.
      input_shape: Shape of its first input.
      output_shape: Shape of its output.
      reads_network_input: Whether one of its inputs is an input of the network.
      num_layers_before: Number of layers with weights that run before it.
    """

    layer: LayerWorkload
    weight_bits: int | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    reads_network_input: bool
    num_layers_before: int


def sentence_of(constraint: Callable[..., object]) -> str:
    """Returns the first words of a limit's message, and its entry in the manual."""
    return (constraint.__doc__ or "").strip()


def violation(
    constraint: Callable[..., object],
    site: Site,
    detail: str,
    *,
    weights: str | None = None,
    activations: str | None = None,
) -> Violation:
    """Returns the breach of a limit at a layer.

    Args:
      constraint: What found it.
      site: The layer.
      detail: What was expected and what came.
      weights: The weight entry that takes part in it, if any.
      activations: The activation entry that takes part in it, if any.
    """
    return Violation(
        constraint=constraint.__name__,
        message=f"{sentence_of(constraint)} Layer {site.layer.name!r} of kind "
        f"{site.layer.kind.value!r}: {detail}.",
        layer=site.layer.name,
        weights=weights,
        activations=activations,
    )
