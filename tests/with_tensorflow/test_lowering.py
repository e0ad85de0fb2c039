"""Layers that others put together: the float network stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
from fixtures.kind_nets import KIND_NETS
from fixtures.nets import build_net, calibrated, keras_model, samples_for

from matar_tf.errors import ModelError
from matar_tf.keras import (
    MatarQuantizeScheme,
    PolicyRandomizer,
    as_layers,
    get_policy_space,
    keras,
    policy_space,
    quantize_model,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers.tracing import FloatTracer, tracing

L = keras.layers
IMAGE = (8, 8, 3)


@pytest.mark.parametrize("name", KIND_NETS)
def test_without_rounding_outputs_are_those_of_the_float_network(name: str) -> None:
    network = build_net(name)
    samples = samples_for(name)
    expected = network.predict(samples, verbose=0)
    assert np.ptp(expected) > 0.1
    model = quantize_model(network)
    with tracing(FloatTracer()):
        found = model(samples, training=False).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_two_batch_norms_become_one_whatever_their_scales() -> None:
    """A scale of 0 in the first, and one that leaves less than epsilon."""
    model = keras_model(
        IMAGE,
        lambda x: L.BatchNormalization(name="b")(
            L.BatchNormalization(name="a")(L.Conv2D(4, 3)(x))
        ),
    )
    first = model.get_layer("a")
    first.gamma.assign([0.0, 1e-4, -1.0, 2.0])
    samples = samples_for("norms")
    quantized = quantize_model(model)
    assert not any(layer.name.endswith("_scale") for layer in quantized.layers)
    with tracing(FloatTracer()):
        found = quantized(samples, training=False).numpy()
    np.testing.assert_allclose(found, model.predict(samples, verbose=0), atol=1e-4)


def test_constants_stay_while_the_rest_learns() -> None:
    def body(x: Any) -> Any:
        x = L.BatchNormalization()(L.Conv2D(4, 3, activation="relu")(x))
        return L.PReLU("ones", shared_axes=[1, 2])(L.Rescaling(0.5, 0.1)(x) * 3.0)

    model = calibrated(keras_model(IMAGE, body), samples_for("norms"))
    scales = [
        one for one in model.weights if "scale" in one.name and "kernel" in one.name
    ]
    before = [one.numpy() for one in model.weights]
    model.compile("adam", "mse")
    x = samples_for("norms")
    model.fit(x, np.ones((len(x), 5)), verbose=0, callbacks=[PolicyRandomizer(seed=0)])
    assert scales
    assert not any(one is other for one in scales for other in model.trainable_weights)
    moved = {
        one.name
        for one, old in zip(model.weights, before, strict=True)
        if not np.array_equal(one.numpy(), old)
    }
    assert not any("_scale" in name or "rescaling" in name for name in moved)
    # Three products in a row are one; the slopes are a kernel that learns.
    assert any("slope" in name for name in moved)
    assert any("gamma" in name for name in moved)


def test_a_batch_norm_of_its_own_follows_the_policy_and_a_frozen_one_rests() -> None:
    def body(x: Any) -> Any:
        x = L.Conv2D(4, 3, activation="relu")(L.Conv2D(4, 3, name="wide")(x))
        x = L.Conv2D(4, 1)(L.BatchNormalization(name="norm")(x))
        return L.BatchNormalization(name="frozen", trainable=False)(x)

    network = keras_model(IMAGE, body)
    space = policy_space(network)
    assert space.weights["norm_scale"] == (8,)  # one level holds a constant exactly
    model = calibrated(network, samples_for("norms"))
    norm, frozen = (
        model.get_layer(f"quant_{name}").layer for name in ("norm", "frozen")
    )
    assert norm.moving_mean.shape[0] > 7
    before = frozen.moving_mean.numpy()
    model.compile("sgd", "mse")
    x = samples_for("norms")
    old = norm.moving_mean.numpy()
    model.fit(x, np.ones((len(x), 5)), verbose=0, callbacks=[PolicyRandomizer(seed=0)])
    assert np.any(norm.moving_mean.numpy() != old)
    np.testing.assert_array_equal(frozen.moving_mean.numpy(), before)


class TestOperations:
    def test_tfmot_takes_a_network_of_layers(self) -> None:
        network = build_net("operations")
        model = as_layers(network)
        assert as_layers(model) is model
        x = samples_for("operations")
        np.testing.assert_allclose(
            model.predict(x, verbose=0), network.predict(x, verbose=0), atol=1e-5
        )
        quantize = tfmot.quantization.keras
        quantized = quantize.quantize_apply(
            quantize.quantize_annotate_model(model), scheme=MatarQuantizeScheme()
        )
        assert get_policy_space(quantized) == policy_space(network)

    @pytest.mark.parametrize(
        ("apply", "message"),
        [
            (tf.sin, "no operation that a layer does"),
            (lambda x: 1.0 / x, "divide by a constant"),
            (lambda x: x / 0.0, "divide by another number"),
            (lambda x: x**3, r"use x \* x"),
            (lambda x: tf.maximum(x, 1.0), "with a constant"),
            (lambda x: tf.clip_by_value(x, -1.0, 1.0), "clip to 0 and a number"),
            (lambda x: x + np.ones((8, 8, 3), np.float32), "one a channel"),
            (lambda x: x[:, ::-1], "take ranges forwards"),
            (lambda x: tf.transpose(x, [1, 0, 2, 3]), "keep the first axis"),
            (lambda x: tf.reduce_mean(x, axis=3), r"over the axes \[1, 2\]"),
            (lambda x: tf.image.resize(x, (12, 12)), "by whole factors"),
            (lambda x: tf.nn.gelu(x, approximate=True), "leave approximate out"),
            (lambda x: tf.cast(x, tf.float16), "leaves float32"),
            (
                lambda x: L.UpSampling2D(3, interpolation="bilinear")(x),
                "computes exactly",
            ),
            (lambda x: L.PReLU()(x), "shared_axes"),
            (
                lambda x: L.Conv2DTranspose(2, 3, 2, output_padding=1)(x),
                "output_padding",
            ),
        ],
    )
    def test_others_are_refused_with_advice(
        self, apply: Callable[[Any], Any], message: str
    ) -> None:
        inputs = L.Input(IMAGE)
        outputs = tf.cast(apply(L.Conv2D(3, 1, padding="same")(inputs)), tf.float32)
        with pytest.raises(ModelError, match=message):
            quantize_model(keras.Model(inputs, outputs), strict=True)
