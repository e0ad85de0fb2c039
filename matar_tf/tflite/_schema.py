"""Thin helpers over the TFLite flatbuffer schema: read, change, write."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any, Final

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated

from matar_tf.errors import ExportError
from matar_tf.operators import OPERATORS, CostShape
from matar_tf.tflite._decoding import DECODE, restore
from matar_tf.tflite._unpacking import unpack

__all__ = [
    "COMPUTE_OPS",
    "INTEGER_ACTIVATIONS",
    "MAX_FILE_BYTES",
    "PACKED_BITS",
    "CheckedModel",
    "OneSampleModel",
    "add_tensor",
    "bias_of",
    "check_builtin",
    "compact",
    "custom_names",
    "drop_tensors",
    "find_operator_code",
    "is_decoded",
    "op_name",
    "parse_model",
    "parse_stored",
    "quantization",
    "schema",
    "set_buffer",
    "source_of",
    "tensor_array",
    "text_of",
    "type_name",
    "write_model",
]

schema: Any = schema_py_generated  # generated code, whose types mislead

_FILE_IDENTIFIER = b"TFL3"
MAX_FILE_BYTES: Final = 1 << 30
# What the generated code raises on bytes that are no flatbuffer.
_DAMAGE = (
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
PACKED_BITS: Final = {schema.TensorType.INT2: 2, schema.TensorType.INT4: 4}
_DTYPES = {
    schema.TensorType.INT2: np.int8,
    schema.TensorType.INT4: np.int8,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.BOOL: np.bool_,
    schema.TensorType.INT64: np.int64,
}
INTEGER_ACTIVATIONS: Final = (
    schema.TensorType.INT8,
    schema.TensorType.UINT8,
    schema.TensorType.INT16,
)
COMPUTE_OPS = tuple(
    name
    for name, row in OPERATORS.items()
    if row.shape is CostShape.KERNEL and not row.is_float
)


class CheckedModel(bytes):
    """A ``.tflite`` file that native code may be given.

    It was written here, by `write_model`, of a graph in which
    `matar_tf.tflite._graph_rules.find_fault` finds nothing, or of one that follows from
    such a graph: no bytes of a stranger reach an interpreter of this process.
    """


class OneSampleModel(CheckedModel):
    """One that is run one sample at a time: in some operators samples would meet."""


def parse_model(content: bytes) -> Any:
    """Returns the mutable object form of a ``.tflite`` file.

    Kernels that it stores as indices into tables come as plain ones. Time and memory
    are bounded by the length of the file, whatever its offsets say.

    Raises:
      ExportError: If the bytes are not a TFLite model of one subgraph.
    """
    model = parse_stored(content)
    try:
        restore(model)
    except ExportError:
        raise
    except _DAMAGE as error:
        raise _damaged(error) from error
    return model


def is_decoded(content: bytes) -> bool:
    """Whether a file has operators that decode its kernels.

    Raises:
      ExportError: If the bytes are not a TFLite model of one subgraph.
    """
    if DECODE.encode() not in content:
        return False
    return DECODE in custom_names(parse_stored(content))


def parse_stored(content: bytes) -> Any:
    """As `parse_model`, but returns kernels as they are stored.

    Raises:
      ExportError: If the bytes are not a TFLite model of one subgraph.
    """
    if content[4:8] != _FILE_IDENTIFIER:
        raise ExportError(
            f"Expected a TFLite model (identifier 'TFL3'), got {content[4:8]!r}; name "
            "a .tflite file."
        )
    if len(content) > MAX_FILE_BYTES:
        raise ExportError(
            f"Expected a TFLite model of at most {MAX_FILE_BYTES} bytes, got "
            f"{len(content)}; take a smaller network."
        )
    try:
        if isinstance(content, CheckedModel):
            root = schema.Model.GetRootAs(bytearray(content), 0)
            return schema.ModelT.InitFromObj(root)
        model = unpack(content)
        is_whole = _refers_to_what_is_there(model)
    except ExportError:
        raise
    except _DAMAGE as error:
        raise _damaged(error) from error
    if not is_whole:
        raise ExportError(
            "Expected a TFLite model whose operators and tensors refer to what is "
            "there, got one that points outside; export or fetch it again."
        )
    _check_order(model)
    return model


def _damaged(error: Exception) -> ExportError:
    return ExportError(
        f"Expected a whole TFLite model, but it is damaged ({error!r:.200}); export or "
        "fetch it again."
    )


def _refers_to_what_is_there(model: Any) -> bool:
    """Whether all indices of a model are within it, and its operators are known."""
    graph = model.subgraphs[0]
    num_tensors, num_buffers = len(graph.tensors), len(model.buffers)
    holders = [*graph.tensors, *(model.metadata or [])]
    return (
        all(0 <= holder.buffer < num_buffers for holder in holders)
        and all(_builtin(code) in _OP_NAMES for code in model.operatorCodes)
        and all(
            0 <= operator.opcodeIndex < len(model.operatorCodes)
            and _are_within(operator.inputs, -1, num_tensors)  # -1: one left out
            and _are_within(operator.outputs, 0, num_tensors)
            for operator in graph.operators
        )
        and _are_within(graph.inputs, 0, num_tensors)
        and _are_within(graph.outputs, 0, num_tensors)
    )


def _are_within(indices: Any, low: int, end: int) -> bool:
    return len(indices) > 0 and all(low <= int(index) < end for index in indices)


def _check_order(model: Any) -> None:
    """Refuses a graph in which a tensor is read before it is made, or made twice."""
    operators = model.subgraphs[0].operators
    later = Counter(int(index) for one in operators for index in one.outputs)
    for one in operators:
        written = Counter(int(index) for index in one.outputs)
        if any(later[int(index)] for index in one.inputs) or any(
            later[index] > 1 for index in written
        ):
            raise ExportError(
                f"Expected operators in the order of their tensors, got a "
                f"{op_name(model, one)} that reads what is made later, or makes what "
                "another makes; export or fetch the model again."
            )
        later.subtract(written)  # -= would look at all of them


def text_of(name: Any) -> str:
    """Returns a name of a file as text; an empty one for None."""
    name = b"" if name is None else name
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def type_name(value: int) -> str:
    """Returns what the schema calls a type of tensors, by its number."""
    names = (name for name, one in vars(schema.TensorType).items() if one == value)
    return next(names, str(value))


def write_model(model: Any) -> bytes:
    """Returns the bytes of the object form of a model."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


