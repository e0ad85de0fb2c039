"""What a node does to the grid of a tensor, by the row of its kind."""

from __future__ import annotations

from matar_tf.keras.rewrite.graph import Graph, Node
from matar_tf.layer_kinds import (
    ACTIVATIONS,
    LAYER_KINDS,
    Activation,
    LayerKind,
    Rounding,
)
from matar_tf.operators import Grid

__all__ = [
    "DEQUANTIZER",
    "IDENTITY",
    "INPUT",
    "INPUT_QUANTIZER",
    "NORM",
    "QUANTIZER",
    "SCALE",
    "SHARED",
    "activation_row",
    "grid_of",
    "has_kernel",
    "is_activation",
    "is_compute",
    "is_global_average",
    "is_identity",
    "is_quantizer",
    "is_relu",
    "keeps_grid",
    "keeps_lifted",
    "read_from",
    "rounds_by_itself",
    "row_of",
    "row_of_kind",
]

# The kinds that placing and laying out treat by themselves.
DEQUANTIZER = "Dequantize"
IDENTITY = "Identity"
INPUT = "InputLayer"
INPUT_QUANTIZER = "InputQuantize"
NORM = "MultiBitBatchNormalization"
QUANTIZER = "Quantize"
SCALE = "ChannelScale"
SHARED = "SharedLayer"

_FOREIGN_KIND = LayerKind()
_FOREIGN_FUNCTION = Activation(grid=Grid.OWN)


def row_of(node: Node) -> LayerKind:
    """Returns the row of a node's kind; one that stays in float promises nothing."""
    return _FOREIGN_KIND if node.float_reason else row_of_kind(node.kind)


def row_of_kind(kind: str) -> LayerKind:
    """Returns the row of a kind; a foreign one's promises nothing."""
    return LAYER_KINDS.get(kind, _FOREIGN_KIND)


def activation_row(node: Node) -> Activation:
    """Returns the row of a node's activation function, that of none if it has none."""
    if node.float_reason:
        return _FOREIGN_FUNCTION
    return ACTIVATIONS.get(node.activation, _FOREIGN_FUNCTION)


def is_activation(node: Node) -> bool:
    """Whether a node is an activation function by itself."""
    return row_of(node).activation is not None


def has_kernel(node: Node) -> bool:
    """Whether a node multiplies by a kernel, learned or not."""
    return row_of(node).kernel is not None


def is_compute(node: Node) -> bool:
    """Whether a node multiplies by a kernel that is learned."""
    return has_kernel(node) and not row_of(node).is_constant


def is_global_average(node: Node) -> bool:
    """Whether a node is a mean over all places."""
    return row_of(node).rounding is Rounding.MEAN


def is_identity(node: Node) -> bool:
    """Whether a node changes nothing once the network is trained."""
    is_linear = is_activation(node) and activation_row(node).operator is None
    return row_of(node).is_identity or (is_linear and activation_row(node).is_fused)


def read_from(graph: Graph, node: Node) -> Node:
    """Returns what a node's first input is, past layers that change nothing."""
    above = graph.parents(node)[0]
    while is_identity(above):
        above = graph.parents(above)[0]
    return above


def is_quantizer(node: Node) -> bool:
    """Whether a node puts a float tensor on a grid."""
    return node.kind in (INPUT_QUANTIZER, QUANTIZER)


def is_relu(node: Node) -> bool:
    """Whether a node is a function by itself that the one before it can compute."""
    return is_activation(node) and activation_row(node).grid is Grid.INPUT


def grid_of(graph: Graph, node: Node) -> Grid:
    """Returns on which grid a node computes, if it computes its values by itself."""
    if is_activation(node):
        return activation_row(node).grid or Grid.OWN
    # The converter drops a mean of one pixel.
    if is_global_average(node) and node.attributes.get("keepdims"):
        is_copy = set(graph.input_shape(node)[1:-1]) == {1}
        return Grid.KEPT if is_copy else Grid.OWN
    if row_of(node).rounding is Rounding.BLEND:
        is_blend = node.attributes.get("interpolation") == "bilinear"
        return Grid.INPUT if is_blend else Grid.KEPT
    return row_of(node).grid


def rounds_by_itself(node: Node) -> bool:
    """Whether a node's values often lie on halves, and fall by a rule of its kernel.

    A function by itself that has such a rule, a product, a scale by simple factors.
    """
    if is_activation(node):
        row = activation_row(node)
        return row.grid is Grid.OWN and row.rounding is not None
    return row_of(node).rounding is Rounding.PRODUCT or row_of(node).is_constant


def keeps_grid(graph: Graph, node: Node) -> bool:
    """Whether what a node makes lies on the grid of its input as it is."""
    return grid_of(graph, node) is Grid.KEPT


def keeps_lifted(node: Node) -> bool:
    """Whether a node does the same to a tensor with an axis of height 1."""
    # A noise shape counts the axes of the tensor as it was.
    has_shape = node.attributes.get("noise_shape") is not None
    return row_of(node).keeps_lifted and not has_shape
