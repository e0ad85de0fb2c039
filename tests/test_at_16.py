"""Tensors of 16 bits compute in NumPy what LiteRT's kernels do, on every value."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from fixtures.graphs import TYPES, add_tensor, graph_of, multiplication, options_of

from matar_tf.operators import OPERATORS, CostShape, Grid
from matar_tf.tflite._graph_rules import check_model, find_fault
from matar_tf.tflite._schema import (
    bias_of,
    op_name,
    quantization,
    schema,
    set_buffer,
    write_model,
)
from matar_tf.tflite.simulator import simulate_tensors
from matar_tf.tflite.verify import run_all_tensors

IMAGE = (1, 4, 6, 8)
ALL = np.arange(-(2**15), 2**15)
SAME = schema.Padding.SAME


def conv(kernel: Any, *, dilation: int = 1, fused: int = 0) -> Any:
    options = options_of(
        "Conv2DOptions",
        strideH=1,
        strideW=1,
        dilationHFactor=dilation,
        dilationWFactor=dilation,
        padding=SAME,
        fusedActivationFunction=fused,
    )
    result = (*IMAGE[:3], kernel[0])
    return multiplication("CONV_2D", IMAGE, kernel, result, options)


def depthwise(multiplier: int, fused: int = 0) -> Any:
    options = options_of(
        "DepthwiseConv2DOptions",
        strideH=2,
        strideW=2,
        dilationHFactor=1,
        dilationWFactor=1,
        depthMultiplier=multiplier,
        padding=SAME,
        fusedActivationFunction=fused,
    )
    channels = 8 * multiplier
    shapes = IMAGE, (1, 3, 3, channels), (1, 2, 3, channels)
    return multiplication("DEPTHWISE_CONV_2D", *shapes, options, axis=3)


def transposed(*, has_bias: bool) -> Any:
    options = options_of("TransposeConvOptions", strideH=2, strideW=2, padding=SAME)
    result = (1, 8, 12, 7)
    model = multiplication("TRANSPOSE_CONV", IMAGE, (7, 3, 3, 8), result, options)
    stored = np.array(result, np.int32)
    index = add_tensor(model, (4,), TYPES.INT32, scale=(), values=stored)
    inputs = [index, 3, 1, 4] if has_bias else [index, 3, 1]
    model.subgraphs[0].operators[1].inputs = inputs
    return model


def dense(fused: int = 0, *, per_channel: bool = True) -> Any:
    options = options_of("FullyConnectedOptions", fusedActivationFunction=fused)
    model = multiplication("FULLY_CONNECTED", (1, 24), (40, 24), (1, 40), options)
    if not per_channel:
        for tensor in model.subgraphs[0].tensors[3:5]:
            tensor.quantization = quantization([1.0], [0], 0)
    return model


def pair(name: str, options: str, fused: int = 0) -> Any:
    kind = options_of(options)
    if fused:
        kind.fusedActivationFunction = fused
    return graph_of(name, IMAGE, IMAGE, kind, num_inputs=2)


def pool(name: str, fused: int = 0) -> Any:
    options = options_of(
        "Pool2DOptions",
        strideH=2,
        strideW=2,
        filterHeight=3,
        filterWidth=2,
        padding=SAME,
        fusedActivationFunction=fused,
    )
    return graph_of(name, IMAGE, (1, 2, 3, 8), options)


def mean(result: Any, *, keeps: bool, axes: Any = (1, 2)) -> Any:
    options = options_of("ReducerOptions", keepDims=keeps)
    return graph_of("MEAN", IMAGE, result, options, axes)


def resize(name: str, kind: str) -> Any:
    options = options_of(f"Resize{kind}Options", halfPixelCenters=True)
    return graph_of(name, IMAGE, (1, 8, 18, 8), options, [8, 18])


GRAPHS = {
    "conv": lambda: conv((7, 3, 3, 8)),
    "conv_relu": lambda: conv((7, 3, 3, 8), fused=1),
    "grouped": lambda: conv((12, 3, 3, 2)),
    "dilated": lambda: conv((7, 3, 3, 8), dilation=2),
    "depthwise": lambda: depthwise(2),
    "depthwise_relu6": lambda: depthwise(1, fused=3),
    "transposed": lambda: transposed(has_bias=True),
    "transposed_bare": lambda: transposed(has_bias=False),
    "dense": dense,
    "dense_relu": lambda: dense(1),
    "dense_of_one_step": lambda: dense(per_channel=False),
    "add": lambda: pair("ADD", "AddOptions"),
    "add_relu": lambda: pair("ADD", "AddOptions", 1),
    "subtract": lambda: pair("SUB", "SubOptions"),
    "multiply": lambda: pair("MUL", "MulOptions"),
    "multiply_relu6": lambda: pair("MUL", "MulOptions", 3),
    "maximum": lambda: pair("MAXIMUM", "MaximumMinimumOptions"),
    "minimum": lambda: pair("MINIMUM", "MaximumMinimumOptions"),
    "average_pool": lambda: pool("AVERAGE_POOL_2D"),
    "average_pool_relu": lambda: pool("AVERAGE_POOL_2D", 1),
    "max_pool": lambda: pool("MAX_POOL_2D"),
    "mean": lambda: mean((1, 8), keeps=False),
    "mean_kept": lambda: mean((1, 1, 1, 8), keeps=True),
    "mean_of_rows": lambda: mean((1, 6, 8), keeps=False, axes=[1]),
    "max_kept": lambda: graph_of(
        "REDUCE_MAX",
        IMAGE,
        (1, 1, 1, 8),
        options_of("ReducerOptions", keepDims=True),
        [1, 2],
    ),
    "relu": lambda: graph_of("RELU", IMAGE, IMAGE),
    "relu6": lambda: graph_of("RELU6", IMAGE, IMAGE),
    "leaky_relu": lambda: graph_of(
        "LEAKY_RELU", IMAGE, IMAGE, options_of("LeakyReluOptions", alpha=0.3)
    ),
    "softmax": lambda: graph_of(
        "SOFTMAX", (1, 6, 40), (1, 6, 40), options_of("SoftmaxOptions", beta=1.0)
    ),
    "bilinear": lambda: resize("RESIZE_BILINEAR", "Bilinear"),
    "nearest": lambda: resize("RESIZE_NEAREST_NEIGHBOR", "NearestNeighbor"),
    "reshape": lambda: graph_of("RESHAPE", IMAGE, (1, 192), None, [-1, 192]),
    "expand": lambda: graph_of("EXPAND_DIMS", (1, 4, 8), (1, 1, 4, 8), None, [1]),
    "squeeze": lambda: graph_of(
        "SQUEEZE", (1, 1, 8), (1, 8), options_of("SqueezeOptions", squeezeDims=[1])
    ),
    "pad": lambda: graph_of(
        "PAD", IMAGE, (1, 5, 6, 12), None, [[0, 0], [1, 0], [0, 0], [3, 1]]
    ),
    "transpose": lambda: graph_of("TRANSPOSE", IMAGE, (1, 6, 8, 4), None, [0, 2, 3, 1]),
    "tile": lambda: graph_of("TILE", IMAGE, (1, 8, 6, 24), None, [1, 2, 1, 3]),
    "slice": lambda: graph_of(
        "STRIDED_SLICE",
        IMAGE,
        (1, 2, 5, 4),
        options_of("StridedSliceOptions", beginMask=1, endMask=1),
        *([0, 1, 0, 0], [0, 3, 5, 8], [1, 1, 1, 2]),
    ),
    "concat": lambda: graph_of(
        "CONCATENATION",
        IMAGE,
        (1, 12, 6, 8),
        options_of("ConcatenationOptions", axis=1),
        num_inputs=3,
    ),
}


def at_16(model: Any, rng: np.random.Generator, step: float) -> Any:
    """Makes a graph's activations int16, with random levels and steps."""
    graph = model.subgraphs[0]
    operator = graph.operators[1]
    row = OPERATORS[op_name(model, operator)]
    own = step * rng.choice([0.07, 0.9, 1.0, 3.0])
    if row.is_product:
        own = step * step * rng.choice([2.0**13, 2.0**16, 2.0**19])
    made = {Grid.OWN: own, Grid.FIXED: 2.0**-15}.get(row.grid, step)
    for index, one in zip((1, 2), (step, made), strict=True):
        graph.tensors[index].type = TYPES.INT16
        graph.tensors[index].quantization = quantization([one], [0], 0)
    if hasattr(operator.builtinOptions, "potScaleInt16"):
        operator.builtinOptions.potScaleInt16 = False
    if row.shape is CostShape.KERNEL:
        kernel = graph.tensors[operator.inputs[1]]
        shape = [int(one) for one in kernel.shape]
        scale = made / step * rng.uniform(1e-3, 3e-2, len(kernel.quantization.scale))
        axis = kernel.quantization.quantizedDimension
        kernel.quantization = quantization(scale, [0] * len(scale), axis)
        set_buffer(model, kernel, rng.integers(-127, 128, shape).astype(np.int8))
        if bias_of(model, operator) >= 0:
            bias = graph.tensors[bias_of(model, operator)]
            bias.type = TYPES.INT64
            counts = rng.integers(-(2**26), 2**26, int(bias.shape[0]))
            set_buffer(model, bias, counts)
            bias.quantization = quantization(step * scale, [0] * len(scale), 0)
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_operators_compute_what_litert_does(name: str) -> None:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for step in np.float32([3e-5, 1 / 32768, 0.0007, 0.011]):
        model = at_16(GRAPHS[name](), rng, float(step))
        assert find_fault(model) is None
        content = check_model(write_model(model))
        shape = tuple(map(int, model.subgraphs[0].tensors[0].shape))
        count = 1 if "transposed" in name else 3
        levels = rng.integers(-33_000, 33_000, (count, *shape[1:]))
        # Sums of small levels meet halves more often.
        small = rng.integers(-9, 10, levels.shape)
        for one in (levels, small):
            samples = (one * step).astype(np.float32)
            found = simulate_tensors(content, samples)
            expected = run_all_tensors(content, samples)
            for index in (1, 2):
                np.testing.assert_array_equal(found[index], expected[index])
                assert found[index].dtype == expected[index].dtype == np.int16


