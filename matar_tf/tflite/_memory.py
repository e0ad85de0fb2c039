"""How much memory and arithmetic a sample takes in a ``.tflite`` file, as it says."""

from __future__ import annotations

import math
from typing import Any, Final

from matar_tf.operators import OPERATORS, CostShape
from matar_tf.tflite._graph_nodes import ITEM_BITS, integers
from matar_tf.tflite._graph_sizes import TRANSPOSED
from matar_tf.tflite._schema import PACKED_BITS, op_name, schema, source_of

__all__ = ["bytes_of_sample", "products_of_sample"]

_MULTIPLYING: Final = {
    name for name, row in OPERATORS.items() if row.shape is CostShape.KERNEL
}
_UNKNOWN_BITS: Final = 64  # of an element of a type that no rule knows


def bytes_of_sample(model: Any) -> int:
    """Returns the bytes of what one sample keeps in memory at most, at least 1.

    Tensors are kept from the operator that makes them to the last that reads them, as
    TFLite's arena keeps them; what does not depend on the sample does not count.

    Args:
      model: As `matar_tf.tflite._schema.parse_model` returns it, checked or not.
    """
    graph = model.subgraphs[0]
    operators = graph.operators
    last = {int(i): place for place, one in enumerate(operators) for i in one.inputs}
    last |= dict.fromkeys(integers(graph.outputs), len(operators))
    kept = {i: _num_bytes(graph.tensors[i]) for i in integers(graph.inputs)}
    now = most = sum(kept.values())
    for place, one in enumerate(operators):
        inputs = {int(i) for i in one.inputs}
        if not inputs & kept.keys():
            continue
        for index in map(int, one.outputs):
            kept[index] = _num_bytes(graph.tensors[index])
            now += kept[index]
        most = max(most, now + _patch_bytes(model, one))
        ended = {i for i in inputs if i in kept and last[i] == place}
        now -= sum(kept[i] for i in ended)
        now -= sum(kept[i] for i in map(int, one.outputs) if i not in last)
    return max(most, 1)


def products_of_sample(model: Any) -> int:
    """Returns the multiplications of one sample, checked or not as the model is."""
    tensors = model.subgraphs[0].tensors
    count = 0
    for one in model.subgraphs[0].operators:
        if op_name(model, one) in _MULTIPLYING and len(one.inputs) > 1:
            kernel = _sizes(tensors[int(one.inputs[1])])
            made = _sizes(tensors[int(one.outputs[0])])
            count += math.prod(made[:-1]) * math.prod(kernel)
    return count


def _sizes(tensor: Any) -> list[int]:
    return [max(size, 1) for size in integers(tensor.shape)]


def _num_bytes(tensor: Any) -> int:
    bits = ITEM_BITS.get(tensor.type, _UNKNOWN_BITS)
    return math.prod(_sizes(tensor)) * bits // 8


def _patch_bytes(model: Any, operator: Any) -> int:
    """Returns the bytes of all windows of an image, which TFLite lays side by side.

    It does so for a convolution of packed kernels, which XNNPACK does not run
    (``kernels/conv.cc``, im2col), and of volumes, and for what transposed ones make in
    float.
    """
    name, tensors = op_name(model, operator), model.subgraphs[0].tensors
    if len(operator.inputs) < 2 or name not in _MULTIPLYING:
        return 0
    kernel = tensors[int(operator.inputs[1])]
    sizes, made = _sizes(kernel), tensors[int(operator.outputs[0])]
    if name == "CONV_2D" and kernel.type in PACKED_BITS:
        return math.prod(_sizes(made)[:-1]) * math.prod(sizes[1:])
    if name == "CONV_3D":
        return 4 * math.prod(_sizes(made)[:-1]) * math.prod(sizes[:-1])
    if name.endswith(TRANSPOSED) and made.type == schema.TensorType.FLOAT32:
        source = tensors[source_of(model, operator)]
        return 4 * math.prod(_sizes(source)[:-1]) * math.prod(sizes[:-1])
    return 0
