"""Kernels of float layers in a converted file: found by unmistakable values.

The converter transposes the kernel of a float layer, splits it, gives the parts other
shapes. So the template is made with kernels that hold numbers of their own: each value
of each says which it is. A constant that holds such numbers is a *piece* of that
kernel, transposed or cut out. In the template pieces become int8 constants behind
DEQUANTIZE; policies fill them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.template_map import KernelPiece
from matar_tf.tflite._schema import (
    find_operator_code,
    op_name,
    quantization,
    schema,
    set_buffer,
    tensor_array,
    text_of,
)

__all__ = [
    "CodedKernel",
    "ComputedKernelError",
    "code_values",
    "take_pieces",
    "view_of",
]

# Far from what networks hold; from here on each next float32 is a number of its own.
_FIRST: Final = int(np.float32(1e20).view(np.uint32))
_SUSPECT: Final = 1e18
_LARGEST: Final = np.finfo(np.float32).max  # of masks, and of functions' edges


@dataclass(frozen=True, kw_only=True)
class CodedKernel:
    """A kernel of a float layer in a template.

    Attributes:
      start: How many values the kernels before it have.
      size: How many it has.
      has_one_step: Whether all of its channels share a step.
      is_marked: Whether the converter could compute nothing of it.
    """

    start: int
    size: int
    has_one_step: bool
    is_marked: bool = False


class ComputedKernelError(ModelError):
    """The converter computed something of kernels.

    Attributes:
      islands: The numbers of the float layers where it did; None among them for a
        constant that no float layer reads.
      missing: Entries of kernels that are not there, so that something was computed of
        them, or nothing.
    """

    def __init__(
        self, message: str, islands: frozenset[int | None], missing: frozenset[str]
    ) -> None:
        super().__init__(message)
        self.islands, self.missing = islands, missing


def code_values(start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the numbers that a kernel holds in a template.

    Args:
      start: How many values the kernels before it have.
      shape: Of the kernel.

    Returns:
      float32 numbers, all different, and different from those of other kernels.
    """
    size = int(np.prod(shape))
    bits = np.arange(_FIRST + start, _FIRST + start + size, dtype=np.uint32)
    return bits.view(np.float32).reshape(shape)


def _is_suspect(values: np.ndarray) -> bool:
    """Whether there is what a kernel may have become, beside the largest floats."""
    sizes = np.abs(values)
    return bool(((sizes > _SUSPECT) & (sizes != _LARGEST)).any())


def take_pieces(
    model: Any,
    kernels: Mapping[str, CodedKernel],
    islands: Mapping[int, list[Any]],
) -> dict[str, tuple[KernelPiece, ...]]:
    """Makes int8 constants of the pieces of kernels, and says where they are.

    Args:
      model: A converted model.
      kernels: By weight entry.
      islands: The operators of each float layer; those that dequantize are added.

    Returns:
      The pieces of each kernel; none of one that no operator reads.

    Raises:
      ComputedKernelError: If the converter computed something of a kernel.
    """
    if not kernels:
        return {}
    graph = model.subgraphs[0]
    found: dict[str, list[KernelPiece]] = {entry: [] for entry in kernels}
    computed: dict[int, str] = {}
    for index, tensor in enumerate(list(graph.tensors)):
        if tensor.type != schema.TensorType.FLOAT32:
            continue
        values = tensor_array(model, tensor)
        if values is None or not values.size or not _is_suspect(values):
            continue
        entry, places = _decoded(values, kernels)
        view = None if places is None else view_of(places)
        if entry is None or view is None:
            computed[index] = text_of(tensor.name)
            continue
        offset, sizes, strides = view
        may_be_table = kernels[entry].has_one_step
        stored = _dequantized(model, index, islands, may_be_table=may_be_table)
        piece = KernelPiece(tensor=stored, offset=offset, sizes=sizes, strides=strides)
        found[entry].append(piece)
    missing = frozenset(
        entry
        for entry, pieces in found.items()
        if not pieces and not kernels[entry].is_marked
    )
    if computed or missing:
        place = next(iter((*computed.values(), *missing)))[:80]
        raise ComputedKernelError(
            "Expected kernels in the converted model as they are, got some that "
            f"{place!r} was computed of; leave the layer there out, or its arguments "
            "at their defaults.",
            frozenset(_island_of(index, islands) for index in computed),
            missing,
        )
    return {entry: tuple(pieces) for entry, pieces in found.items()}


