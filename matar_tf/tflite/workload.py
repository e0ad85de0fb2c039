"""Template -> workload: what the deployed integer graph asks of hardware."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from matar_tf.errors import ModelError, printable, shown
from matar_tf.operators import OPERATORS, CostShape
from matar_tf.tflite._floats import float_operators
from matar_tf.tflite._island_workload import Island, IslandKernel, groups_of
from matar_tf.tflite._schema import (
    bias_of,
    op_name,
    parse_model,
    schema,
    source_of,
    tensor_array,
    text_of,
)
from matar_tf.tflite.template import Template
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

__all__ = ["read_workload"]


def read_workload(template: Template) -> Workload:
    """Returns the graph between inputs and outputs, as hardware has it.

    Inputs and outputs are in the order of the file. Clamps are left out: hardware with
    n-bit tensors clamps for free. The operators of a layer that stays in float are one
    layer, with what brings its inputs to floats and its output to a grid; each kernel
    of one with several is a layer before it.

    Raises:
      ModelError: If operators of layers in float are not where the template says.
    """
    return _Reader(template).read()


class _Reader:
    """A workload in the making.

    Args:
      template: What it is read from.
    """

    def __init__(self, template: Template) -> None:
        self._template = template
        self._model = parse_model(template.content)
        self._graph = self._model.subgraphs[0]
        self._entries = {one.operator: name for name, one in template.kernels.items()}
        operators = self._graph.operators
        self._skipped = {place for at in template.clamps.values() for place in at}
        # What stands for a tensor: that before a clamp, or before it is made float.
        self._same = {
            int(operators[place].outputs[0]): int(operators[place].inputs[0])
            for place in self._skipped
        }
        self._names: dict[int, str] = {}
        self._tensors: dict[str, TensorWorkload] = {}
        self._layers: list[LayerWorkload] = []
        self._inputs: dict[int, str] = {}  # names by tensor of the file
        self._constants: dict[str, set[int]] = {}  # buffers of each layer in float

    def read(self) -> Workload:
        """Returns the workload."""
        self._check_islands()
        for name, places in groups_of(self._model, self._template.islands):
            if name is not None:
                self._add_island(name, places)
            elif places[0] not in self._skipped:
                self._add_operator(places[0])
        return Workload(
            layers=tuple(self._layers),
            tensors=self._tensors,
            inputs=tuple(
                self._inputs[int(index)]
                for index in self._graph.inputs
                if int(index) in self._inputs
            ),
            outputs=tuple(self._name(int(index)) for index in self._graph.outputs),
        )

    def _check_islands(self) -> None:
        """Checks that what computes in float, and no other, is of a layer in float.

        Such a layer may unpack integers, after it has looked up rows of them.
        """
        operators = self._graph.operators
        inside = {
            place
            for places in self._template.islands.values()
            for place in places
            if 0 <= place < len(operators) and not self._looks_up(operators[place])
        }
        expected = {*float_operators(self._model)}
        if inside != expected:
            raise ModelError(
                "Expected all operators of the template that compute in float, and no "
                "others, in layers that stay in float, but not so are those at "
                f"{shown(sorted(inside ^ expected))}; package the model again."
            )

    def _looks_up(self, operator: Any) -> bool:
        """Whether an operator unpacks integers, or looks up rows of them."""
        name = op_name(self._model, operator)
        is_float = _is_float(self._graph.tensors[operator.outputs[0]])
        return name == "DEQUANTIZE" or (name == "GATHER" and not is_float)

    def _add_operator(self, number: int) -> None:
        """Adds an operator that is a layer by itself."""
        operator = self._graph.operators[number]
        kind, index = op_name(self._model, operator), int(operator.outputs[0])
        source = int(operator.inputs[0])
        if kind == "DEQUANTIZE":
            self._same[index] = source
            return
        if kind == "QUANTIZE" and self._is_input_of_integers(source):
            entry = str(self._template.tensors.get(index))
            self._inputs[source] = self._add_tensor(index, entry)
            return
        call = self._entries.get(number)
        weights = call and (self._template.kernels[call].weights or call)
        name = call or f"{kind.lower()}_{number}"
        is_border = kind == "QUANTIZE" and _is_float(self._graph.tensors[source])
        sources = self._sources(operator.inputs)
        output = self._add_made(index, name)
        self._layers.append(
            LayerWorkload(
                name=name,
                kind=OpKind.FLOAT if is_border else _cost(kind),
                inputs=sources,
                output=output,
                **_arithmetic(self._model, operator, kind),
                weights=weights,
                float_ops=1 if is_border else 0,
                float_elems=self._tensors[output].elems if is_border else 0,
            )
        )

    def _is_input_of_integers(self, index: int) -> bool:
        """Whether a tensor is an input that no layer in float reads as it is."""
        readers = [one for one in self._graph.operators if index in one.inputs]
        is_input = index in map(int, self._graph.inputs)
        return is_input and {op_name(self._model, one) for one in readers} <= {
            "QUANTIZE"
        }

    def _add_island(self, name: str, places: tuple[int, ...]) -> None:
        """Adds a layer that stays in float."""
        island = Island(self._model, places, self._template.pieces)
        sources = inputs = self._sources(island.reads)
        rows = island.kernels if len(island.kernels) > 1 else []
        for kernel in rows:
            title = _title(name, kernel.entry)
            made = self._add_tensor(kernel.made, title)
            inputs = (*inputs, made)
            counts = {"ops": kernel.ops, "macs": kernel.macs}
            self._add_float(title, sources, made, kernel, **counts)
        first, *others = island.makes
        whole = None if rows or not island.kernels else island.kernels[0]
        self._add_float(
            name,
            inputs,
            self._add_result(first, name),
            whole,
            ops=island.ops - sum(one.ops for one in rows),
            macs=island.macs - sum(one.macs for one in rows),
            constants=self._take_constants(name, island),
            elems=island.elems,
        )
        for index in others:
            title = f"{name}_{index}"
            self._add_float(title, sources, self._add_result(index, title))

    def _take_constants(self, name: str, island: Island) -> int:
        """Returns how many elements an island has that no call of its layer had."""
        known = self._constants.setdefault(_layer_of(name), set())
        new = island.constants.keys() - known
        known |= new
        return sum(island.constants[one] for one in new)

    def _add_float(
        self,
        name: str,
        inputs: tuple[str, ...],
        output: str,
        kernel: IslandKernel | None = None,
        *,
        ops: int = 0,
        macs: int = 0,
        constants: int = 0,
        elems: int = 0,
    ) -> None:
        self._layers.append(
            LayerWorkload(
                name=name,
                kind=OpKind.FLOAT,
                inputs=inputs,
                output=output,
                weights=kernel and kernel.entry,
                macs=macs,
                weight_elems=kernel.elems if kernel else 0,
                bias_elems=constants,
                float_ops=ops,
                float_elems=elems,
            )
        )

    def _add_result(self, index: int, name: str) -> str:
        """Adds what an island makes: on its grid, if that is all that is read of it."""
        readers = [one for one in self._graph.operators if index in one.inputs]
        is_output = index in map(int, self._graph.outputs)
        if len(readers) == 1 and not is_output:
            place = self._graph.operators.index(readers[0])
            if op_name(self._model, readers[0]) == "QUANTIZE":
                self._skipped.add(place)
                return self._add_made(int(readers[0].outputs[0]), name)
        return self._add_tensor(index, name)

    def _add_made(self, index: int, name: str) -> str:
        """Adds a tensor by the name of its entry, or else of what makes it."""
        entry = self._template.tensors.get(index)
        is_new = entry is not None and entry not in self._tensors
        return self._add_tensor(index, entry if entry and is_new else name)

    def _add_tensor(self, index: int, name: str) -> str:
        unique = name if name not in self._tensors else f"{name}_{index}"
        tensor = self._graph.tensors[index]
        self._names[index] = unique
        self._tensors[unique] = TensorWorkload(
            name=unique,
            shape=tuple(int(size) for size in tensor.shape[1:]),
            activation=self._template.tensors.get(index),
        )
        return unique

    def _name(self, index: int) -> str:
        """Returns the name of a tensor, or of the one that stands for it."""
        while index in self._same:
            index = self._same[index]
        return self._names[index]

    def _sources(self, indices: Iterable[int]) -> tuple[str, ...]:
        """Returns the names of those of some tensors that are computed."""
        found: list[str] = []
        for index in map(int, indices):
            known = index
            while known in self._same:
                known = self._same[known]
            if known in map(int, self._graph.inputs) and known not in self._names:
                title = printable(text_of(self._graph.tensors[known].name))
                self._inputs[known] = self._add_tensor(known, title)
            if known in self._names:
                found.append(self._names[known])
        return tuple(found)


def _title(name: str, entry: str) -> str:
    """Returns how products with a kernel of a layer in float are called.

    As its entry; those of a further call, ``lstm/use_2``, are ``lstm/use_2/kernel``.
    """
    if entry.startswith(f"{name}/"):
        return entry
    return name + entry.removeprefix(_layer_of(name))


def _layer_of(call: str) -> str:
    """Returns the name of the layer of a call."""
    layer, separator, number = call.rpartition("/use_")
    return layer if separator and number.isdecimal() else call


def _is_float(tensor: Any) -> bool:
    return tensor.type == schema.TensorType.FLOAT32


def _cost(operator: str) -> OpKind:
    cost = OPERATORS[operator].cost
    if cost is None:
        raise ModelError(
            f"Expected an operator that has a price, got {operator}, which is none of "
            "the integer graph; package the network again."
        )
    return cost


def _arithmetic(model: Any, operator: Any, kind: str) -> dict[str, Any]:
    """Multiply-accumulates, element counts and windows of an operator."""
    graph = model.subgraphs[0]
    options = operator.builtinOptions
    out_shape = graph.tensors[operator.outputs[0]].shape
    cost = OPERATORS[kind]
    if cost.shape is CostShape.WINDOW:
        return {
            "kernel_size": (options.filterHeight, options.filterWidth),
            "strides": (options.strideH, options.strideW),
        }
    if cost.shape is CostShape.NEIGHBOURS:
        return {"kernel_size": (2, 2)}
    if cost.shape is CostShape.REDUCED:
        return {"kernel_size": _reduced_window(graph, operator)}
    if cost.shape is not CostShape.KERNEL:
        return {}
    shape = [int(size) for size in graph.tensors[operator.inputs[1]].shape]
    bias_elems = 0
    if bias_of(model, operator) >= 0:
        bias = tensor_array(model, graph.tensors[bias_of(model, operator)])
        bias_elems = 0 if bias is None else bias.size
    counts = {"weight_elems": math.prod(shape), "bias_elems": bias_elems}
    if cost.cost is OpKind.DENSE:
        rows = math.prod(int(size) for size in out_shape[:-1])
        return {**counts, "macs": rows * math.prod(shape)}
    in_shape = graph.tensors[source_of(model, operator)].shape
    transposed = cost.cost is OpKind.TRANSPOSED_CONV
    places = in_shape if transposed else out_shape
    positions = int(places[1]) * int(places[2])
    depthwise = cost.cost is OpKind.DEPTHWISE_CONV
    in_channels = int(in_shape[-1])
    return {
        **counts,
        "macs": positions * math.prod(shape),
        "kernel_size": (shape[1], shape[2]),
        "strides": (options.strideH, options.strideW),
        "groups": in_channels if depthwise else in_channels // shape[3],
    }


def _reduced_window(graph: Any, operator: Any) -> tuple[int, int]:
    """Returns the elements behind one output of a reduction, as height and width."""
    source, output = (
        math.prod(int(size) for size in graph.tensors[index].shape[1:])
        for index in (operator.inputs[0], operator.outputs[0])
    )
    in_shape = [int(size) for size in graph.tensors[operator.inputs[0]].shape]
    window = source // max(output, 1)
    if len(in_shape) == 4 and window == in_shape[1] * in_shape[2]:
        return in_shape[1], in_shape[2]
    return window, 1
