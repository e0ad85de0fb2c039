"""When an operator that moves values, or blends neighbours, is sound.

See `matar_tf.tflite._operator_rules`.
"""

from __future__ import annotations

import math
from typing import Any, Final

from matar_tf.tflite._graph_nodes import Node, integers
from matar_tf.tflite._operator_rules import axes_of, expect_rank, rules
from matar_tf.tflite._schema import schema

__all__: list[str] = []  # they register themselves

_MAX_SIDE: Final = 1 << 16  # also of paddings, blocks and copies


@rules("CONCATENATION")
def _concatenate(node: Node) -> tuple[int, ...]:
    kind, none = (
        node.options.fusedActivationFunction,
        schema.ActivationFunctionType.NONE,
    )
    node.expect(kind == none, "no fused activation function", kind)
    shapes = [one.shape for one in node.data]
    rank = len(shapes[0])
    (axis,) = axes_of(node, [node.options.axis], rank)
    node.keep_apart(not node.fixed, "parts of samples", f"constants at {node.fixed}")
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    fits = len(others) == 1 and all(len(shape) == rank for shape in shapes)
    node.expect(fits, f"tensors that differ along axis {axis} alone", shapes)
    size = sum(shape[axis] for shape in shapes)
    return (*shapes[0][:axis], size, *shapes[0][axis + 1 :])


@rules("PAD")
def _pad(node: Node) -> tuple[int, ...]:
    shape, tensor = node.data[0].shape, node.inputs[1]
    expected = (len(shape), 2)
    node.expect(
        tensor is not None and tensor.shape == expected,
        f"paddings of the shape {expected}",
        tensor and tensor.shape,
    )
    widths, expected = node.setting(1), f"paddings of 0 to {_MAX_SIDE}"
    node.expect(all(0 <= one <= _MAX_SIDE for one in widths), expected, widths)
    node.keep_apart(not any(widths[:2]), f"{expected}, none of the batch", widths)
    pairs = zip(widths[::2], widths[1::2], strict=True)
    return tuple(size + sum(pair) for size, pair in zip(shape, pairs, strict=True))


@rules("RESHAPE")
def _reshape(node: Node) -> tuple[int, ...]:
    x = node.data[0]
    options = [] if node.options is None else integers(node.options.newShape)
    sizes = node.setting(1) if len(node.inputs) > 1 else options
    node.expect(options in ([], sizes), f"the shape {sizes}", options)
    place = sizes.index(-1) if node.is_float and -1 in sizes else 0
    rest = math.prod(sizes) // -1 if sizes[place : place + 1] == [-1] else 0
    made = list(sizes)
    if rest:
        made[place] = x.size // max(rest, 1)
    fits = all(size > 0 for size in made) and math.prod(made) == x.size
    fits = fits and (bool(made) or node.is_float)
    node.expect(fits, f"a shape of {x.size} elements, at most the first -1", sizes)
    if node.is_float:
        node.keep_apart(sizes[:1] == [-1], "a shape for any number of samples", sizes)
    return tuple(made)


@rules("EXPAND_DIMS")
def _expand(node: Node) -> tuple[int, ...]:
    shape = node.data[0].shape
    axes = node.setting(1)
    node.expect(len(axes) == 1, "one axis", axes)
    (axis,) = axes_of(node, axes, len(shape) + 1)
    return (*shape[:axis], 1, *shape[axis:])


@rules("SQUEEZE")
def _squeeze(node: Node) -> tuple[int, ...]:
    shape = node.data[0].shape
    given = [] if node.options is None else integers(node.options.squeezeDims)
    axes = axes_of(node, given, len(shape))
    sizes = [shape[axis] for axis in axes]
    node.expect(set(sizes) == {1}, "axes of size 1", sizes)
    return tuple(size for i, size in enumerate(shape) if i not in axes)


