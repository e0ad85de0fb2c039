"""A policy's network in ONNX, operator by operator, from what LiteRT gets.

Both are written from one filled template, so that they hold the same levels, scales and
biases, batch norms folded in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError, printable
from matar_tf.onnx import _elementwise, _moving, _multiplying
from matar_tf.onnx._forms import FORMS
from matar_tf.onnx._graph import Graph, Value
from matar_tf.onnx._grids import Grid, Widths
from matar_tf.onnx._place import WRITERS, Network, Place
from matar_tf.operators import Grid as GridKind
from matar_tf.tflite._floats import float_operators
from matar_tf.tflite._schema import INTEGER_ACTIVATIONS, op_name, schema, text_of
from matar_tf.tflite.ends import inputs_of, outputs_of

__all__ = ["OnnxNetwork", "Written", "write_network"]

# Each fills WRITERS.
_REGISTERED: Final = (_elementwise, _moving, _multiplying)
_FUNCTIONS: Final = schema.ActivationFunctionType
# On the grid of their input, and whole levels of it.
_EXACT_OPS: Final = ("RELU", "RELU6")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A quantized tensor of the file for LiteRT, in ONNX.

    Attributes:
      name: Its name there.
      channels_first: Whether it is an image with its channels first.
      grid: Its levels.
      entry: Its entry in the policy; None where TFLite fixes the grid.
    """

    name: str
    channels_first: bool
    grid: Grid
    entry: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxNetwork:
    """A network in ONNX.

    Attributes:
      model: The file, an ``onnx.ModelProto``.
      tensors: What became of the quantized tensors of the file for LiteRT, by index;
        without those that are cut off as soon as they are made.
    """

    model: Any
    tensors: Mapping[int, Written]


def write_network(
    model: Any, form: str, widths: Widths, *, name: str, batch: int | None
) -> OnnxNetwork:
    """Writes a filled template as ONNX.

    Args:
      model: The template, in object form, kernels in int8 containers.
      form: A name of `matar_tf.onnx._forms.FORMS`.
      widths: What its policy says.
      name: Of the graph.
      batch: How many samples the file takes at a time; None for any number.

    Raises:
      ExportError: If it has an operator that is not written.
    """
    _check_operators(model)
    network = Network(
        model=model, widths=widths, form=FORMS[form], graph=Graph(batch), values={}
    )
    inputs = [_input(network, one.name, one.index) for one in inputs_of(model)]
    written: dict[int, Written] = {}
    wanted = {one.index: one.name for one in outputs_of(model)}
    for one in wanted.values():
        network.graph.unique(one)
    for number, _ in enumerate(model.subgraphs[0].operators):
        place = Place(network, number)
        value = WRITERS[place.name](place)
        tensor = model.subgraphs[0].tensors[place.output]
        if tensor.type in INTEGER_ACTIVATIONS:
            value = _on_grid(place, value, written)
        network.values[place.output] = value
    outputs = [_output(network, *one) for one in wanted.items()]
    proto = network.graph.model(
        name, (inputs, outputs), network.form.opsets, network.form.ir_version
    )
    return OnnxNetwork(model=proto, tensors=written)


def _check_operators(model: Any) -> None:
    graph = model.subgraphs[0]
    in_float = {*float_operators(model)}
    for place, operator in enumerate(graph.operators):
        name = op_name(model, operator)
        if place not in in_float and name in WRITERS:
            continue
        label = printable(text_of(graph.tensors[operator.outputs[0]].name))
        kind = "in float" if place in in_float else "as integers"
        raise ExportError(
            f"Expected operators that are written as ONNX, got {name} {kind} (tensor "
            f"{label!r}); export the policy as a .tflite file, or without that layer."
        )


def _input(network: Network, name: str, index: int) -> Value:
    shape = network.shape_of(index)
    name = network.graph.unique(name)
    value = Value(name=name, shape=shape, first=len(shape) == 4)
    network.values[index] = value
    return value


def _output(network: Network, index: int, name: str) -> Value:
    """Gives an output its name; an image has its channels first."""
    value = network.graph.moved(network.values[index], first=True)
    return network.graph.named(value, name)


def _on_grid(place: Place, value: Value, written: dict[int, Written]) -> Value:
    """Brings what an operator made onto the grid of its output.

    What is cut off next is rounded there.
    """
    form, graph, grid = place.form, place.graph, place.grid
    if _is_cut_next(place):
        return _rectified(place, value)
    label = graph.unique(place.label)
    moves = place.row.grid is GridKind.KEPT or place.name in _EXACT_OPS
    moves = moves and _function(place) == _FUNCTIONS.NONE
    if moves and form.carries_levels:
        value = graph.named(value, label)
    else:
        value = form.scaled(graph, value, grid, label)
        value = value if moves else _limited(place, value, grid)
        value = form.rounded(graph, value, grid, label)
    width = place.network.widths.tensors.get(place.output)
    written[place.output] = Written(
        name=label,
        channels_first=value.first,
        grid=grid,
        entry=None if width is None else width.entry,
    )
    return value


def _is_cut_next(place: Place) -> bool:
    """Whether a QUANTIZE of the same step is all that reads what is made."""
    model = place.network.model
    graph = model.subgraphs[0]
    width = place.network.widths.tensors.get(place.output)
    readers = [one for one in graph.operators if place.output in one.inputs]
    if width is None or width.is_cut or len(readers) != 1:
        return False
    made = graph.tensors[int(readers[0].outputs[0])]
    return (
        op_name(model, readers[0]) == "QUANTIZE"
        and made.type in INTEGER_ACTIVATIONS
        and np.float32(made.quantization.scale[0]) == place.grid.scale
    )


def _function(place: Place) -> int:
    return getattr(place.options, "fusedActivationFunction", _FUNCTIONS.NONE)


def _rectified(place: Place, value: Value) -> Value:
    """Returns a value under the activation function that the operator has."""
    if _function(place) == _FUNCTIONS.NONE:
        return value
    return place.add("Relu", [value], value)


def _limited(place: Place, value: Value, grid: Grid) -> Value:
    """Cuts off what the form does not cut off itself."""
    value = _rectified(place, value)
    ends = place.form.ends(grid)
    low = grid.low if grid.signed else ends[0]
    high = grid.high
    if _function(place) == _FUNCTIONS.RELU6:
        high = min(high, int(np.rint(np.float32(6.0) / grid.scale)))
    if low <= ends[0] and high >= ends[1]:
        return value
    step = float(grid.scale) / float(value.unit)
    limits = [
        place.graph.number(f"{place.label}/end", end * step) for end in (low, high)
    ]
    return place.add("Clip", [value, *limits], value)
