"""Layers that start from zero, as residual blocks and last layers do, learn."""

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
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers
RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(64, 6)).astype(np.float32)
LABELS = (SAMPLES @ [1.0, -2.0, 1.0, 0.0, 1.0, -1.0] > 0).astype(int)


def classifier(body: Any) -> Any:
    keras.utils.set_random_seed(0)
    inputs = L.Input((6,))
    return keras.Model(inputs, body(L.Dense(8, activation="relu")(inputs)))


def trained_losses(model: Any, epochs: int = 30) -> list[float]:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    history = model.fit(SAMPLES, LABELS, 16, epochs, verbose=0, shuffle=False)
    return history.history["loss"]


def residual(x: Any) -> Any:
    branch = L.BatchNormalization(gamma_initializer="zeros", name="norm")(
        L.Dense(8, use_bias=False)(x)
    )
    return L.Dense(2)(L.ReLU()(L.Add()([x, branch])))


def test_the_gradient_of_a_scale_is_there_at_zero_and_below() -> None:
    """``y = |gamma| * (x - mean) / sqrt(variance + epsilon) + beta``, by hand."""
    model = quantize_model(classifier(residual))
    norm = wrapper.inner_layer(model.get_layer("quant_norm"))
    gammas = np.array([0.0, 0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 0.0], np.float32)
    norm.gamma.assign(gammas)
    x = RNG.normal(size=(16, 8)).astype(np.float32)
    upstream = RNG.normal(size=(16, 8)).astype(np.float32)
    with tf.GradientTape() as tape:
        outputs, _, _ = norm.normalize_batch(tf.constant(x))
        total = tf.reduce_sum(outputs * upstream)
    normalized = (x - x.mean(0)) / np.sqrt(x.var(0) + norm.epsilon)
    signs = np.where(gammas < 0, -1.0, 1.0)
    expected = signs * (upstream * normalized).sum(0)
    found = tape.gradient(total, norm.gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(outputs, np.abs(gammas) * normalized, atol=1e-3)


def test_a_branch_that_starts_closed_opens() -> None:
    model = quantize_model(classifier(residual))
    trained_losses(model, 3)
    gamma = wrapper.inner_layer(model.get_layer("quant_norm")).gamma.numpy()
    assert (np.abs(gamma) > 1e-3).all()


def test_a_kernel_of_zeros_learns_as_the_float_one_does() -> None:
    float_model = classifier(L.Dense(2, kernel_initializer="zeros", name="last"))
    model = quantize_model(float_model)
    losses = trained_losses(model)
    expected = trained_losses(float_model)
    assert losses[0] == pytest.approx(expected[0], abs=0.05)
    assert losses[-1] < max(0.2, 1.5 * expected[-1])


def test_steps_of_kernels_that_are_not_all_zero_stay() -> None:
    """A channel of zeros beside others is switched off, and keeps its fine bias."""
    float_model = classifier(L.Dense(2, name="last"))
    kernel, bias = float_model.get_layer("last").get_weights()
    kernel[:, 0] = 0.0
    float_model.get_layer("last").set_weights([kernel, bias])
    layer = quantize_model(float_model).get_layer("quant_last")
    quantizer = wrapper.kernel_quantizer(layer)
    assert quantizer is not None
    np.testing.assert_allclose(quantizer.all_steps()[-1, 0], 1e-6 / 127, rtol=1e-5)
    kernel[:] = 0.0
    float_model.get_layer("last").set_weights([kernel, bias])
    layer = quantize_model(float_model).get_layer("quant_last")
    quantizer = wrapper.kernel_quantizer(layer)
    assert quantizer is not None
    steps = quantizer.all_steps()  # a uniform kernel of variance 1 / 8
    np.testing.assert_allclose(steps[-1], np.sqrt(3 / 8) / 127, rtol=1e-5)


def test_a_layer_that_stays_zero_is_exported() -> None:
    constant = keras.initializers.Constant(0.5)
    last = L.Dense(3, kernel_initializer="zeros", bias_initializer=constant)
    float_model = classifier(last)
    space = policy_space(float_model)
    space = space.with_choices(weights=dict.fromkeys(space.weights, (2, 4, 8)))
    model = quantize_model(float_model, space)
    calibrate(model, SAMPLES)
    artifact = package(model, include_network=False)
    for name in ("w8a8", "w4a8", "w2a8"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        found = Runner(ModelBuilder(artifact).build(policy)).predict(SAMPLES)
        np.testing.assert_array_equal(found, model.predict(SAMPLES, verbose=0))
        assert np.ptp(found) == 0.0
