"""Grouped, dilated and transposed convolutions compute in NumPy what kernels do."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from fixtures.graphs import TYPES, add_tensor, multiplication, options_of
from fixtures.kernels import run_builtin

from matar_tf.parameters import weight_range
from matar_tf.tflite._containers import Kernel
from matar_tf.tflite._graph_rules import find_fault
from matar_tf.tflite._schema import parse_model, quantization, schema, write_model
from matar_tf.tflite.profiles import PROFILES, get_profile, store_kernels
from matar_tf.tflite.simulator import simulate_tensors
from matar_tf.tflite.verify import run_all_tensors

SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
STEPS = np.float32(0.02), np.float32(0.05)  # of input and output


def conv(
    source: Any,
    kernel: Any,
    result: Any,
    *,
    padding: int = SAME,
    dilation: Any = (1, 1),
) -> Any:
    options = options_of(
        "Conv2DOptions",
        strideH=1,
        strideW=1,
        dilationHFactor=dilation[0],
        dilationWFactor=dilation[1],
        padding=padding,
    )
    return multiplication("CONV_2D", source, kernel, result, options)


def depthwise(source: Any, kernel: Any, result: Any, dilation: Any) -> Any:
    options = options_of(
        "DepthwiseConv2DOptions",
        strideH=1,
        strideW=1,
        dilationHFactor=dilation[0],
        dilationWFactor=dilation[1],
        depthMultiplier=kernel[3] // source[3],
        padding=SAME,
    )
    return multiplication("DEPTHWISE_CONV_2D", source, kernel, result, options, axis=3)


def transposed(
    source: Any,
    kernel: Any,
    size: Any,
    strides: Any,
    *,
    padding: int = SAME,
    activation: int = 0,
    has_bias: bool = True,
) -> Any:
    options = options_of(
        "TransposeConvOptions",
        strideH=strides[0],
        strideW=strides[1],
        padding=padding,
        fusedActivationFunction=activation,
    )
    result = (1, *size, kernel[0])
    model = multiplication("TRANSPOSE_CONV", source, kernel, result, options)
    stored = np.array(result, np.int32)
    index = add_tensor(model, (4,), TYPES.INT32, scale=(), values=stored)
    inputs = [index, 3, 1, 4] if has_bias else [index, 3, 1]
    model.subgraphs[0].operators[1].inputs = inputs
    return model


IMAGE = (1, 5, 6, 8)
NETWORKS = {
    "grouped": lambda: conv(IMAGE, (12, 3, 3, 2), (1, 5, 6, 12)),
    "dilated": lambda: conv(IMAGE, (7, 3, 3, 8), (1, 5, 6, 7), dilation=(2, 2)),
    "dilated_valid": lambda: conv(
        IMAGE, (7, 2, 3, 8), (1, 3, 2, 7), padding=VALID, dilation=(2, 2)
    ),
    "sequence": lambda: conv(
        (1, 1, 14, 8), (7, 1, 3, 8), (1, 1, 6, 7), padding=VALID, dilation=(1, 4)
    ),
    "depthwise_dilated": lambda: depthwise(IMAGE, (1, 3, 3, 16), (1, 5, 6, 16), (2, 1)),
    "transposed": lambda: transposed(IMAGE, (7, 3, 3, 8), (10, 12), (2, 2)),
    "transposed_fused": lambda: transposed(
        IMAGE, (7, 2, 2, 8), (10, 12), (2, 2), activation=1
    ),
    "transposed_valid": lambda: transposed(
        IMAGE, (7, 4, 3, 8), (12, 8), (2, 1), padding=VALID
    ),
    "transposed_apart": lambda: transposed(
        IMAGE, (7, 1, 2, 8), (10, 18), (2, 3), padding=VALID
    ),
    "transposed_odd": lambda: transposed(IMAGE, (7, 3, 3, 8), (9, 11), (2, 2)),
    "transposed_bare": lambda: transposed(
        IMAGE, (7, 3, 3, 8), (5, 6), (1, 1), has_bias=False
    ),
    "transposed_sequence": lambda: transposed(
        (1, 1, 9, 8), (7, 1, 4, 8), (1, 18), (1, 2)
    ),
}


def filled(name: str, bits: int, profile: str, zero_point: int) -> bytes:
    """A network with random levels and steps, as a profile stores them."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + bits)
    model = NETWORKS[name]()
    graph = model.subgraphs[0]
    operator = graph.operators[1]
    for index, step in zip((1, 2), STEPS, strict=True):
        graph.tensors[index].quantization = quantization([step], [zero_point], 0)
    shape = tuple(map(int, graph.tensors[3].shape))
    axis = graph.tensors[3].quantization.quantizedDimension
    qmin, qmax = weight_range(bits)
    scale = rng.uniform(0.2, 0.9, shape[axis]).astype(np.float32) / np.float32(qmax)
    kernel = Kernel(
        entry=name,
        operator=operator,
        bits=bits,
        levels=rng.integers(qmin, qmax + 1, shape).astype(np.int8),
        scale=scale,
        channel_axis=axis,
        counts=rng.integers(-30 * qmax, 30 * qmax, shape[axis])
        if 4 in operator.inputs
        else None,
        input_scale=STEPS[0],
    )
    store_kernels(model, [kernel], get_profile(profile))
    content = write_model(model)
    assert find_fault(parse_model(content)) is None
    return content


