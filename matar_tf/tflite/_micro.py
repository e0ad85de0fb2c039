"""TensorFlow Lite for Microcontrollers, as the other interpreters are called.

It takes one sample at a time, and a file that it does not copy; memory is one block,
the arena, of a size that is asked for when it starts.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.tflite._schema import (
    op_name,
    parse_model,
    schema,
    tensor_array,
    text_of,
)

__all__ = ["MICRO_OPERATORS", "MicroInterpreter", "check_micro", "micro_fault"]

# Those of an integer graph that the interpreter has, and the simulator computes as it
# does; by what its resolver of operators calls them.
MICRO_OPERATORS: Final = {
    "ADD": "Add",
    "AVERAGE_POOL_2D": "AveragePool2D",
    "CONCATENATION": "Concatenation",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "DEPTH_TO_SPACE": "DepthToSpace",
    "DEQUANTIZE": "Dequantize",
    "ELU": "Elu",
    "EXPAND_DIMS": "ExpandDims",
    "FULLY_CONNECTED": "FullyConnected",
    "LEAKY_RELU": "LeakyRelu",
    "LOGISTIC": "Logistic",
    "MAXIMUM": "Maximum",
    "MAX_POOL_2D": "MaxPool2D",
    "MEAN": "Mean",
    "MINIMUM": "Minimum",
    "MUL": "Mul",
    "PAD": "Pad",
    "QUANTIZE": "Quantize",
    "REDUCE_MAX": "ReduceMax",
    "RELU": "Relu",
    "RELU6": "Relu6",
    "RESHAPE": "Reshape",
    "RESIZE_BILINEAR": "ResizeBilinear",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor",
    "SOFTMAX": "Softmax",
    "SPACE_TO_DEPTH": "SpaceToDepth",
    "SQUEEZE": "Squeeze",
    "STRIDED_SLICE": "StridedSlice",
    "SUB": "Sub",
    "TANH": "Tanh",
    "TRANSPOSE": "Transpose",
    "TRANSPOSE_CONV": "TransposeConv",
}
_MAX_JOINED: Final = 10  # inputs of a concatenation, in ``kernels/concatenation.cc``
# From 512 on, classes that are all alike end the process: their sum has 9 bits before
# the point, for which ``internal/reference/softmax.h`` has no room.
_MAX_CLASSES: Final = 511
_MAX_AXES: Final = 4  # of tensors that are stretched to each other
_STRETCHING: Final = ("ADD", "MAXIMUM", "MINIMUM", "MUL", "SUB")
_MODULE: Final = "tflite_micro.python.tflite_micro.runtime"
# Beside tensors: records of these, and of operators.
_ARENA_BYTES: Final = 1 << 18
_ARENA_BYTES_PER_TENSOR: Final = 1 << 10
# An element of a tensor may come with an int32 or int64 for its sum.
_BYTES_PER_ELEMENT: Final = 16


class MicroInterpreter:
    """A file in the interpreter of the ``tflite-micro`` package.

    Args:
      model_content: The ``.tflite`` bytes.
      num_threads: 1, of which it has no more.

    Raises:
      ImportError: If the package is not installed.
      ExportError: If more threads are asked for.
      RuntimeError: If it refuses the file; why, it says on standard error.
    """

    def __init__(self, model_content: bytes, num_threads: int = 1) -> None:
        if num_threads != 1:
            raise ExportError(
                f"Expected one thread of TensorFlow Lite for Microcontrollers, got "
                f"{num_threads}; leave the number out."
            )
        runtime: Any = importlib.import_module(_MODULE)
        self._content = bytes(model_content)
        graph = parse_model(model_content).subgraphs[0]
        arena_bytes = _arena_bytes(graph, len(self._content))
        self._micro = runtime.Interpreter(self._content, [], arena_bytes)
        self._inputs = [int(index) for index in graph.inputs]
        self._outputs = [int(index) for index in graph.outputs]
        self._given: dict[int, np.ndarray] = {}
        self._found: dict[int, np.ndarray] = {}

    def get_input_details(self) -> list[dict[str, Any]]:
        """Returns index, shape and type of each input."""
        return [
            {**self._micro.get_input_details(place), "index": index}
            for place, index in enumerate(self._inputs)
        ]

    def get_output_details(self) -> list[dict[str, Any]]:
        """Returns index, shape and type of each output."""
        return [
            {**self._micro.get_output_details(place), "index": index}
            for place, index in enumerate(self._outputs)
        ]

    def resize_tensor_input(self, index: int, shape: Any) -> None:
        """Takes any number of samples: they run one by one."""

    def allocate_tensors(self) -> None:
        """Does nothing: the arena is there since the start."""

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        """Keeps the samples of an input."""
        self._given[index] = values

    def invoke(self) -> None:
        """Runs the file on each sample.

        Raises:
          RuntimeError: If a kernel ends with an error.
          ValueError: If samples have another shape or type.
        """
        found: dict[int, list[np.ndarray]] = {index: [] for index in self._outputs}
        for number in range(len(self._given[self._inputs[0]])):
            for place, index in enumerate(self._inputs):
                self._micro.set_input(self._given[index][number : number + 1], place)
            self._micro.invoke()
            for place, index in enumerate(self._outputs):
                found[index].append(np.asarray(self._micro.get_output(place)))
        self._found = {i: np.concatenate(parts) for i, parts in found.items()}

    def get_tensor(self, index: int) -> np.ndarray:
        """Returns an output for the samples of the last run."""
        return self._found[index]


def check_micro(model: Any) -> None:
    """Refuses a model that the interpreter has no kernels for.

    Raises:
      ExportError: If it has none.
    """
    fault = micro_fault(model)
    if fault is not None:
        raise ExportError(
            f"{fault[0].upper()}{fault[1:]}; choose the profile 'int8', or another "
            "layer in its place."
        )


def micro_fault(model: Any) -> str | None:
    """Returns why the interpreter has no kernels for a sound model, or None.

    Args:
      model: As `matar_tf.tflite._schema.parse_model` returns it.
    """
    tensors = model.subgraphs[0].tensors
    for operator in model.subgraphs[0].operators:
        name, made = op_name(model, operator), tensors[operator.outputs[0]]
        for holds, expected, got in _conditions(name, operator, made):
            if not holds:
                return (
                    f"expected {expected} in TensorFlow Lite for Microcontrollers, got "
                    f"{got} in the {name} that makes {text_of(made.name)[:80]!r}"
                )
        is_unpacked = tensor_array(model, tensors[operator.inputs[0]]) is not None
        in_float = made.type == schema.TensorType.FLOAT32 and name != "DEQUANTIZE"
        if in_float or (name == "DEQUANTIZE" and is_unpacked):
            return (
                "expected layers in integers in TensorFlow Lite for Microcontrollers, "
                f"got the {name} that makes {text_of(made.name)[:80]!r} in float"
            )
    return None


def _conditions(name: str, operator: Any, made: Any) -> Iterator[tuple[bool, str, Any]]:
    """Yields whether something holds of an operator, what it is, and what is there."""
    yield name in MICRO_OPERATORS, "an integer operator that is known", "another"
    is_wide = made.type == schema.TensorType.INT16
    yield not is_wide, "activations of 8 bits", "16 bits"
    if name == "SOFTMAX":
        count = int(made.shape[-1])
        yield count <= _MAX_CLASSES, f"at most {_MAX_CLASSES} classes", count
    if name in _STRETCHING:
        count = len(made.shape)
        yield count <= _MAX_AXES, f"at most {_MAX_AXES} axes", count
    if name == "CONCATENATION":
        count = len(operator.inputs)
        yield count <= _MAX_JOINED, f"at most {_MAX_JOINED} tensors", count


def _arena_bytes(graph: Any, num_bytes: int) -> int:
    """Returns more than the arena takes, of which unused pages cost nothing."""
    sizes = [
        math.prod(max(int(size), 1) for size in tensor.shape)
        for tensor in graph.tensors
        if tensor.shape is not None
    ]
    per_tensor = _ARENA_BYTES_PER_TENSOR * len(graph.tensors)
    return _ARENA_BYTES + num_bytes + per_tensor + _BYTES_PER_ELEMENT * sum(sizes)
