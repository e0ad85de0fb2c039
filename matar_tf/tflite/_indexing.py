"""Kernels as indices into a table of their values, for microcontrollers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from matar_tf.tflite._containers import Kernel, Storage
from matar_tf.tflite._decoding import DECODE, MAX_BITS, bits_of_index, encode
from matar_tf.tflite._schema import (
    is_decoded,
    parse_model,
    parse_stored,
    schema,
    set_buffer,
    tensor_array,
    text_of,
)

__all__ = ["is_smaller", "store_indices", "stored_tables", "tables_of"]

# In a file, beside data: a decoding operator with two more tensors (88), what it is
# called (96, of all together), and what the next vectors may be moved by.
_OPERATOR_BYTES: Final = 208


def store_indices(
    model: Any, kernels: Sequence[Kernel], store_int8: Callable[..., Storage]
) -> tuple[Storage, ...]:
    """Stores kernels as indices into tables where that takes fewer bytes than int8.

    Args:
      model: In object form.
      kernels: All of a policy.
      store_int8: Stores one in int8; takes why, too.
    """
    graph = model.subgraphs[0]
    storages: list[Storage] = []
    decoding: dict[int, Any] = {}
    for kernel in kernels:
        store_int8(model, kernel)
        packed = _smaller(model, kernel.operator)
        if packed is not None:
            decoder = _decode(model, kernel.operator, *packed[1:])
            decoding[id(kernel.operator)] = decoder
        storages.append(
            Storage(
                entry=kernel.entry,
                bits=kernel.bits,
                stored_bits=8 if packed is None else packed[0],
                note=None,  # it would take more bytes than some tables save
            )
        )
    graph.operators = [
        one
        for operator in graph.operators
        for one in (decoding.get(id(operator)), operator)
        if one is not None
    ]
    return tuple(storages)


def stored_tables(content: bytes) -> dict[str, tuple[int, int]]:
    """Returns bits of an index and bytes saved against int8, by a kernel's name."""
    if not is_decoded(content):
        return {}
    plain, model = parse_model(content), parse_stored(content)
    found: dict[str, tuple[int, int]] = {}
    for place, tensor in enumerate(model.subgraphs[0].tensors):
        for table in tables_of(model, place):
            held = [len(model.buffers[one.buffer].data) for one in (tensor, table)]
            size = math.prod(map(int, plain.subgraphs[0].tensors[place].shape))
            bits = bits_of_index(model.buffers[table.buffer].data)
            found[text_of(tensor.name)] = bits, size - sum(held)
    return found


def tables_of(model: Any, kernel: int) -> list[Any]:
    """Returns the tensors of the table that a kernel's indices are of; one or none."""
    graph, code = model.subgraphs[0], _find_code(model)
    return [
        graph.tensors[one.inputs[1]]
        for one in graph.operators
        if one.opcodeIndex == code and one.inputs[0] == kernel
    ]


_Packed = tuple[int, np.ndarray, np.ndarray]  # bits of an index, indices, table


def _smaller(model: Any, operator: Any) -> _Packed | None:
    """Returns how a kernel is stored in fewer bytes, or None."""
    tensor = model.subgraphs[0].tensors[operator.inputs[1]]
    values, grid = np.asarray(tensor_array(model, tensor)), tensor.quantization
    bits = max(1, (len(np.unique(values)) - 1).bit_length())
    if bits > MAX_BITS:
        return None
    indices, table = encode(values, len(grid.scale), int(grid.quantizedDimension))
    fits = is_smaller(indices.size + table.size, values.size)
    return (bits, indices, table) if fits else None


def is_smaller(num_bytes: int, as_int8: int) -> bool:
    """Whether a file gets smaller by indices and table of so many bytes for int8."""
    return num_bytes + _OPERATOR_BYTES < as_int8


def _decode(model: Any, operator: Any, indices: np.ndarray, table: np.ndarray) -> Any:
    """Lets an operator read a kernel that is decoded; returns what decodes it."""
    graph, place = model.subgraphs[0], int(operator.inputs[1])
    kernel = graph.tensors[place]
    made = schema.TensorT()
    made.shape, made.shapeSignature = kernel.shape, kernel.shapeSignature
    made.type, made.quantization = kernel.type, kernel.quantization
    made.hasRank, made.name, made.buffer = True, "", 0
    described = _bytes(model, schema.TensorT(), table)
    described.name = ""
    graph.tensors += [described, made]
    kernel.quantization = kernel.shapeSignature = None
    _bytes(model, kernel, indices)
    decoding = schema.OperatorT()
    decoding.opcodeIndex = _code(model)
    decoding.inputs = [place, len(graph.tensors) - 2]
    decoding.outputs = [len(graph.tensors) - 1]
    inputs = [int(index) for index in operator.inputs]
    operator.inputs = [inputs[0], len(graph.tensors) - 1, *inputs[2:]]
    return decoding


def _bytes(model: Any, tensor: Any, values: np.ndarray) -> Any:
    """Makes a tensor a constant of bytes."""
    set_buffer(model, tensor, values)
    tensor.shape, tensor.hasRank = np.array([values.size], np.int32), True
    tensor.type = schema.TensorType.UINT8
    return tensor


def _find_code(model: Any) -> int | None:
    codes = [text_of(one.customCode) for one in model.operatorCodes]
    return codes.index(DECODE) if DECODE in codes else None


def _code(model: Any) -> int:
    """Returns the index of the code of the decoding operator; adds it."""
    found = _find_code(model)
    if found is not None:
        return found
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = DECODE, 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
