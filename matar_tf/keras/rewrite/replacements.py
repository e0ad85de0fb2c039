"""How each layer kind is laid out: what the integer graph has in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.keras.rewrite.channels import scaled_kernel
from matar_tf.keras.rewrite.graph import Array, Graph, Node, TensorRef
from matar_tf.keras.rewrite.kinds import (
    NORM,
    activation_row,
    is_identity,
    read_from,
    row_of,
)
from matar_tf.layer_kinds import LAYER_KINDS

__all__ = ["LAYOUTS", "Site", "lays_out"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a layer is replaced.

    Attributes:
      graph: The float network.
      original: The layer's node there.
      free_name: Returns a name for a node that no other has, and takes it.
      maker: Returns the new node that makes a tensor.
    """

    graph: Graph
    original: Node
    free_name: Callable[[str], str]
    maker: Callable[[TensorRef], Node]

    def feeds_norm(self) -> bool:
        """Whether the layer feeds a batch norm alone, which is folded into it."""
        below = self.graph.consumers(self.original)
        while len(below) == 1 and is_identity(below[0]):
            below = self.graph.consumers(below[0])
        return len(below) == 1 and below[0].kind == "BatchNormalization"


# Takes the node with new tensors as inputs; returns the nodes in its place, the last of
# which makes its output. A node of a name that is there already replaces that one.
Layout: TypeAlias = "Callable[[Node, Site], Sequence[Node]]"
LAYOUTS: Final[dict[str, Layout]] = {}  # by kind; others stay as they are


def lays_out(*kinds: str) -> Callable[[Layout], Layout]:
    """Registers a function as what lays layers of these kinds out."""

    def register(layout: Layout) -> Layout:
        LAYOUTS.update(dict.fromkeys(kinds, layout))
        return layout

    return register


@lays_out(*(kind for kind, row in LAYER_KINDS.items() if row.kernel is not None))
def _single_operation(node: Node, site: Site) -> list[Node]:
    """A convolution or dense layer, an activation that TFLite cannot fuse apart.

    Batch norm below takes the bias over.
    """
    node = replace(node, arguments=(node.inputs[0],), keywords={})
    if site.feeds_norm() and "bias" in node.weights:
        weights = {k: value for k, value in node.weights.items() if k != "bias"}
        attributes = {**node.attributes, "use_bias": False}
        node = replace(node, attributes=attributes, weights=weights)
    if activation_row(node).is_fused:
        return [node]
    name = site.free_name(f"{node.name}_{node.activation}")
    function = replace(
        node,
        name=name,
        kind="Activation",
        arguments=(node.output,),
        attributes={"name": name, "activation": node.activation},
        weights={},
    )
    attributes = {**node.attributes, "activation": "linear"}
    return [replace(node, activation="linear", attributes=attributes), function]


@lays_out("SeparableConv2D")
def _split_separable(node: Node, site: Site) -> list[Node]:
    """A depthwise and a pointwise convolution, as tfmot splits it."""
    first, second = (
        site.free_name(f"{node.name}_{part}") for part in ("depthwise", "pointwise")
    )
    taken = ("kernel_size", "strides", "padding", "depth_multiplier", "dilation_rate")
    kernel = node.weights["depthwise_kernel"]
    channels = kernel.shape[-2] * kernel.shape[-1]
    depthwise = replace(
        node,
        name=first,
        kind="DepthwiseConv2D",
        shapes=((*node.shapes[0][:-1], channels),),
        arguments=(node.inputs[0],),
        keywords={},
        activation="linear",
        attributes={
            **{key: node.attributes[key] for key in taken},
            "use_bias": False,
            "name": first,
        },
        weights={"depthwise_kernel": kernel},
    )
    weights = {"kernel": node.weights["pointwise_kernel"]}
    if "bias" in node.weights:
        weights["bias"] = node.weights["bias"]
    pointwise = replace(
        node,
        name=second,
        kind="Conv2D",
        arguments=(depthwise.output,),
        attributes={
            "filters": node.attributes["filters"],
            "kernel_size": 1,
            "use_bias": node.attributes["use_bias"],
            "activation": node.attributes["activation"],
            "name": second,
        },
        weights=weights,
    )
    return [depthwise, *_single_operation(pointwise, site)]


@lays_out("Add", "Maximum", "Minimum", "Multiply", "Subtract")
def _chain(node: Node, site: Site) -> list[Node]:
    """Sums of more than two tensors become a chain of sums of two, and so on."""
    kind = row_of(node).counted_by or node.kind
    total, sums = node.inputs[0], list[Node]()
    for index, tensor in enumerate(node.inputs[1:]):
        is_last = index == len(node.inputs) - 2
        name = node.name if is_last else site.free_name(f"{node.name}_{index}")
        sums.append(
            replace(
                node,
                name=name,
                kind=kind,
                arguments=([total, tensor],),
                keywords={},
                attributes={"name": name},
            )
        )
        total = sums[-1].output
    return sums


@lays_out("BatchNormalization")
def _make_multi_bit(node: Node, site: Site) -> list[Node]:
    """A batch norm with the float statistics; `layout.with_widths` makes banks of them.

    It is folded into what is before it (see `lowering`). Scales below 0 go into the
    kernel: those of the bank count as magnitudes.
    """
    above = read_from(site.graph, site.original)
    mean = node.weights["moving_mean"]
    if "bias" in above.weights:
        mean = mean - above.weights["bias"]
    gamma = node.weights.get("gamma", np.ones_like(mean))
    signs = np.where(gamma < 0, np.float32(-1.0), np.float32(1.0))
    weights = {
        "gamma": np.abs(gamma),
        "moving_mean": mean * signs,
        "moving_variance": node.weights["moving_variance"],
    }
    if "beta" in node.weights:
        weights["beta"] = node.weights["beta"]
    taken = ("name", "trainable", "momentum", "epsilon", "center", "scale")
    maker = site.maker(node.inputs[0])
    while is_identity(maker):
        maker = site.maker(maker.inputs[0])
    new = replace(
        node,
        kind=NORM,
        arguments=(node.inputs[0],),
        keywords={},
        attributes={
            **{key: node.attributes[key] for key in taken if key in node.attributes},
            "entry": maker.name,
        },
        weights=weights,
    )
    return [_flip_channels(maker, signs), new]


def _flip_channels(node: Node, signs: Array) -> Node:
    storage = row_of(node).kernel
    if storage is None or node.is_copy:
        raise ModelError(
            f"Expected the layer {node.name!r} before a batch norm to be quantized "
            "too, got one that stays as it is; quantize both or none."
        )
    bound = f"{storage.attribute.removesuffix('_kernel')}_constraint"
    if np.any(signs < 0) and node.attributes.get(bound) is not None:
        raise ModelError(
            f"Expected no {bound} in {node.name!r}, whose batch norm has scales below "
            "0, which move into the kernel, got one; leave it out."
        )
    flipped = scaled_kernel(node.weights[storage.attribute], storage, signs)
    return replace(node, weights={**node.weights, storage.attribute: flipped})
