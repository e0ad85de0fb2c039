"""Which layers of a network stay in float."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace

from matar_tf.errors import MatarWarning
from matar_tf.keras.rewrite.check import float_reasons, has_other_activation
from matar_tf.keras.rewrite.graph import FreeNames, Graph, Node, TensorRef, reading
from matar_tf.keras.rewrite.kinds import INPUT, row_of
from matar_tf.keras.rewrite.lowered_checks import FORM_CHECKS
from matar_tf.keras.rewrite.lowered_volumes import VOLUMES

__all__ = ["mark_floats", "warn_of_floats"]


def mark_floats(graph: Graph, *, only: Collection[str] | None = None) -> Graph:
    """Returns a network whose nodes say why they stay in float, where they do.

    Those that no integer kernels compute, and those without learned weights that read
    what such nodes make and nothing else: a grid between would cost accuracy and gain
    nothing.

    Args:
      graph: A float network that can be quantized.
      only: Names of the layers to be quantized by their kind; None for all.
    """
    graph = _split_activations(graph, only)
    reasons = float_reasons(graph, only=only)
    calls = {
        node.origin: node.name
        for node in reversed(graph.nodes)
        if node.name in reasons and (node.weights or node.is_copy)
    }
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        reason = "\n  ".join(reasons.get(node.name, []))
        above = [nodes[ref.node] for ref in node.inputs]
        is_touched = only is None or node.origin in only
        if not reason and is_touched and above and not _stays_on_grids(node):
            makers = [one for one in above if one.float_reason]
            if len(makers) == len(above):
                reason = f"{node.name!r} ({node.kind}) reads float tensors alone."
        other = calls.get(node.origin, node.name)
        if not reason and other != node.name and node.weights:
            reason = f"{node.name!r} is a call of the layer of {other!r}, in float."
        if node.kind != INPUT:
            node = replace(node, float_reason=reason)
        nodes[node.name] = node
    return replace(graph, nodes=tuple(nodes.values()))


def _split_activations(graph: Graph, only: Collection[str] | None) -> Graph:
    """Returns a network with functions apart that no integer kernel computes.

    The layers that have them are then computed in integers.
    """
    free_name = FreeNames(graph.by_name).take
    tensors: dict[TensorRef, TensorRef] = {}
    nodes: list[Node] = []
    for old in graph.nodes:
        node = reading(old, lambda ref: tensors.get(ref, ref))
        is_touched = only is None or node.origin in only
        if is_touched and has_other_activation(node):
            name = free_name(f"{node.name}_activation")
            function = node.attributes["activation"]
            nodes.append(
                replace(
                    node,
                    activation="linear",
                    attributes={**node.attributes, "activation": "linear"},
                    float_reason="",
                )
            )
            tensors[node.output] = TensorRef(name)
            node = Node(
                name=name,
                kind="Activation",
                origin=node.origin,
                shapes=node.shapes,
                arguments=(node.output,),
                activation=node.activation,
                attributes={"name": name, "activation": function},
                float_reason=node.float_reason,
            )
        nodes.append(node)
    outputs = tuple(tensors.get(ref, ref) for ref in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _stays_on_grids(node: Node) -> bool:
    """Whether a node does not follow the layers in float that it reads.

    One with weights, or statistics, that follow the policy; or a pool over volumes,
    which has no kernel in float at all.
    """
    if node.kind in VOLUMES:
        return True
    row = row_of(node)
    becomes_dense = node.kind in FORM_CHECKS and bool(node.weights)
    return (
        row.kernel is not None or row.folds_norm or row.may_be_frozen or becomes_dense
    )


def warn_of_floats(graph: Graph) -> None:
    """Warns of the layers that stay in float, each with its reason on a line."""
    reasons = [node.float_reason for node in graph.nodes if node.float_reason]
    if reasons:
        title = (
            f"{graph.name!r} has layers that stay in float ({len(reasons)}), which "
            "hardware without float units does not take (quantize_model(..., "
            "strict=True) makes an error of it):"
        )
        warnings.warn("\n  ".join([title, *reasons]), MatarWarning, stacklevel=2)
