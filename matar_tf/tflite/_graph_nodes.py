"""A graph as its rules see it: tensors and operators, whole by themselves.

A tensor that is read here has a type, a shape, a grid and a buffer that fit each other,
an operator the inputs and options that its row in `matar_tf.operators` gives it.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np

from matar_tf.operators import OPERATORS, Operator
from matar_tf.tflite._schema import (
    PACKED_BITS,
    op_name,
    schema,
    tensor_array,
    text_of,
)

__all__ = [
    "GRIDDED",
    "ITEM_BITS",
    "LARGEST_STEP",
    "LEAST_STEP",
    "LEAST_STORED_STEP",
    "GraphTensor",
    "Node",
    "UnsoundError",
    "expect",
    "integers",
    "is_empty",
    "read_node",
    "read_tensor",
]

_TYPES: Final = schema.TensorType
ITEM_BITS: Final = {
    **PACKED_BITS,
    _TYPES.INT8: 8,
    _TYPES.UINT8: 8,
    _TYPES.INT16: 16,
    _TYPES.INT32: 32,
    _TYPES.INT64: 64,
    _TYPES.FLOAT32: 32,
    _TYPES.BOOL: 8,
    _TYPES.INT64: 64,
}
GRIDDED: Final = (_TYPES.INT8, _TYPES.UINT8, _TYPES.INT16, *PACKED_BITS)
# Of activations; far beyond any network, and short of where float32 ends.
LEAST_STEP: Final = 1e-30
LARGEST_STEP: Final = 1e18
LEAST_STORED_STEP: Final = float(np.finfo(np.float32).tiny)  # of kernels and biases
_MAX_RANK: Final = 5


class UnsoundError(Exception):
    """What was expected of a graph, and what came."""


def _shown(value: object) -> str:
    """Returns a value as messages print it: in one line, not too long."""
    return " ".join(str(value).split())[:80]


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphTensor:
    """A tensor of a graph, as rules see it.

    Attributes:
      name: Its name, as shown.
      type: Of `schema.TensorType`.
      shape: All at least 1; the batch comes first.
      scale: float32 steps; empty for one without quantization.
      zero_point: One for each step.
      axis: Along which the steps differ.
      buffer: Number of the buffer of what is stored, which several tensors may share.
      values: What is stored, or None for a computed tensor; packed kernels as bytes.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    buffer: int
    values: np.ndarray | None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """An operator of a graph, as rules see it.

    Attributes:
      name: The operator's name in `OPERATORS`.
      inputs: None for one that is left out.
      outputs: What it makes.
      options: In object form; None for an operator without.
      stored: `id` of its inputs that no sample changes.
      meetings: Where samples meet in it, which its rule fills.
    """

    name: str
    inputs: tuple[GraphTensor | None, ...]
    outputs: tuple[GraphTensor, ...]
    options: Any
    stored: frozenset[int] = frozenset()
    meetings: list[str] = field(default_factory=list[str])

    @property
    def row(self) -> Operator:
        """The operator's row."""
        return OPERATORS[self.name]

    @property
    def output(self) -> GraphTensor:
        """What it makes first."""
        return self.outputs[0]

    @property
    def is_float(self) -> bool:
        """Whether it computes in float, or moves something beside the integer graph."""
        return self.name != "DEQUANTIZE" and self.output.type not in GRIDDED

    @property
    def data(self) -> tuple[GraphTensor, ...]:
        """The inputs that hold values, not settings; what it reads first."""
        row = self.row
        first = sorted(range(len(self.inputs)), key=lambda place: place != row.source)
        inputs = ((place, self.inputs[place]) for place in first)
        return tuple(
            one
            for place, one in inputs
            if one is not None and place not in row.settings
        )

    @property
    def fixed(self) -> list[int]:
        """Positions among the data of what no sample changes."""
        return [at for at, one in enumerate(self.data) if id(one) in self.stored]

    @property
    def bias(self) -> GraphTensor | None:
        """That of a multiplication; None for one without."""
        place = self.row.bias
        return self.inputs[place] if place < len(self.inputs) else None

    def setting(self, place: int) -> list[int]:
        """Returns the integers of an input that is a setting."""
        tensor = self.inputs[place]
        values = None if tensor is None else tensor.values
        return [] if values is None else [int(one) for one in values.reshape(-1)]

    def fail(self, expected: str, got: object) -> NoReturn:
        """Refuses the operator."""
        raise UnsoundError(
            f"expected {expected} in the {self.name} that makes "
            f"{self.output.name!r}, got {_shown(got)}"
        )

    def expect(self, holds: bool, expected: str, got: object) -> None:
        """Refuses the operator where something does not hold."""
        if not holds:
            self.fail(expected, got)

    def keep_apart(self, holds: bool, expected: str, got: object) -> None:
        """Refuses an operator of integers in which samples meet; notes it of others.

        Samples lie along the first axis, each as many rows as every other.
        """
        if holds or len(self.fixed) == len(self.data):
            return
        if not self.is_float:
            self.fail(expected, got)
        self.meetings.append(expected)


