"""When an operator that picks, splits or orders float values is sound.

See `matar_tf.tflite._float_rules`.
"""

from __future__ import annotations

from typing import Final

from matar_tf.tflite._graph_nodes import Node
from matar_tf.tflite._operator_rules import axes_of, rules

__all__: list[str] = []  # they register themselves

_MAX_SIDE: Final = 1 << 16  # of paddings and depths


def _axis_of(node: Node, axes: list[int], rank: int) -> int:
    node.expect(len(axes) == 1, "one axis", axes)
    (axis,) = axes_of(node, axes, rank)
    return axis


@rules("GATHER")
def _gather(node: Node) -> tuple[int, ...]:
    """Kernels refuse an index outside the table."""
    (table, places), options = (one.shape for one in node.data), node.options
    node.expect(options.batchDims == 0, "one table for all samples", options.batchDims)
    rank, axis = len(table), options.axis
    node.expect(-rank <= axis < rank, f"an axis of {rank}", axis)
    axis %= rank
    is_table = node.fixed == [0] and axis == 0 and len(places) > 0
    is_choice = node.fixed == [1] and axis > 0 and node.is_float
    node.keep_apart(is_table or is_choice, "a table of rows", node.fixed)
    return (*table[:axis], *places, *table[axis + 1 :])


@rules("ONE_HOT")
def _one_hot(node: Node) -> tuple[int, ...]:
    places, on, off = node.data
    depth = node.setting(1)
    fits = len(depth) == 1 and 1 <= depth[0] <= _MAX_SIDE
    node.expect(fits, f"a depth of 1 to {_MAX_SIDE}", depth)
    node.expect(on.size == off.size == 1, "two values", (on.shape, off.shape))
    rank = len(places.shape)
    given = node.options.axis
    axis = rank if given == -1 else given
    node.expect(0 <= axis <= rank, f"an axis of 0 to {rank}", given)
    node.keep_apart(axis > 0 and 0 not in node.fixed, "an axis of their own", given)
    return (*places.shape[:axis], depth[0], *places.shape[axis:])


@rules("PACK")
def _pack(node: Node) -> tuple[int, ...]:
    shapes, options = [one.shape for one in node.data], node.options
    count = options.valuesCount
    node.expect(count == len(shapes), f"{len(shapes)} values", count)
    node.expect(len({*shapes}) == 1, "tensors of one shape", shapes[:3])
    axis = _axis_of(node, [options.axis], len(shapes[0]) + 1)
    node.keep_apart(not node.fixed, "parts of samples", f"constants at {node.fixed}")
    return (*shapes[0][:axis], count, *shapes[0][axis:])


@rules("UNPACK")
def _unpack(node: Node) -> tuple[int, ...]:
    shape, options = node.data[0].shape, node.options
    axis = _axis_of(node, [options.axis], len(shape))
    count = len(node.outputs)
    node.expect(options.num == count == shape[axis], f"{shape[axis]} outputs", count)
    return (*shape[:axis], *shape[axis + 1 :])


@rules("SPLIT")
def _split(node: Node) -> tuple[int, ...]:
    shape, count = node.data[0].shape, len(node.outputs)
    axis = _axis_of(node, node.setting(0), len(shape))
    fits = node.options.numSplits == count and shape[axis] % count == 0
    node.expect(fits, f"equal parts of {shape[axis]}", count)
    return (*shape[:axis], shape[axis] // count, *shape[axis + 1 :])


@rules("SPLIT_V")
def _split_by_sizes(node: Node) -> list[tuple[int, ...]]:
    shape, sizes = node.data[0].shape, node.setting(1)
    axis = _axis_of(node, node.setting(2), len(shape))
    rest = shape[axis] - sum(size for size in sizes if size != -1)
    made = [rest if size == -1 else size for size in sizes]
    fits = node.options.numSplits == len(made) == len(node.outputs)
    fits = fits and min(made) > 0 and sum(made) == shape[axis]
    node.expect(fits, f"parts of {shape[axis]}", sizes)
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in made]


