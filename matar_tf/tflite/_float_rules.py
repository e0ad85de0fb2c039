"""When an operator that computes in float is sound: types, and the shape that it makes.

Layers without an integer kernel are made of these, and of integers and truth values
that choose among floats. A file holds them as they were converted, for one sample;
where samples would meet if there were several, the rules note it (`Node.keep_apart`).

Source: the ``Prepare`` functions of TensorFlow Lite's ``kernels/*.cc``, and what the
interpreters do (``tests/test_float_rules.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from matar_tf.operators import OPERATORS, Grid
from matar_tf.tflite._graph_nodes import Node
from matar_tf.tflite._operator_rules import (
    broadcast,
    check_padding,
    expect_function,
    expect_rank,
    rules,
    windows,
)
from matar_tf.tflite._schema import schema, type_name

__all__ = ["check_float_types", "note_products"]

_KINDS: Final = schema.TensorType
_FLOAT: Final = (_KINDS.FLOAT32,)
_TRUTH: Final = (_KINDS.BOOL,)
_NUMBERS: Final = (_KINDS.FLOAT32, _KINDS.INT32)
_ANY: Final = (*_NUMBERS, _KINDS.INT64, _KINDS.BOOL)

_COMPARES: Final = (
    *("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"),
)
# What they take, all of one type, which they make.
_TAKEN: Final = {
    **dict.fromkeys(
        (
            *(name for name, row in OPERATORS.items() if row.grid is Grid.KEPT),
            *("BROADCAST_TO", "PACK", "REVERSE_V2", "SLICE", "SPLIT", "SPLIT_V"),
            *("TILE", "UNPACK"),
        ),
        _ANY,
    ),
    **dict.fromkeys(("ADD", "MAXIMUM", "MINIMUM", "MUL", "SUB"), _NUMBERS),
    **dict.fromkeys(("MAX_POOL_2D", "REDUCE_MAX", "DEPTH_TO_SPACE"), _FLOAT),
    **dict.fromkeys(("LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR"), _TRUTH),
    **dict.fromkeys(("REDUCE_ALL", "REDUCE_ANY"), _TRUTH),
}
# Axes of operands that these stretch; tflite-runtime's kernels end the process at more,
# those of a product of integers too.
_MAX_AXES: Final = 4
_STRETCHED: Final = (
    *("FLOOR_DIV", "FLOOR_MOD", "LOGICAL_AND", "LOGICAL_OR", "POW", "PRELU"),
    *("SELECT_V2", "SQUARED_DIFFERENCE", *_COMPARES),
)


def check_float_types(node: Node) -> None:
    """Checks the types of what an operator beside the integer graph reads and makes."""
    given = [one.type for one in node.data]
    first, made = given[0], [one.type for one in node.outputs]
    taken, same, results = _TAKEN.get(node.name, _FLOAT), given, [first] * len(made)
    if node.name == "MUL" and first == _KINDS.INT32:
        _check_axes(node)
    if node.name in _COMPARES:
        taken, results = _NUMBERS, [_KINDS.BOOL]
    elif node.name in ("ARG_MAX", "ARG_MIN"):
        known = made[0] in (_KINDS.INT32, _KINDS.INT64)
        results = made if known else [_KINDS.INT32]
    elif node.name == "CAST":
        taken, results = _ANY, made if made[0] in _ANY else [first]
    elif node.name in ("SELECT", "SELECT_V2"):
        _expect_type(node, _TRUTH, first)
        taken, same, results = _ANY, given[1:], given[1:2]
    elif node.name == "ONE_HOT":
        _expect_type(node, (_KINDS.INT32,), first)
        taken, same, results = _NUMBERS, given[1:], given[1:2]
    elif node.name == "GATHER":
        _expect_type(node, (_KINDS.INT32,), given[1])
        taken, same = _ANY, given[:1]
    elif node.name == "TOPK_V2":
        results = [first, _KINDS.INT32]
    for kind in same:
        _expect_type(node, taken, kind)
    fits = len(set(same)) == 1 and made == results
    types = [*map(type_name, given), *map(type_name, made)]
    node.expect(fits, "operands of one type, and results that follow from it", types)


def _expect_type(node: Node, taken: tuple[int, ...], kind: int) -> None:
    known = "/".join(map(type_name, taken))
    node.expect(kind in taken, f"data of types {known}", type_name(kind))


@rules("ABS", "CEIL", "COS", "FLOOR", "HARD_SWISH", "LOG", "LOGICAL_NOT", "NEG")
@rules("RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIGN", "SIN", "SQRT")
@rules("CAST", "SQUARE")
def _each_element(node: Node) -> tuple[int, ...]:
    return node.data[0].shape


@rules("L2_NORMALIZATION", "LOG_SOFTMAX")
def _along_last(node: Node) -> tuple[int, ...]:
    shape = node.data[0].shape
    fits = 1 <= len(shape) <= _MAX_AXES
    node.expect(fits, f"a tensor of 1 to {_MAX_AXES} axes", shape)
    node.keep_apart(len(shape) > 1, "an axis beside that of samples", shape)
    _expect_no_function(node)
    return shape


def _expect_no_function(node: Node) -> None:
    kind = getattr(node.options, "fusedActivationFunction", 0)
    node.expect(kind == 0, "no fused activation function", kind)


@rules("DIV", "FLOOR_DIV", "FLOOR_MOD", "LOGICAL_AND", "LOGICAL_OR", "POW", "PRELU")
@rules("SQUARED_DIFFERENCE", "SELECT_V2", *_COMPARES)
def _stretched(node: Node) -> tuple[int, ...]:
    _expect_no_function(node)
    made = broadcast(node)
    shapes = [one.shape for one in node.data]
    if node.name == "PRELU":
        node.expect(made == shapes[0], f"slopes that fit {shapes[0]}", shapes[1])
    if node.name in _STRETCHED:
        _check_axes(node)
    return made


def _check_axes(node: Node) -> None:
    """Checks that a kernel that stretches operands takes so many axes."""
    shapes = {one.shape for one in node.data}
    fits = len(shapes) == 1 or max(map(len, shapes)) <= _MAX_AXES
    node.expect(fits, f"operands of at most {_MAX_AXES} axes, or alike", shapes)


@rules("SELECT")
def _select(node: Node) -> tuple[int, ...]:
    shapes = [one.shape for one in node.data]
    node.expect(len({*shapes}) == 1, "a choice for each element", shapes)
    node.keep_apart(not node.fixed, "choices among samples", f"those at {node.fixed}")
    return shapes[0]


@rules("BATCH_MATMUL")
def _matmul(node: Node) -> tuple[int, ...]:
    a, b = (one.shape for one in node.data)
    fits = min(len(a), len(b)) >= 2
    node.expect(fits, "matrices", (a, b))
    rows, depth = a[-2:][::-1] if node.options.adjX else a[-2:]
    same, columns = b[-2:][::-1] if node.options.adjY else b[-2:]
    node.expect(depth == same, f"matrices of {depth} rows", b)
    rank = max(len(a), len(b))
    whole = [(1,) * (rank - len(shape)) + shape[:-2] for shape in (a, b)]
    whole = [shape[-(rank - 2) :] if rank > 2 else () for shape in whole]
    made = tuple(map(max, *whole)) if rank > 2 else ()
    fits = all(m in (1, n) for one in whole for m, n in zip(one, made, strict=True))
    node.expect(fits, "stacks of matrices that fit each other", (a, b))
    result = (*made, rows, columns)
    is_dense = node.fixed == [1] and len(b) == 2 and not node.options.adjX
    is_stack = rank > 2 and all(
        len(shape) < rank or shape[0] == 1
        if place in node.fixed
        else len(shape) == rank and shape[0] == result[0]
        for place, shape in enumerate((a, b))
    )
    node.keep_apart(is_dense or is_stack, "a matrix for each sample", (a, b))
    return result


@rules("CONV_3D")
def _volume(node: Node) -> tuple[int, ...]:
    x = node.data[0]
    *size, depth, channels = _volume_kernel(node)
    node.expect(x.shape[4] == depth, f"a kernel for {x.shape[4]} input channels", depth)
    made = windows(node, size, *_volume_steps(node))
    return (x.shape[0], *made, channels)


@rules("CONV_3D_TRANSPOSE")
def _transposed_volume(node: Node) -> tuple[int, ...]:
    """The size of its output says which of those it is whose windows fit."""
    x = node.data[0]
    *size, channels, depth = _volume_kernel(node)
    node.expect(x.shape[4] == depth, f"a kernel for {x.shape[4]} input channels", depth)
    made, (strides, _) = node.setting(0), _volume_steps(node)
    fits = len(made) == 5 and (made[0], made[4]) == (x.shape[0], channels)
    node.expect(fits, f"a shape of a volume of {channels} channels", made)
    is_same = check_padding(node) == schema.Padding.SAME
    for axis in range(3):
        length = made[axis + 1] - (0 if is_same else size[axis] - 1)
        node.expect(
            length > 0 and -(-length // strides[axis]) == x.shape[axis + 1],
            f"a size that windows of {size[axis]} make of {x.shape[axis + 1]}",
            made[axis + 1],
        )
    node.keep_apart(False, "a shape for any number of samples", made)
    return tuple(made)


def _volume_kernel(node: Node) -> tuple[int, ...]:
    expect_function(node)
    expect_rank(node, node.data[0], 5)
    kernel, bias = node.data[1], node.bias
    expect_rank(node, kernel, 5)
    channels = kernel.shape[4 if node.name == "CONV_3D" else 3]
    if bias is not None:
        node.expect(bias.shape == (channels,), f"a bias of {channels}", bias.shape)
    return kernel.shape


def _volume_steps(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    options = node.options
    strides = options.strideD, options.strideH, options.strideW
    dilations = (
        options.dilationDFactor,
        options.dilationHFactor,
        options.dilationWFactor,
    )
    node.expect(dilations == (1, 1, 1), "windows without holes", dilations)
    return strides, dilations


def note_products(nodes: Iterable[Node]) -> None:
    """Notes products of matrices that LiteRT 2.3 gets wrong for several samples.

    Those whose second matrix is dequantized right before: of a graph that was resized,
    rows of later samples are of other tensors (`tests/with_tensorflow/test_trial.py`).
    """
    fresh: set[int] = set()
    for node in nodes:
        if node.name == "DEQUANTIZE" and not node.fixed:
            fresh.update(map(id, node.outputs))
        if node.name == "BATCH_MATMUL":
            is_fresh = id(node.data[1]) in fresh
            node.keep_apart(not is_fresh, "another second matrix", "a dequantized one")
