"""Inputs and outputs of a ``.tflite`` file: their names, and what outputs are.

Their order in a file says nothing: they are told apart by the names that its signature
gives them, or in a file without one by those of their tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.tflite._schema import op_name, parse_model, schema, text_of

__all__ = [
    "Input",
    "Output",
    "grid_of",
    "inputs_of",
    "integer_inputs",
    "num_quantized_ends",
    "outputs_of",
    "to_levels",
    "to_values",
]

_BYTES: Final = {
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.UINT8: np.dtype(np.uint8),
}
_SAME_VALUE_OPS: Final = ("DEQUANTIZE", "QUANTIZE", "RESHAPE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """An input of a file.

    Attributes:
      name: Its name.
      index: Number of its tensor.
      shape: Shape of one sample, without the batch axis.
    """

    name: str
    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Output(Input):
    """An output of a file.

    Attributes:
      function: The operator that makes its values: ``SOFTMAX``, ``LOGISTIC``,
        ``FULLY_CONNECTED``; "" if none does.
      step: Step of the grid that its values lie on; 0 for float ones.
    """

    function: str
    step: float

    @property
    def is_sigmoid(self) -> bool:
        """Whether each value is a probability by itself."""
        return self.function == "LOGISTIC"

    @property
    def gives_probabilities(self) -> bool:
        """Whether the values of a place are those of one distribution.

        They are of a softmax, or of a sigmoid of one value, which tells two classes
        apart.
        """
        is_alone = not self.shape or self.shape[-1] == 1
        return self.function == "SOFTMAX" or (self.is_sigmoid and is_alone)

    @property
    def meaning(self) -> str:
        """What the values are, as far as the graph tells."""
        if self.gives_probabilities:
            return "probabilities"
        if self.is_sigmoid:
            return "a probability each"
        if len(self.shape) == 1 and self.shape[0] > 1:
            return "a score for each class, or a value each"
        return "a value each"


def inputs_of(model: Any) -> tuple[Input, ...]:
    """Returns the inputs of a file, given it or what `parse_model` made of it."""
    model = parse_model(model) if isinstance(model, bytes) else model
    graph = model.subgraphs[0]
    indices = [int(index) for index in graph.inputs]
    names = _names(model, indices, "inputs")
    return tuple(
        Input(name=name, index=index, shape=_shape(graph.tensors[index]))
        for name, index in zip(names, indices, strict=True)
    )


def integer_inputs(model: Any) -> set[str]:
    """Returns the names of the inputs that take integers, such as numbers of words."""
    model = parse_model(model) if isinstance(model, bytes) else model
    tensors = model.subgraphs[0].tensors
    return {
        one.name
        for one in inputs_of(model)
        if tensors[one.index].type == schema.TensorType.INT32
    }


def outputs_of(model: Any) -> tuple[Output, ...]:
    """Returns the outputs of a file, given it or what `parse_model` made of it."""
    model = parse_model(model) if isinstance(model, bytes) else model
    graph = model.subgraphs[0]
    makers = {int(one.outputs[0]): one for one in graph.operators if len(one.outputs)}
    indices = [int(index) for index in graph.outputs]
    return tuple(
        Output(
            name=name,
            index=index,
            shape=_shape(graph.tensors[index]),
            function=_function(model, makers, index),
            step=_step(model, makers.get(index)),
        )
        for name, index in zip(_names(model, indices, "outputs"), indices, strict=True)
    )


def to_levels(values: np.ndarray, tensor: Any) -> np.ndarray:
    """Returns real values as an input takes them: the nearest levels, if of bytes.

    Args:
      values: Real values.
      tensor: The input, in object form.
    """
    kind = _BYTES.get(tensor.type)
    if kind is None:
        return values
    scale, zero_point = grid_of(tensor)
    levels = np.rint(values.astype(np.float32) * (np.float32(1) / scale)) + zero_point
    return np.clip(levels, *(np.iinfo(kind).min, np.iinfo(kind).max)).astype(kind)


def to_values(levels: np.ndarray, tensor: Any) -> np.ndarray:
    """Returns the real values of an output, which may be of bytes.

    Args:
      levels: As a runtime returns them.
      tensor: The output, in object form.
    """
    if tensor.type not in _BYTES:
        return levels
    scale, zero_point = grid_of(tensor)
    return (levels.astype(np.int32) - zero_point).astype(np.float32) * scale


def grid_of(tensor: Any) -> tuple[np.float32, int]:
    """Returns step and zero point of an input or output of bytes.

    Raises:
      ExportError: If it has not one of each.
    """
    grid = tensor.quantization
    found = () if grid is None or grid.scale is None else grid.scale
    zeros = () if grid is None or grid.zeroPoint is None else grid.zeroPoint
    if len(found) != 1 or len(zeros) != 1 or not 0 < found[0] < np.inf:
        raise ExportError(
            f"Expected one step and one zero point of {text_of(tensor.name)[:80]!r}, "
            "an input or output of bytes, got others; convert it with float input and "
            "output, its operators may be of integers."
        )
    return np.float32(found[0]), int(zeros[0])


def num_quantized_ends(content: bytes) -> int:
    """Returns how many operators of a file quantize inputs or dequantize outputs."""
    model = parse_model(content)
    graph = model.subgraphs[0]
    given, wanted = {*map(int, graph.inputs)}, {*map(int, graph.outputs)}
    return sum(
        (op_name(model, one) == "QUANTIZE" and int(one.inputs[0]) in given)
        or (op_name(model, one) == "DEQUANTIZE" and int(one.outputs[0]) in wanted)
        for one in graph.operators
    )


def _names(model: Any, indices: Sequence[int], ends: str) -> list[str]:
    """Returns different names: the signature's, or tensors', or numbers."""
    signed = {
        int(one.tensorIndex): text_of(one.name)
        for signature in (model.signatureDefs or [])[:1]
        for one in getattr(signature, ends) or []
    }
    tensors = model.subgraphs[0].tensors
    for names in (
        [signed.get(index, "") for index in indices],
        [text_of(tensors[index].name) for index in indices],
    ):
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"{ends[:-1]}_{place}" for place, _ in enumerate(indices)]


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in np.ravel(tensor.shape)[1:])


def _function(model: Any, makers: Mapping[int, Any], index: int) -> str:
    while index in makers and op_name(model, makers[index]) in _SAME_VALUE_OPS:
        index = int(makers[index].inputs[0])
    return op_name(model, makers[index]) if index in makers else ""


def _step(model: Any, maker: Any) -> float:
    if maker is None or op_name(model, maker) != "DEQUANTIZE":
        return 0.0
    grid = model.subgraphs[0].tensors[maker.inputs[0]].quantization
    scale = None if grid is None else grid.scale
    return 0.0 if scale is None or not len(scale) else float(scale[0])
