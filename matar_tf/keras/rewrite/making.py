"""What lowerings are made of: where a layer is lowered, and the nodes made for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.keras.rewrite.graph import (
    Array,
    FreeNames,
    Graph,
    Node,
    Shape,
    TensorRef,
)
from matar_tf.keras.rewrite.kinds import SCALE, is_identity, row_of_kind
from matar_tf.keras.rewrite.sharing import norms_unlike

__all__ = ["Lowering", "Site", "function_node", "lowers", "made", "scale_node"]


class Site:
    """Where a layer is lowered.

    Attributes:
      graph: The network before.
      nodes: What is made of it so far, by name.
      free_name: Returns a name for a node that no other has, and takes it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {}
        self.free_name = FreeNames(graph.by_name).take

    @cached_property
    def norms_unlike(self) -> frozenset[str]:
        """The layers before batch norms that cannot all be folded into them."""
        return norms_unlike(self.graph)

    def maker(self, node: Node) -> Node:
        """Returns the node whose values a node reads, past those that keep them."""
        above = self.nodes[node.inputs[0].node]
        while is_identity(above):
            above = self.nodes[above.inputs[0].node]
        return above

    def shape(self, tensor: TensorRef) -> Shape:
        """Returns the shape of a tensor of what is made so far."""
        return self.nodes[tensor.node].shapes[tensor.index]

    def is_read_once(self, node: Node) -> bool:
        """Whether a node of the network before reads what only it reads."""
        above = self.graph.by_name.get(node.name)
        if above is None:
            return False  # made for another one
        while True:
            above = self.graph.parents(above)[0]
            if len(self.graph.consumers(above)) != 1:
                return False
            if not is_identity(above):
                return True


# Takes a layer's node; returns the nodes in its place, the last of which makes its
# output.
Lowering: TypeAlias = "Callable[[Node, Site], Sequence[Node]]"


def lowers(table: dict[str, Lowering], *names: str) -> Callable[[Lowering], Lowering]:
    """Registers a function in a table, under the names of what it lowers."""

    def register(lowering: Lowering) -> Lowering:
        table.update(dict.fromkeys(names, lowering))
        return lowering

    return register


def made(
    node: Node,
    kind: str,
    name: str,
    inputs: Sequence[TensorRef],
    attributes: Mapping[str, object] | None = None,
    **changes: Any,
) -> Node:
    """Returns a layer of another kind in the place of a node, of its shape."""
    arguments = (list(inputs),) if row_of_kind(kind).min_inputs > 1 else tuple(inputs)
    return replace(
        node,
        name=name,
        kind=kind,
        arguments=arguments,
        keywords={},
        attributes={"name": name, **(attributes or {})},
        **{"activation": "linear", "weights": {}, **changes},
    )


def function_node(node: Node, activation: str, name: str, source: TensorRef) -> Node:
    """Returns a node that computes an activation function alone."""
    return made(
        node,
        "Activation",
        name,
        [source],
        {"activation": activation},
        activation=activation,
    )


def scale_node(
    node: Node,
    name: str,
    source: TensorRef,
    factor: ArrayLike,
    offset: ArrayLike | None = None,
) -> Node:
    """Returns a node that makes ``factor * x + offset``, of each channel."""
    channels = int(node.shapes[0][-1] or 0)
    weights = {
        "depthwise_kernel": _of_channels(factor, channels).reshape(1, 1, -1, 1),
    }
    if offset is not None:
        weights["bias"] = _of_channels(offset, channels)
    uses_bias = {"use_bias": offset is not None}
    return made(node, SCALE, name, [source], uses_bias, weights=weights)


def _of_channels(values: ArrayLike, channels: int) -> Array:
    flat = np.asarray(values, np.float32).reshape(-1)
    return np.broadcast_to(flat, (channels,)).copy()
