"""Thin helpers over the TFLite flatbuffer schema: read, change, write."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated

from matar_tf.errors import ExportError

__all__ = [
    "COMPUTE_OPS",
    "add_tensor",
    "compact",
    "find_operator_code",
    "load_model",
    "op_name",
    "quantization",
    "schema",
    "set_buffer",
    "tensor_array",
    "write_model",
]

schema: Any = schema_py_generated  # generated code, whose types mislead

_FILE_IDENTIFIER = b"TFL3"
# What the generated code raises on bytes that are no flatbuffer.
_DAMAGED = (
    AttributeError,
    LookupError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)
_OP_NAMES = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if isinstance(code, int)
}
_PACKED_BITS = {schema.TensorType.INT2: 2, schema.TensorType.INT4: 4}
_DTYPES = {
    schema.TensorType.INT2: np.int8,
    schema.TensorType.INT4: np.int8,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.FLOAT32: np.float32,
}
COMPUTE_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def load_model(content: bytes) -> Any:
    """Returns the mutable object form of a ``.tflite`` file.

    Raises:
      ExportError: If the bytes are not a TFLite model of one subgraph.
    """
    if content[4:8] != _FILE_IDENTIFIER:
        raise ExportError(
            f"Expected a TFLite model (identifier 'TFL3'), got {content[4:8]!r}."
        )
    try:
        root = schema.Model.GetRootAs(bytearray(content), 0)
        model = schema.ModelT.InitFromObj(root)
        graphs = model.subgraphs or ()
        names = [op_name(model, one) for graph in graphs for one in graph.operators]
    except _DAMAGED as error:
        raise ExportError(
            f"Expected a TFLite model, got one that is damaged ({error!r}); fetch it "
            "again."
        ) from error
    if len(graphs) != 1:
        raise ExportError(f"Expected a model of one subgraph, got {len(graphs)}.")
    _check_order(graphs[0], names)
    return model


def _check_order(graph: Any, names: Sequence[str]) -> None:
    """Refuses a graph in which a tensor is read before it is computed."""
    made = {int(index) for one in graph.operators for index in one.outputs}
    num_tensors = len(graph.tensors)
    for name, one in zip(names, graph.operators, strict=True):
        read = [int(index) for index in one.inputs]
        written = [int(index) for index in one.outputs]
        if made & set(read) or not all(
            -1 <= index < num_tensors for index in (*read, *written)
        ):
            raise ExportError(
                f"Expected operators in the order of their tensors, got a {name} that "
                "reads what is computed later, or nowhere."
            )
        made -= set(written)


def write_model(model: Any) -> bytes:
    """Returns the bytes of the object form of a model."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


def op_name(model: Any, operator: Any) -> str:
    """Returns the builtin name of an operator, such as ``CONV_2D``."""
    code = model.operatorCodes[operator.opcodeIndex]
    return _OP_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def find_operator_code(model: Any, name: str, version: int) -> int:
    """Returns the index of an operator code; adds it, or raises its version."""
    builtin = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = builtin, version
    code.deprecatedBuiltinCode = min(builtin, 127)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def tensor_array(model: Any, tensor: Any) -> np.ndarray | None:
    """Returns the constant values of a tensor, or None for a computed one.

    Packed kernels come as int8.
    """
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    stored = np.asarray(data, np.uint8)
    if tensor.type in _PACKED_BITS:
        stored = _unpack(stored, _PACKED_BITS[tensor.type])
        stored = stored[: int(np.prod(tensor.shape))]
    return stored.view(_DTYPES[tensor.type]).reshape(tensor.shape)


def _unpack(stored: np.ndarray, bits: int) -> np.ndarray:
    """Returns signed numbers, the first in the lowest bits of a byte, as bytes."""
    places = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (stored[:, None] >> places).reshape(-1).astype(np.uint8)
    unused = np.uint8(8 - bits)
    return ((codes << unused).view(np.int8) >> unused.view(np.int8)).view(np.uint8)


def set_buffer(model: Any, tensor: Any, values: np.ndarray) -> None:
    """Gives a tensor a buffer of its own with new values."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1


def quantization(scale: Any, zero_point: Any, dimension: int) -> Any:
    """Returns quantization parameters; `scale` and `zero_point` are vectors."""
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.asarray(scale, np.float32)
    parameters.zeroPoint = np.asarray(zero_point, np.int64)
    parameters.quantizedDimension = dimension
    return parameters


def add_tensor(model: Any, like: Any, suffix: str) -> int:
    """Adds a float tensor of the shape of another; returns its index."""
    tensor = schema.TensorT()
    tensor.shape, tensor.shapeSignature = like.shape, like.shapeSignature
    tensor.type, tensor.buffer = schema.TensorType.FLOAT32, 0
    name = like.name or b""
    name = name.decode() if isinstance(name, bytes) else name
    tensor.name = f"{name}/{suffix}"
    tensor.hasRank = True
    tensors = model.subgraphs[0].tensors
    tensors.append(tensor)
    return len(tensors) - 1


def compact(model: Any) -> None:
    """Drops buffers and operator codes that nothing refers to."""
    graph = model.subgraphs[0]
    holders = [*graph.tensors, *(model.metadata or [])]
    used = sorted({0, *(holder.buffer for holder in holders)})
    position = {old: new for new, old in enumerate(used)}
    model.buffers = [model.buffers[old] for old in used]
    for holder in holders:
        holder.buffer = position[holder.buffer]
    codes = sorted({operator.opcodeIndex for operator in graph.operators})
    position = {old: new for new, old in enumerate(codes)}
    model.operatorCodes = [model.operatorCodes[old] for old in codes]
    for operator in graph.operators:
        operator.opcodeIndex = position[operator.opcodeIndex]
