"""What a layer that stays in float asks of hardware: an island of operators."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.operators import OPERATORS, CostShape
from matar_tf.template_map import KernelPiece
from matar_tf.tflite._schema import op_name, schema, source_of, tensor_array

__all__ = ["Island", "IslandKernel", "groups_of"]


def groups_of(
    model: Any, islands: Mapping[str, Sequence[int]]
) -> list[tuple[str | None, tuple[int, ...]]]:
    """Returns the operators in an order in which each layer is whole.

    A layer is an island, with its name, or one operator, without. Each comes after what
    it reads; else as early as its last operator.

    Raises:
      ModelError: If an operator is of two islands, or islands read of each other.
    """
    operators = model.subgraphs[0].operators
    names = {place: name for name, places in islands.items() for place in places}
    num_places = sum(map(len, islands.values()))
    if len(names) < num_places or not names.keys() <= set(range(len(operators))):
        raise ModelError(
            "Expected different operators of the template in the layers that stay in "
            "float, got some twice, or others; package the model again."
        )
    groups = [(name, tuple(sorted(places))) for name, places in islands.items()]
    groups += [(None, (at,)) for at in range(len(operators)) if at not in names]
    groups = sorted((one for one in groups if one[1]), key=lambda one: one[1][-1])
    of_place = {at: number for number, one in enumerate(groups) for at in one[1]}
    makers = {
        int(index): of_place[at]
        for at, one in enumerate(operators)
        for index in one.outputs
    }
    readers: list[set[int]] = [set() for _ in groups]
    for at, one in enumerate(operators):
        number = of_place[at]
        for index in map(int, one.inputs):
            if makers.get(index, number) != number:
                readers[makers[index]].add(number)
    waiting = Counter(number for found in readers for number in found)
    ready = [number for number in range(len(groups)) if not waiting[number]]
    order: list[tuple[str | None, tuple[int, ...]]] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(groups[number])
        for reader in readers[number]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(groups):
        raise ModelError(
            "Expected layers that stay in float which are whole in the template, got "
            "some that read of each other; package the model again."
        )
    return order


@dataclass(frozen=True, kw_only=True)
class IslandKernel:
    """A kernel of a layer that stays in float.

    Attributes:
      entry: Its weight entry.
      elems: How many elements it has.
      macs: Multiply-accumulates with it.
      ops: Number of operators that have it.
      made: Index of the tensor that is first made with it.
    """

    entry: str
    elems: int
    macs: int
    ops: int
    made: int


class Island:
    """A layer that stays in float.

    Args:
      model: The template, in object form.
      places: Indices of its operators, ascending.
      pieces: Where kernels of such layers lie, by weight entry.

    Attributes:
      reads: Indices of the tensors of other layers that it reads.
      makes: Indices of its tensors that others read, or that are outputs.
      kernels: Its kernels.
      ops: Number of operators, without those that unpack constants.
      macs: Multiply-accumulates, those of its kernels included.
      elems: Elements that its other operators compute.
      constants: Elements of its constants that are no kernels, by their buffers.
    """

    def __init__(
        self,
        model: Any,
        places: Sequence[int],
        pieces: Mapping[str, Sequence[KernelPiece]],
    ) -> None:
        graph = model.subgraphs[0]
        operators = [graph.operators[place] for place in places]
        own = {id(one) for one in operators}
        made = {int(index) for one in operators for index in one.outputs}
        read = dict.fromkeys(
            int(index) for one in operators for index in one.inputs if index >= 0
        )
        stored = {i for i in read if tensor_array(model, graph.tensors[i]) is not None}
        # Runtimes unpack a constant once, not for each inference.
        unpacked = {
            int(one.outputs[0]): int(one.inputs[0])
            for one in operators
            if op_name(model, one) == "DEQUANTIZE" and int(one.inputs[0]) in stored
        }
        operators = [one for one in operators if int(one.outputs[0]) not in unpacked]
        stored |= unpacked.keys()
        wanted = {*map(int, graph.outputs)}
        for one in graph.operators:
            wanted |= set() if id(one) in own else set(map(int, one.inputs))
        self.reads = [index for index in read if index not in made | stored]
        self.makes = sorted(made & wanted)
        if not self.reads or not self.makes:
            raise ModelError(
                "Expected layers in float that read something and make something in "
                "the template, got others; package the model again."
            )
        self.kernels = [
            found
            for entry, parts in pieces.items()
            if (found := _kernel(model, operators, unpacked, entry, parts)) is not None
        ]
        self.ops = len(operators)
        self.macs = sum(_macs(model, one) for one in operators)
        self.elems = sum(_elems(model, one, stored) for one in operators)
        taken = {piece.tensor for parts in pieces.values() for piece in parts}
        self.constants = {
            graph.tensors[index].buffer: math.prod(_sizes(graph.tensors[index]))
            for index in stored - taken - unpacked.keys()
            if graph.tensors[index].type == schema.TensorType.FLOAT32
        }


def _kernel(
    model: Any,
    operators: Sequence[Any],
    unpacked: Mapping[int, int],
    entry: str,
    pieces: Sequence[KernelPiece],
) -> IslandKernel | None:
    """Returns a kernel that these operators have; None if none does."""
    tensors = {piece.tensor for piece in pieces}
    tensors |= {made for made, source in unpacked.items() if source in tensors}
    having = [one for one in operators if tensors & set(map(int, one.inputs))]
    if not having:
        return None
    is_there = np.zeros(max(piece.last for piece in pieces) + 1, np.bool_)
    for piece in pieces:
        places = np.array(piece.offset)
        for size, stride in zip(piece.sizes, piece.strides, strict=True):
            places = places[..., None] + stride * np.arange(size)
        is_there[places] = True
    return IslandKernel(
        entry=entry,
        elems=int(is_there.sum()),
        macs=sum(_macs(model, one) for one in having),
        ops=len(having),
        made=int(having[0].outputs[0]),
    )


def _sizes(tensor: Any) -> list[int]:
    return [int(size) for size in tensor.shape]


def _macs(model: Any, operator: Any) -> int:
    """Returns the multiply-accumulates of an operator; 0 of one without."""
    tensors, name = model.subgraphs[0].tensors, op_name(model, operator)
    made = _sizes(tensors[operator.outputs[0]])
    first = _sizes(tensors[operator.inputs[0]])
    if name == "BATCH_MATMUL":
        depth = first[-2 if operator.builtinOptions.adjX else -1]
        return math.prod(made) * depth
    if OPERATORS[name].shape is not CostShape.KERNEL:
        return 0
    kernel = math.prod(_sizes(tensors[operator.inputs[1]]))
    is_transposed = OPERATORS[name].source == 2
    places = _sizes(tensors[source_of(model, operator)]) if is_transposed else made
    return math.prod(places[:-1]) * kernel


def _elems(model: Any, operator: Any, stored: set[int]) -> int:
    """Returns the elements that an operator handles; 0 of one that multiplies."""
    if _macs(model, operator):
        return 0
    tensors = model.subgraphs[0].tensors
    made = sum(math.prod(_sizes(tensors[i])) for i in operator.outputs)
    read = [
        math.prod(_sizes(tensors[i]))
        for i in map(int, operator.inputs)
        if i >= 0 and i not in stored
    ]
    return max(made, *read, 0)
