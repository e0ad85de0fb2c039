"""Layers that a network calls several times: one kernel, everything else per call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.nets import free_space, keras_model

from matar_tf.keras import (
    calibrate,
    keras,
    package,
    quantize_model,
    set_policy,
)
from matar_tf.keras.quantizers.tracing import FloatTracer, tracing
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers
SHAPE = (8, 8, 3)


def samples(number: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((number, *SHAPE), np.float32)


def tower() -> Any:
    fed = L.Input(SHAPE)
    x = L.Conv2D(6, 3, use_bias=False, name="conv")(fed)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x))
    x = L.SeparableConv2D(5, 3, activation="relu", name="split")(x)
    x = L.Dropout(0.25, name="drop")(x)
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(fed, L.Dense(4, name="embed")(x), name="tower")


def siamese(image: Any) -> Any:
    """A network called on an image and on a part of it."""
    embed = tower()
    cut = L.ZeroPadding2D(1, name="pad")(L.Cropping2D(1, name="cut")(image))
    return L.Subtract(name="apart")([embed(image), embed(cut)])


def branches(image: Any) -> Any:
    """A dense layer on two branches, and on tensors of another size."""
    dense = L.Dense(4, activation="relu", name="dense")
    pools = [L.GlobalMaxPooling2D()(image), L.GlobalAveragePooling2D()(image)]
    dense_image = L.GlobalMaxPooling2D(name="last")(dense(image))
    return L.Add(name="sum")([*map(dense, pools), dense_image])


def recurrence(image: Any) -> Any:
    """A block of a layer of its own, three times in depth."""
    step, relu = L.Dense(5, name="step"), L.ReLU(name="relu")
    x = L.Dense(5, name="start")(L.Flatten()(image))
    for _ in range(3):
        x = relu(step(x))
    return x


def pyramid(image: Any) -> Any:
    """One head on maps of two sizes, with a batch norm for each."""
    first = L.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    maps = [first, L.MaxPooling2D(name="half")(first)]
    head = L.Conv2D(6, 3, padding="same", name="head")
    heads = [
        L.BatchNormalization(name=f"norm{i}")(head(one)) for i, one in enumerate(maps)
    ]
    return L.Concatenate()([L.GlobalMaxPooling2D()(one) for one in heads])


def half_normed(image: Any) -> Any:
    """A convolution with a batch norm after one of its calls alone."""
    conv = L.Conv2D(4, 3, name="conv")
    sides = [L.BatchNormalization(name="norm")(conv(image)), conv(L.ReLU()(image))]
    return L.Concatenate()([L.GlobalMaxPooling2D()(one) for one in sides])


def quantized(body: Any) -> Any:
    model = keras_model(SHAPE, body)
    return quantize_model(model, free_space(model))


BODIES = (siamese, branches, recurrence, pyramid, half_normed)


@pytest.mark.parametrize("body", BODIES)
def test_a_file_computes_what_the_network_does(body: Any) -> None:
    model, x = keras_model(SHAPE, body), samples()
    expected = model.predict(x, verbose=0)
    model = quantize_model(model, free_space(model))
    with tracing(FloatTracer()):
        np.testing.assert_allclose(model(x, training=False), expected, atol=1e-5)
    calibrate(model, x)
    artifact = package(model, include_network=False)
    builder = ModelBuilder(artifact)
    for name in ("w8a8", "w4a3", "w2a2"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        expected = model.predict(x, verbose=0)
        found = Runner(builder.build(policy)).predict(x)
        np.testing.assert_array_equal(found, expected)
