"""Float layers in a converted file: found by the marks around them.

A mark is an operation that the converter does not know and hands on as it is, with a
number: twice that of the float layer where it begins, one more where it ends. What lies
between is of that layer. Kernels of float layers may have a mark of another kind behind
them, so that the converter computes nothing of them beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from matar_tf.tflite._places import makers_of
from matar_tf.tflite._schema import (
    compact,
    drop_tensors,
    op_name,
    parse_model,
    schema,
    set_buffer,
    tensor_array,
    text_of,
    write_model,
)

__all__ = ["BORDER", "mark_number", "take_islands", "without_marks"]

BORDER: Final = -1  # the number of a mark before what is quantized
_MARK: Final = "Polygamma"
_KERNEL_MARK: Final = "RandomGamma"  # of no sizes, and of a kernel
_FRACTION: Final = 0.25  # orders of polygammas are integers
_BORDERS: Final = ("QUANTIZE", "DEQUANTIZE")


def without_marks(content: bytes) -> bytes:
    """Returns a converted file without the marks of its float layers."""
    model = parse_model(content)
    take_islands(model)
    compact(model)
    return write_model(model)


def mark_number(place: int) -> float:
    """Returns the number that a mark reads: one that no user's operation does."""
    return place + _FRACTION


def take_islands(model: Any) -> dict[int, list[Any]]:
    """Drops the marks of float layers, and finds the operators between them.

    What the converter brought to integers there, between a function of a fixed grid and
    an operator that moves values, is float again.

    Returns:
      The operators of each layer, by its number; none where it computes nothing.
    """
    graph, makers = model.subgraphs[0], makers_of(model)
    places = {id(one): _place_of(model, one) for one in graph.operators}
    islands: dict[int, list[Any]] = {}
    taken: set[int] = set()
    for mark in graph.operators:
        place = places[id(mark)]
        if place is None or place == BORDER or place % 2 == 0:
            continue
        island = islands.setdefault(place // 2, [])
        waiting = [int(mark.inputs[1])]
        while waiting:
            maker = makers.get(waiting.pop())
            if maker is None or id(maker) in taken or places[id(maker)] is not None:
                continue
            taken.add(id(maker))
            island.append(maker)
            waiting += [int(index) for index in maker.inputs if index >= 0]
    marks = {
        int(one.outputs[0]): int(one.inputs[1])
        for one in graph.operators
        if places[id(one)] is not None
    }
    if not marks:
        return {}
    order = {id(one): number for number, one in enumerate(graph.operators)}
    dropped = dict(marks)
    for island in islands.values():
        island.sort(key=lambda one: order[id(one)])
        dropped |= _make_float(model, island)
        island[:] = [one for one in island if int(one.outputs[0]) not in dropped]
    _replace(model, dropped)
    return islands


def _place_of(model: Any, operator: Any) -> int | None:
    """Returns the number of a mark, or None of another operator."""
    if _custom(model, operator) != _MARK:
        return None
    number = tensor_array(model, model.subgraphs[0].tensors[operator.inputs[0]])
    place = None if number is None else float(np.ravel(number)[0]) - _FRACTION
    return int(place) if place is not None and place.is_integer() else None


def _custom(model: Any, operator: Any) -> str | None:
    """Returns the name of an operation that the converter handed on as it is."""
    code = model.operatorCodes[operator.opcodeIndex]
    return text_of(code.customCode) if op_name(model, operator) == "CUSTOM" else None


def _make_float(model: Any, island: list[Any]) -> dict[int, int]:
    """Makes all tensors of an island float ones; returns what is to be replaced."""
    graph, dropped = model.subgraphs[0], dict[int, int]()
    for operator in island:
        source, result = int(operator.inputs[0]), int(operator.outputs[0])
        if op_name(model, operator) in _BORDERS:
            dropped[result] = source
        if _custom(model, operator) == _KERNEL_MARK:
            dropped[result] = int(operator.inputs[1])
        for index in (*map(int, operator.inputs), *map(int, operator.outputs)):
            tensor = graph.tensors[index]
            if index < 0 or tensor.type != schema.TensorType.INT8:
                continue
            values = tensor_array(model, tensor)
            if values is not None:
                scale, zero = (
                    np.asarray(one, np.float32)[0]
                    for one in (
                        tensor.quantization.scale,
                        tensor.quantization.zeroPoint,
                    )
                )
                set_buffer(model, tensor, (values - zero) * np.float32(scale))
            tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    return dropped


def _replace(model: Any, replaced: Mapping[int, int]) -> None:
    """Drops operators, so that others read what they read."""
    graph = model.subgraphs[0]

    def kept(index: int) -> int:
        while index in replaced:
            index = replaced[index]
        return index

    graph.operators = [
        one for one in graph.operators if int(one.outputs[0]) not in replaced
    ]
    for operator in graph.operators:
        operator.inputs = [kept(int(index)) for index in operator.inputs]
    given = {int(index) for index in graph.inputs}
    for index in map(int, graph.outputs):
        if index in replaced and kept(index) not in given:
            graph.tensors[kept(index)].name = graph.tensors[index].name
    graph.outputs = [kept(int(index)) for index in graph.outputs]
    for signature in model.signatureDefs or []:
        for one in (*(signature.inputs or []), *(signature.outputs or [])):
            one.tensorIndex = kept(int(one.tensorIndex))
    read = {int(index) for one in graph.operators for index in one.inputs}
    read |= {int(index) for one in graph.operators for index in one.outputs}
    read |= {*map(int, graph.inputs), *map(int, graph.outputs)}
    drop_tensors(model, set(range(len(graph.tensors))) - read)
