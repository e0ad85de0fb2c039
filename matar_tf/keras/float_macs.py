"""Multiply-accumulates of layers that stay in float, counted in their graphs."""

from __future__ import annotations

import math
from typing import Any

from matar_tf.keras._compat import KerasLayer, KerasModel, tf
from matar_tf.keras.packaging.float_layers import convertible
from matar_tf.keras.quantizers import wrapper

__all__ = ["float_macs"]

_CONVOLUTIONS = ("Conv2D", "Conv3D", "DepthwiseConv2dNative")
_TURNED = ("Conv2DBackpropInput", "Conv3DBackpropInputV2")


def float_macs(model: KerasModel) -> dict[int, int]:
    """Returns those of each call of layers in float, by the identity of its node.

    For one sample; an unknown size counts as 1.

    As files have them, but for the first step of a recurrent layer, which counts here;
    the converter leaves out products of its state, zeros.
    """
    with convertible(model) as calls:
        return {id(call.node): _traced(call.layer, call.node) for call in calls}


def _traced(layer: KerasLayer, node: Any) -> int:
    tensors = wrapper.tensors_read(node)
    places = {id(tensor): place for place, tensor in enumerate(tensors)}

    def compute(*values: Any) -> Any:
        args, kwargs = tf.nest.map_structure(
            lambda x: values[places[id(x)]] if id(x) in places else x,
            (node.call_args, node.call_kwargs),
        )
        return layer(*args, **kwargs)

    specs = [
        tf.TensorSpec([size or 1 for size in one.shape], one.dtype) for one in tensors
    ]
    graph = tf.function(compute).get_concrete_function(*specs).graph
    return sum(map(_macs, graph.get_operations()))


def _macs(operation: Any) -> int:
    """Returns the multiply-accumulates of an operation; 0 of one without."""
    kind = operation.type
    if kind in _CONVOLUTIONS or kind in _TURNED:
        made = operation.inputs[2] if kind in _TURNED else operation.outputs[0]
        return math.prod(made.shape[:-1]) * math.prod(operation.inputs[1].shape)
    if kind == "Einsum":
        return _einsum_macs(operation)
    turned = {"MatMul": "transpose_a", "BatchMatMulV2": "adj_x"}.get(kind)
    if turned is None:
        return 0
    depth = operation.inputs[0].shape[-2 if operation.get_attr(turned) else -1]
    return math.prod(operation.outputs[0].shape) * depth


def _einsum_macs(operation: Any) -> int:
    """Returns the values that an Einsum makes, times the sizes that it sums over."""
    read, _, made = operation.get_attr("equation").decode().partition("->")
    summed: dict[str, int] = {}
    for labels, tensor in zip(read.split(","), operation.inputs, strict=True):
        # What an ellipsis stands for is not summed over.
        before, _, after = labels.partition("...")
        sizes = tensor.shape.as_list()
        summed |= dict(zip(before, sizes, strict=False))
        summed |= dict(zip(reversed(after), reversed(sizes), strict=False))
    sums = [size for label, size in summed.items() if label not in made]
    return math.prod(operation.outputs[0].shape) * math.prod(sums)
