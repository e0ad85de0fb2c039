"""What a plan says: where a laid-out network is quantized, with which widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from matar_tf.errors import ModelError, PolicyError, did_you_mean
from matar_tf.keras.rewrite.graph import Node
from matar_tf.scales import FREE, check_scale
from matar_tf.space import PolicySpace

__all__ = [
    "Choice",
    "Entries",
    "Placement",
    "Plan",
    "Scales",
    "apply_scales",
    "apply_space",
]

# Kind (``weights`` or ``activations``), name and widths of policy entries.
Entries: TypeAlias = "Sequence[tuple[str, str, tuple[int, ...]]]"


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Which steps a network has.

    Attributes:
      scale: ``free`` ones, or ``power_of_two``.
      per_channel: Whether each channel of weights has a step of its own, where layers
        do not say otherwise.

    Raises:
      ModelError: If there is no such scale.
    """

    scale: str = FREE
    per_channel: bool = True

    def __post_init__(self) -> None:
        check_scale(self.scale, ModelError)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a user chose for a layer.

    Attributes:
      weight_bits: Widths of its weights; None for those of the plan.
      activation_bits: Widths of its activations, likewise.
      signed: Whether activations have values below 0; None for what the network says.
      per_channel: Whether each channel of its weights has a step of its own.
      entries_of: Returns the entries of a node in the layer's place, where the user
        says what is quantized; None where its kind says it.
    """

    weight_bits: tuple[int, ...] | None
    activation_bits: tuple[int, ...] | None
    signed: bool | None
    per_channel: bool = True
    entries_of: Callable[[Node, Placement], Entries] | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a node is quantized; see `MatarQuantizeConfig`.

    Attributes:
      weight_bits: Widths of its kernel.
      activation_bits: Widths of its output.
      quantize_output: Whether its output is quantized, and on which grid.
      signed: Whether its output has values below 0.
      per_channel: Whether each channel of a kernel has a step of its own.
      float_bits: Widths of the kernels of a node in float, by entry.
      scale: Which steps there are: ``free`` ones, or ``power_of_two``.
    """

    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    quantize_output: bool | str
    signed: bool
    per_channel: bool
    float_bits: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict[str, tuple[int, ...]]
    )
    scale: str = FREE


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a laid-out network is quantized.

    Attributes:
      placements: How each node that is to be wrapped is quantized, by name.
      space: The widths of each policy entry.
      above: Kind and name of the policy entries before each compute layer, the
        nearest first, by layer name.
      shared: Whose kernel a node has, by name, of nodes that have not their own.
      signed: Whether what a float layer makes has values below 0, by activation entry.
    """

    placements: Mapping[str, Placement]
    space: PolicySpace
    above: Mapping[str, Sequence[tuple[str, str]]]
    signed: Mapping[str, bool]
    shared: Mapping[str, str] = field(default_factory=dict[str, str])

    def contexts(self, size: int) -> dict[str, Entries]:
        """Returns kind, name and widths of the nearest entries before each layer.

        Args:
          size: How many at most; entries without a choice are left out.
        """
        found: dict[str, Entries] = {}
        for layer, entries in self.above.items():
            widths = [
                (kind, name, getattr(self.space, kind)[name]) for kind, name in entries
            ]
            found[layer] = [one for one in widths if len(one[2]) > 1][:size]
        return found


def apply_scales(plan: Plan, scales: Scales) -> Plan:
    """Returns the plan with the scales of a network."""
    placements = {
        name: replace(
            one,
            scale=scales.scale,
            per_channel=one.per_channel and scales.per_channel,
        )
        for name, one in plan.placements.items()
    }
    space = replace(plan.space, scale=scales.scale)
    return replace(plan, placements=placements, space=space)


def apply_space(plan: Plan, space: PolicySpace) -> Plan:
    """Returns the plan with the widths of a space.

    Raises:
      PolicyError: If the entries of the space are not those of the model.
    """
    for field_name in ("weights", "activations"):
        here = getattr(plan.space, field_name)
        there = getattr(space, field_name)
        for name in there:
            if name not in here:
                raise PolicyError(
                    f"The policy space has the {field_name} entry {name!r}, which "
                    f"matches nothing in this model. {did_you_mean(name, here)}"
                )
        for name in here:
            if name not in there:
                raise PolicyError(
                    f"The policy space has no {field_name} entry for {name!r} of this "
                    "model; start from matar_tf.policy_space(model)."
                )
    space = replace(space, scale=plan.space.scale)
    placements = {
        name: replace(
            one,
            weight_bits=space.weights.get(plan.shared.get(name, name), one.weight_bits),
            activation_bits=space.activations.get(name, one.activation_bits),
            float_bits={entry: space.weights[entry] for entry in one.float_bits},
        )
        for name, one in plan.placements.items()
    }
    return replace(plan, placements=placements, space=space)