@rules("SLICE")
def _slice(node: Node) -> tuple[int, ...]:
    shape, begins, sizes = node.data[0].shape, node.setting(1), node.setting(2)
    fits = len(begins) == len(sizes) == len(shape)
    node.expect(fits, f"{len(shape)} bounds", (begins, sizes))
    made: list[int] = []
    for begin, size, length in zip(begins, sizes, shape, strict=True):
        made.append(length - begin if size == -1 else size)
        fits = 0 <= begin < length and 0 < made[-1] <= length - begin
        node.expect(fits, f"a slice within 0..{length}", (begin, size))
    # Its kernel keeps to the shape that it makes first, even where all are meant.
    node.keep_apart(False, "any number of samples", (begins, sizes))
    return tuple(made)


@rules("REVERSE_V2")
def _reverse(node: Node) -> tuple[int, ...]:
    shape = node.data[0].shape
    _axis_of(node, node.setting(1), len(shape))
    return shape


@rules("CUMSUM")
def _add_up(node: Node) -> tuple[int, ...]:
    shape = node.data[0].shape
    _axis_of(node, node.setting(1), len(shape))
    return shape


@rules("ARG_MAX", "ARG_MIN")
def _place_of_largest(node: Node) -> tuple[int, ...]:
    shape = node.data[0].shape
    axis = _axis_of(node, node.setting(1), len(shape))
    made = node.options.outputType
    node.expect(made == node.output.type, "results of the type of its option", made)
    return (*shape[:axis], *shape[axis + 1 :])


@rules("TOPK_V2")
def _largest(node: Node) -> tuple[int, ...]:
    shape, count = node.data[0].shape, node.setting(1)
    fits = len(shape) > 0 and len(count) == 1 and 1 <= count[0] <= shape[-1]
    node.expect(fits, "some of the last axis", (shape, count))
    node.keep_apart(len(shape) > 1, "an axis beside that of samples", shape)
    return (*shape[:-1], count[0])


@rules("BROADCAST_TO")
def _stretch(node: Node) -> tuple[int, ...]:
    shape, made = node.data[0].shape, node.setting(1)
    whole = (1,) * (len(made) - len(shape)) + shape
    fits = len(whole) == len(made) and all(
        m in (1, n) and n > 0 for m, n in zip(whole, made, strict=True)
    )
    node.expect(fits, f"a shape that {shape} is stretched to", made)
    node.keep_apart(False, "a shape for any number of samples", made)
    return tuple(made)


def _widths_of(node: Node) -> list[tuple[int, int, int]]:
    """Returns each axis' size and what is added before and after."""
    shape, tensor = node.data[0].shape, node.inputs[1]
    expected = (len(shape), 2)
    given = () if tensor is None else tensor.shape
    node.expect(given == expected, f"paddings of the shape {expected}", given)
    widths = node.setting(1)
    fits = all(0 <= one <= _MAX_SIDE for one in widths)
    node.expect(fits, f"paddings of 0 to {_MAX_SIDE}", widths)
    node.keep_apart(not any(widths[:2]), "no paddings of samples", widths)
    return [*zip(shape, widths[::2], widths[1::2], strict=True)]


@rules("PADV2")
def _pad(node: Node) -> tuple[int, ...]:
    node.expect(node.data[1].size == 1, "one value to pad with", node.data[1].shape)
    return tuple(map(sum, _widths_of(node)))


@rules("MIRROR_PAD")
def _mirror(node: Node) -> tuple[int, ...]:
    widths, mode = _widths_of(node), node.options.mode
    node.expect(mode in (0, 1), "a way to mirror that is known", mode)
    fits = all(max(pair) <= size - (mode == 0) for size, *pair in widths)
    node.expect(fits, "paddings that there are values for", widths)
    return tuple(map(sum, widths))
