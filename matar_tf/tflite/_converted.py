"""What the converter makes of a network, brought into the form that a template has.

The converter spares operators by rules of its own for a batch of one. What it spared
and a template needs is put back, so that each tensor and each kernel of the network is
there once, and a file runs at any batch size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.operators import OPERATORS, CostShape, Grid
from matar_tf.tflite._islands import take_islands
from matar_tf.tflite._places import makers_of, multiplies_integers
from matar_tf.tflite._schema import (
    drop_tensors,
    find_operator_code,
    op_name,
    schema,
    set_buffer,
    tensor_array,
    text_of,
)

__all__ = ["normalise"]


def normalise(
    model: Any, outputs: Mapping[str, str] | None = None
) -> dict[int, list[Any]]:
    """Brings a converted model into the form that a template has.

    Functions that were left in float between two grids are put onto both, copies of a
    kernel become one, reshapes that a batch of one does not need are put back. Each
    multiplication has a kernel and a bias of its own, which may hold the same values.
    The batch axis of constant shapes is freed. Inputs and outputs get the names of a
    signature; a single output that which the converter gives a SavedModel's.

    Args:
      model: What the converter made.
      outputs: Names of several outputs, by those of the converter for their tensors.

    Returns:
      The operators of each float layer, by its number; see `take_islands`.

    Raises:
      ModelError: If an output is not there.
    """
    _fuse_borders(model)
    islands = take_islands(model)
    _quantize_first(model, islands)
    _undo_copies(model)
    _separate_kernels(model)
    _restore_reshapes(model)
    _free_batch(model)
    _add_signature(model, outputs or {})
    return islands


def _undo_copies(model: Any) -> None:
    """Makes one of a multiplication that was copied to fuse a function into it."""
    graph, found = model.subgraphs[0], dict[tuple[str, tuple[int, ...]], Any]()
    kinds = schema.ActivationFunctionType
    functions = {kinds.RELU: "RELU", kinds.RELU6: "RELU6"}
    for operator in graph.operators:
        row = OPERATORS.get(op_name(model, operator))
        if row is None or row.shape is not CostShape.KERNEL:
            continue
        key = op_name(model, operator), tuple(map(int, operator.inputs))
        first = found.setdefault(key, operator)
        options = operator.builtinOptions
        name = functions.get(options.fusedActivationFunction)
        is_plain = first.builtinOptions.fusedActivationFunction == kinds.NONE
        if first is operator or name is None or not is_plain:
            continue
        operator.inputs = first.outputs
        operator.opcodeIndex = find_operator_code(model, name, 2)
        operator.builtinOptionsType = schema.BuiltinOptions.NONE
        operator.builtinOptions = None


def _separate_kernels(model: Any) -> None:
    """Copies the tensors, not the values, of constants that several multiply by."""
    graph, seen = model.subgraphs[0], set[int]()
    for operator in graph.operators:
        if not multiplies_integers(model, operator):
            continue
        for place in (1, OPERATORS[op_name(model, operator)].bias):
            index = int(operator.inputs[place]) if place < len(operator.inputs) else -1
            if index in seen:
                graph.tensors.append(copy.copy(graph.tensors[index]))
                inputs = [int(one) for one in operator.inputs]
                inputs[place] = len(graph.tensors) - 1
                operator.inputs = inputs
            elif index >= 0:
                seen.add(index)


def _restore_reshapes(model: Any) -> None:
    """Puts axes back that an operand of another rank lost, as it has them in Keras.

    A vector of each sample, ``[1, c]``, may be read beside images, ``[1, h, w, c]``,
    only while there is one sample.
    """
    graph, operators = model.subgraphs[0], list[Any]()
    for operator in graph.operators:
        row = OPERATORS.get(op_name(model, operator))
        is_integer = graph.tensors[operator.outputs[0]].type == schema.TensorType.INT8
        takes_two = row is not None and row.num_inputs == (2, 2) and not row.settings
        if is_integer and takes_two:
            for place, index in enumerate(operator.inputs):
                operators += _restored(model, operator, place, int(index))
        operators.append(operator)
    graph.operators = operators


def _restored(model: Any, operator: Any, place: int, index: int) -> list[Any]:
    """Returns the reshape before an operand, if one is missing."""
    tensors = model.subgraphs[0].tensors
    tensor, rank = tensors[index], len(tensors[operator.outputs[0]].shape)
    if len(tensor.shape) == rank or tensor_array(model, tensor) is not None:
        return []
    ones = [1] * (rank - len(tensor.shape))
    sizes = np.array([tensor.shape[0], *ones, *tensor.shape[1:]], np.int32)
    shape = schema.TensorT()
    shape.name, shape.type = f"{place}/shape".encode(), schema.TensorType.INT32
    shape.shape = np.array([rank], np.int32)
    set_buffer(model, shape, sizes)
    tensors.append(shape)
    reshape = schema.OperatorT()
    reshape.opcodeIndex = find_operator_code(model, "RESHAPE", 1)
    reshape.inputs = [index, len(tensors) - 1]
    reshape.outputs = [len(tensors)]
    made = copy.copy(tensor)
    made.name = f"{text_of(tensor.name)}/reshaped".encode()
    made.shape, made.shapeSignature = sizes, None
    tensors.append(made)
    operator.inputs = [
        len(tensors) - 1 if i == place else int(one)
        for i, one in enumerate(operator.inputs)
    ]
    return [reshape]


def _fuse_borders(model: Any) -> None:
    """Puts functions that the converter leaves in float onto the grids around them."""
    graph, makers = model.subgraphs[0], makers_of(model)
    sources: set[int] = set()
    results: set[int] = set()
    for operator in graph.operators:
        row = OPERATORS.get(op_name(model, operator))
        if row is None or row.grid is not Grid.OWN or row.num_inputs != (1, 1):
            continue
        source = int(operator.inputs[0])
        before, moving = makers.get(source), _moves(model, operator)
        is_float = graph.tensors[operator.outputs[0]].type == schema.TensorType.FLOAT32
        if before is None or not moving or not is_float:
            continue
        *passed, after = moving
        around = op_name(model, before), op_name(model, after)
        if around == ("DEQUANTIZE", "QUANTIZE"):
            operator.inputs = before.inputs
            made = graph.tensors[after.outputs[0]]
            for one in (operator, *passed):
                tensor = graph.tensors[one.outputs[0]]
                tensor.type, tensor.quantization = made.type, made.quantization
            last = [operator, *passed][-1]
            results.add(int(last.outputs[0]))
            last.outputs = after.outputs
            sources.add(source)
    kept = [one for one in graph.operators if int(one.inputs[0]) not in results]
    sources -= {int(i) for one in kept for i in one.inputs} | {*map(int, graph.outputs)}
    graph.operators = [one for one in kept if int(one.outputs[0]) not in sources]
    if results:
        drop_tensors(model, sources | results)


def _quantize_first(model: Any, islands: Mapping[int, list[Any]]) -> None:
    """Quantizes before reshapes of what float layers make, not behind them."""
    graph, makers = model.subgraphs[0], makers_of(model)
    in_float = {id(one) for island in islands.values() for one in island}
    for after in [one for one in graph.operators if op_name(model, one) == "QUANTIZE"]:
        while True:
            between = int(after.inputs[0])
            moving = makers.get(between)
            readers = [one for one in graph.operators if between in one.inputs]
            if (
                moving is None
                or id(moving) in in_float
                or op_name(model, moving) != "RESHAPE"
                or len(readers) > 1
                or between in graph.outputs
            ):
                break
            tensor, result = graph.tensors[between], int(after.outputs[0])
            given, made = graph.tensors[moving.inputs[0]], graph.tensors[result]
            tensor.type, tensor.quantization = made.type, made.quantization
            tensor.shape, tensor.shapeSignature = given.shape, given.shapeSignature
            after.inputs, after.outputs = [int(moving.inputs[0])], [between]
            moving.inputs = [between, *map(int, moving.inputs[1:])]
            moving.outputs = [result]
            places = [
                next(i for i, other in enumerate(graph.operators) if other is one)
                for one in (moving, after)
            ]
            for place, one in zip(places, (after, moving), strict=True):
                graph.operators[place] = one


def _moves(model: Any, operator: Any) -> list[Any]:
    """Returns the operators that only move what an operator makes, and the next one.

    None where others read it, or the model returns it.
    """
    graph, found = model.subgraphs[0], list[Any]()
    while True:
        result = int(operator.outputs[0])
        after = [one for one in graph.operators if result in one.inputs]
        if len(after) != 1 or result in graph.outputs:
            return []
        operator = after[0]
        found.append(operator)
        row = OPERATORS.get(op_name(model, operator))
        if row is None or row.grid is not Grid.KEPT or row.num_inputs[1] > 2:
            return found


def _free_batch(model: Any) -> None:
    """Lets reshapes run at any batch size: their first size becomes -1."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if op_name(model, operator) != "RESHAPE":
            continue
        source = graph.tensors[operator.inputs[0]]
        is_float = source.type == schema.TensorType.FLOAT32
        if is_float and int(source.shape[0]) != 1:
            continue  # within a float layer, whose first axis may be another
        shape = graph.tensors[operator.inputs[1]]
        sizes = tensor_array(model, shape)
        if sizes is None or not (sizes[0] == 1 or _makes_rows(model, operator)):
            continue
        if -1 in sizes:
            # Others may read the same constant, and make another shape of it.
            shape = copy.copy(shape)
            operator.inputs = [operator.inputs[0], len(graph.tensors)]
            graph.tensors.append(shape)
        made = [int(size) for size in graph.tensors[operator.outputs[0]].shape]
        sizes = np.array([-1, *made[1:]], np.int32)
        set_buffer(model, shape, sizes)
        if operator.builtinOptions is not None:
            operator.builtinOptions.newShape = sizes


