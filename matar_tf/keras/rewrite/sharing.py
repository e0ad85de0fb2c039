"""Layers that are called several times: what their calls have in common.

Each call is a node (`matar_tf.keras.rewrite.read`) with tensors, grids and statistics
of its own. Kernels are found to be shared at the end, once all is laid out: nodes that
came of several calls of one layer and multiply by the same values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef
from matar_tf.keras.rewrite.kinds import SHARED, is_compute, is_identity, row_of
from matar_tf.layer_kinds import LAYER_KINDS

__all__ = ["called_again", "kernels_unlike", "norms_unlike", "shared_kernels", "tie"]

_NORM = "BatchNormalization"


def called_again(graph: Graph) -> dict[str, str]:
    """Returns the first node of a layer with weights, by the name of each further one.

    Args:
      graph: A network as it was read.
    """
    firsts = {node.origin: node for node in graph.nodes if node.use == 0}
    return {
        node.name: node.origin
        for node in graph.nodes
        if node.use
        and (node.is_copy or (node.weights and not row_of(node).is_identity))
        and (node.float_reason or node.is_frozen == firsts[node.origin].is_frozen)
    }


def norms_unlike(graph: Graph) -> frozenset[str]:
    """Returns the layers before batch norms that cannot all be folded into them.

    One kernel cannot have the signs of two batch norms, nor go without a bias that one
    of its calls needs.

    Args:
      graph: A network that was read.
    """
    found: dict[str, set[tuple[bool, ...] | None]] = defaultdict(set)
    for node in graph.nodes:
        if row_of(node).folds_norm:
            found[node.origin].add(_signs_below(graph, node))
    return frozenset(name for name, signs in found.items() if len(signs) > 1)


def _signs_below(graph: Graph, node: Node) -> tuple[bool, ...] | None:
    """Returns which scales are below 0 of the batch norm that alone reads a node."""
    below = graph.consumers(node)
    while len(below) == 1 and is_identity(below[0]):
        below = graph.consumers(below[0])
    if len(below) != 1 or below[0].kind != _NORM:
        return None
    weights = below[0].weights
    gamma = weights.get("gamma", np.ones_like(weights["moving_mean"]))
    return tuple((gamma < 0.0).tolist())


def shared_kernels(graph: Graph) -> dict[str, str]:
    """Returns whose kernel a node has, by name, of nodes that have not their own.

    Args:
      graph: A laid-out network.
    """
    return {node.name: first.name for node, first in _pairs(graph)}


def kernels_unlike(graph: Graph, own: Collection[str] = ()) -> list[str]:
    """Returns why calls of a layer cannot have one kernel, if some cannot.

    Args:
      graph: A laid-out network.
      own: Layers for which a config of the user's own says what is quantized.
    """
    found: dict[str, None] = {}
    for node, first in _pairs(graph):
        if node.origin in own:
            text = (
                f"Expected a MatarQuantizeConfig without another one inside for "
                f"{node.origin!r}, which is called several times, got one; leave it "
                "out, or make a layer for each call."
            )
            found[text] = None
        elif not _are_equal(_taken(node), _taken(first)):
            text = (
                f"Expected calls of {node.origin!r} that multiply by one kernel, got "
                f"other values in {node.name!r} than in {first.name!r}: their batch "
                "norms differ, which per_channel=False or powers of two fold into it; "
                "leave that out, or make a layer for each call."
            )
            found[text] = None
    return list(found)


def _are_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


def _taken(node: Node) -> Mapping[str, Any]:
    return {} if node.is_copy else node.weights


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Yields each node of a further call that has weights, and that of the first.

    No first call reads what a further one makes: calls were made in this order.
    """
    parts: dict[str, dict[int, list[Node]]] = defaultdict(lambda: defaultdict(list))
    for node in graph.nodes:
        has_state = bool(node.weights) or node.kind not in LAYER_KINDS
        is_copy = node.is_copy and len(node.inputs) == 1 and not node.keywords
        is_again = (is_copy and has_state) or bool(
            node.float_reason and (node.is_copy or node.weights)
        )
        if is_again or is_compute(node):
            parts[node.origin][node.use].append(node)
    for origin, calls in parts.items():
        first, *others = sorted(calls)
        known = _by_part(origin, first, calls[first])
        for use in others:
            found = _by_part(origin, use, calls[use])
            yield from ((found[key], known[key]) for key in found if key in known)


def _by_part(origin: str, use: int, nodes: Iterable[Node]) -> dict[str, Node]:
    """Returns what a call of a layer was laid out into, by the ends of the names."""
    name = f"{origin}/use_{use + 1}" if use else origin
    return {node.name.removeprefix(name): node for node in nodes}


def tie(
    graph: Graph, shared: Mapping[str, str], configs: Mapping[str, Mapping[str, Any]]
) -> Graph:
    """Returns a laid-out network whose further calls of layers take their weights.

    Args:
      graph: The network.
      shared: What `shared_kernels` returned.
      configs: The arguments of the quantize config of each node that has one.
    """

    def tied(node: Node) -> Node:
        if node.name not in shared or node.float_reason:
            return node  # in float the layer itself is called again
        return replace(
            node,
            kind=SHARED,
            arguments=([node.inputs[0], TensorRef(shared[node.name])],),
            keywords={},
            attributes={
                "name": node.name,
                "entry": node.name,
                "config": configs.get(node.name),
            },
            weights={},
            is_copy=False,
        )

    return replace(graph, nodes=tuple(map(tied, graph.nodes)))
