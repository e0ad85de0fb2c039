"""Memory that a file takes in TensorFlow Lite for Microcontrollers, without running it.

The bits of a policy change it by the kernels that are decoded: each takes a place among
the tensors while its layer runs, and the records of its operator. So the interpreter is
asked once for each graph without decoding, and its planner is followed for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Final, NamedTuple

from matar_tf.errors import ExportError
from matar_tf.policy import Policy
from matar_tf.tflite._graph_nodes import ITEM_BITS
from matar_tf.tflite._schema import tensor_array, text_of
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.c_sources import arena_bytes
from matar_tf.tflite.file_size import FileSizes

__all__ = ["ARENA", "ArenaSizes", "Lifetime", "planned_bytes"]

ARENA: Final = "arena_bytes"  # as a cost
_ALIGNMENT: Final = 16
# Of a decoding operator, on a machine of 64 bits: its node, two tensors, its state.
_DECODER_BYTES: Final = 208
_PROFILES: Final = ("int8", "tflm")


class Lifetime(NamedTuple):
    """A tensor in the arena.

    Attributes:
      num_bytes: Its size.
      first: Step at which it is made.
      last: Step at which it is read for the last time.
    """

    num_bytes: int
    first: int
    last: int


class ArenaSizes:
    """The size of the arena that `matar_tf.tflite.c_sources.arena_bytes` reports.

    Args:
      builder: Of the packaged network.
      sizes: Of its files, which tell how kernels are stored.
      profile: How they are stored: int8 or tflm.

    Raises:
      ExportError: If the profile is another one.
    """

    def __init__(
        self, builder: ModelBuilder, sizes: FileSizes, *, profile: str
    ) -> None:
        if profile not in _PROFILES:
            raise ExportError(
                f"Expected the profile {' or '.join(_PROFILES)} for arena_bytes, got "
                f"{profile!r}: TensorFlow Lite for Microcontrollers has no kernels for "
                "its files; leave arena_bytes out, or choose --profile=tflm."
            )
        self._builder = builder
        self._sizes = sizes
        self._widest = builder.space.widest()
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, policy: Policy) -> int:
        """Returns the size in bytes.

        Raises:
          PolicyError: If the policy is not of the artifact's space.
          ExportError: If the interpreter does not run the file, or is not installed.
        """
        self._builder.space.validate(policy)
        key = self._builder.identity_clamps(policy), policy.is_wide
        if key not in self._graphs:
            plain = Policy(weights=self._widest.weights, activations=policy.activations)
            self._graphs[key] = _Graph(self._builder, plain)
        graph = self._graphs[key]
        decoded = [
            kernel
            for entry, bits in policy.weights.items()
            if self._sizes.is_decoded(entry, bits)
            for name in self._builder.stored_names(entry)
            for kernel in graph.kernels.get(name, ())
        ]
        return graph.arena_bytes(decoded)


class _Graph:
    """A network without decoding: its tensors, kernels and arena.

    Attributes:
      kernels: By name; those of one operator.
    """

    def __init__(self, builder: ModelBuilder, policy: Policy) -> None:
        content = builder.build(policy)
        model, _ = builder.fill(policy)
        self._tensors = _lifetimes(model)
        self._besides = arena_bytes(content) - planned_bytes(self._tensors)
        self.kernels: dict[str, list[Lifetime]] = {}
        tensors = model.subgraphs[0].tensors
        for place, operator in enumerate(model.subgraphs[0].operators):
            for index in map(int, operator.inputs[1:2]):
                size = _num_bytes(tensors[index])
                step = _step(place)
                one = Lifetime(num_bytes=size, first=step - 1, last=step)
                self.kernels.setdefault(text_of(tensors[index].name), []).append(one)

    def arena_bytes(self, decoded: Sequence[Lifetime]) -> int:
        """Returns the size of the arena if some kernels are decoded."""
        planned = planned_bytes([*self._tensors, *decoded])
        return planned + self._besides + _DECODER_BYTES * len(decoded)


def planned_bytes(tensors: Sequence[Lifetime]) -> int:
    """Returns the memory of tensors, each at the lowest place that is free.

    The largest come first; of equal ones the later.

    Reference:
      tflite-micro, ``memory_planner/greedy_memory_planner.cc``.
    """
    rounded = [
        one._replace(num_bytes=-(-one.num_bytes // _ALIGNMENT) * _ALIGNMENT)
        for one in tensors
    ]
    placed: list[tuple[int, Lifetime]] = []
    order = sorted(range(len(rounded)), key=lambda i: (-rounded[i].num_bytes, -i))
    for one in (rounded[i] for i in order):
        offset = 0
        for start, other in sorted(placed, key=lambda pair: pair[0]):
            if other.first > one.last or other.last < one.first:
                continue
            if start - offset >= one.num_bytes:
                break
            offset = max(offset, start + other.num_bytes)
        placed.append((offset, one))
    return max((start + one.num_bytes for start, one in placed), default=0)


def _step(place: int) -> int:
    """Returns the step of an operator; the one before is that of its decoding."""
    return 2 * place + 2


def _lifetimes(model: Any) -> list[Lifetime]:
    """Returns the tensors of a graph that are made by it, in its order."""
    graph = model.subgraphs[0]
    first = dict.fromkeys(map(int, graph.inputs), 0)
    last: dict[int, int] = {}
    for place, operator in enumerate(graph.operators):
        for index in map(int, operator.outputs):
            first.setdefault(index, _step(place))
        last |= dict.fromkeys(map(int, operator.inputs), _step(place))
    last |= dict.fromkeys(map(int, graph.outputs), _step(len(graph.operators) - 1))
    return [
        Lifetime(_num_bytes(tensor), first[index], last.get(index, first[index]))
        for index, tensor in enumerate(graph.tensors)
        if index in first and tensor_array(model, tensor) is None
    ]


def _num_bytes(tensor: Any) -> int:
    return math.prod(map(int, tensor.shape)) * ITEM_BITS[tensor.type] // 8