@pytest.mark.parametrize("step", [3e-5, 2.0**-13, 0.00031, 0.0024, 0.5])
@pytest.mark.parametrize("name", ["LOGISTIC", "TANH", "EXP", "GELU"])
def test_functions_of_every_input(name: str, step: float) -> None:
    options = options_of("GeluOptions", approximate=True) if name == "GELU" else None
    step = min(step, 0.0024) if name == "EXP" else step
    shape = (1, len(ALL))
    model = at_16(graph_of(name, shape, shape, options), np.random.default_rng(0), step)
    if name == "EXP":
        top = min(np.exp(step * 2**15), 1e6) / 2**15
        model.subgraphs[0].tensors[2].quantization = quantization([top], [0], 0)
    content = check_model(write_model(model))
    samples = (ALL * np.float32(step)).astype(np.float32)[None]
    found, expected = (
        one(content, samples) for one in (simulate_tensors, run_all_tensors)
    )
    np.testing.assert_array_equal(found[1][0], ALL)
    np.testing.assert_array_equal(found[2], expected[2])


class TestWhatIsRefused:
    def test_operators_without_such_kernels(self) -> None:
        options = options_of("DepthToSpaceOptions", blockSize=2)
        blocks = graph_of("DEPTH_TO_SPACE", IMAGE, (1, 8, 12, 2), options)
        rng = np.random.default_rng(0)
        for model in (graph_of("ELU", IMAGE, IMAGE), blocks):
            assert find_fault(model) is None
            assert "a kernel for 16 bits" in str(find_fault(at_16(model, rng, 0.001)))

    @pytest.mark.parametrize("factor", [0.99, 1.0])
    def test_sums_that_would_end_the_process(self, factor: float) -> None:
        model = at_16(GRAPHS["add"](), np.random.default_rng(0), 0.5)
        grid = quantization([0.5 / (2**14 * factor)], [0], 0)
        model.subgraphs[0].tensors[2].quantization = grid
        fault = find_fault(model)
        assert fault is None if factor < 1 else "below 16384 times" in str(fault)

    def test_steps_that_have_a_second_way(self) -> None:
        rng = np.random.default_rng(0)
        for name, steps in {
            "LOGISTIC": [2.0**-12],
            "TANH": [2.0**-12, 2.0**-11],
        }.items():
            for step in (*steps, 4.1, 1e-13):
                model = at_16(graph_of(name, IMAGE, IMAGE), rng, step)
                assert "no power of two" in str(find_fault(model))

    @pytest.mark.parametrize(
        ("index", "kind"), [(1, TYPES.INT8), (2, TYPES.INT8), (4, TYPES.INT32)]
    )
    def test_mixed_types(self, index: int, kind: int) -> None:
        model = at_16(GRAPHS["conv"](), np.random.default_rng(0), 0.001)
        tensor = model.subgraphs[0].tensors[index]
        if index == 4:
            set_buffer(model, tensor, np.zeros(7, np.int32))
        tensor.type = kind
        assert "of the type" in str(find_fault(model)) or "of its type" in str(
            find_fault(model)
        )

    def test_zero_points(self) -> None:
        model = at_16(GRAPHS["relu"](), np.random.default_rng(0), 0.001)
        model.subgraphs[0].tensors[1].quantization = quantization([0.001], [3], 0)
        assert "zero points in 0..0" in str(find_fault(model))

    def test_old_sums_and_dense_layers_without_a_bias(self) -> None:
        rng = np.random.default_rng(0)
        model = at_16(GRAPHS["add"](), rng, 0.001)
        model.subgraphs[0].operators[1].builtinOptions.potScaleInt16 = True
        assert "powers of two" in str(find_fault(model))
        model = at_16(dense(), rng, 0.001)
        model.subgraphs[0].operators[1].inputs = [1, 3, -1]
        assert "a bias" in str(find_fault(model))
