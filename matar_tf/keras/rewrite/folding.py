"""Batch norms folded into kernels that have one step for all channels.

Elsewhere a batch norm follows the policy, and its scale is part of each channel's step
(`matar_tf.keras.layers.MultiBitBatchNormalization`). Where all channels share a step,
the kernel alone can hold it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from matar_tf.keras.rewrite.channels import folded, scaled_kernel
from matar_tf.keras.rewrite.graph import Graph, Node
from matar_tf.keras.rewrite.kinds import IDENTITY, SCALE, read_from, row_of

__all__ = ["fold_norms", "norm_refusals"]

_NORM = "BatchNormalization"
_POINTWISE = "pointwise_kernel"  # of a separable convolution, which is split later


def norm_refusals(graph: Graph, per_tensor: Collection[str]) -> list[str]:
    """Returns why layers cannot have one step for all channels, if they scale each.

    Args:
      graph: A lowered float network.
      per_tensor: Layers of the float model whose channels are to share a step.
    """
    found: dict[str, None] = {}
    for node in graph.nodes:
        scale = read_from(graph, node) if node.kind == _NORM else node
        if scale.kind != SCALE or scale.origin not in per_tensor:
            continue
        if node.kind == _NORM or np.ptp(scale.weights["depthwise_kernel"]) > 0.0:
            text = (
                f"Expected per_channel=True for {scale.origin!r}, which scales each "
                "channel and follows no convolution or dense layer that it could be "
                "folded into, got False; let the configs name other layers, by kind "
                "(Conv2D, Dense), or put it right after one."
            )
            found[text] = None
    return list(found)


def fold_norms(graph: Graph, per_tensor: Collection[str]) -> Graph:
    """Returns a network whose batch norms are part of the kernels that share a step.

    Args:
      graph: A lowered float network without `norm_refusals`.
      per_tensor: Layers of the float model whose channels are to share a step.
    """
    changed: dict[str, Node] = {}
    for node in graph.nodes:
        if node.kind != _NORM or node.is_copy:
            continue
        above = read_from(graph, node)
        if above.origin in per_tensor and not above.is_copy:
            changed[above.name] = _with_norm(above, node)
            changed[node.name] = replace(
                node, kind=IDENTITY, attributes={"name": node.name}, weights={}
            )
    nodes = tuple(changed.get(node.name, node) for node in graph.nodes)
    return replace(graph, nodes=nodes)


def _with_norm(node: Node, norm: Node) -> Node:
    """Returns a layer that computes what a batch norm makes of its output.

    ``(k x + b - mean) * f + beta`` with ``f = gamma / sqrt(variance + epsilon)``, in
    float64.
    """
    storage = row_of(node).kernel
    attribute = _POINTWISE if storage is None else storage.attribute
    factor, offset = folded(norm)
    bias = node.weights.get("bias", np.zeros(len(factor)))
    kernel = scaled_kernel(node.weights[attribute], storage, factor)
    weights = {
        **node.weights,
        attribute: kernel.astype(np.float32),
        "bias": (bias * factor + offset).astype(np.float32),
    }
    attributes = {**node.attributes, "use_bias": True}
    return replace(node, attributes=attributes, weights=weights)
