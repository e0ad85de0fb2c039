"""Global averages that share the grid of their input round as the file does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.keras import (
    calibrate,
    keras,
    package,
    policy_space,
    quantize_model,
    set_policy,
)
from matar_tf.policy import ALL_BITS
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate

L = keras.layers


def pooled(shape: tuple[int, ...], activation: str | None) -> tuple[Any, np.ndarray]:
    """A network whose outputs are averages and maxima of one tensor, calibrated."""
    keras.utils.set_random_seed(1)
    inputs = L.Input(shape)
    if len(shape) == 3:
        x = L.Conv2D(6, 3, padding="same", activation=activation, name="maker")(inputs)
        pools = [L.GlobalAveragePooling2D(name="mean"), L.GlobalMaxPooling2D()]
    else:
        x = L.Conv1D(6, 3, padding="same", activation=activation, name="maker")(inputs)
        pools = [L.GlobalAveragePooling1D(name="mean"), L.GlobalMaxPooling1D()]
    model = keras.Model(inputs, L.Concatenate()([pool(x) for pool in pools]))
    space = policy_space(model)
    freed = dict.fromkeys(space.activations, ALL_BITS)
    model = quantize_model(model, space.with_choices(activations=freed))
    samples = np.random.default_rng(0).normal(size=(128, *shape)).astype(np.float32)
    calibrate(model, samples)
    return model, samples


# 16, 6 and 9 pixels: exact halves, halves of an inexact share, and none.
@pytest.mark.parametrize("shape", [(4, 4, 3), (2, 3, 3), (3, 3, 3), (16, 3)])
@pytest.mark.parametrize("activation", ["relu", None])
def test_the_file_equals_keras(shape: tuple[int, ...], activation: str | None) -> None:
    model, samples = pooled(shape, activation)
    artifact = package(model, include_network=False)
    # The average rounds onto the convolution's grid, and has no width of its own.
    assert len(artifact.space.activations) == 2
    for name in ("w8a8", "w8a4", "w8a2"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        content = ModelBuilder(artifact).build(policy)
        found = Runner(content).predict(samples)
        assert len(np.unique(found[:, :6])) > (8 if name == "w8a8" else 1)
        expected = model.predict(samples, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_array_equal(found, simulate(content, samples))


def test_halves_go_to_the_even_stored_integer() -> None:
    """Levels 0..255 are stored from -128: a mean of 2.5 becomes 2, one of 3.5 4."""
    model, _ = pooled((4, 4, 3), "relu")
    step = package(model, include_network=False).parameters.tensors["maker"].step[-1]
    mean = next(one for one in model.layers if one.name == "quant_mean")
    levels = np.array([2.5, 3.5, 2.25, 2.75, 0.5, 254.5], np.float32)
    outputs = mean(np.broadcast_to(levels * step, (1, 4, 4, 6)), training=False)
    np.testing.assert_allclose(outputs[0] / step, [2, 4, 2, 3, 0, 254], rtol=1e-5)
