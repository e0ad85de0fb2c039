"""Inputs and outputs of integers in place of float ones.

The grid is that of the network's own input and output: a program that has its samples
in bytes saves the operators that quantize them, and on hardware without float these
would be the host's. Unsigned bytes are 128 more, which an operator takes off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError, did_you_mean
from matar_tf.tflite._schema import (
    drop_tensors,
    find_operator_code,
    op_name,
    quantization,
    schema,
    text_of,
)
from matar_tf.tflite.ends import inputs_of, outputs_of

__all__ = ["FLOAT_ENDS", "IO_TYPES", "check_io", "describe_ends", "make_integer_ends"]

FLOAT_ENDS: Final = "float32"
IO_TYPES: Final = (FLOAT_ENDS, "int8", "uint8")
_TYPES: Final = schema.TensorType
_SHIFT: Final = 128  # from a level of int8 to one of uint8


def check_io(io: str) -> None:
    """Checks the type of inputs and outputs that is asked for.

    Raises:
      ExportError: If it is none.
    """
    if io not in IO_TYPES:
        raise ExportError(
            f"Expected a type of inputs and outputs, got {io!r}. "
            f"{did_you_mean(str(io), IO_TYPES)}"
        )


def make_integer_ends(model: Any, io: str) -> None:
    """Gives a model inputs and outputs of a type; those of int32 stay.

    Args:
      model: In object form, with float ends.
      io: One of `IO_TYPES`.

    Raises:
      ExportError: If a layer that computes in float, or on 16 bits, is at an end.
    """
    check_io(io)
    if io == FLOAT_ENDS:
        return
    graph = model.subgraphs[0]
    replaced: dict[int, int] = {}
    for index in map(int, graph.inputs):
        if graph.tensors[index].type == _TYPES.FLOAT32:
            replaced[index] = _input_levels(model, index)
    for index in map(int, graph.outputs):
        if graph.tensors[index].type == _TYPES.FLOAT32:
            replaced[index] = _output_levels(model, index)
    gone = set(replaced)
    if io == "uint8":
        replaced = {
            old: _unsigned(model, new, at_start=old in graph.inputs)
            for old, new in replaced.items()
        }
    graph.inputs = [replaced.get(int(i), int(i)) for i in graph.inputs]
    graph.outputs = [replaced.get(int(i), int(i)) for i in graph.outputs]
    for signature in model.signatureDefs or []:
        for one in (*(signature.inputs or []), *(signature.outputs or [])):
            one.tensorIndex = replaced.get(int(one.tensorIndex), one.tensorIndex)
    drop_tensors(model, gone)


def describe_ends(model: Any) -> dict[str, Any]:
    """Returns the grids of inputs and outputs of integers, as JSON.

    A real value is ``(level - zero_point) * scale``.
    """
    tensors = model.subgraphs[0].tensors

    def grids(ends: Any) -> Mapping[str, Any]:
        return {
            one.name: {
                "scale": float(tensors[one.index].quantization.scale[0]),
                "zero_point": int(tensors[one.index].quantization.zeroPoint[0]),
            }
            for one in ends
            if tensors[one.index].type in (_TYPES.INT8, _TYPES.UINT8)
        }

    return {"inputs": grids(inputs_of(model)), "outputs": grids(outputs_of(model))}


def _input_levels(model: Any, index: int) -> int:
    """Returns the int8 tensor that an input is quantized to; drops what does that."""
    graph = model.subgraphs[0]
    readers = [one for one in graph.operators if index in map(int, one.inputs)]
    made = [int(one.outputs[0]) for one in readers]
    is_one = len(readers) == 1 and op_name(model, readers[0]) == "QUANTIZE"
    if not is_one or graph.tensors[made[0]].type != _TYPES.INT8:
        _refuse(graph.tensors[index], "an input that is quantized to int8")
    graph.operators = [one for one in graph.operators if one is not readers[0]]
    return made[0]


def _output_levels(model: Any, index: int) -> int:
    """Returns the int8 tensor that an output comes from; drops what dequantizes it."""
    graph = model.subgraphs[0]
    maker = next(one for one in graph.operators if index in map(int, one.outputs))
    source = int(maker.inputs[0])
    is_border = op_name(model, maker) == "DEQUANTIZE"
    is_free = source not in (*map(int, graph.inputs), *map(int, graph.outputs))
    if not (is_border and is_free) or graph.tensors[source].type != _TYPES.INT8:
        _refuse(graph.tensors[index], "an output that comes from int8")
    graph.operators = [one for one in graph.operators if one is not maker]
    return source


def _refuse(tensor: Any, expected: str) -> None:
    raise ExportError(
        f"Expected {expected} for inputs and outputs of integers, got "
        f"{text_of(tensor.name)[:80]!r}, at which a layer computes in float or on 16 "
        "bits; export it with float ends (io='float32')."
    )


def _unsigned(model: Any, levels: int, *, at_start: bool) -> int:
    """Adds a tensor of bytes beside one of int8, and what makes one of the other."""
    graph = model.subgraphs[0]
    signed, tensor = graph.tensors[levels], schema.TensorT()
    tensor.shape, tensor.shapeSignature = signed.shape, signed.shapeSignature
    tensor.type, tensor.buffer, tensor.hasRank = _TYPES.UINT8, 0, True
    tensor.name = f"{text_of(signed.name)}/uint8"
    scale, zero_point = signed.quantization.scale, signed.quantization.zeroPoint
    tensor.quantization = quantization(scale, np.asarray(zero_point) + _SHIFT, 0)
    graph.tensors.append(tensor)
    index = len(graph.tensors) - 1
    operator = schema.OperatorT()
    operator.opcodeIndex = find_operator_code(model, "QUANTIZE", 2)
    operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    operator.builtinOptions = schema.QuantizeOptionsT()
    ends = (index, levels) if at_start else (levels, index)
    operator.inputs, operator.outputs = [ends[0]], [ends[1]]
    graph.operators.insert(0 if at_start else len(graph.operators), operator)
    return index
