"""Layers that no operator computes alone, put together from layers that one does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from matar_tf.keras.rewrite.graph import Graph, Node, TensorRef, reading
from matar_tf.keras.rewrite.kinds import (
    INPUT,
    activation_row,
    grid_of,
    is_activation,
    is_identity,
    row_of,
)
from matar_tf.keras.rewrite.lowered_frames import FRAMES
from matar_tf.keras.rewrite.lowered_functions import FUNCTION_LAYERS, FUNCTIONS
from matar_tf.keras.rewrite.lowered_layers import LAYERS
from matar_tf.keras.rewrite.lowered_products import PRODUCTS
from matar_tf.keras.rewrite.lowered_volumes import VOLUMES
from matar_tf.keras.rewrite.making import Site, function_node, scale_node
from matar_tf.operators import Grid

__all__ = ["lower"]

_KINDS = {**LAYERS, **PRODUCTS, **FRAMES, **VOLUMES, **FUNCTION_LAYERS}


def lower(graph: Graph, *, only: Collection[str] | None = None) -> Graph:
    """Returns a float network without layers that others put together.

    Args:
      graph: A float network that passed `check_graph`.
      only: Names of the layers to prepare; None for all. Others stay as they are.
    """
    site = Site(graph)
    tensors: dict[TensorRef, TensorRef] = {}
    for node in graph.nodes:
        new = reading(node, tensors.__getitem__)
        is_touched = only is None or node.origin in only
        if is_touched and row_of(node).joins:
            new = _with_one_grid(new, node, site)
        made = _expanded(new, site) if is_touched else [new]
        site.nodes[made[-1].name] = made[-1]
        for index in range(len(node.shapes)):
            ref = TensorRef(node.name, index)
            tensors[ref] = site.elsewhere.get(ref, TensorRef(made[-1].name, index))
    return Graph(
        name=graph.name,
        nodes=tuple(site.nodes.values()),
        inputs=graph.inputs,
        outputs=tuple(tensors[ref] for ref in graph.outputs),
    )


def _with_one_grid(new: Node, node: Node, site: Site) -> Node:
    """Returns a node that joins tensors on one grid with a scale before some of them.

    The samples, what float layers make, and functions whose grid the runtime fixes have
    no other grid; a scale by 1 brings them to one, exactly.

    Args:
      new: The node, of what is made so far.
      node: The node before.
      site: Where it stands.
    """
    owners = [_owner(site.graph, ref) for ref in node.inputs]
    if len({one.name for one in owners}) == 1:
        return new
    scaled: dict[TensorRef, TensorRef] = {}
    for ref, owner in zip(new.inputs, owners, strict=True):
        is_fixed = activation_row(owner).grid is Grid.FIXED
        has_own = owner.kind == INPUT or bool(owner.float_reason)
        if ref not in scaled and (has_own or is_fixed):
            name = site.free_name(f"{ref.node}_scale")
            shapes = (site.shape(ref),)
            source = replace(site.nodes[ref.node], origin=node.origin, shapes=shapes)
            site.nodes[name] = scale_node(source, name, ref, 1.0)
            scaled[ref] = TensorRef(name)
    return reading(new, lambda ref: scaled.get(ref, ref))


def _owner(graph: Graph, ref: TensorRef) -> Node:
    """Returns the node on whose grid a tensor of the network lies, or could lie."""
    node = graph.by_name[ref.node]
    while node.kind != INPUT and (
        is_identity(node) or grid_of(graph, node) in (Grid.KEPT, Grid.INPUT)
    ):
        node = graph.parents(node)[0]
    return node


def _expanded(node: Node, site: Site) -> list[Node]:
    lowering = _KINDS.get(node.kind)
    if lowering is None and activation_row(node).is_composite:
        is_alone = is_activation(node)
        lowering = FUNCTIONS[node.activation] if is_alone else _split_function
    if lowering is None:
        return [node]
    found: list[Node] = []
    for one in lowering(node, site):
        # What is lowered to its own kind is lowered enough, but for its function.
        is_own = one.kind == node.kind
        found += _with_function(one, site) if is_own else _expanded(one, site)
        site.nodes.update({made.name: made for made in found})
    return found


def _with_function(node: Node, site: Site) -> list[Node]:
    """A layer that is lowered enough, its activation function put together."""
    if is_activation(node) or not activation_row(node).is_composite:
        return [node]
    layer, function = _split_function(node, site)
    site.nodes[layer.name] = layer
    return [layer, *_expanded(function, site)]


def _split_function(node: Node, site: Site) -> list[Node]:
    """A layer, and the activation function that no operator computes, apart."""
    name = site.free_name(f"{node.name}_{node.activation}")
    attributes = {**node.attributes, "activation": "linear"}
    return [
        replace(node, activation="linear", attributes=attributes),
        function_node(node, node.activation, name, node.output),
    ]