def _makes_rows(model: Any, operator: Any) -> bool:
    """Whether a reshape makes the rows of all samples, for dense layers alone."""
    graph, made = model.subgraphs[0], int(operator.outputs[0])
    source = graph.tensors[operator.inputs[0]]
    readers = [op_name(model, one) for one in graph.operators if made in one.inputs]
    is_one = int(source.shape[0]) == 1 and len(graph.tensors[made].shape) == 2
    return is_one and bool(readers) and set(readers) == {"FULLY_CONNECTED"}


def _add_signature(model: Any, outputs: Mapping[str, str]) -> None:
    """Names inputs and outputs for ``Interpreter.get_signature_runner``."""
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.inputs = [_tensor_map(graph.tensors[i].name, i) for i in graph.inputs]
    found = [text_of(graph.tensors[i].name) for i in graph.outputs]
    if outputs and sorted(found) != sorted(outputs):
        raise ModelError(
            f"Expected the outputs {', '.join(map(repr, outputs.values()))} in the "
            f"converted model, each of a tensor of its own, got {len(set(found))} "
            "different ones; leave out outputs that are the same tensor."
        )
    signature.outputs = [
        _tensor_map(outputs.get(name, f"output_{place}"), i)
        for place, (name, i) in enumerate(zip(found, graph.outputs, strict=True))
    ]
    model.signatureDefs = [signature]


def _tensor_map(name: str | bytes, index: int) -> Any:
    tensor_map = schema.TensorMapT()
    tensor_map.name, tensor_map.tensorIndex = name, int(index)
    return tensor_map
