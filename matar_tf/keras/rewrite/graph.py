"""A network as data: what is rewritten, and on which quantizers are placed.

Free of Keras' classes: `read` makes a graph of a Keras model, `build` a Keras model of
a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from matar_tf.errors import ModelError

__all__ = [
    "Array",
    "FreeNames",
    "Graph",
    "Node",
    "Shape",
    "TensorRef",
    "map_refs",
    "reading",
    "refs_in",
]

Array: TypeAlias = "NDArray[np.float32]"
Shape: TypeAlias = "tuple[int | None, ...]"


@dataclass(frozen=True)
class TensorRef:
    """A tensor between nodes.

    Attributes:
      node: Name of the node that makes it.
      index: Which of the node's outputs it is.
    """

    node: str
    index: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One call of one layer.

    Attributes:
      name: Unique name: that of the layer, and for its further calls one of their own.
      kind: Class of the layer, a row of `matar_tf.layer_kinds` or a foreign one.
      origin: Name of the layer of the float model that it came from.
      use: Which call of that layer it came from, from 0.
      shapes: Shape of each output, with the batch axis; None for an unknown size.
      arguments: What the layer is called with, `TensorRef` for tensors, in any
        structure of lists, tuples and dictionaries.
      keywords: What it is called with by name, likewise.
      activation: Name of its activation function; ``linear`` for none.
      attributes: Arguments of the layer's class, by name.
      weights: Values of its variables, by name.
      is_copy: Whether it is to be made as a copy of the layer `origin`, whatever
        attributes and weights say here.
      is_frozen: Whether its weights stay as they are.
      refusal: What makes the layer unfit for any form.
      float_reason: Why it is computed in float, as it is; "" for one that integer
        kernels compute.
      float_kernels: The kernels that are quantized if it is computed in float, by the
        names of `matar_tf.keras.quantizers.configs.float_kernels`.
    """

    name: str
    kind: str
    origin: str
    shapes: tuple[Shape, ...]
    use: int = 0
    arguments: tuple[object, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict[str, object])
    activation: str = "linear"
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])
    weights: Mapping[str, Array] = field(default_factory=dict[str, Array])
    is_copy: bool = False
    is_frozen: bool = False
    refusal: str = ""
    float_reason: str = ""
    float_kernels: tuple[str, ...] = ()

    @cached_property
    def inputs(self) -> tuple[TensorRef, ...]:
        """The tensors that it reads, in order."""
        return (*refs_in(self.arguments), *refs_in(self.keywords))

    @property
    def float_entries(self) -> tuple[str, ...]:
        """The policy entries of its kernels, if it is computed in float."""
        if not self.float_reason:
            return ()
        name = self.origin if self.use else self.name  # of the first call
        if len(self.float_kernels) == 1:
            return (name,)
        return tuple(f"{name}/{one}" for one in self.float_kernels)

    @property
    def output(self) -> TensorRef:
        """Its first output."""
        return TensorRef(self.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A network.

    Invariants: names are unique, and each tensor that is read has a node that makes
    it. Nodes are put into execution order, those first that are farthest from an
    output; nodes that no output depends on are left out.

    Attributes:
      name: Name of the model.
      nodes: The nodes, in execution order.
      inputs: The tensors that are fed, each the output of an input layer.
      outputs: The results.
      refusals: What makes the network unfit, beside what its nodes say.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    refusals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        by_name = {node.name: node for node in self.nodes}
        if len(by_name) < len(self.nodes):
            raise ModelError(
                f"Expected nodes of different names in {self.name!r}, got "
                f"{[node.name for node in self.nodes]}."
            )
        read = [ref for node in self.nodes for ref in node.inputs]
        for ref in (*read, *self.inputs, *self.outputs):
            if ref.node not in by_name or not (
                0 <= ref.index < len(by_name[ref.node].shapes)
            ):
                raise ModelError(f"Expected a node of {self.name!r} to make {ref}.")
        names = _execution_order(by_name, self.inputs, self.outputs)
        object.__setattr__(self, "nodes", tuple(by_name[name] for name in names))

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def _consumers(self) -> Mapping[str, tuple[Node, ...]]:
        found: dict[str, tuple[Node, ...]] = {}
        for node in self.nodes:
            for ref in node.inputs:
                found[ref.node] = (*found.get(ref.node, ()), node)
        return found

    def parents(self, node: Node) -> list[Node]:
        """Returns the nodes that a node reads, in order, one for each tensor."""
        return [self.by_name[ref.node] for ref in node.inputs]

    def consumers(self, node: Node) -> tuple[Node, ...]:
        """Returns the nodes that read a node, one for each time."""
        return self._consumers.get(node.name, ())

    def shape(self, ref: TensorRef) -> Shape:
        """Returns the shape of a tensor."""
        return self.by_name[ref.node].shapes[ref.index]

    def input_shape(self, node: Node) -> Shape:
        """Returns the shape of the first tensor that a node reads."""
        return self.shape(node.inputs[0])


def reading(node: Node, function: Callable[[TensorRef], object]) -> Node:
    """Returns a node that reads, in the place of each tensor, what a function says."""
    return replace(
        node,
        arguments=cast("tuple[object, ...]", map_refs(node.arguments, function)),
        keywords=cast("dict[str, object]", map_refs(node.keywords, function)),
    )


class FreeNames:
    """Names that no node has.

    Args:
      taken: Names of the nodes that there are.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def take(self, wanted: str) -> str:
        """Returns a name, numbered where it is taken already, and takes it."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def refs_in(structure: object) -> Iterator[TensorRef]:
    """Yields the tensors in a structure, in order; those of dictionaries by key."""
    if isinstance(structure, TensorRef):
        yield structure
    elif isinstance(structure, Mapping):
        known = cast("Mapping[str, object]", structure)
        for key in sorted(known):
            yield from refs_in(known[key])
    elif isinstance(structure, (list, tuple)):
        for item in cast("Iterable[object]", structure):
            yield from refs_in(item)


def map_refs(structure: object, function: Callable[[TensorRef], object]) -> object:
    """Returns a structure with each tensor replaced by what a function makes of it."""
    if isinstance(structure, TensorRef):
        return function(structure)
    if isinstance(structure, Mapping):
        known = cast("Mapping[str, object]", structure)
        return {key: map_refs(value, function) for key, value in known.items()}
    if isinstance(structure, (list, tuple)):
        items = [
            map_refs(item, function) for item in cast("Iterable[object]", structure)
        ]
        return items if isinstance(structure, list) else tuple(items)
    return structure


def _execution_order(
    by_name: Mapping[str, Node],
    inputs: Iterable[TensorRef],
    outputs: Iterable[TensorRef],
) -> list[str]:
    """Returns nodes by their distance from the farthest output, in Keras' order.

    Entries of policies are in this order, in files too. Nodes of one distance come as
    they are met on a walk from the outputs.
    """
    depths: dict[str, int] = {}
    for name in reversed(_parents_first(by_name, outputs)):
        depth = depths.setdefault(name, 0)
        for ref in by_name[name].inputs:
            depths[ref.node] = max(depth + 1, depths.get(ref.node, 0))
    for ref in inputs:
        depths.setdefault(ref.node, 0)
    return sorted(depths, key=lambda name: -depths[name])


def _parents_first(
    by_name: Mapping[str, Node], outputs: Iterable[TensorRef]
) -> list[str]:
    done: dict[str, None] = {}
    begun: set[str] = set()
    waiting = [ref.node for ref in reversed(list(outputs))]
    while waiting:
        name = waiting[-1]
        above = [ref.node for ref in by_name[name].inputs]
        if name in begun or name in done:
            waiting.pop()
            done.setdefault(name)
            continue
        begun.add(name)
        for parent in reversed(above):
            if parent in begun and parent not in done:
                raise ModelError(f"Expected no circle, but {name!r} is part of one.")
            if parent not in done:
                waiting.append(parent)
    return list(done)
