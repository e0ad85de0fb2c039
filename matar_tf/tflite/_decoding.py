"""Kernels that a file stores as indices into a table of their values.

TensorFlow Lite for Microcontrollers decodes them by an operator of its own,
``TFLM_DECODE``, just before what reads them; no other runtime knows it. Here such a
file is read as what it is after that: all else knows plain kernels alone. What a
stranger's operator says is held against its tensors first: the interpreter trusts it.

Layout of the second input: 16 bytes (kind of decoding, its version, two zeros, version
of the table, axis and bits of an index, values from the table of one channel to that of
the next, nine zeros), then the tables. Indices lie one after the other from the highest
bit of the first byte on. Source: tflite-micro, ``micro/kernels/decode_state_lut.cc``,
which takes channels from the output's steps and looks at no axis.

Tables of all channels hold the same values here. So there is one, and from channel to
channel are 0 values: that is right for code that looks at the axis, and for code that
does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated

from matar_tf.errors import ExportError

__all__ = ["DECODE", "MAX_BITS", "bits_of_index", "encode", "restore"]

_schema: Any = schema_py_generated  # generated code, whose types mislead
DECODE: Final = "TFLM_DECODE"
MAX_BITS: Final = 7  # of an index
_HEADER_BYTES: Final = 16
_ONE_TABLE: Final = 15  # as axis
_MAX_STRIDE: Final = 128
_MAX_RANK: Final = 5
_MAX_VALUES: Final = 1 << 27  # in all kernels
_READ: Final = ("opcodeIndex", "inputs", "outputs", "debugMetadataIndex")


def encode(values: np.ndarray, num_channels: int, axis: int) -> tuple[np.ndarray, ...]:
    """Returns what a decoding operator reads, as bytes: indices, header and table.

    Args:
      values: A kernel, int8, of at most 128 different values.
      num_channels: Number of its steps.
      axis: Along which they differ.
    """
    table, indices = np.unique(values, return_inverse=True)
    bits = max(1, math.ceil(math.log2(len(table))))
    places = np.arange(bits - 1, -1, -1)
    each = (indices.reshape(-1, 1) >> places) & 1
    header = np.zeros(_HEADER_BYTES, np.uint8)
    header[1] = header[4] = 1
    header[5] = ((_ONE_TABLE if num_channels == 1 else axis) << 4) | bits
    content = np.concatenate([header, table.astype(np.int8).view(np.uint8)])
    return np.packbits(each.astype(np.uint8)), content


def bits_of_index(description: Any) -> int:
    """Returns how wide the indices into a table are, given its header."""
    return int(description[5]) & 0x7


def restore(model: Any) -> None:
    """Puts plain kernels where the object form of a model decodes some.

    All tensors keep their places; those that nothing reads any more are empty.

    Raises:
      ExportError: If an operator does not fit what it decodes.
    """
    graph = model.subgraphs[0]
    codes = {i for i, one in enumerate(model.operatorCodes) if _is_decode(one)}
    if not codes:
        return
    decoding = [one for one in graph.operators if one.opcodeIndex in codes]
    graph.operators = [one for one in graph.operators if one.opcodeIndex not in codes]
    apart = {int(i) for one in (graph.inputs, graph.outputs) for i in one}
    apart |= {int(i) for one in graph.operators for i in one.outputs}
    decoded: dict[int, int] = {}
    emptied: set[int] = set()
    kernels = _Kernels()
    for operator in decoding:
        inputs, outputs = ([*map(int, i)] for i in (operator.inputs, operator.outputs))
        fits = len(inputs) == 2 * len(outputs) and not apart & {*inputs, *outputs}
        _expect(fits and min(inputs) >= 0, "two constants for each output", inputs)
        others = [one for key, one in vars(operator).items() if key not in _READ]
        _expect(not any(map(_is_something, others)), "no options", "some")
        for encoded, described, made in zip(
            inputs[::2], inputs[1::2], outputs, strict=True
        ):
            decoded[made] = encoded
            emptied |= {described, made}
            _decode(model, (encoded, described, made), kernels)
    _expect(not emptied & {*decoded.values()}, "tensors of one use", emptied)
    for operator in graph.operators:
        operator.inputs = [decoded.get(int(i), int(i)) for i in operator.inputs]
        used = emptied & {*operator.inputs}
        _expect(not used, "tables that nothing else reads", used)
    for index in emptied:
        graph.tensors[index] = _empty_tensor()
    _drop_codes(model, codes)


def _is_decode(code: Any) -> bool:
    return code.customCode in (DECODE, DECODE.encode())


def _is_something(value: Any) -> bool:
    return value is not None and bool(np.size(value)) and bool(np.any(value))


def _expect(holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise ExportError(
            f"Expected {expected} in the {DECODE} operators of the model, got "
            f"{str(got)[:80]}; export or fetch it again."
        )


@dataclass
class _Kernels:
    """Those of a model so far: tensors may share what is stored."""

    buffers: dict[tuple[Any, ...], int] = field(
        default_factory=dict[tuple[Any, ...], int]
    )
    num_values: int = 0


def _decode(model: Any, places: tuple[int, int, int], kernels: _Kernels) -> None:
    """Makes the tensor of the indices the kernel that is made of them.

    Args:
      model: In object form.
      places: Of the tensors of indices, of header and tables, and of the kernel.
      kernels: Those so far, which this one is added to.
    """
    tensors = model.subgraphs[0].tensors
    indices, description, out = (tensors[i] for i in places)
    is_plain = not any(one.isVariable or one.sparsity for one in (description, out))
    _expect(is_plain, "dense constants", "others")
    packed, header = _stored(model, indices), _stored(model, description)
    _expect(out.type == _schema.TensorType.INT8, "an int8 kernel", out.type)
    is_made = _stored(model, out, None).size == 0
    _expect(is_made, "a kernel that is made", "a stored one")
    shape = [int(size) for size in _vector(out.shape)]
    fits = 0 < len(shape) <= _MAX_RANK
    fits = fits and all(0 < size <= 8 * packed.size for size in shape)
    _expect(fits, "a kernel no larger than its indices", shape)
    channels, axis = _channels(out, shape)
    stride, bits, table = _read_header(header, channels, axis)
    count = math.prod(shape)
    num_bytes = -(-count * bits // 8)
    _expect(packed.size == num_bytes, f"{num_bytes} bytes of indices", packed.size)
    key = indices.buffer, description.buffer, tuple(shape), channels, axis
    indices.shape, indices.shapeSignature = out.shape, out.shapeSignature
    indices.type, indices.quantization = out.type, out.quantization
    if key in kernels.buffers:
        indices.buffer = kernels.buffers[key]
        return
    kernels.num_values += count
    fits = kernels.num_values <= _MAX_VALUES
    _expect(fits, f"kernels of at most {_MAX_VALUES} values", kernels.num_values)
    each = np.unpackbits(packed)[: count * bits].reshape(count, bits)
    found = each @ (1 << np.arange(bits - 1, -1, -1)).astype(np.uint8)
    of_channel = np.arange(channels).reshape(-1, *[1] * (len(shape) - 1 - axis))
    starts = np.broadcast_to(of_channel * stride, shape).reshape(-1)
    most = stride or table.size
    _expect(int(found.max()) < most, f"indices below {most}", int(found.max()))
    fits = (channels - 1) * stride + int(found.max()) < table.size
    _expect(fits, "a table for each channel", table.size)
    buffer = _schema.BufferT()
    buffer.data = table[starts + found]
    model.buffers.append(buffer)
    indices.buffer = kernels.buffers[key] = len(model.buffers) - 1


def _vector(value: Any) -> Any:
    return () if value is None else value


def _stored(
    model: Any, tensor: Any, kind: int | None = _schema.TensorType.UINT8
) -> np.ndarray:
    """Returns the bytes of a constant of bytes; of another kind, whatever is stored."""
    buffer = model.buffers[tensor.buffer]
    data = np.asarray(_vector(buffer.data), np.uint8)
    within = not (buffer.offset or buffer.size or tensor.externalBuffer)
    _expect(within, "buffers within the file", "others")
    if kind is not None:
        fits = tensor.type == kind and data.size > 0 and _is_whole(tensor.quantization)
        fits = fits and [int(size) for size in _vector(tensor.shape)] == [data.size]
        _expect(fits, "constants of bytes", f"type {tensor.type}, {data.size} bytes")
    return data


def _is_whole(grid: Any) -> bool:
    """Whether there are as many steps as zero points, or nothing."""
    if grid is None:
        return True
    sizes = {np.size(_vector(one)) for one in (grid.scale, grid.zeroPoint)}
    return len(sizes) == 1 and grid.details is None


def _channels(out: Any, shape: list[int]) -> tuple[int, int]:
    """Returns how many tables a kernel has by its steps, and along which axis."""
    grid = out.quantization
    count = 0 if grid is None or grid.scale is None else len(grid.scale)
    _expect(count >= 1, "a kernel with steps", "none")
    if grid is None or count == 1:
        return 1, 0
    axis = int(grid.quantizedDimension)
    fits = axis in (0, len(shape) - 1) and shape[axis] == count
    _expect(fits, f"steps along the first or last axis of {shape}", (axis, count))
    return count, axis


def _read_header(
    header: np.ndarray, channels: int, axis: int
) -> tuple[int, int, np.ndarray]:
    """Returns values from table to table, bits of an index, and the tables."""
    start = [int(one) for one in header[:_HEADER_BYTES]]
    fits = len(header) > _HEADER_BYTES and start[:5] == [0, 1, 0, 0, 1]
    _expect(fits and not any(start[7:]), "look-up tables of version 1", start)
    bits, named, stride = bits_of_index(start), start[5] >> 4, start[6]
    fits = 1 <= bits <= MAX_BITS and not start[5] & 0x8 and stride <= _MAX_STRIDE
    _expect(fits, f"indices of 1 to {MAX_BITS} bits", start)
    is_one = named == _ONE_TABLE
    # Some code goes by steps, some by the axis that is named: both must find the same.
    fits = stride == 0 or (is_one if channels == 1 else named == axis)
    _expect(fits and (is_one or named == axis), "tables by channel", start)
    return stride, bits, header[_HEADER_BYTES:]


def _empty_tensor() -> Any:
    tensor = _schema.TensorT()
    tensor.shape, tensor.name = np.zeros(0, np.int32), ""
    return tensor


def _drop_codes(model: Any, codes: set[int]) -> None:
    kept = [i for i in range(len(model.operatorCodes)) if i not in codes]
    position = {old: new for new, old in enumerate(kept)}
    model.operatorCodes = [model.operatorCodes[old] for old in kept]
    for operator in model.subgraphs[0].operators:
        operator.opcodeIndex = position[operator.opcodeIndex]
