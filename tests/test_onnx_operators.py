"""Every operator is written so that QONNX computes the simulator's levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fixtures.graphs import (
    TYPES,
    add_operator,
    add_tensor,
    float_graph,
    graph_of,
    options_of,
)
from fixtures.operator_graphs import (
    IMAGE,
    MOVES,
    MULTIPLICATIONS,
    SAME,
    VALID,
    filled,
    resize_of,
    samples_for,
)

from matar_tf.errors import ExportError
from matar_tf.onnx._grids import Width, Widths
from matar_tf.onnx._place import WRITERS
from matar_tf.onnx.network import OnnxNetwork, write_network
from matar_tf.operators import OPERATORS
from matar_tf.tflite._schema import op_name, parse_model, quantization, write_model
from matar_tf.tflite.simulator import simulate_tensors
from tools.benchmarks.qonnx_run import channels_first, layer_differences

NUM_SAMPLES = 4
STEP = 0.0625
# What a level is stored as, and what a policy says: 8 bits of both signs, of one, and
# four bits, as training has them.
GRIDS = {
    "signed": (0, -128, None),
    "unsigned": (-128, -128, None),
    "four": (112, 112, Width(entry="x", bits=4, signed=False, is_cut=True)),
    "cut": (-120, -128, Width(entry="x", bits=4, signed=True, is_cut=True)),
}


def pool(name: str, padding: int, size: int, stride: int, result: Any) -> Any:
    options = options_of(
        "Pool2DOptions",
        filterHeight=size,
        filterWidth=size,
        strideH=stride,
        strideW=stride,
        padding=padding,
    )
    return graph_of(name, IMAGE, result, options)


def pair(name: str, option: str | None, function: int = 0) -> Any:
    """A sum or product of the input and of what a ReLU makes of it."""
    options = None
    if option is not None:
        options = options_of(option)
        if hasattr(options, "fusedActivationFunction"):
            options.fusedActivationFunction = function
    model = graph_of(name, IMAGE, IMAGE, options, num_inputs=2)
    other = add_tensor(model, IMAGE)
    operator = model.subgraphs[0].operators.pop()
    add_operator(model, "RELU", [1], other)
    model.subgraphs[0].operators.append(operator)
    operator.inputs = [1, other]
    return model


def reduction(name: str, axes: Any, result: Any, *, keeps: bool) -> Any:
    options = options_of("ReducerOptions", keepDims=keeps)
    return graph_of(name, IMAGE, result, options, axes)


def gelu(*, approximate: bool) -> Any:
    options = options_of("GeluOptions", approximate=approximate)
    return graph_of("GELU", IMAGE, IMAGE, options)


EXACT: dict[str, Callable[[], Any]] = {
    **MOVES,
    "reshape": lambda: graph_of("RESHAPE", IMAGE, (1, 192), None, [-1, 192]),
    "expand": lambda: graph_of("EXPAND_DIMS", (1, 7, 3), (1, 1, 7, 3), None, [1]),
    "squeeze": lambda: graph_of(
        "SQUEEZE",
        (1, 1, 7, 3),
        (1, 7, 3),
        options_of("SqueezeOptions", squeezeDims=[1]),
    ),
    "max_pool": lambda: pool("MAX_POOL_2D", SAME, 3, 2, (1, 2, 3, 8)),
    "max_pool_valid": lambda: pool("MAX_POOL_2D", VALID, 2, 2, (1, 2, 3, 8)),
    "max_rows": lambda: reduction("REDUCE_MAX", [1], (1, 6, 8), keeps=False),
    "relu": lambda: graph_of("RELU", IMAGE, IMAGE),
    "relu6": lambda: graph_of("RELU6", IMAGE, IMAGE),
    "quantize": lambda: graph_of("QUANTIZE", IMAGE, IMAGE),
    "leaky": lambda: graph_of(
        "LEAKY_RELU", IMAGE, IMAGE, options_of("LeakyReluOptions", alpha=0.3)
    ),
    "leaky_steep": lambda: graph_of(
        "LEAKY_RELU", IMAGE, IMAGE, options_of("LeakyReluOptions", alpha=1.7)
    ),
    "leaky_flat": lambda: graph_of(
        "LEAKY_RELU", IMAGE, IMAGE, options_of("LeakyReluOptions", alpha=0.002)
    ),
    "sigmoid": lambda: graph_of("LOGISTIC", IMAGE, IMAGE),
    "tanh": lambda: graph_of("TANH", IMAGE, IMAGE),
    "elu": lambda: graph_of("ELU", IMAGE, IMAGE),
    "exp": lambda: graph_of("EXP", IMAGE, IMAGE, options_of("ExpOptions")),
    "gelu": lambda: gelu(approximate=False),
    "gelu_rough": lambda: gelu(approximate=True),
    "product": lambda: pair("MUL", "MulOptions"),
    "product_relu": lambda: pair("MUL", "MulOptions", 1),
    "maximum": lambda: pair("MAXIMUM", "MaximumMinimumOptions"),
    "minimum": lambda: pair("MINIMUM", "MaximumMinimumOptions"),
}
SUMS: dict[str, Callable[[], Any]] = {
    "sum": lambda: pair("ADD", "AddOptions"),
    "sum_relu": lambda: pair("ADD", "AddOptions", 1),
    "sum_relu6": lambda: pair("ADD", "AddOptions", 3),
    "difference": lambda: pair("SUB", "SubOptions"),
    "mean": lambda: reduction("MEAN", [1, 2], (1, 8), keeps=False),
    "mean_keeps": lambda: reduction("MEAN", [1, 2], (1, 1, 1, 8), keeps=True),
    "mean_rows": lambda: reduction("MEAN", [2], (1, 4, 8), keeps=False),
    "average": lambda: pool("AVERAGE_POOL_2D", VALID, 2, 2, (1, 2, 3, 8)),
    "average_same": lambda: pool("AVERAGE_POOL_2D", SAME, 3, 2, (1, 2, 3, 8)),
    "bilinear": lambda: resize_of("BILINEAR", IMAGE, 8, 12),
    "bilinear_odd": lambda: resize_of("BILINEAR", (1, 5, 7, 4), 7, 14),
    "softmax": lambda: graph_of(
        "SOFTMAX", IMAGE, IMAGE, options_of("SoftmaxOptions", beta=1.0)
    ),
    "softmax_rows": lambda: graph_of(
        "SOFTMAX", (1, 9), (1, 9), options_of("SoftmaxOptions", beta=0.5)
    ),
}
OWN_GRID = {"MEAN", "ADD", "SUB", "MUL", "QUANTIZE", "LEAKY_RELU", "ELU", "EXP", "GELU"}


def model_on(make: Callable[[], Any], grid: str, ratio: float) -> tuple[Any, Widths]:
    """A graph on a grid; an output that has one of its own is `ratio` times as fine."""
    zero_point, _, width = GRIDS[grid]
    model = make()
    graph = model.subgraphs[0]
    name = op_name(model, graph.operators[-1])
    tensors: dict[int, Width] = {}
    for index, tensor in enumerate(graph.tensors[1:], start=1):
        fixed = index == 2 and name in ("LOGISTIC", "SOFTMAX", "TANH")
        if tensor.quantization is None or tensor.quantization.scale is None or fixed:
            continue
        is_own = index == 2 and name in OWN_GRID
        if is_own and grid == "cut":  # never made so, but cut off from another
            tensor.quantization = quantization([STEP / ratio], [0], 0)
            continue
        scale = STEP / ratio if is_own else STEP
        tensor.quantization = quantization([scale], [zero_point], 0)
        if width is not None:
            tensors[index] = width
    return model, Widths(tensors=tensors)


def ratios_of(model: Any) -> tuple[float, ...]:
    """Ratios of steps that an operator may have; with some, halves are exact."""
    name = op_name(model, model.subgraphs[0].operators[-1])
    if name not in OWN_GRID:
        return (1.0,)
    ratios = (0.0884, 0.3713, 1.9137)
    # The last bits of its tails decide on exact halves of GELU.
    return ratios if name == "GELU" else (1.0, 0.5, *ratios)


def samples_on(model: Any, grid: str) -> np.ndarray:
    """Levels of a grid with a little noise, which rounds away."""
    zero_point, lowest, width = GRIDS[grid]
    highest = 127 if width is None or zero_point > 0 else lowest + 15
    lowest = zero_point if width is not None and zero_point > 0 else lowest
    shape = model.subgraphs[0].tensors[0].shape[1:]
    rng = np.random.default_rng(1)
    levels = rng.integers(lowest, highest + 1, (NUM_SAMPLES, *map(int, shape)))
    return ((levels - zero_point) * STEP).astype(np.float32)


def in_float(model: Any) -> bytes:
    """A file of a graph, its output dequantized, as those of artifacts have it."""
    graph = model.subgraphs[0]
    shape = tuple(map(int, graph.tensors[2].shape))
    made = add_tensor(model, shape, TYPES.FLOAT32, scale=())
    add_operator(model, "DEQUANTIZE", [2], made)
    graph.outputs = [made]
    return write_model(model)


def compared(
    model: Any, widths: Widths, samples: np.ndarray
) -> tuple[float, float, OnnxNetwork]:
    """Returns the largest share and distance of levels that differ in QONNX."""
    content = in_float(model)
    network = write_network(
        parse_model(content), "qonnx", widths, name="x", batch=len(samples)
    )
    found = layer_differences(network, samples, simulate_tensors(content, samples))
    assert len(found) >= 2
    return (
        max(one.share for one in found.values()),
        max(one.largest for one in found.values()),
        network,
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", EXACT)
def test_what_adds_nothing_up_is_equal_to_the_level(name: str, grid: str) -> None:
    for ratio in ratios_of(EXACT[name]()):
        model, widths = model_on(EXACT[name], grid, ratio)
        share, _, _ = compared(model, widths, samples_on(model, grid))
        assert share == 0.0, ratio


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", SUMS)
def test_sums_are_equal_but_for_the_last_bits_of_float32(name: str, grid: str) -> None:
    for ratio in ratios_of(SUMS[name]()):
        model, widths = model_on(SUMS[name], grid, ratio)
        share, largest, _ = compared(model, widths, samples_on(model, grid))
        assert share <= 0.0025, ratio  # one of the smallest output's levels
        assert largest <= 1, ratio


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_kernels_multiply_to_the_level(name: str, bits: int) -> None:
    content = filled(name, bits, "int8", 112)
    width = Width(entry="x", bits=4, signed=False, is_cut=True)
    for tensors in ({}, {1: width}):
        widths = Widths(kernels={1: (name, bits)}, tensors=tensors)
        samples = samples_for(content, 112, 112)
        share, largest, network = compared(parse_model(content), widths, samples)
        assert share <= 1e-4
        assert largest <= 1
        kernel = next(
            one for one in network.model.graph.node if one.output[0] == f"{name}/kernel"
        )
        options = {one.name: one.i for one in kernel.attribute}
        assert options["signed"] == 1
        assert options["narrow"] == (bits > 2)  # -2, -1, 0, 1


@pytest.mark.parametrize("name", [*EXACT, *SUMS])
def test_onnxruntime_computes_the_same_up_to_a_level(name: str) -> None:
    model, widths = model_on({**EXACT, **SUMS}[name], "signed", 0.3713)
    content = in_float(model)
    samples = samples_on(model, "signed")
    network = write_network(parse_model(content), "onnx", widths, name="x", batch=None)
    options = onnxruntime.SessionOptions()  # some of its rewriting rounds once less
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(0)
    session = onnxruntime.InferenceSession(network.model.SerializeToString(), options)
    (made,) = session.run(None, {"t0": channels_first(samples)})
    tensor = parse_model(content).subgraphs[0].tensors[2]
    scale, zero_point = tensor.quantization.scale[0], tensor.quantization.zeroPoint[0]
    expected = simulate_tensors(content, samples)[2].astype(np.float32) - zero_point
    apart = np.abs(made / scale - channels_first(expected))
    assert apart.max() < 1.01
    assert np.mean(apart > 0.01) < 0.02


def test_every_operator_of_integers_is_written_but_for_rows_of_tables() -> None:
    known = {name for name, row in OPERATORS.items() if not row.is_float}
    assert known - {*WRITERS} == {"GATHER"}
    assert {*WRITERS} <= known


def test_an_operator_that_is_not_written_is_refused_by_name() -> None:
    model = graph_of("ABS", IMAGE, IMAGE)
    with pytest.raises(ExportError, match=r"got ABS as integers \(tensor 't2'\)"):
        write_network(model, "qonnx", Widths(), name="x", batch=1)
    sample = np.zeros(IMAGE, np.float32)
    model = float_graph("ABS", sample, [None], [sample], options_of("AbsOptions"))
    with pytest.raises(ExportError, match=r"got ABS in float .*without that layer"):
        write_network(model, "onnx", Widths(), name="x", batch=None)