def samples_for(content: bytes, lowest: int, zero_point: int) -> np.ndarray:
    shape = parse_model(content).subgraphs[0].tensors[0].shape[1:]
    rng = np.random.default_rng(1)
    levels = rng.integers(lowest, 128, (4, *map(int, shape))) - zero_point
    return (levels * STEPS[0]).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_profile_is_simulated_to_the_level(name: str, bits: int) -> None:
    for profile in PROFILES:
        content = filled(name, bits, profile, 112)
        samples = samples_for(content, 112, 112)
        runtime = PROFILES[profile].runtime
        made = run_all_tensors(content, samples, runtime=runtime)[2]
        assert len(np.unique(made)) > 10
        kernels = "tflm" if runtime == "tflm" else "xnnpack"
        found = simulate_tensors(content, samples, kernels=kernels)[2]
        np.testing.assert_array_equal(found, made, err_msg=profile)


@pytest.mark.parametrize(("lowest", "zero_point"), [(-128, -3), (96, 112)])
@pytest.mark.parametrize("name", NETWORKS)
def test_builtin_kernels_are_reproduced(
    name: str, lowest: int, zero_point: int
) -> None:
    """That of transposed convolutions takes as many samples as the file says."""
    content = filled(name, 8, "int8", zero_point)
    batch = 1 if name.startswith("transposed") else 4
    samples = samples_for(content, lowest, zero_point)
    for at in range(0, len(samples), batch):
        part = samples[at : at + batch]
        made = run_builtin(content, part)[2]
        found = simulate_tensors(content, part, kernels="builtin")[2]
        np.testing.assert_array_equal(found, made)


def test_a_transposed_convolution_by_hand() -> None:
    """Pixels 1 and 2, two apart, through the window 1 10 100; same cuts the end off."""
    model = transposed((1, 1, 2, 1), (1, 1, 3, 1), (1, 4), (1, 2), has_bias=False)
    graph = model.subgraphs[0]
    content = write_model(model)
    model = parse_model(content)
    graph = model.subgraphs[0]
    model.buffers[graph.tensors[3].buffer].data = np.array([1, 10, 100], np.uint8)
    graph.tensors[3].quantization = quantization([1.0], [0], 0)
    for index in (1, 2):
        graph.tensors[index].quantization = quantization([1.0], [0], 0)
    content = write_model(model)
    samples = np.array([1.0, 0.0, 0.0, 1.0, 1.0, -1.0], np.float32)
    samples = samples.reshape(3, 1, 2, 1)
    expected = [[1, 10, 100, 0], [0, 0, 1, 10], [1, 10, 99, -10]]
    for made in (simulate_tensors(content, samples), run_all_tensors(content, samples)):
        np.testing.assert_array_equal(made[2].reshape(3, 4), expected)
