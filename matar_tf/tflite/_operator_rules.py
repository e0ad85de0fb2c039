"""When an operator is sound: the shape that it makes, and what its options may be.

A rule returns the shape of the output and refuses what the kernels do not check: the
native ones trust a file, and end the process or read foreign memory where it is wrong.
Those that move values are in `matar_tf.tflite._moving_rules`, what holds for all
operators alike is in `matar_tf.tflite._graph_rules`.

Source: the shape functions of TensorFlow Lite, ``kernels/*.cc`` (``Prepare``), and
``kernels/padding.h``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from matar_tf.operators import registrar
from matar_tf.tflite._graph_nodes import GraphTensor, Node
from matar_tf.tflite._schema import schema

__all__ = [
    "RULES",
    "axes_of",
    "broadcast",
    "check_padding",
    "expect_function",
    "expect_rank",
    "rules",
    "windows",
]

_FUSED: Final = (
    schema.ActivationFunctionType.NONE,
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU6,
)
_FUSED_IN_FLOAT: Final = (*_FUSED, schema.ActivationFunctionType.RELU_N1_TO_1)
_MAX_STRIDE: Final = 1024  # also of dilations: beyond any image, far from overflows
_MAX_ALPHA: Final = 1024.0
_MAX_BETA: Final = 100.0


# Returns the shape of each output, or one that they all have.
Rule: TypeAlias = "Callable[[Node], tuple[int, ...] | list[tuple[int, ...]]]"
RULES: Final[dict[str, Rule]] = {}  # by the operator's name
rules = registrar(RULES)


def expect_rank(node: Node, tensor: GraphTensor, rank: int) -> None:
    node.expect(len(tensor.shape) == rank, f"a tensor of rank {rank}", tensor.shape)


def expect_function(node: Node) -> None:
    kind = node.options.fusedActivationFunction
    known = _FUSED_IN_FLOAT if node.is_float else _FUSED
    node.expect(kind in known, "a fused activation function that is known", kind)


def check_padding(node: Node) -> int:
    padding = node.options.padding
    known = (schema.Padding.SAME, schema.Padding.VALID)
    node.expect(padding in known, "a padding that is known", padding)
    return padding


def _check_steps(node: Node, what: str, pair: Sequence[int]) -> None:
    fits = all(1 <= one <= _MAX_STRIDE for one in pair)
    node.expect(fits, f"{what} of 1 to {_MAX_STRIDE}", pair)


def _windows(node: Node, size: tuple[int, int]) -> tuple[int, ...]:
    """Returns height and width of what windows over an image make."""
    options = node.options
    dilations = (
        getattr(options, "dilationHFactor", 1),
        getattr(options, "dilationWFactor", 1),
    )
    return windows(node, size, (options.strideH, options.strideW), dilations)


def windows(
    node: Node, size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """Returns the sizes of what windows make, along the axes after that of samples."""
    padding = check_padding(node)
    _check_steps(node, "strides", strides)
    _check_steps(node, "dilations", dilations)
    made: list[int] = []
    for axis, (window, stride, dilation) in enumerate(
        zip(size, strides, dilations, strict=True)
    ):
        node.expect(window >= 1, "windows of at least 1", size)
        extent, length = (window - 1) * dilation + 1, node.data[0].shape[axis + 1]
        if padding == schema.Padding.SAME:
            made.append(-(-length // stride))
        else:
            node.expect(extent <= length, f"windows within {length}", extent)
            made.append((length - extent) // stride + 1)
    return tuple(made)


def _kernel(node: Node, rank: int) -> tuple[int, ...]:
    """Returns the shape of a kernel."""
    expect_function(node)
    shape = node.data[1].shape
    node.expect(len(shape) == rank, f"a kernel of rank {rank}", shape)
    return shape


def _check_channels(node: Node, channels: int, axis: int) -> None:
    """Checks that bias and steps of a kernel fit its output channels."""
    kernel, bias = node.data[1], node.bias
    if bias is not None:
        node.expect(bias.shape == (channels,), f"a bias of {channels}", bias.shape)
    if len(kernel.scale) > 1:
        node.expect(kernel.axis == axis, f"steps along axis {axis}", kernel.axis)


@rules("CONV_2D")
def _conv(node: Node) -> tuple[int, ...]:
    x = node.data[0]
    expect_rank(node, x, 4)
    channels, *size, depth = _kernel(node, 4)
    groups, rest = divmod(x.shape[3], depth)
    node.expect(
        rest == 0 and channels % max(groups, 1) == 0,
        f"a kernel for {x.shape[3]} input channels",
        node.data[1].shape,
    )
    _check_channels(node, channels, 0)
    return (x.shape[0], *_windows(node, (size[0], size[1])), channels)


@rules("DEPTHWISE_CONV_2D")
def _depthwise(node: Node) -> tuple[int, ...]:
    x, factor = node.data[0], node.options.depthMultiplier
    expect_rank(node, x, 4)
    first, *size, channels = _kernel(node, 4)
    node.expect(
        first == 1 and channels == x.shape[3] * factor,
        f"a kernel of {factor} times {x.shape[3]} channels",
        node.data[1].shape,
    )
    _check_channels(node, channels, 3)
    return (x.shape[0], *_windows(node, (size[0], size[1])), channels)


@rules("TRANSPOSE_CONV")
def _transposed_conv(node: Node) -> tuple[int, ...]:
    """The size of its output says which of those it is whose windows fit."""
    x, options = node.data[0], node.options
    expect_rank(node, x, 4)
    node.keep_apart(not node.is_float, "outputs in int8", node.output.type)
    channels, *size, depth = _kernel(node, 4)
    node.expect(x.shape[3] == depth, f"a kernel for {x.shape[3]} input channels", depth)
    _check_channels(node, channels, 0)
    made = node.setting(0)
    fits = len(made) == 4 and (made[0], made[3]) == (x.shape[0], channels)
    node.expect(fits, f"a shape of an image of {channels} channels", made)
    check_padding(node)
    strides = (options.strideH, options.strideW)
    _check_steps(node, "strides", strides)
    is_same = options.padding == schema.Padding.SAME
    # XNNPACK takes no others, and the builtin kernel no batches.
    fits = not is_same or all(m >= n for m, n in zip(size, strides, strict=True))
    node.expect(fits, f"windows of at least the strides {strides}", size)
    for axis in (0, 1):
        length = made[axis + 1] - (0 if is_same else size[axis] - 1)
        node.expect(
            0 < size[axis] <= _MAX_STRIDE
            and -(-length // strides[axis]) == x.shape[axis + 1],
            f"a size that windows of {size[axis]} make of {x.shape[axis + 1]}",
            made[axis + 1],
        )
    return tuple(made)


@rules("FULLY_CONNECTED")
def _dense(node: Node) -> tuple[int, ...]:
    x, options = node.data[0], node.options
    channels, depth = _kernel(node, 2)
    is_plain = options.weightsFormat == 0 and not options.asymmetricQuantizeInputs
    node.expect(is_plain, "weights in the default format", options.weightsFormat)
    _check_channels(node, channels, 0)
    if options.keepNumDims:
        node.expect(x.shape[-1] == depth, f"{x.shape[-1]} inputs", depth)
        return (*x.shape[:-1], channels)
    rows, rest = divmod(math.prod(x.shape[1:]), depth)
    node.expect(rest == 0, f"rows of {x.size} inputs in all", depth)
    return (x.shape[0] * rows, channels)


@rules("AVERAGE_POOL_2D", "MAX_POOL_2D")
def _pool(node: Node) -> tuple[int, ...]:
    x, options = node.data[0], node.options
    expect_rank(node, x, 4)
    expect_function(node)
    size = _windows(node, (options.filterHeight, options.filterWidth))
    return (x.shape[0], *size, x.shape[3])


@rules("ADD", "MUL", "SUB")
def _arithmetic(node: Node) -> tuple[int, ...]:
    expect_function(node)
    return _elementwise(node)


@rules("MAXIMUM", "MINIMUM")
def _extremes(node: Node) -> tuple[int, ...]:
    return _elementwise(node)


def _elementwise(node: Node) -> tuple[int, ...]:
    if node.is_float:
        return broadcast(node)
    a, b = (one.shape for one in node.data)
    fits = (a[:1], len(a)) == (b[:1], len(b)) and all(
        m == n or 1 in (m, n) for m, n in zip(a, b, strict=True)
    )
    node.expect(fits, f"a tensor that fits {a}", b)
    return tuple(map(max, a, b))


def broadcast(node: Node) -> tuple[int, ...]:
    """Returns what float operands make together, of which some may be constants."""
    shapes = [one.shape for one in node.data]
    rank = max(map(len, shapes))
    whole = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    made = tuple(max(sizes) for sizes in zip(*whole, strict=True))
    fits = all(m in (1, n) for shape in whole for m, n in zip(shape, made, strict=True))
    node.expect(fits, "operands that fit each other", shapes)
    for place, shape in enumerate(shapes):
        is_along = len(shape) == rank and shape[:1] == made[:1]
        has_one = len(shape) < rank or shape[:1] == (1,)
        holds = has_one if place in node.fixed else is_along
        node.keep_apart(holds and rank > 0, "operands along one axis of samples", shape)
    return made


@rules("REDUCE_ALL", "REDUCE_ANY", "REDUCE_MIN", "REDUCE_PROD", "SUM")
@rules("MEAN", "REDUCE_MAX")
def _reduce(node: Node) -> tuple[int, ...]:
    shape = node.data[0].shape
    axes = axes_of(node, node.setting(1), len(shape))
    if node.options.keepDims:
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def axes_of(node: Node, axes: list[int], rank: int) -> set[int]:
    """Returns axes, counted from the front; none is that of samples."""
    found = {axis % rank for axis in axes if -rank <= axis < rank}
    expected = f"different axes of 1 to {rank - 1}"
    node.expect(0 < len(found) == len(axes), expected, axes)
    node.keep_apart(0 not in found, expected, axes)
    return found


@rules("LEAKY_RELU")
def _leaky(node: Node) -> tuple[int, ...]:
    alpha = node.options.alpha
    node.expect(0 < alpha <= _MAX_ALPHA, f"a slope in 0..{_MAX_ALPHA}", alpha)
    return node.data[0].shape


@rules("SOFTMAX")
def _softmax(node: Node) -> tuple[int, ...]:
    beta, shape = node.options.beta, node.data[0].shape
    node.expect(0 < beta <= _MAX_BETA, f"a beta in 0..{_MAX_BETA}", beta)
    node.keep_apart(len(shape) > 1, "an axis beside that of samples", shape)
    return shape


@rules("QUANTIZE", "DEQUANTIZE", "RELU", "RELU6")
@rules("ELU", "EXP", "GELU", "LOGISTIC", "TANH")
def _each_element(node: Node) -> tuple[int, ...]:
    return node.data[0].shape
