"""Layers that do the same to each frame, as layers on all frames at once.

Frames lie below each other as one tall image. A kernel then sees rows of two frames at
once between them; those results are cut out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np

from matar_tf.keras.rewrite.graph import Node, Shape, TensorRef
from matar_tf.keras.rewrite.kinds import row_of
from matar_tf.keras.rewrite.lifting import lifted_node, reshape_node
from matar_tf.keras.rewrite.making import Lowering, Site, lowers, made
from matar_tf.layer_kinds import ACTIVATIONS

__all__ = ["FRAMES", "frame_node"]

FRAMES: Final[dict[str, Lowering]] = {}  # by kind
_KERAS: Final = "keras.layers"
_SHAPES: Final = ("Flatten", "Reshape")
_WINDOWS: Final = ("Conv2D", "DepthwiseConv2D")
_POOLS: Final = ("AveragePooling2D", "MaxPooling2D")
_GLOBAL_POOLS: Final = {
    f"Global{one}{rank}D": f"{one}2D"
    for one in ("AveragePooling", "MaxPooling")
    for rank in (1, 2)
}
_PLACES: Final = (
    *("Activation", "BatchNormalization", "Dense", "Dropout", "ELU", "GaussianDropout"),
    *("GaussianNoise", "LeakyReLU", "ReLU", "Rescaling"),
)
_SEQUENCES: Final = ("AveragePooling1D", "Conv1D", "MaxPooling1D")


def frame_node(node: Node) -> Node | None:
    """Returns the layer of each frame as if it was the layer itself, or None.

    None for a layer that is not Keras' own, or that no layer on all frames does.
    """
    told = cast("Mapping[str, Any]", node.attributes["layer"])
    config, kind = dict(told["config"]), str(told["class_name"])
    if told.get("module") != _KERAS or told.get("registered_name") is not None:
        return None
    activation = config.get("activation", "linear") or "linear"
    given = [one for one in node.keywords.values() if one is not None]
    if not isinstance(activation, str) or activation not in ACTIVATIONS or given:
        return None
    row_name = row_of(replace(node, kind=kind)).activation
    inner = replace(
        node,
        kind=kind,
        keywords={},
        attributes={**config, "name": node.name},
        activation=row_name or activation,
    )
    if not _is_possible(inner):
        return None
    # The last, however many there are.
    axis = {"axis": -1} if "axis" in config else {}
    return replace(inner, attributes={**inner.attributes, **axis})


def _is_possible(inner: Node) -> bool:
    attributes, shape = inner.attributes, inner.shapes[0]
    if inner.attributes.get("data_format") not in (None, "channels_last"):
        return False
    if inner.kind in _PLACES:
        axis = attributes.get("axis", -1)
        axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
        is_last = axis in (-1, len(shape) - 2)  # the frame's own
        return is_last and attributes.get("noise_shape") is None
    if inner.kind in (*_SHAPES, *_GLOBAL_POOLS):
        return not attributes.get("keepdims") and None not in shape[2:]
    if inner.kind in _SEQUENCES:
        return attributes["padding"] != "causal"
    if inner.kind in _POOLS:
        is_apart = _pair(attributes["pool_size"]) == _pair(attributes["strides"])
        return is_apart and attributes["padding"] == "valid" and None not in shape[2:]
    return inner.kind in _WINDOWS and None not in shape[2:]


def _pair(value: object) -> tuple[int, int]:
    sizes = [int(one) for one in np.ravel(cast("Any", value))]
    return sizes[0], sizes[-1]


@lowers(FRAMES, "TimeDistributed")
def _frames(node: Node, site: Site) -> list[Node]:
    inner = frame_node(node)
    if inner is None:
        return [node]
    if inner.kind in _SHAPES:
        return [reshape_node(node.name, node.inputs[0], node.shapes[0], node.origin)]
    if inner.kind in _SEQUENCES:
        return [lifted_node(inner)]
    if inner.kind in _GLOBAL_POOLS:
        return _pooled(inner, site)
    if len(site.shape(node.inputs[0])) < 5:
        return [inner]
    if inner.kind in _PLACES:
        return _stacked(inner, site)
    return _windowed(inner, site)


def _shaped(inner: Node, site: Site, source: TensorRef, shape: Shape) -> Node:
    return reshape_node(
        site.free_name(f"{inner.name}_shape"), source, shape, inner.origin
    )


def _times(count: int | None, size: int | None) -> int | None:
    return None if count is None or size is None else count * size


def _known(sizes: Shape) -> list[int]:
    return [int(size or 0) for size in sizes]


def _stacked(inner: Node, site: Site) -> list[Node]:
    """What treats each place by itself."""
    batch, count, height, *rest = site.shape(inner.inputs[0])
    tall = _shaped(inner, site, inner.inputs[0], (batch, _times(count, height), *rest))
    shape = (*tall.shapes[0][:-1], inner.shapes[0][-1])
    middle = replace(inner, arguments=(tall.output,), shapes=(shape,))
    return [tall, middle, _shaped(inner, site, middle.output, inner.shapes[0])]


def _pooled(inner: Node, site: Site) -> list[Node]:
    """All places of a frame side by side, and a pool over them."""
    batch, count, *sizes, channels = site.shape(inner.inputs[0])
    width = math.prod(_known(tuple(sizes)))
    wide = _shaped(inner, site, inner.inputs[0], (batch, count, width, channels))
    window = {"pool_size": (1, width), "strides": (1, width), "padding": "valid"}
    kind, shape = _GLOBAL_POOLS[inner.kind], (batch, count, 1, channels)
    pool = made(inner, kind, inner.name, [wide.output], window, shapes=(shape,))
    return [wide, pool, _shaped(inner, site, pool.output, inner.shapes[0])]


def _windowed(inner: Node, site: Site) -> list[Node]:
    """Frames with zeros around them, below each other, and of the results the rows.

    Each frame takes a whole number of strides, so that all begin at the same place of a
    window.
    """
    batch, count = site.shape(inner.inputs[0])[:2]
    height, width, channels = _known(site.shape(inner.inputs[0])[2:])
    rows, columns, filters = _known(inner.shapes[0][2:])
    attributes = inner.attributes
    size = _pair(attributes.get("kernel_size", attributes.get("pool_size")))
    strides, dilations = (
        _pair(attributes.get(name, 1)) for name in ("strides", "dilation_rate")
    )
    reach = [(m - 1) * n + 1 for m, n in zip(size, dilations, strict=True)]
    top, left = (
        max((made_here - 1) * step + far - given, 0) // 2
        if attributes["padding"] == "same"
        else 0
        for made_here, step, far, given in zip(
            (rows, columns), strides, reach, (height, width), strict=True
        )
    )
    used = [
        (made_here - 1) * step + far
        for made_here, step, far in zip((rows, columns), strides, reach, strict=True)
    ]
    right = max(used[1] - width - left, 0)
    pitch = math.ceil(max(used[0], top + height) / strides[0]) * strides[0]
    more = max(reach[0] - strides[0], 0)
    nodes: list[Node] = []

    def add(node: Node) -> TensorRef:
        nodes.append(node)
        return node.output

    def shaped(source: TensorRef, *shape: int | None) -> TensorRef:
        return add(_shaped(inner, site, source, (batch, *shape)))

    def moved(
        kind: str, source: TensorRef, edges: Any, *shape: int | None
    ) -> TensorRef:
        key = "cropping" if kind.startswith("Cropping") else "padding"
        name = site.free_name(f"{inner.name}_{key}")
        shapes = ((batch, *shape),)
        return add(made(inner, kind, name, [source], {key: edges}, shapes=shapes))

    x, values = inner.inputs[0], width * channels
    if pitch > height:
        x = shaped(x, count, height, values)
        edges = ((0, 0), (top, pitch - height - top))
        x = moved("ZeroPadding2D", x, edges, count, pitch, values)
    tall = _times(count, pitch)
    x = shaped(x, tall, width, channels)
    if more or left or right:
        edges, tall = ((0, more), (left, right)), None if tall is None else tall + more
        wide = left + width + right
        x = moved("ZeroPadding2D", x, edges, tall, wide, channels)
    found = pitch // strides[0]
    shape = (batch, _times(count, found), columns, filters)
    attributes = {**attributes, "padding": "valid"}
    x = add(replace(inner, arguments=(x,), attributes=attributes, shapes=(shape,)))
    if found > rows:
        x = shaped(x, count, found, columns * filters)
        edges = ((0, 0), (0, found - rows))
        x = moved("Cropping2D", x, edges, count, rows, columns * filters)
    shaped(x, count, rows, columns, filters)
    return nodes
