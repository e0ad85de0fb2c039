"""What lowerings are made of: where a layer is lowered, and the nodes made for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from matar_tf.keras.rewrite.channels import scaled_kernel
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
      elsewhere: Outputs of the network before that not the last node makes of those in
        the place of their node.
      free_name: Returns a name for a node that no other has, and takes it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {}
        self.elsewhere: dict[TensorRef, TensorRef] = {}
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
            if not self._feeds_one(above):
                return False
            if not is_identity(above):
                return True

    def scaled(
        self, node: Node, place: int, factor: ArrayLike, name: str
    ) -> list[Node]:
        """Returns what makes a factor of each channel of a tensor that a node reads.

        The kernel before it, if that is all that the node reads there and nothing but
        the kernel would change; else a scale.

        Args:
          node: A node of the network before, reading what is made so far.
          place: Which of its tensors.
          factor: One number, or one a channel.
          name: Of the scale.
        """
        above = self.nodes[node.inputs[place].node]
        old = self.graph.parents(self.graph.by_name[node.name])[place]
        storage = row_of_kind(above.kind).kernel
        is_bare = above.activation == "linear" and above.is_frozen == node.is_frozen
        is_bound = any(
            value is not None and key.endswith(("_constraint", "_regularizer"))
            for key, value in above.attributes.items()
        )
        is_alone = old.name == above.name and self._feeds_one(old)
        if storage is None or above.is_copy or is_bound or not (is_bare and is_alone):
            return [scale_node(node, name, node.inputs[place], factor)]
        channels = int(above.shapes[0][-1] or 0)
        factors = _of_channels(factor, channels)
        kernel = scaled_kernel(above.weights[storage.attribute], storage, factors)
        weights = {**above.weights, storage.attribute: kernel}
        if "bias" in weights:
            weights["bias"] = weights["bias"] * factors
        return [replace(above, weights=weights)]

    def _feeds_one(self, node: Node) -> bool:
        """Whether one node reads what a node of the network before makes, once."""
        is_output = any(ref.node == node.name for ref in self.graph.outputs)
        return not is_output and len(self.graph.consumers(node)) == 1


# Takes a layer's node; returns the nodes in its place, the last of which makes its
# output.
Lowering: TypeAlias = "Callable[[Node, Site], Sequence[Node]]"


def lowers(table: dict[str, Lowering], *names: str) -> Callable[[Lowering], Lowering]:
    """Registers a function in a table, under the names of what it lowers."""

    def register(lowering: Lowering) -> Lowering:
        table.update(dict.fromkeys(names, lowering))
        return lowering

    return register


_PLAIN: Final = {"is_copy": False, "float_reason": "", "float_kernels": ()}


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
        **{"activation": "linear", "weights": {}, **_PLAIN, **changes},
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
