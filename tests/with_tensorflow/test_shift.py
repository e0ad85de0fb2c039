"""Simulated shifts equal MAX78000's arithmetic, level for level."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from fixtures.nets import packaged as free_network

from matar_tf.artifact import Artifact
from matar_tf.errors import ExportError
from matar_tf.keras import (
    MatarQuantizeConfig,
    calibrate,
    keras,
    package,
    quantize_model,
)
from matar_tf.keras.quantizers import wrapper
from matar_tf.scales import POWER_OF_TWO
from matar_tf.tflite._schema import parse_model, tensor_array
from matar_tf.tflite._shifting import shifted
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.simulator import simulate_tensors
from matar_tf.tflite.verify import run_all_tensors

L = keras.layers
SAMPLES = np.random.default_rng(0).normal(size=(1000, 8, 8, 1)).astype(np.float32)
LEVELS = 128  # of one unit on the chip: data and weights are fractions of it


@functools.cache
def artifact() -> Artifact:
    """As the chip's layers are: convolutions, max pooling, one step and shift each."""
    keras.utils.set_random_seed(0)
    inputs = L.Input((8, 8, 1), name="image")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
    x = L.MaxPooling2D(name="pool")(x)
    x = L.Conv2D(12, 1, activation="relu", name="pointwise")(x)
    x = L.Conv2D(8, 3, padding="same", name="linear")(x)
    outputs = L.Dense(5, name="logits")(L.Flatten(name="flat")(x))
    network = keras.Model(inputs, outputs)
    rng = np.random.default_rng(1)
    for layer in network.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(0.0, 0.3, bias.shape)])
    # Data have a sign on the chip.
    signed = MatarQuantizeConfig(signed=True, activation_bits=(8,))
    model = quantize_model(
        network, scale=POWER_OF_TWO, per_channel=False, configs={"*": signed}
    )
    calibrate(model, SAMPLES)
    for layer in model.layers:
        for quantizer in wrapper.all_quantizers(layer):
            if quantizer.kind == "activations":  # so that much is cut off
                quantizer.log_steps.assign_sub([np.log(8.0)])
    return package(model)


def on_the_chip(
    data: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    *,
    weight_bits: int,
    output_shift: int,
    relu: bool,
) -> np.ndarray:
    """A layer as analogdevicesinc/ai8x-training simulates it, padded to its size.

    Args:
      data: int8, ``[n, h, w, c]``.
      weights: Of 1, 2, 4 or 8 bits, ``[out, kh, kw, c]``.
      bias: In units of data times weights.
      weight_bits: Their width: they are multiplied as fractions of 8 bits.
      output_shift: To the left, -15..15.
      relu: Whether what is below 0 becomes 0.
    """
    assert weight_bits in (1, 2, 4, 8)
    assert -15 <= output_shift <= 15
    assert weights.min() >= -(2 ** (weight_bits - 1))
    assert weights.max() < 2 ** (weight_bits - 1)
    rows, columns = weights.shape[1:3]
    wide = np.zeros((*data.shape[:3], len(weights)), np.int64)
    padded = np.pad(data, [(0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)])
    for row in range(rows):
        for column in range(columns):
            part = padded[:, row:, column:][:, : data.shape[1], : data.shape[2]]
            products = part[..., None, :].astype(np.int64) * weights[:, row, column]
            wide += products.sum(axis=-1)
    wide = (wide + bias) * 2 ** (8 - weight_bits)
    wide = np.floor(wide * 2.0**output_shift)
    if relu:
        wide = np.maximum(wide, 0)
    return np.clip(np.floor(wide / LEVELS + 0.5), -128, 127).astype(np.int8)


@functools.cache
def built(policy: str) -> tuple[Any, dict[int, np.ndarray], Any]:
    """A file, its tensors by shifts, its content."""
    content = ModelBuilder(artifact()).build(artifact().space.named(policy))
    simulated = simulate_tensors(content, SAMPLES, kernels="shift")
    return parse_model(content), simulated, content


def multiplying(model: Any) -> list[Any]:
    return [one for one in model.subgraphs[0].operators if len(one.inputs) == 3]


def scale_of(tensor: Any) -> float:
    (scale,) = {float(one) for one in tensor.quantization.scale}
    return scale


