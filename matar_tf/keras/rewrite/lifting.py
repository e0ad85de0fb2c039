"""One-dimensional layers as two-dimensional ones on tensors of height 1.

The converter has no integer kernels for the former.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from matar_tf.keras.rewrite.graph import Node, Shape, TensorRef
from matar_tf.keras.rewrite.kinds import row_of

__all__ = ["lifted_axis", "lifted_node", "lifted_shape", "reshape_node"]


_IMAGE_RANK: Final = 4  # batch, height, width, channels


def lifted_shape(shape: Shape) -> Shape:
    """Returns the shape of a sequence, or of a vector, as an image of height 1."""
    return (shape[0], *[1] * (_IMAGE_RANK - len(shape)), *shape[1:])


def lifted_node(node: Node) -> Node:
    """Returns the two-dimensional layer of height 1 that does what a 1-D one does."""
    if row_of(node).lifted == node.kind:
        shapes = tuple(lifted_shape(one) for one in node.shapes)
        return replace(node, shapes=shapes)
    attributes: dict[str, Any] = dict(node.attributes)
    for key in ("kernel_size", "pool_size", "dilation_rate", "strides", "size"):
        if key in attributes:
            lengths = attributes[key]
            is_several = isinstance(lengths, (list, tuple))
            attributes[key] = (1, attributes[key][0] if is_several else lengths)
    if "depthwise_initializer" in attributes:
        # Depthwise kernels step equally on both axes; there is one row to step on.
        attributes["strides"] = (attributes["strides"][1],) * 2
    for key in ("padding", "cropping"):
        if isinstance(attributes.get(key), (list, tuple)):
            attributes[key] = ((0, 0), attributes[key])
    return replace(
        node,
        kind=str(row_of(node).lifted),
        attributes=attributes,
        shapes=tuple(
            lifted_shape(one) if len(one) == 3 else one for one in node.shapes
        ),
        weights={
            name: value[None] if value.ndim > 1 else value
            for name, value in node.weights.items()
        },
    )


def lifted_axis(node: Node) -> Node:
    """Returns a node that does the same to tensors with an axis of height 1."""
    axis = node.attributes.get("axis")
    attributes = dict(node.attributes)
    if row_of(node).min_inputs > 1 and isinstance(axis, int) and axis >= 1:
        attributes["axis"] = axis + _IMAGE_RANK - len(node.shapes[0])
    shapes = tuple(lifted_shape(one) for one in node.shapes)
    return replace(node, attributes=attributes, shapes=shapes)


def reshape_node(name: str, tensor: TensorRef, shape: Shape, origin: str) -> Node:
    """Returns a node that gives a tensor a shape, of at most one unknown size."""
    sizes = tuple(-1 if size is None else size for size in shape[1:])
    return Node(
        name=name,
        kind="Reshape",
        origin=origin,
        shapes=(shape,),
        arguments=(tensor,),
        attributes={"name": name, "target_shape": sizes},
    )
