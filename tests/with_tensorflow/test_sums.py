"""Sums of two tensors: Keras counts them as the file does, every pair of levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matar_tf.keras import (
    calibrate,
    keras,
    load_model,
    package,
    quantize_model,
    set_policy,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers.wrapper import all_quantizers
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers

# Steps of both inputs over that of the output: alike, halves, far apart; beyond what
# XNNPACK takes, of which one makes halves, to which the other adds next to nothing.
RATIOS = [
    *((1.0, 1.0), (0.5, 0.25), (0.731, 0.113), (3.7, 0.004)),
    *((0.0007, 1.3), (0.5, 2e-7)),
]


def merged(kind: str, function: str | None, ratios: tuple[float, float]) -> Any:
    """A quantized network that adds or subtracts two of its samples' channels."""
    keras.utils.set_random_seed(0)
    inputs = L.Input((1, 1, 2))
    both = [
        L.Conv2D(1, 1, use_bias=False, name=name)(inputs) for name in ("one", "other")
    ]
    x = getattr(L, kind)(name="total")(both)
    x = L.Activation(function)(x) if function else x
    model = keras.Model(inputs, x)
    for place, name in enumerate(("one", "other")):
        kernel = np.zeros((1, 1, 2, 1))
        kernel[0, 0, place] = max(ratios[place], 2e-6)  # below, they count as zeros
        model.get_layer(name).set_weights([kernel])
    model = quantize_model(model)
    samples = np.linspace(-1.0, 1.0, 64)[:, np.newaxis].repeat(2, axis=1)
    model(samples.reshape(-1, 1, 1, 2).astype(np.float32), training=True)
    out = next(name for name in steps_of(model) if "total" in name or "act" in name)
    put_steps(model, {"one": ratios[0], "other": ratios[1], out: 1.0})
    return model


def steps_of(model: Any) -> dict[str, Any]:
    """The logarithms of the steps of activations, by entry."""
    return {
        one.entry: one.log_steps
        for layer in model.layers
        for one in all_quantizers(layer)
        if one.kind == "activations" and hasattr(one, "log_steps")
    }


def put_steps(model: Any, steps: dict[str, float]) -> None:
    found = steps_of(model)
    for name, step in steps.items():
        scaled = np.full(found[name].shape, np.log(step / 100), np.float32)
        found[name].assign(scaled)


def all_pairs() -> np.ndarray:
    """Every pair of levels of both inputs, and values between them."""
    levels = np.linspace(-1.3, 1.3, 260, dtype=np.float32)
    grid = np.stack(np.meshgrid(levels, levels), axis=-1)
    return grid.reshape(-1, 1, 1, 2)


@pytest.mark.parametrize(
    ("kind", "function", "ratios"),
    [
        *(("Add", None, one) for one in RATIOS),
        *(("Subtract", None, one) for one in RATIOS[2:]),
        ("Add", "relu", RATIOS[1]),
        ("Subtract", "relu", RATIOS[2]),
    ],
)
def test_keras_equals_the_file(
    kind: str, function: str | None, ratios: tuple[float, float]
) -> None:
    model = merged(kind, function, ratios)
    artifact = package(model, include_network=False)
    x = all_pairs()
    for name in ("w8a8", "w8a4"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        found = Runner(ModelBuilder(artifact).build(policy)).predict(x)
        expected = model.predict(x, batch_size=len(x), verbose=0)
        assert len(np.unique(found)) > 4
        np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-6)


@pytest.mark.parametrize("kind", ["Add", "Subtract"])
def test_it_is_a_plain_sum_in_training_and_before_calibration(kind: str) -> None:
    inputs = L.Input((1, 1, 2))
    sides = [L.Conv2D(1, 1, name=name)(inputs) for name in ("one", "other")]
    model = quantize_model(keras.Model(inputs, getattr(L, kind)(name="total")(sides)))
    layer = next(one for one in model.layers if "total" in one.name).layer
    a, b = (np.array([[[[one]]]], np.float32) for one in (0.3, 0.117))
    expected = a + b if kind == "Add" else a - b
    for training in (True, False):
        assert layer([a, b], training=training).numpy() == expected
    calibrate(model, np.full((8, 1, 1, 2), 0.5, np.float32))
    assert layer([a, b], training=True).numpy() == expected
    assert layer([a, b], training=False).numpy() != expected


def test_the_gradient_in_evaluation_is_that_of_a_sum() -> None:
    model = merged("Subtract", None, RATIOS[2])
    layer = next(one for one in model.layers if "total" in one.name).layer
    a, b = (tf.fill((1, 1, 1, 1), one) for one in (0.003, 0.001))
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        total = layer([a, b], training=False)
    assert [one.numpy().item() for one in tape.gradient(total, [a, b])] == [1.0, -1.0]


def test_a_loaded_model_counts_as_the_saved_one(tmp_path: Path) -> None:
    model = merged("Add", "relu", RATIOS[1])
    x = all_pairs()
    model.save(tmp_path / "net.h5")
    loaded = load_model(tmp_path / "net.h5")
    found, expected = (
        one.predict(x, batch_size=4096, verbose=0) for one in (loaded, model)
    )
    np.testing.assert_array_equal(found, expected)
