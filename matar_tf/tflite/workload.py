"""Template -> workload: what the deployed integer graph asks of hardware."""

from __future__ import annotations

import math
from typing import Any

from matar_tf.errors import ModelError
from matar_tf.operators import OPERATORS, CostShape
from matar_tf.tflite._schema import (
    bias_of,
    op_name,
    parse_model,
    source_of,
    tensor_array,
)
from matar_tf.tflite.template import Template
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

__all__ = ["read_workload"]


def read_workload(template: Template) -> Workload:
    """Returns the integer graph between the float inputs and the float outputs.

    Inputs and outputs are in the order of the file.

    Clamps are left out: hardware with n-bit tensors clamps for free.
    """
    model = parse_model(template.content)
    graph = model.subgraphs[0]
    clamps = {
        int(graph.operators[index].outputs[0]): int(graph.operators[index].inputs[0])
        for indices in template.clamps.values()
        for index in indices
    }
    clamp_operators = {i for indices in template.clamps.values() for i in indices}
    kernels = {kernel.operator: name for name, kernel in template.kernels.items()}
    names: dict[int, str] = {}
    tensors: dict[str, TensorWorkload] = {}
    layers: list[LayerWorkload] = []
    inputs: dict[int, str] = {}  # names by tensor of the file
    outputs: dict[int, str] = {}

    def resolve(index: int) -> int:
        return clamps.get(index, index)

    def add_tensor(index: int, name: str) -> str:
        unique = name if name not in tensors else f"{name}_{index}"
        names[index] = unique
        tensors[unique] = TensorWorkload(
            name=unique,
            shape=tuple(int(size) for size in graph.tensors[index].shape[1:]),
            activation=template.tensors.get(index),
        )
        return unique

    for number, operator in enumerate(graph.operators):
        kind = op_name(model, operator)
        index = int(operator.outputs[0])
        if number in clamp_operators:
            continue
        if kind == "DEQUANTIZE":
            outputs[index] = names[resolve(int(operator.inputs[0]))]
            continue
        entry = template.tensors.get(index)
        sources = [
            names[resolve(int(i))] for i in operator.inputs if resolve(int(i)) in names
        ]
        if kind == "QUANTIZE" and not sources:
            inputs[int(operator.inputs[0])] = add_tensor(index, str(entry))
            continue
        name = kernels.get(number)
        weights = name and (template.kernels[name].weights or name)
        name = name or f"{kind.lower()}_{number}"
        produced = entry if entry is not None and entry not in tensors else name
        output = add_tensor(index, produced)
        layers.append(
            LayerWorkload(
                name=name,
                kind=_cost(kind),
                inputs=tuple(sources),
                output=output,
                **_arithmetic(model, operator, kind),
                weights=weights,
            )
        )
    return Workload(
        layers=tuple(layers),
        tensors=tensors,
        inputs=tuple(inputs[int(i)] for i in graph.inputs if int(i) in inputs),
        outputs=tuple(outputs[int(i)] for i in graph.outputs if int(i) in outputs),
    )


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