@rules("STRIDED_SLICE")
def _slice(node: Node) -> tuple[int, ...]:
    shape, options = node.data[0].shape, node.options
    begins, ends, steps = (node.setting(place) for place in (1, 2, 3))
    counts = [len(one) for one in (begins, ends, steps)]
    node.expect(counts == [len(shape)] * 3, f"{len(shape)} bounds", counts)
    others = (options.ellipsisMask, options.newAxisMask, options.offset)
    node.expect(not any(others), "a mask of begins, ends and axes alone", others)
    shrunk = options.shrinkAxisMask
    masked = shrunk & (options.beginMask | options.endMask)
    node.expect(not masked, "bounds of single indices", masked)
    is_whole = bool(options.beginMask & options.endMask & 1) and steps[0] == 1
    node.keep_apart(is_whole, "all samples", (begins, ends, steps))
    made: list[int] = []
    for axis, size in enumerate(shape):
        begin, end = _bounds(node, axis, size)
        fits = 0 <= begin < end <= size and 1 <= steps[axis] <= _MAX_SIDE
        node.expect(fits, f"a slice within 0..{size}", (begin, end, steps[axis]))
        if not _has(shrunk, axis):
            made.append(-(-(end - begin) // steps[axis]))
    return tuple(made)


def _has(mask: int, axis: int) -> bool:
    return bool(mask >> axis & 1)


def _bounds(node: Node, axis: int, size: int) -> tuple[int, int]:
    """Returns the first index of a slice and the one after its end."""
    options: Any = node.options
    begin, end = (node.setting(place)[axis] for place in (1, 2))
    begin, end = (at + size if at < 0 else at for at in (begin, end))
    if _has(options.shrinkAxisMask, axis):
        return begin, begin + 1
    begin = 0 if _has(options.beginMask, axis) else begin
    return begin, size if _has(options.endMask, axis) else end


@rules("TRANSPOSE")
def _transpose(node: Node) -> tuple[int, ...]:
    shape, order = node.data[0].shape, node.setting(1)
    expected = "an order of axes, that of samples first"
    node.expect(sorted(order) == list(range(len(shape))), expected, order)
    node.keep_apart(order[:1] == [0], expected, order)
    return tuple(shape[axis] for axis in order)


@rules("TILE")
def _tile(node: Node) -> tuple[int, ...]:
    shape, copies = node.data[0].shape, node.setting(1)
    fits = len(copies) == len(shape) and all(1 <= one <= _MAX_SIDE for one in copies)
    node.expect(fits, "copies of each axis but the first", copies)
    node.keep_apart(copies[0] == 1, "copies of each axis but the first", copies)
    return tuple(size * one for size, one in zip(shape, copies, strict=True))


@rules("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def _blocks(node: Node) -> tuple[int, ...]:
    x, block = node.data[0], node.options.blockSize
    expect_rank(node, x, 4)
    node.expect(1 <= block <= _MAX_SIDE, f"blocks of 1 to {_MAX_SIDE}", block)
    batch, height, width, channels = x.shape
    if node.name == "DEPTH_TO_SPACE":
        channels, rest = divmod(channels, block * block)
        node.expect(rest == 0 and channels > 0, f"blocks of {block}", x.shape)
        return batch, height * block, width * block, channels
    node.expect(height % block == width % block == 0, f"blocks of {block}", x.shape)
    return batch, height // block, width // block, channels * block * block


@rules("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def _resize(node: Node) -> tuple[int, ...]:
    x, options, size = node.data[0], node.options, node.setting(1)
    expect_rank(node, x, 4)
    is_centred = options.halfPixelCenters and not options.alignCorners
    node.expect(is_centred, "pixels' centres at halves", vars(options))
    sides = [*x.shape[1:3], *size]
    fits = len(size) == 2 and all(1 <= side <= _MAX_SIDE for side in sides)
    node.expect(fits, f"a height and a width of 1 to {_MAX_SIDE}", sides)
    return x.shape[0], size[0], size[1], x.shape[3]
