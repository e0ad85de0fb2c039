"""A template whose activations have 16 bits instead of 8, for LiteRT's 16x8 kernels.

Their grids are symmetric (TensorFlow Lite 8-bit quantization specification, int16),
accumulators and biases have 64 bits. Kernels of weights stay int8.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.tflite._graph_rules import examine, written
from matar_tf.tflite._places import (
    fixed_outputs,
    is_activation,
    multiplies_integers,
    passed_on,
)
from matar_tf.tflite._rules_at_16 import FIXED_GRID_AT_16
from matar_tf.tflite._schema import (
    CheckedModel,
    bias_of,
    find_operator_code,
    op_name,
    quantization,
    schema,
    set_buffer,
    text_of,
)
from matar_tf.tflite.template import Template

__all__ = ["widen", "written_at_16"]

# The first that take 16 bits: TensorFlow Lite, ``tools/versioning/op_version.cc``.
_VERSIONS: Final = {
    "ADD": 3,
    "AVERAGE_POOL_2D": 3,
    "CONCATENATION": 3,
    "CONV_2D": 4,
    "DEPTHWISE_CONV_2D": 5,
    "DEQUANTIZE": 3,
    "EXP": 2,
    "FULLY_CONNECTED": 7,
    "LEAKY_RELU": 2,
    "LOGISTIC": 3,
    "MAXIMUM": 4,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MINIMUM": 4,
    "MUL": 4,
    "PAD": 3,
    "QUANTIZE": 2,
    "REDUCE_MAX": 3,
    "RELU": 3,
    "RELU6": 3,
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "SOFTMAX": 3,
    "SUB": 5,
    "TANH": 3,
    "TRANSPOSE": 5,
    "TRANSPOSE_CONV": 3,
}


def widen(model: Any, template: Template) -> None:
    """Gives activations 16 bits and multiplications a bias of 64, in place.

    Args:
      model: The template in object form; steps and biases are filled in later.
      template: The template.

    Raises:
      ExportError: If it has a table of 8-bit numbers that is looked up.
    """
    graph = model.subgraphs[0]
    fixed = fixed_outputs(model)
    fixed = {i for i in fixed | passed_on(model, fixed) if is_activation(model, i)}
    for index in {*template.tensors, *fixed}:
        graph.tensors[index].type = schema.TensorType.INT16
    step, zero_point = FIXED_GRID_AT_16
    for index in fixed:
        graph.tensors[index].quantization = quantization([step], [zero_point], 0)
    for place, operator in enumerate(graph.operators):
        tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs)]
        if all(one.type != schema.TensorType.INT16 for one in tensors):
            continue
        name = op_name(model, operator)
        if name == "GATHER" and tensors[0].type == schema.TensorType.INT8:
            own = [one for one, places in template.islands.items() if place in places]
            layer = own[0] if own else text_of(tensors[-1].name)
            raise ExportError(
                "Expected layers that LiteRT can compute with 16-bit activations, got "
                f"the table of {layer!r}, which it looks up in 8 bits alone; take a "
                "policy of at most 8 bits."
            )
        find_operator_code(model, name, _VERSIONS.get(name, 1))
        if hasattr(operator.builtinOptions, "potScaleInt16"):
            operator.builtinOptions.potScaleInt16 = False
        if multiplies_integers(model, operator):
            _widen_bias(model, operator)


def written_at_16(model: Any) -> CheckedModel:
    """Returns the file of a widened template that was filled.

    Raises:
      ExportError: If it has an operator that LiteRT cannot compute with 16 bits, or not
        at its steps, which are none of those that were checked beforehand.
    """
    fault, is_of_one_sample = examine(model)
    if fault is not None:
        raise ExportError(
            "Expected a network that LiteRT can compute with 16-bit activations, but "
            f"{fault}; take a policy of at most 8 bits."
        )
    return written(model, is_of_one_sample=is_of_one_sample)


def _widen_bias(model: Any, operator: Any) -> None:
    """Gives a multiplication a bias of 64 bits, of zeros."""
    graph, place = model.subgraphs[0], bias_of(model, operator)
    channels = int(graph.tensors[operator.outputs[0]].shape[-1])
    if place < 0:
        inputs = [int(index) for index in operator.inputs if index >= 0]
        operator.inputs = [*inputs, len(graph.tensors)]
        bias = schema.TensorT()
        bias.name, bias.hasRank = f"{inputs[1]}/bias", True
        bias.shape = np.array([channels], np.int32)
        graph.tensors.append(bias)
    else:
        bias = graph.tensors[place]
    bias.type = schema.TensorType.INT64
    set_buffer(model, bias, np.zeros(channels, np.int64))
