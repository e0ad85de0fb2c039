"""Filling the kernels of float layers: levels of n bits behind DEQUANTIZE.

They are stored as they are, times the step: no accumulator needs more bits, and what
the layer reads is then what it read in training, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.parameters import LayerParameters
from matar_tf.template_map import KernelPiece
from matar_tf.tflite._containers import (
    TYPES,
    Storage,
    narrowest_container,
    pack,
)
from matar_tf.tflite._levels import quantize_kernel
from matar_tf.tflite._schema import op_name, quantization, set_buffer

__all__ = ["check_pieces", "kernel_names", "store_pieces"]

_PACKING: Final = ("packed-float", "packed-litert")


def kernel_names(entry: str, num_pieces: int) -> list[str]:
    """Returns the names of the tensors that hold a kernel."""
    first = f"{entry}/kernel"
    return [f"{first}/{number}" if number else first for number in range(num_pieces)]


def check_pieces(
    model: Any, entry: str, pieces: Sequence[KernelPiece], layer: LayerParameters
) -> None:
    """Checks that pieces of a template are within a kernel, channel by channel.

    Raises:
      ModelError: If one is not.
    """
    for piece in pieces:
        tensor = model.subgraphs[0].tensors[piece.tensor]
        is_within = piece.last < layer.kernel.size
        if not is_within or _channels(piece, tuple(tensor.shape), layer) is None:
            raise ModelError(
                f"Expected pieces of the kernel of {entry!r} in the template, of whole "
                f"channels each, got one of other values (tensor {piece.tensor}); "
                "package the model again."
            )


def store_pieces(
    model: Any,
    entry: str,
    pieces: Sequence[KernelPiece],
    layer: LayerParameters,
    bits: int,
    profile: str,
) -> Storage:
    """Writes the kernel of a float layer into the object form of a model.

    Returns:
      How it is stored.
    """
    tensors = model.subgraphs[0].tensors
    channels = layer.kernel.shape[layer.channel_axis]
    levels = quantize_kernel(layer, bits, np.ones(channels, bool)).reshape(-1)
    steps = np.asarray(layer.step[layer.bits.index(bits)], np.float32)
    stored, note = _container(model, pieces, bits, profile)
    for name, piece in zip(kernel_names(entry, len(pieces)), pieces, strict=True):
        tensor = tensors[piece.tensor]
        shape = tuple(int(size) for size in tensor.shape)
        axis, order = _channels(piece, shape, layer) or (0, np.zeros(1, np.int64))
        tensor.name = name
        set_buffer(model, tensor, pack(_values(levels, piece), stored))
        scale = steps if len(steps) == 1 else steps[order]
        tensor.type = TYPES[stored]
        tensor.quantization = quantization(scale, np.zeros(len(scale)), axis)
        for reader in _readers(model, piece):
            if op_name(model, reader) == "GATHER":
                rows = tensors[reader.outputs[0]]
                rows.quantization = tensor.quantization
    return Storage(entry=entry, bits=bits, stored_bits=stored, note=note)


def _container(
    model: Any, pieces: Sequence[KernelPiece], bits: int, profile: str
) -> tuple[int, str | None]:
    """Returns the width in which a kernel is stored, and why it is not a narrower."""
    if bits > 4 or profile == "int8":
        return 8, None
    if profile not in _PACKING:
        return 8, "tflite-runtime unpacks no INT4 for layers in float"
    readers = [one for piece in pieces for one in _readers(model, piece)]
    if any(op_name(model, one) == "GATHER" for one in readers):
        return 8, "tables of which rows are looked up take int8 only"
    return narrowest_container(bits), None


def _readers(model: Any, piece: KernelPiece) -> list[Any]:
    operators = model.subgraphs[0].operators
    return [one for one in operators if piece.tensor in one.inputs]


def _values(flat: np.ndarray, piece: KernelPiece) -> np.ndarray:
    """Returns the values of a piece, one after the other."""
    strides = tuple(stride * flat.itemsize for stride in piece.strides)
    view = np.lib.stride_tricks.as_strided(
        flat[piece.offset :], piece.sizes, strides, writeable=False
    )
    return np.ascontiguousarray(view)


def _channels(
    piece: KernelPiece, shape: tuple[int, ...], layer: LayerParameters
) -> tuple[int, np.ndarray] | None:
    """Returns the axis of a piece along which channels lie, and which they are.

    None if channels are not those of one axis alone.
    """
    if layer.step.shape[1] == 1:
        return 0, np.zeros(1, np.int64)
    sizes = layer.kernel.shape
    of_axis = np.arange(sizes[layer.channel_axis], dtype=np.int32)
    behind = len(sizes) - layer.channel_axis - 1
    every = np.broadcast_to(of_axis.reshape(-1, *[1] * behind), sizes)
    found = _values(np.ascontiguousarray(every).reshape(-1), piece).reshape(shape)
    for axis in range(len(shape)):
        line = np.moveaxis(found, axis, 0).reshape(shape[axis], -1)
        if (line == line[:, :1]).all():
            return axis, line[:, 0]
    return None
