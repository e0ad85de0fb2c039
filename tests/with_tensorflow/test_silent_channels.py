"""Channels that a network has switched off, but for their bias."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest

from matar_tf.errors import ExportError, MatarWarning
from matar_tf.keras import calibrate, keras, package, quantize_model, set_policy
from matar_tf.tflite._schema import parse_model, tensor_array
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.profiles import PROFILES, largest_count
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate

L = keras.layers
CHANNEL, BIAS = 2, 0.5
SAMPLES = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)


def net(with_norm: bool, size: float) -> Any:
    """A convolution, one channel of which is multiplied by `size`; 0.5 is added."""
    keras.utils.set_random_seed(1)
    inputs = L.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, use_bias=False)(inputs)))
    x = L.Conv2D(6, 3, use_bias=not with_norm, name="conv")(x)
    x = L.BatchNormalization(name="norm")(x) if with_norm else x
    x = L.GlobalAveragePooling2D()(L.ReLU(name="relu")(x))
    model = keras.Model(inputs, L.Dense(4)(x))
    if with_norm:
        gamma, beta, *statistics = model.get_layer("norm").get_weights()
        gamma[CHANNEL], beta[CHANNEL] = size, BIAS
        model.get_layer("norm").set_weights([gamma, beta, *statistics])
    else:
        kernel, bias = model.get_layer("conv").get_weights()
        kernel[..., CHANNEL] *= size
        bias[CHANNEL] = BIAS
        model.get_layer("conv").set_weights([kernel, bias])
    return model


# From channels that int32 holds easily to those whose unit is too small for any bias.
@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7, 1e-12, 0.0])
@pytest.mark.parametrize("with_norm", [True, False])
def test_their_bias_is_kept_in_every_profile(with_norm: bool, size: float) -> None:
    model = quantize_model(net(with_norm, size))
    calibrate(model, SAMPLES)
    artifact = package(model, include_network=False)
    builder = ModelBuilder(artifact)
    for name in ("w8a8", "w4a4", "w2a2"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        expected = model.predict(SAMPLES, verbose=0)
        for profile in (name for name, one in PROFILES.items() if one.exact):
            content = builder.build(policy, profile=profile)
            found = Runner(content).predict(SAMPLES)
            np.testing.assert_array_equal(found, expected)
        assert _bias(builder.build(policy)) == pytest.approx(BIAS, abs=1e-3)


@pytest.mark.parametrize("bias", [-10.0, 0.0])
def test_a_layer_that_is_all_zero_is_exported(bias: float) -> None:
    keras.utils.set_random_seed(1)
    inputs = L.Input((8, 8, 3))
    x = L.Conv2D(4, 3, activation="relu", padding="same")(inputs)
    constant = keras.initializers.Constant(bias)
    dead = L.Conv2D(4, 3, activation="relu", padding="same", bias_initializer=constant)
    x = L.Add()([x, dead(x)])
    x = L.Dense(3)(L.GlobalAveragePooling2D()(x))
    model = quantize_model(keras.Model(inputs, x))
    samples = SAMPLES if bias else 0 * SAMPLES
    told = contextlib.nullcontext()
    if not bias:
        told = pytest.warns(MatarWarning, match="All samples are zero")
    with told:
        calibrate(model, samples)
    artifact = package(model, include_network=False)
    for name in ("w8a8", "w4a4", "w2a2"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        found = Runner(ModelBuilder(artifact).build(policy)).predict(samples)
        np.testing.assert_array_equal(found, model.predict(samples, verbose=0))


def test_a_shared_grid_is_that_of_the_part_that_has_values() -> None:
    keras.utils.set_random_seed(1)
    inputs = L.Input((8, 8, 3))
    parts = [
        L.Conv2D(2, 3, activation="relu", bias_initializer=constant)(inputs)
        for constant in (keras.initializers.Constant(one) for one in (-90, 0, -90))
    ]
    outputs = L.Dense(3)(L.Flatten()(L.Concatenate(name="both")(parts)))
    model = quantize_model(keras.Model(inputs, outputs))
    calibrate(model, 0.01 * SAMPLES)
    step = package(model, include_network=False).parameters.tensors["both"].step
    assert 0 < step[-1] * 255 < 0.1


def test_an_output_that_is_far_too_fine_is_refused() -> None:
    keras.utils.set_random_seed(1)
    inputs = L.Input((8, 8, 3))
    outputs = L.Dense(3)(L.Flatten()(L.Conv2D(4, 3, name="first")(inputs)))
    model = quantize_model(keras.Model(inputs, outputs))
    calibrate(model, SAMPLES)
    artifact = package(model, include_network=False)
    tensor = artifact.parameters.tensors["first"]
    policy = artifact.space.widest()
    content = ModelBuilder(artifact).build(policy)
    graph = parse_model(content).subgraphs[0]
    operator = next(one for one in graph.operators if len(one.inputs) == 3)
    source, kernel = (graph.tensors[i].quantization.scale for i in operator.inputs[:2])
    limit = float(source[0] * max(kernel) / 256)
    for step, is_fine in ((1.01 * limit, False), (0.99 * limit, True)):
        fine = dataclasses.replace(tensor, step=np.full_like(tensor.step, step))
        tensors = {**artifact.parameters.tensors, "first": fine}
        parameters = dataclasses.replace(artifact.parameters, tensors=tensors)
        builder = ModelBuilder(dataclasses.replace(artifact, parameters=parameters))
        if is_fine:
            with pytest.raises(ExportError, match="256 steps of the output in 'first'"):
                builder.build(policy)
        else:
            Runner(builder.build(policy)).predict(SAMPLES)


@pytest.mark.parametrize("beta", [0.0, 1e-20, -1e-30, 1e-34, 1e-42])
@pytest.mark.parametrize("gamma", [0.0, 1e-30, 1e-37, 1e-42])
def test_numbers_that_float32_flushes_to_zero(gamma: float, beta: float) -> None:
    network = net(with_norm=True, size=gamma)
    norm = network.get_layer("norm")
    weights = norm.get_weights()
    weights[1][CHANNEL] = beta
    norm.set_weights(weights)
    model = quantize_model(network)
    calibrate(model, SAMPLES)
    artifact = package(model, include_network=False)
    for name in ("w8a8", "w3a3"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        content = ModelBuilder(artifact).build(policy)
        found = Runner(content).predict(SAMPLES)
        np.testing.assert_array_equal(found, model.predict(SAMPLES, verbose=0))
        np.testing.assert_array_equal(found, simulate(content, SAMPLES))


def _bias(content: bytes) -> float:
    """Returns what an int8 file adds to the channel."""
    model = parse_model(content)
    graph = model.subgraphs[0]
    kernels = [
        index for index, one in enumerate(graph.tensors) if b"conv/k" in one.name
    ]
    (operator,) = [one for one in graph.operators if kernels[0] in one.inputs]
    bias = graph.tensors[operator.inputs[2]]
    values = tensor_array(model, bias)
    assert values is not None
    return float(values[CHANNEL]) * float(bias.quantization.scale[CHANNEL])


def test_a_bias_fits_int32_as_every_profile_stores_it() -> None:
    # 127 // 2 = 63 times at 2 bits, of which the lowest level is -2; 127 // 7 at 4.
    assert largest_count(2) * 63 <= 2**30 < (largest_count(2) + 1) * 63
    assert largest_count(4) * 18 <= 2**30 < (largest_count(4) + 1) * 18
    assert largest_count(8) == 2**30
