"""Packed kernels that float kernels compute with, between int8 tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from matar_tf.tflite._containers import (
    TRANSPOSED,
    Kernel,
    Storage,
    narrowest_container,
    write_kernel,
)
from matar_tf.tflite._schema import (
    add_tensor,
    find_operator_code,
    op_name,
    schema,
    set_buffer,
)

__all__ = ["store_for_float"]


def store_for_float(
    model: Any, kernels: Sequence[Kernel], store_int8: Callable[..., Storage]
) -> tuple[Storage, ...]:
    """Packs kernels and lets float kernels use them, between int8 tensors.

    Args:
      model: In object form.
      kernels: All of a policy.
      store_int8: Stores one that is not packed; takes why, too.
    """
    graph = model.subgraphs[0]
    narrow: dict[int, Kernel] = {}
    storages: list[Storage] = []
    for kernel in kernels:
        if kernel.bits > 4:
            storages.append(store_int8(model, kernel))
        elif op_name(model, kernel.operator) == "TRANSPOSE_CONV":
            storages.append(store_int8(model, kernel, TRANSPOSED))
        else:
            narrow[id(kernel.operator)] = kernel
    operators: list[Any] = []
    dequantized: dict[int, int] = {}
    for operator in graph.operators:
        kernel = narrow.get(id(operator))
        if kernel is None:
            operators.append(operator)
            continue
        stored = narrowest_container(kernel.bits)
        write_kernel(model, kernel, stored, 1)
        storages.append(
            Storage(entry=kernel.entry, bits=kernel.bits, stored_bits=stored, note=None)
        )
        operators += _surround_with_float(model, kernel, dequantized)
    graph.operators = operators
    return tuple(storages)


def _surround_with_float(
    model: Any, kernel: Kernel, dequantized: dict[int, int]
) -> list[Any]:
    graph, operator = model.subgraphs[0], kernel.operator
    made: list[Any] = []

    def dequantize(index: int) -> int:
        if index not in dequantized:
            dequantized[index] = add_tensor(model, graph.tensors[index], "float")
            made.append(_border(model, "DEQUANTIZE", index, dequantized[index]))
        return dequantized[index]

    inputs = [dequantize(int(i)) for i in operator.inputs[:2]]
    if kernel.counts is not None:
        bias = add_tensor(model, graph.tensors[operator.inputs[2]], "float")
        values = kernel.counts * (kernel.input_scale * kernel.scale)
        set_buffer(model, graph.tensors[bias], values.astype(np.float32))
        inputs.append(bias)
    int8_output = int(operator.outputs[0])
    output = add_tensor(model, graph.tensors[int8_output], "float")
    operator.inputs, operator.outputs = inputs, [output]
    return [*made, operator, _border(model, "QUANTIZE", output, int8_output)]


def _border(model: Any, name: str, source: int, result: int) -> Any:
    operator = schema.OperatorT()
    options = "QuantizeOptions" if name == "QUANTIZE" else "DequantizeOptions"
    operator.opcodeIndex = find_operator_code(model, name, 2)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    operator.builtinOptions = getattr(schema, f"{options}T")()
    operator.inputs, operator.outputs = [source], [result]
    return operator