def op_name(model: Any, operator: Any) -> str:
    """Returns the builtin name of an operator, such as ``CONV_2D``."""
    code = model.operatorCodes[operator.opcodeIndex]
    return _OP_NAMES[_builtin(code)]


def source_of(model: Any, operator: Any) -> int:
    """Returns the index of the tensor that an operator reads."""
    return int(operator.inputs[OPERATORS[op_name(model, operator)].source])


def bias_of(model: Any, operator: Any) -> int:
    """Returns the index of a multiplication's bias; -1 for one without."""
    place = OPERATORS[op_name(model, operator)].bias
    return int(operator.inputs[place]) if place < len(operator.inputs) else -1


def _builtin(code: Any) -> int:
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def custom_names(model: Any) -> list[str]:
    """Returns the names of the first operators that are not builtin, as shown."""
    codes = [code.customCode for code in model.operatorCodes if code.customCode]
    return [text_of(code[:80]) for code in codes[:3]]


def check_builtin(model: Any) -> None:
    """Refuses a model with operators that come from elsewhere than the runtime.

    Raises:
      ExportError: If it has custom operators, Flex ones among them.
    """
    names = custom_names(model)
    operators = model.subgraphs[0].operators
    if names or any(op_name(model, one) == "CUSTOM" for one in operators):
        raise ExportError(
            "Expected builtin operators alone, got custom ones "
            f"({', '.join(map(repr, names))[:80]}), such as TensorFlow's (Flex); "
            "convert the network with TFLite's builtin operators."
        )


def find_operator_code(model: Any, name: str, version: int) -> int:
    """Returns the index of an operator code; adds it, or raises its version."""
    builtin = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if _builtin(code) == builtin:
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
    if tensor.type in PACKED_BITS:
        stored = _unpack_kernel(stored, PACKED_BITS[tensor.type])
        stored = stored[: int(np.prod(tensor.shape))]
    return stored.view(_DTYPES[tensor.type]).reshape(tensor.shape)


def _unpack_kernel(stored: np.ndarray, bits: int) -> np.ndarray:
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
    tensor.name = f"{text_of(like.name)}/{suffix}"
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


def drop_tensors(model: Any, dropped: set[int]) -> None:
    """Removes tensors and renumbers the rest."""
    graph = model.subgraphs[0]
    kept = [i for i in range(len(graph.tensors)) if i not in dropped]
    position = {old: new for new, old in enumerate(kept)}
    position[-1] = -1
    graph.tensors = [graph.tensors[i] for i in kept]
    for operator in graph.operators:
        operator.inputs = [position[int(i)] for i in operator.inputs]
        operator.outputs = [position[int(i)] for i in operator.outputs]
    graph.inputs = [position[int(i)] for i in graph.inputs]
    graph.outputs = [position[int(i)] for i in graph.outputs]
    for signature in model.signatureDefs or []:
        for tensor_map in (*(signature.inputs or []), *(signature.outputs or [])):
            tensor_map.tensorIndex = position[tensor_map.tensorIndex]
