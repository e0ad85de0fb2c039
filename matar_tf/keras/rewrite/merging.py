"""Operations that compute the same twice, made one.

The converter does so with equal operators; each then has one output, on one grid.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef, reading
from matar_tf.keras.rewrite.kinds import grid_of, is_identity
from matar_tf.operators import Grid

__all__ = ["computed", "merge_equal"]


def merge_equal(graph: Graph, *, only: Collection[str] | None = None) -> Graph:
    """Returns a network without second nodes that do what a first one does.

    Args:
      graph: A float network that passed `check_graph`.
      only: Names of the layers that may be merged; None for all.
    """
    tensors: dict[TensorRef, TensorRef] = {}
    known: dict[tuple[str, ...], Node] = {}
    nodes: list[Node] = []
    for old in graph.nodes:
        node = reading(old, tensors.__getitem__)
        key = _key(graph, node) if only is None or node.origin in only else None
        first = node if key is None else known.setdefault(key, node)
        if first is node:
            nodes.append(node)
        for index in range(len(node.shapes)):
            tensors[TensorRef(node.name, index)] = TensorRef(first.name, index)
    return replace(
        graph,
        nodes=tuple(nodes),
        outputs=tuple(tensors[ref] for ref in graph.outputs),
    )


def _key(graph: Graph, node: Node) -> tuple[str, ...] | None:
    """Returns what is equal of nodes to be made one; None for one of its own."""
    if is_identity(node) or grid_of(graph, node) is not Grid.OWN:
        return None
    return computed(node)


def computed(node: Node) -> tuple[str, ...] | None:
    """Returns what is equal of nodes that compute the same; None for one of its own."""
    if not node.inputs or node.weights or node.is_copy:
        return None
    given = {k: v for k, v in node.attributes.items() if k not in ("name", "trainable")}
    parts = (node.kind, node.activation, node.arguments, sorted(given.items()))
    return tuple(map(repr, parts))