def expect(holds: bool, expected: str, got: object) -> None:
    """Refuses the graph where something does not hold."""
    if not holds:
        raise UnsoundError(f"expected {expected} in the model, got {_shown(got)}")


def is_empty(vector: Any) -> bool:
    """Whether a vector of the object form has nothing in it."""
    return vector is None or len(vector) == 0


def integers(vector: Any) -> list[int]:
    """Returns the integers of a vector of the object form."""
    return [] if vector is None else [int(one) for one in np.ravel(vector)]


def read_tensor(model: Any, index: int) -> GraphTensor:
    """Returns a tensor whose shape, grid and buffer fit each other."""
    tensor = model.subgraphs[0].tensors[index]
    what = f"tensor {index} ({text_of(tensor.name)[:80]!r})"
    # Runtimes decode it when they are asked for the tensor.
    expect(_is_text(tensor.name), f"a name in UTF-8 of {what}", tensor.name)
    is_plain = not (tensor.isVariable or tensor.externalBuffer or tensor.variantTensors)
    expect(is_plain and tensor.sparsity is None, f"a dense constant {what}", "another")
    expect(tensor.type in ITEM_BITS, f"a known type of {what}", tensor.type)
    shape = tuple(integers(tensor.shape))
    fits = len(shape) <= _MAX_RANK and all(one >= 1 for one in shape)
    expect(fits, f"at most {_MAX_RANK} sizes of at least 1 of {what}", shape)
    signature = integers(tensor.shapeSignature)
    fits = not signature or (
        len(signature) == len(shape)
        and all(a in (-1, b) for a, b in zip(signature, shape, strict=True))
    )
    expect(fits, f"a signature of the shape {shape} of {what}", signature)
    stored, bits = model.buffers[tensor.buffer].data, ITEM_BITS[tensor.type]
    if not is_empty(stored):
        num_bytes = -(-math.prod(shape) * bits // 8)
        fits = len(stored) == num_bytes
        expect(fits, f"{num_bytes} bytes of {what}", len(stored))
        is_known = tensor.type != _TYPES.BOOL or int(np.max(stored)) <= 1
        expect(is_known, f"truth values as 0 and 1 in {what}", "others")
    least = LEAST_STEP if is_empty(stored) else LEAST_STORED_STEP
    scale, zero_point, axis = _read_grid(tensor, shape, what, least)
    return GraphTensor(
        name=text_of(tensor.name)[:80],
        type=tensor.type,
        shape=shape,
        scale=scale,
        zero_point=zero_point,
        axis=axis,
        buffer=tensor.buffer,
        values=_values(model, tensor),
    )


def _is_text(name: Any) -> bool:
    try:
        return not isinstance(name, bytes) or bool(name.decode() or True)
    except UnicodeDecodeError:
        return False


def _values(model: Any, tensor: Any) -> np.ndarray | None:
    """Returns what is stored; nothing is unpacked, since tensors may share a buffer."""
    if tensor.type not in PACKED_BITS:
        return tensor_array(model, tensor)
    stored = model.buffers[tensor.buffer].data
    return None if is_empty(stored) else np.asarray(stored, np.uint8)


def _read_grid(
    tensor: Any, shape: tuple[int, ...], what: str, least: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns steps, zero points and the axis of both."""
    grid = tensor.quantization
    if grid is None:
        return np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    expect(grid.details is None and not grid.detailsType, f"a plain {what}", "another")
    scale = np.ravel([] if grid.scale is None else grid.scale).astype(np.float32)
    zero = np.ravel([] if grid.zeroPoint is None else grid.zeroPoint)
    axis = int(grid.quantizedDimension)
    expect(len(scale) == len(zero), f"{len(scale)} zero points of {what}", len(zero))
    fits = bool(((scale >= least) & (scale <= LARGEST_STEP)).all())
    expect(fits, f"steps of {least:.3g} to {LARGEST_STEP:g} of {what}", scale)
    has_zero_point = len(scale) <= 1 and tensor.type in (_TYPES.INT8, _TYPES.FLOAT32)
    low, high = (-128, 127) if has_zero_point else (0, 0)
    if tensor.type == _TYPES.UINT8:
        low, high = 0, 255
    fits = bool(((zero >= low) & (zero <= high)).all())
    expect(fits, f"zero points in {low}..{high} of {what}", zero)
    fits = 0 <= axis < max(len(shape), 1) and len(scale) in (0, 1, *shape[axis:][:1])
    expect(fits, f"steps along an axis of {what} of shape {shape}", (axis, len(scale)))
    return scale, zero, axis


def read_node(
    model: Any, tensors: list[GraphTensor], operator: Any, stored: Set[int]
) -> Node:
    """Returns an operator with no more and no less than its row says.

    Args:
      model: The model.
      tensors: Those of its graph.
      operator: In object form.
      stored: `id` of the tensors so far that no sample changes.
    """
    name = op_name(model, operator)
    least, most = OPERATORS[name].num_outputs
    fits = least <= len(operator.outputs) <= most
    expected = "one output" if most == 1 else f"{least} to {most} outputs"
    expect(fits, f"{expected} of {name}", operator.outputs)
    inputs = tuple(None if i < 0 else tensors[int(i)] for i in operator.inputs)
    node = Node(
        name=name,
        inputs=inputs,
        outputs=tuple(tensors[int(i)] for i in operator.outputs),
        options=operator.builtinOptions,
        stored=frozenset(map(id, inputs)) & stored,
    )
    row = node.row
    least, most = row.num_inputs
    count = len(node.inputs)
    expected = f"{least}" if least == most else f"{least} to {most}"
    node.expect(least <= count <= most, f"{expected} inputs", count)
    absent = [i for i, one in enumerate(node.inputs) if one is None]
    node.expect(set(absent) <= set(row.may_lack), "all inputs", f"none at {absent}")
    for place in row.settings:
        one = node.inputs[place] if place < count else None
        is_setting = one is None or (
            one.type == _TYPES.INT32
            and one.values is not None
            and len(one.shape) <= 2
            and one.size <= max(2 * _MAX_RANK, len(node.outputs))
        )
        node.expect(is_setting, f"a few int32 constants at {place}", one and one.name)
    known = [getattr(schema.BuiltinOptions, option) for option in row.options]
    kind = operator.builtinOptionsType
    is_known = kind in known and (kind == 0) == (node.options is None)
    node.expect(is_known, f"options among {row.options}", kind)
    fields = {} if node.options is None else vars(node.options)
    longest = max(map(np.size, fields.values()), default=0)
    node.expect(longest <= _MAX_RANK, f"options of at most {_MAX_RANK} sizes", longest)
    others = (
        *(operator.customOptions, operator.intermediates, operator.builtinOptions2),
        operator.mutatingVariableInputs,
    )
    is_plain = all(one is None or not len(np.ravel(one)) for one in others)
    is_plain = is_plain and not (
        operator.builtinOptions2Type
        or operator.largeCustomOptionsOffset
        or operator.largeCustomOptionsSize
    )
    node.expect(is_plain, "no other options", "some")
    return node
