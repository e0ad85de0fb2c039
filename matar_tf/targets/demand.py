"""What one layer asks of hardware at given widths."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matar_tf.workload import LayerWorkload

__all__ = ["LayerDemand", "layer_shape"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDemand:
    """What one layer asks of a target at given widths, for one batch.

    Attributes:
      layer: The layer.
      weight_bits: Width of its weights; None for a layer without.
      activation_bits: Width of its first input.
      result_bits: Width of its output.
      batch_size: Samples.
      input_shape: Shape of its first input, one sample.
      output_shape: Shape of its output, one sample.
      num_elems: Elements that a layer without weights handles.
      reads_network_input: Whether one of its inputs is an input of the network.
      input_bits: Packed bits of its distinct inputs.
      output_bits: Packed bits of its output.
      kernel_bits: Bits of its kernel as stored.
      constant_bits: Bits of its biases and scales.
    """

    layer: LayerWorkload
    weight_bits: int | None
    activation_bits: int
    result_bits: int
    batch_size: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    num_elems: int
    reads_network_input: bool
    input_bits: int
    output_bits: int
    kernel_bits: float
    constant_bits: int

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.output_shape[-1] if self.output_shape else 1

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output; leading axes count as height."""
        if len(self.output_shape) < 3:
            return math.prod(self.output_shape[:-1]), 1
        return math.prod(self.output_shape[:-2]), self.output_shape[-2]

    @property
    def reduction(self) -> int:
        """Multiply-accumulates behind one output: kernel window * inputs."""
        return self.layer.weight_elems // self.out_channels


def layer_shape(
    layer: LayerWorkload,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> str:
    """Returns a layer's shape as one word: the key of a latency table.

    Kind, kernel, strides, groups, input and output, such as
    ``conv:k3x3:s2x2:g1:32x32x16:16x16x32``.
    """

    def sides(values: tuple[int, ...]) -> str:
        return "x".join(map(str, values))

    return (
        f"{layer.kind.value}:k{sides(layer.kernel_size)}:s{sides(layer.strides)}"
        f":g{layer.groups}:{sides(input_shape)}:{sides(output_shape)}"
    )
