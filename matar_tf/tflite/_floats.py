"""What of a file is computed beside its integer graph: in float, or of indices.

No oracle has the last bits of float arithmetic, whose order a runtime chooses. So the
simulator takes these tensors from the runtime, and says what the integers that read
them must be.
"""

from __future__ import annotations

from typing import Any

from matar_tf.tflite._schema import (
    COMPUTE_OPS,
    INTEGER_ACTIVATIONS,
    PACKED_BITS,
    op_name,
)

__all__ = ["float_operators", "float_tensors"]


def float_operators(model: Any) -> list[int]:
    """Returns the places of the operators of layers that have no integer kernel.

    Not the borders of the integer graph, nor a multiplication for which packed kernels
    are unpacked, as a profile may want it.
    """
    tensors, operators = model.subgraphs[0].tensors, model.subgraphs[0].operators
    names = [op_name(model, one) for one in operators]
    unpacked = {
        int(one.outputs[0])
        for name, one in zip(names, operators, strict=True)
        if name == "DEQUANTIZE" and tensors[int(one.inputs[0])].type in PACKED_BITS
    }
    found: list[int] = []
    for place, (name, one) in enumerate(zip(names, operators, strict=True)):
        is_integer = tensors[int(one.outputs[0])].type in INTEGER_ACTIVATIONS
        is_multiplying = name in COMPUTE_OPS and int(one.inputs[1]) in unpacked
        if not (is_integer or is_multiplying or name == "DEQUANTIZE"):
            found.append(place)
    return found


def float_tensors(model: Any) -> list[int]:
    """Returns the indices of what these operators make, in their order."""
    operators = model.subgraphs[0].operators
    made = [operators[place].outputs for place in float_operators(model)]
    return [int(index) for outputs in made for index in outputs]