def _island_of(index: int, islands: Mapping[int, list[Any]]) -> int | None:
    """Returns the number of the float layer that reads a constant, if one does."""
    for number, island in islands.items():
        if any(index in operator.inputs for operator in island):
            return number
    return None


def _decoded(
    values: np.ndarray, kernels: Mapping[str, CodedKernel]
) -> tuple[str | None, np.ndarray | None]:
    """Returns the entry of a constant, and the place of each value in its kernel."""
    numbers = values.reshape(-1).view(np.uint32).astype(np.int64) - _FIRST
    for entry, one in kernels.items():
        if one.start <= numbers.min() and numbers.max() < one.start + one.size:
            return entry, numbers - one.start
    return None, None


def view_of(
    places: np.ndarray,
) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """Returns offset, sizes and strides of a view with these places, if it is one.

    Args:
      places: Of values in a kernel, one after the other.
    """
    sizes: list[int] = []
    strides: list[int] = []
    offset = int(places[0])
    while len(places) > 1:
        steps = np.diff(places)
        stride = int(steps[0])
        breaks = np.nonzero(steps != stride)[0]
        size = int(breaks[0]) + 1 if len(breaks) else len(places)
        rows = places.reshape(-1, size) if len(places) % size == 0 else None
        if (
            rows is None
            or stride < 0
            or (rows - rows[:, :1] != stride * np.arange(size)).any()
        ):
            return None
        sizes.insert(0, size)
        strides.insert(0, stride)
        places = rows[:, 0]
    return offset, tuple(sizes), tuple(strides)


def _dequantized(
    model: Any,
    index: int,
    islands: Mapping[int, list[Any]],
    *,
    may_be_table: bool,
) -> int:
    """Puts an int8 constant in the place of a float one; returns its index.

    A table of which rows are looked up is dequantized row by row.
    """
    graph = model.subgraphs[0]
    tensor = graph.tensors[index]
    stored = copy.copy(tensor)
    stored.type = schema.TensorType.INT8
    stored.quantization = quantization([1.0], [0], 0)
    set_buffer(model, stored, np.zeros(tensor.shape, np.int8))
    readers = [one for one in graph.operators if index in one.inputs]
    looks_up = may_be_table and all(
        op_name(model, one) == "GATHER" and int(one.inputs[0]) == index
        for one in readers
    )
    if not looks_up:
        graph.tensors.append(stored)
        place = len(graph.tensors) - 1
        tensor.buffer = 0
        for made, first in _of_islands(model, index, readers, islands).items():
            _insert(model, place, made, first, islands, before=True)
        return place
    graph.tensors[index] = stored
    for one in readers:
        made = int(one.outputs[0])
        rows = copy.copy(graph.tensors[made])
        rows.type, rows.quantization = stored.type, stored.quantization
        graph.tensors.append(rows)
        one.outputs = [len(graph.tensors) - 1]
        _insert(model, len(graph.tensors) - 1, made, one, islands, before=False)
    return index


def _of_islands(
    model: Any, index: int, readers: list[Any], islands: Mapping[int, list[Any]]
) -> dict[int, Any]:
    """Gives each float layer that reads a tensor one of its own.

    Returns:
      The operator that reads each of these first, by their indices.
    """
    graph = model.subgraphs[0]
    found: dict[int, Any] = {}
    for island in islands.values():
        own = [one for one in readers if any(one is other for other in island)]
        if not own:
            continue
        made = index
        if found:
            graph.tensors.append(copy.copy(graph.tensors[index]))
            made = len(graph.tensors) - 1
        for one in own:
            one.inputs = [made if i == index else i for i in map(int, one.inputs)]
        found[made] = own[0]
    return found


def _insert(
    model: Any,
    source: int,
    result: int,
    beside: Any,
    islands: Mapping[int, list[Any]],
    *,
    before: bool,
) -> None:
    """Adds a DEQUANTIZE beside an operator, to the float layer of that one."""
    operator = schema.OperatorT()
    operator.opcodeIndex = find_operator_code(model, "DEQUANTIZE", 2)
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    operator.inputs, operator.outputs = [source], [result]
    operators = model.subgraphs[0].operators
    island = next(one for one in islands.values() if beside in one)
    for place in (operators, island):
        at = next(i for i, one in enumerate(place) if one is beside)
        place.insert(at if before else at + 1, operator)
