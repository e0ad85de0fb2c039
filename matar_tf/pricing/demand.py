"""What one layer asks of hardware at given widths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from matar_tf.errors import shown
from matar_tf.policy import MAX_BITS
from matar_tf.pricing.memory import constant_bytes, kernel_bits, stored_bits
from matar_tf.targets.storage import Storage
from matar_tf.targets.target import Target
from matar_tf.workload import FLOAT_BITS, LayerWorkload, OpKind, Workload

__all__ = ["LayerDemand", "demand_of", "float_refusal", "layer_shape", "missing_kind"]

_WINDOW_KINDS: Final = frozenset({OpKind.AVERAGE_POOL, OpKind.MAX_POOL, OpKind.RESIZE})


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
    def product_bits(self) -> int:
        """Product of the widths that are multiplied; 0 of integers without weights."""
        if self.layer.kind is OpKind.FLOAT:
            return FLOAT_BITS * FLOAT_BITS
        return (self.weight_bits or 0) * self.activation_bits

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
        """Multiply-accumulates behind one output: kernel window * inputs.

        Those of a transposed convolution are with zeros between its inputs.
        """
        return self.layer.weight_elems // self.out_channels


def demand_of(
    layer: LayerWorkload,
    workload: Workload,
    widths: tuple[int | None, tuple[int, ...], int],
    *,
    storage: Storage | None = None,
    batch_size: int = 1,
) -> LayerDemand:
    """Returns what a layer of a network asks for.

    Args:
      layer: The layer.
      workload: The network that it belongs to.
      widths: Bits of the weights (None without), of each distinct input, of the output.
      storage: How the target stores operands; None if it packs them.
      batch_size: Samples.
    """
    weight_bits, input_bits, output_bits = widths
    tensors = workload.tensors
    output = tensors[layer.output]
    inputs = [tensors[name] for name in dict.fromkeys(layer.inputs)]
    num_elems = max(sum(tensors[name].elems for name in layer.inputs), output.elems)
    if layer.kind in _WINDOW_KINDS:
        num_elems = output.elems * math.prod(layer.kernel_size)
    result_bits = stored_bits(output_bits, storage)
    return LayerDemand(
        layer=layer,
        weight_bits=weight_bits,
        activation_bits=input_bits[0] if input_bits else MAX_BITS,
        result_bits=result_bits,
        batch_size=batch_size,
        input_shape=inputs[0].shape if inputs else (),
        output_shape=output.shape,
        num_elems=batch_size * num_elems,
        reads_network_input=any(name in workload.inputs for name in layer.inputs),
        input_bits=batch_size
        * sum(
            tensor.elems * stored_bits(bits, storage)
            for tensor, bits in zip(inputs, input_bits, strict=True)
        ),
        output_bits=batch_size * output.elems * result_bits,
        kernel_bits=kernel_bits(layer, weight_bits, storage),
        constant_bits=8 * constant_bytes(layer, workload),
    )


def missing_kind(layer: LayerWorkload, workload: Workload, target: Target) -> str:
    """Returns why a target does not run the kind of a layer; "" where it does."""
    if target.ops_for(layer.kind):
        return ""
    if layer.kind is OpKind.FLOAT:
        return float_refusal(workload, target)
    return (
        f"Target {target.name!r} does not run layer {layer.name!r} of kind "
        f"{layer.kind.value!r}; list the kind under [[ops]], if need be with unit "
        "'cpu'."
    )


def float_refusal(workload: Workload, target: Target) -> str:
    """Returns why a target does not run layers that stay in float, all of them named.

    It is "" where there are none, or it has a processor that does.
    """
    names = [one.name for one in workload.layers if one.kind is OpKind.FLOAT]
    if not names or target.ops_for(OpKind.FLOAT):
        return ""
    return (
        f"Target {target.name!r} computes with integers, and its file has no price for "
        f"a processor that would run what stays in float: {shown(names)}. List the "
        f"kind {OpKind.FLOAT.value!r} under [[ops]] with unit 'cpu', or take layers "
        "that have integer kernels."
    )


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
