"""Limits of a target on shapes: the tables ``[[limits]]`` and ``[network]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from matar_tf.targets.fields import (
    MULTIPLY_KINDS,
    Count,
    Kinds,
    Section,
    Widths,
)
from matar_tf.workload import OpKind

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LayerLimit", "NetworkLimit"]

_Sides: TypeAlias = tuple[Count, Count]
_ListOfSides: TypeAlias = Annotated[tuple[_Sides, ...], Field(min_length=1)]


class LayerLimit(Section):
    """What shapes a target takes of layers; None where there is no such limit.

    Attributes:
      kinds: Layer kinds that it holds for.
      weight_bits: Widths of weights that it holds for; None for all.
      kernel_sizes: Height and width of kernels or pooling windows, each that is taken.
      max_kernel_size: Largest height and largest width instead.
      strides: Vertical and horizontal strides, each that is taken.
      channel_multiple: What the channels of inputs and output must be a multiple of;
        inputs of the network are exempt, and outputs of the kind dense.
      max_channels: Most channels of an input and of the output.
      min_inputs: Least inputs behind one output.
    """

    kinds: Kinds
    weight_bits: Widths | None = None
    kernel_sizes: _ListOfSides | None = None
    max_kernel_size: _Sides | None = None
    strides: _ListOfSides | None = None
    channel_multiple: Count | None = None
    max_channels: Count | None = None
    min_inputs: Count | None = None

    @model_validator(mode="after")
    def _check_widths(self) -> Self:
        for kind in self.kinds:
            if self.weight_bits is not None and kind not in MULTIPLY_KINDS:
                raise ValueError(f"{kind.value!r} has no weights; remove weight_bits")
        return self

    def covers(self, kind: OpKind, weight_bits: int | None) -> bool:
        """Returns whether the limit holds for a kind at a width of its weights."""
        return kind in self.kinds and (
            self.weight_bits is None or weight_bits in self.weight_bits
        )


class NetworkLimit(Section):
    """What a target takes of a whole network; None where there is no such limit.

    Attributes:
      max_layers: Most layers with weights: others are done together with these.
      input_channels: Channels of the input of a convolution that reads an input of the
        network.
      scales: ``power_of_two`` if the target multiplies sums by powers of two alone.
        An artifact of free steps would have to be rounded: costs do not depend on that,
        and accuracies, which are those of free steps, say so. One that was quantized
        with ``scale="power_of_two"`` has these.
    """

    max_layers: Count | None = None
    input_channels: Count | None = None
    scales: Literal["power_of_two"] | None = None