@pytest.mark.parametrize("policy", ["w8a8", "w4a8", "w2a8"])
def test_every_level_is_that_of_the_chip(policy: str) -> None:
    model, simulated, _ = built(policy)
    tensors = model.subgraphs[0].tensors
    bits = {8} | {int(policy[1])}
    widths = artifact().space.named(policy).weights
    assert set(widths.values()) == bits
    data, ends = None, set[int]()
    for name, operator in zip(widths, multiplying(model), strict=True):
        source, kernel, made = (
            tensors[i] for i in (*operator.inputs[:2], operator.outputs[0])
        )
        assert list(source.quantization.zeroPoint) == [0]
        ratio = np.log2(scale_of(source) * scale_of(kernel) / scale_of(made))
        weights = tensor_array(model, kernel)
        if name == "first":
            data = simulated[int(operator.inputs[0])]
        elif name == "pointwise":
            data = data.reshape(1000, 4, 2, 4, 2, 8).max(axis=(2, 4))
        elif name == "logits":
            data, weights = data.reshape(1000, 1, 1, -1), weights[:, None, None]
        data = on_the_chip(
            data,
            weights,
            tensor_array(model, tensors[operator.inputs[2]]),
            weight_bits=widths[name],
            output_shift=int(ratio) + 7 - (8 - widths[name]),
            relu=name in ("first", "pointwise"),
        )
        assert ratio == int(ratio)
        expected = simulated[int(operator.outputs[0])]
        np.testing.assert_array_equal(data.reshape(expected.shape), expected, name)
        assert len(np.unique(data)) > 60
        ends |= {int(data.min()), int(data.max())}
    assert {-128, 0, 127} <= ends


@pytest.mark.parametrize("policy", ["w8a8", "w2a8"])
def test_runtimes_differ_at_halves_alone(policy: str) -> None:
    """LiteRT's kernels round these to even: the first layer sees the same samples."""
    model, simulated, content = built(policy)
    first, *_ = multiplying(model)
    tensors = model.subgraphs[0].tensors
    of_runtime = run_all_tensors(content, SAMPLES)
    source, output = int(first.inputs[0]), int(first.outputs[0])
    np.testing.assert_array_equal(of_runtime[source], simulated[source])
    data, made = simulated[source].astype(np.int64), tensors[output]
    kernel = tensor_array(model, tensors[first.inputs[1]]).astype(np.int64)
    padded = np.pad(data, [(0, 0), (1, 1), (1, 1), (0, 0)])[..., 0]
    acc = np.stack(
        [
            sum(
                padded[:, i : i + 8, j : j + 8] * one[i, j, 0]
                for i, j in np.ndindex(3, 3)
            )
            for one in kernel
        ],
        axis=-1,
    )
    acc = acc + tensor_array(model, tensors[first.inputs[2]])
    ratio = (
        scale_of(tensors[source]) * scale_of(tensors[first.inputs[1]]) / scale_of(made)
    )
    exact = acc * ratio
    is_half = exact - np.floor(exact) == 0.5
    differ = simulated[output] != of_runtime[output]
    assert 0 < differ.sum() < is_half.sum()
    assert not np.any(differ & ~is_half)
    apart = simulated[output].astype(int) - of_runtime[output]
    assert set(np.unique(apart)) == {0, 1}


def test_shifts_by_hand() -> None:
    acc = np.array([[-6, 5], [-5, 3], [6, -3], [2, -2]], np.int32)
    found = shifted(acc, np.array([0.25, 2.0]))
    np.testing.assert_array_equal(found, [[-1, 10], [-1, 6], [2, -6], [1, -4]])
    assert shifted(np.array([2**31 - 1]), np.array([2.0**-40])).tolist() == [0]


def test_refuses_what_no_shift_computes() -> None:
    free = free_network("residual_bn", free=True)
    content = ModelBuilder(free).build(free.space.named("w8a8"))
    samples = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(ExportError, match=r"by shifts alone, got \['ADD'"):
        simulate_tensors(content, samples, kernels="shift")
    wide = ModelBuilder(artifact()).build(artifact().space.named("w8a16"))
    with pytest.raises(ExportError, match="some of 16"):
        simulate_tensors(wide, SAMPLES[:1], kernels="shift")
    with pytest.raises(ExportError, match="powers of two to shift by, got the factor"):
        shifted(np.array([1]), np.array([0.3]))
