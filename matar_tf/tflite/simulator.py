"""The integer graph in NumPy: an oracle that shares no code with any runtime.

All ways of requantizing an accumulator are reproduced (`_rounding`). Sums of two
tensors, and the builtin mean over the pixels, follow each kernel's own fixed-point
recipe. Tensors of 16 bits (`_sixteen`) and convolutions with INT4 kernels run on the
builtin kernels, whatever the others run on: XNNPACK takes none. Float convolutions
between packed kernels are summed in double precision, so that a level may differ where
a sum lies within the runtime's float32 rounding of a half. What layers without an
integer kernel make is taken from a runtime (`matar_tf.tflite._floats`).

Sources: XNNPACK, ``src/microparams-init.c`` and ``src/qs8-*``; TensorFlow Lite,
``kernels/internal/common.h`` and ``kernels/internal/reference/integer_ops``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError, printable
from matar_tf.named_arrays import Arrays, alone, by_name
from matar_tf.tflite import (
    _arithmetic,
    _elementwise,
    _moving,
    _multiplying,
    _tables,
)
from matar_tf.tflite._floats import float_operators
from matar_tf.tflite._graph_rules import check_model
from matar_tf.tflite._micro import check_micro
from matar_tf.tflite._schema import (
    op_name,
    parse_model,
    schema,
    source_of,
    tensor_array,
    text_of,
)
from matar_tf.tflite._shifting import check_shifting
from matar_tf.tflite._site import SIMULATED, Site
from matar_tf.tflite._sixteen import SIMULATED_AT_16
from matar_tf.tflite.ends import inputs_of, outputs_of, to_levels, to_values

__all__ = ["KERNELS", "SIMULATED", "simulate", "simulate_tensors"]

KERNELS: Final = ("xnnpack", "builtin", "tflm", "shift")
# Each fills SIMULATED.
_REGISTERED: Final = (_arithmetic, _elementwise, _moving, _multiplying, _tables)


def simulate(content: bytes, samples: Arrays, *, kernels: str = "xnnpack") -> Any:
    """Returns the float outputs of a ``.tflite`` file for float samples.

    Args:
      content: The file, as `matar_tf.tflite.build` makes it.
      samples: Shape ``[num_samples, ...]``; of several inputs, by their names.
      kernels: ``xnnpack``, ``builtin``, or ``tflm`` for those of TensorFlow Lite for
        Microcontrollers; ``shift`` for hardware that has one shift in the place of a
        multiplication, rounds halves up and clamps, which takes scales of powers of
        two alone. XNNPACK rounds the halves to even, which is a level less or the same.

    Raises:
      ExportError: If the file is unsound, or has layers without an integer kernel, or
        is none that such hardware takes.
    """
    tensors = simulate_tensors(content, samples, kernels=kernels)
    model = parse_model(content)
    _check_given(model, model.subgraphs[0].outputs, tensors)
    of = model.subgraphs[0].tensors
    return alone(
        {
            one.name: to_values(tensors[one.index], of[one.index])
            for one in outputs_of(model)
        }
    )


def simulate_tensors(
    content: bytes,
    samples: Arrays,
    *,
    kernels: str = "xnnpack",
    floats: Mapping[int, np.ndarray] | None = None,
) -> dict[int, np.ndarray]:
    """Returns every computed tensor of a file, by tensor index; see `simulate`.

    Args:
      content: See `simulate`.
      samples: See `simulate`.
      kernels: See `simulate`.
      floats: The tensors of layers without an integer kernel that integers read or that
        are outputs, as a runtime made them, by tensor index.
    """
    if kernels not in KERNELS:
        raise ExportError(f"Expected kernels among {list(KERNELS)}, got {kernels!r}.")
    model = parse_model(check_model(content))
    if kernels == "tflm":
        check_micro(model)
    if kernels == "shift":
        check_shifting(model)
    graph = model.subgraphs[0]
    inputs = inputs_of(model)
    given = by_name(samples, [one.name for one in inputs], "samples for each input")
    values: dict[int, np.ndarray] = {
        one.index: to_levels(given[one.name], graph.tensors[one.index])
        for one in inputs
    }
    values |= floats or {}
    in_float = {*float_operators(model)}
    for place, operator in enumerate(graph.operators):
        if place in in_float:
            continue
        _check_given(model, operator.inputs, values)
        name = op_name(model, operator)
        site = Site(model, operator, values, _kernels_of(model, operator, kernels))
        compute = SIMULATED[name]
        if site.reads_16_bits:
            compute = SIMULATED_AT_16.get(name, compute)
        values[int(operator.outputs[0])] = compute(site)
    return values


def _check_given(
    model: Any, indices: Iterable[int], values: Mapping[int, np.ndarray]
) -> None:
    """Checks that tensors which are to be read were computed, or are stored."""
    tensors = model.subgraphs[0].tensors
    missing = [
        printable(text_of(tensors[index].name))
        for index in map(int, indices)
        if index not in values
        and index >= 0
        and tensor_array(model, tensors[index]) is None
    ]
    if missing:
        raise ExportError(
            f"Expected the values of {missing[:3]}, which layers without an integer "
            "kernel make: no simulator has the last bits of float arithmetic. `verify` "
            "takes them from the runtime."
        )


def _kernels_of(model: Any, operator: Any, kernels: str) -> str:
    tensors = model.subgraphs[0].tensors
    if kernels in ("tflm", "shift"):
        return kernels
    made = tensors[operator.outputs[0]].type
    if schema.TensorType.INT16 in (made, tensors[source_of(model, operator)].type):
        return "builtin"
    if op_name(model, operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return kernels
    kernel = tensors[operator.inputs[1]]
    return "builtin" if kernel.type == schema.TensorType.INT4 else kernels
