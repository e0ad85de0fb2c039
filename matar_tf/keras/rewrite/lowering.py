"""Layers that no operator computes alone, put together from layers that one does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, cast

from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef, map_refs
from matar_tf.keras.rewrite.kinds import activation_row, is_activation
from matar_tf.keras.rewrite.lowered_functions import FUNCTION_LAYERS, FUNCTIONS
from matar_tf.keras.rewrite.lowered_layers import LAYERS
from matar_tf.keras.rewrite.making import Site, function_node

__all__ = ["lower"]

_KINDS = {**LAYERS, **FUNCTION_LAYERS}


def lower(graph: Graph, *, only: Collection[str] | None = None) -> Graph:
    """Returns a float network without layers that others put together.

    Args:
      graph: A float network that passed `check_graph`.
      only: Names of the layers to prepare; None for all. Others stay as they are.
    """
    site = Site(graph)
    tensors: dict[TensorRef, TensorRef] = {}
    for node in graph.nodes:
        new = replace(
            node,
            arguments=cast(
                "tuple[Any, ...]", map_refs(node.arguments, tensors.__getitem__)
            ),
            keywords=cast(
                "dict[str, Any]", map_refs(node.keywords, tensors.__getitem__)
            ),
        )
        is_touched = only is None or node.name in only
        made = _expanded(new, site) if is_touched else [new]
        site.nodes[made[-1].name] = made[-1]
        for index in range(len(node.shapes)):
            tensors[TensorRef(node.name, index)] = TensorRef(made[-1].name, index)
    return Graph(
        name=graph.name,
        nodes=tuple(site.nodes.values()),
        inputs=graph.inputs,
        outputs=tuple(tensors[ref] for ref in graph.outputs),
    )


def _expanded(node: Node, site: Site) -> list[Node]:
    lowering = _KINDS.get(node.kind)
    if lowering is None and activation_row(node).is_composite:
        is_alone = is_activation(node)
        lowering = FUNCTIONS[node.activation] if is_alone else _split_function
    if lowering is None:
        return [node]
    found: list[Node] = []
    for one in lowering(node, site):
        # What is lowered to its own kind is lowered enough.
        found += [one] if one.kind == node.kind else _expanded(one, site)
        site.nodes.update({made.name: made for made in found})
    return found


def _split_function(node: Node, site: Site) -> list[Node]:
    """A layer, and the activation function that no operator computes, apart."""
    name = site.free_name(f"{node.name}_{node.activation}")
    attributes = {**node.attributes, "activation": "linear"}
    return [
        replace(node, activation="linear", attributes=attributes),
        function_node(node, node.activation, name, node.output),
    ]
