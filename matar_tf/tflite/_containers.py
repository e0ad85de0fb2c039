"""Kernels that a policy gives, and the containers that they are written into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.scales import FREE
from matar_tf.tflite._schema import (
    bias_of,
    op_name,
    quantization,
    schema,
    set_buffer,
)

__all__ = [
    "TRANSPOSED",
    "TYPES",
    "Kernel",
    "Storage",
    "narrowest_container",
    "pack",
    "write_kernel",
]

TRANSPOSED: Final = "kernels of transposed convolutions take int8 only"
TYPES: Final = {
    8: schema.TensorType.INT8,
    4: schema.TensorType.INT4,
    2: schema.TensorType.INT2,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """A kernel to be stored.

    Attributes:
      entry: Weight entry of the policy.
      operator: The operator that uses it.
      bits: Width of the policy.
      levels: int8, within `matar_tf.parameters.weight_range`, TFLite's layout.
      scale: float32 step per output channel, batch norm included.
      channel_axis: Axis of the output channels.
      counts: Bias in units of ``input_scale * scale``, int64 per output channel, or
        None for an operator without bias.
      input_scale: Step of the operator's input.
      scales: Which ones the network has, ``free`` or ``power_of_two``.
    """

    entry: str
    operator: Any
    bits: int
    levels: np.ndarray
    scale: np.ndarray
    channel_axis: int
    counts: np.ndarray | None
    input_scale: np.float32
    scales: str = FREE


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """How a kernel was stored.

    Attributes:
      entry: Weight entry of the policy.
      bits: Width of the policy.
      stored_bits: Width of the container: 8, 4 or 2; of an index into a table: 1 to 7.
      note: Why the container is wider than the profile's narrowest, or None.
    """

    entry: str
    bits: int
    stored_bits: int
    note: str | None


def narrowest_container(num_bits: int) -> int:
    """Returns the narrowest container of a width; widths of one are stored alike."""
    return next(bits for bits in sorted(TYPES) if num_bits <= bits)


def write_kernel(model: Any, kernel: Kernel, stored_bits: int, factor: int) -> None:
    """Writes the levels of a kernel times a factor, and its bias likewise."""
    graph = model.subgraphs[0]
    tensor = graph.tensors[kernel.operator.inputs[1]]
    set_buffer(model, tensor, pack(kernel.levels * np.int8(factor), stored_bits))
    tensor.type = TYPES[stored_bits]
    scale = kernel.scale / np.float32(factor)
    is_dense = op_name(model, kernel.operator) == "FULLY_CONNECTED"
    axis = 0 if is_dense else kernel.channel_axis
    tensor.quantization = quantization(scale, np.zeros(len(scale)), axis)
    if kernel.counts is not None:
        bias = graph.tensors[bias_of(model, kernel.operator)]
        is_wide = bias.type == schema.TensorType.INT64
        counts = (kernel.counts * factor).astype(np.int64 if is_wide else np.int32)
        set_buffer(model, bias, counts)
        scale = kernel.input_scale * kernel.scale / np.float32(factor)
        bias.quantization = quantization(scale, np.zeros(len(scale)), 0)


def pack(values: np.ndarray, stored_bits: int) -> np.ndarray:
    """Packs integers into bytes, the first in the lowest bits."""
    if stored_bits == 8:
        return values
    per_byte = 8 // stored_bits
    codes = values.reshape(-1).view(np.uint8) & np.uint8((1 << stored_bits) - 1)
    codes = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)
    packed = np.zeros(len(codes), np.uint8)
    for position in range(per_byte):
        packed |= codes[:, position] << np.uint8(stored_bits * position)
    return packed
