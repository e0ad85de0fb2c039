"""On which whole numbers the tensors of a policy's network lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from matar_tf.packaged import Artifact
from matar_tf.parameters import activation_range
from matar_tf.policy import MAX_BITS, Policy
from matar_tf.scales import FREE
from matar_tf.tflite._places import multiplies_integers
from matar_tf.tflite._schema import parse_model, schema
from matar_tf.wide import WIDE_RANGE

__all__ = ["Grid", "Widths", "bits_for", "grid_of", "widths_of"]

_INT8 = (-128, 127)


@dataclass(frozen=True, kw_only=True, slots=True)
class Width:
    """What an activation may be, by its policy.

    Attributes:
      entry: Its entry.
      bits: Its width.
      signed: Whether it has levels below 0.
      is_cut: Whether nothing lies outside its range; else it will be cut off later.
    """

    entry: str
    bits: int
    signed: bool
    is_cut: bool


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Widths of a network.

    Attributes:
      kernels: Entry and width of each kernel, by the operator's place.
      tensors: By the tensor's index; others have what TFLite fixes.
      scale: Which scales it has, ``free`` or ``power_of_two``.
    """

    kernels: Mapping[int, tuple[str, int]] = field(
        default_factory=dict[int, "tuple[str, int]"]
    )
    tensors: Mapping[int, Width] = field(default_factory=dict[int, Width])
    scale: str = FREE


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The levels of a tensor: a value is ``scale * level``.

    Attributes:
      scale: The step.
      zero_point: What is added to a level where it is stored.
      stored: Lowest and highest level that its container holds.
      low: Lowest level.
      high: Highest level.
      is_wide: Whether its container has 16 bits.
    """

    scale: np.float32
    zero_point: int
    stored: tuple[int, int]
    low: int
    high: int
    is_wide: bool

    @property
    def signed(self) -> bool:
        """Whether there are levels below 0."""
        return self.low < 0

    @property
    def bits(self) -> int:
        """The width that holds all levels."""
        return bits_for(self.low, self.high)


def bits_for(low: int, high: int) -> int:
    """Returns how many bits hold two whole numbers and all between them."""
    largest = max(high, -low - 1)
    return max(largest.bit_length() + (low < 0), 1)


def grid_of(tensor: Any, width: Width | None) -> Grid:
    """Returns the levels of a quantized tensor of a filled template.

    Args:
      tensor: Of int8 or int16.
      width: What its policy says, if it does.
    """
    zero_point = int(tensor.quantization.zeroPoint[0])
    is_wide = tensor.type == schema.TensorType.INT16
    ends = WIDE_RANGE if is_wide else _INT8
    low, high = (end - zero_point for end in ends)
    stored = low, high
    if width is not None and width.is_cut and not is_wide:
        low, high = activation_range(width.bits, signed=width.signed)
    return Grid(
        scale=np.float32(tensor.quantization.scale[0]),
        zero_point=zero_point,
        stored=stored,
        low=low,
        high=high,
        is_wide=is_wide,
    )


def widths_of(artifact: Artifact, policy: Policy, model: Any) -> Widths:
    """Returns the widths of a policy's network.

    Args:
      artifact: The packaged network.
      policy: The policy.
      model: What was filled into its template, in which clamps of 8 bits are left out.
    """
    places, parameters = artifact.template_map, artifact.parameters
    operators = parse_model(artifact.template).subgraphs[0].operators
    dropped = {
        int(operators[place].outputs[0])
        for entry, at in places.clamps.items()
        for place in at
        if policy.activations[entry] >= MAX_BITS
    }
    tensors = {
        index - sum(one < index for one in dropped): Width(
            entry=entry,
            bits=policy.activations[entry],
            signed=parameters.tensors[entry].signed,
            is_cut=index not in places.before_clamps
            or policy.activations[entry] >= MAX_BITS,
        )
        for index, entry in places.tensors.items()
        if index not in dropped
    }
    multiplying = [
        place
        for place, operator in enumerate(model.subgraphs[0].operators)
        if multiplies_integers(model, operator)
    ]
    named = sorted(places.kernels.items(), key=lambda one: one[1].operator)
    kernels = {
        place: (name, policy.weights[kernel.weights or name])
        for place, (name, kernel) in zip(multiplying, named, strict=True)
    }
    return Widths(kernels=kernels, tensors=tensors, scale=artifact.space.scale)
