"""Pools over three axes, as pools over two: each axis by itself, or all laid flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from matar_tf.keras.rewrite.graph import Node, Shape, TensorRef
from matar_tf.keras.rewrite.lifting import reshape_node
from matar_tf.keras.rewrite.making import Lowering, Site, lowers, made

__all__ = ["VOLUMES"]

VOLUMES: Final[dict[str, Lowering]] = {}  # by kind
_AXES: Final = ("depth", "height", "width")
_FLAT: Final = {
    f"{kind}Pooling3D": f"{kind}Pooling2D"
    for kind in ("Average", "GlobalAverage", "GlobalMax", "Max")
}


@lowers(VOLUMES, "AveragePooling3D", "MaxPooling3D")
def _pooled(node: Node, site: Site) -> list[Node]:
    """One axis after the other: the largest, and means, do not depend on the order.

    Of ``[depth, height, width, channels]`` the width is pooled with depth and height as
    one axis, the height with width and channels as one, the depth with the others.
    """
    batch, depth, height, width, channels = _sizes(site, node)
    _, new_depth, new_height, new_width, _ = (size or 1 for size in node.shapes[0])
    windows, strides = (
        _three(node.attributes[name]) for name in ("pool_size", "strides")
    )
    rows, columns = depth * height, new_height * new_width
    wide = new_width * channels
    # Axis, and the image that it is one of, before and after.
    steps = (
        (2, (rows, width, channels), (rows, new_width, channels)),
        (1, (depth, height, wide), (depth, new_height, wide)),
        (0, (depth, columns, channels), (new_depth, columns, channels)),
    )
    found: list[Node] = []
    source = node.inputs[0]
    for axis, given, gives in steps:
        window, stride = windows[axis], strides[axis]
        if window == stride == 1:
            continue
        flat = _reshaped(node, site, source, (batch, *given))
        pool = made(
            node,
            _FLAT[node.kind],
            site.free_name(f"{node.name}_{_AXES[axis]}"),
            [flat.output],
            {
                "pool_size": (window, 1) if axis == 0 else (1, window),
                "strides": (stride, 1) if axis == 0 else (1, stride),
                "padding": node.attributes["padding"],
            },
            shapes=((batch, *gives),),
        )
        found += [flat, pool]
        source = pool.output
    last = reshape_node(node.name, source, node.shapes[0], node.origin)
    return [*found, last]


@lowers(VOLUMES, "GlobalAveragePooling3D", "GlobalMaxPooling3D")
def _pooled_whole(node: Node, site: Site) -> list[Node]:
    """All places on two axes, and a pool over them."""
    batch, depth, height, width, channels = _sizes(site, node)
    shape = (batch, depth * height, width, channels)
    flat = _reshaped(node, site, node.inputs[0], shape)
    keepdims = bool(node.attributes.get("keepdims"))
    name = site.free_name(f"{node.name}_pool") if keepdims else node.name
    pool = made(
        node,
        _FLAT[node.kind],
        name,
        [flat.output],
        {"keepdims": False},
        shapes=((batch, channels),),
    )
    if not keepdims:
        return [flat, pool]
    last = reshape_node(node.name, pool.output, node.shapes[0], node.origin)
    return [flat, pool, last]


def _reshaped(node: Node, site: Site, source: TensorRef, shape: Shape) -> Node:
    name = site.free_name(f"{node.name}_flat")
    return reshape_node(name, source, shape, node.origin)


def _sizes(site: Site, node: Node) -> tuple[int | None, int, int, int, int]:
    batch, *sizes = site.shape(node.inputs[0])
    return (batch, *cast("tuple[int, int, int, int]", tuple(sizes)))


def _three(value: object) -> Sequence[int]:
    return (value,) * 3 if isinstance(value, int) else cast("Sequence[int]", value)
