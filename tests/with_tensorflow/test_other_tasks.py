"""Segmentation, reconstruction and several labels, from Keras to a front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matar_tf import evaluate, retarget
from matar_tf.keras import calibrate, keras, package, quantize_model
from matar_tf.keras.packaging.network import keras_reference

L = keras.layers
IMAGES = np.random.default_rng(0).random((40, 8, 8, 1), np.float32)


def segmenter() -> Any:
    inputs = L.Input((8, 8, 1))
    x = L.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    y = L.UpSampling2D()(L.Conv2D(6, 3, strides=2, padding="same")(x))
    return keras.Model(inputs, L.Conv2D(2, 1)(L.Concatenate()([x, y])))


def autoencoder() -> Any:
    inputs = L.Input((8, 8, 1))
    x = L.Conv2D(6, 3, strides=2, padding="same", activation="relu")(inputs)
    x = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, L.Conv2D(1, 3, padding="same", activation="sigmoid")(x))


def several_labels() -> Any:
    inputs = L.Input((8, 8, 1))
    x = L.Flatten()(L.Conv2D(4, 3, activation="relu")(inputs))
    return keras.Model(inputs, L.Dense(3, activation="sigmoid")(x))


TASKS = {
    "mean_iou": (segmenter, (IMAGES[..., 0] > 0.5).astype(int)),
    "mean_squared_error": (autoencoder, IMAGES),
    "binary_accuracy": (several_labels, IMAGES[:, 0, :3, 0] > 0.5),
}


@pytest.mark.parametrize("metric", TASKS)
def test_a_front_of_another_task(metric: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    build, labels = TASKS[metric]
    model = quantize_model(build(), signed_inputs=False)
    calibrate(model, IMAGES)
    artifact = package(model)
    outcome = retarget(
        artifact,
        "mpic",
        (IMAGES, labels),
        tmp_path / "run",
        metrics=[metric],
        max_evaluations=10,
        reference=keras_reference(artifact),
        progress=False,
    )
    assert not outcome.failures
    (result,) = outcome.results
    for candidate in result.front:
        path = tmp_path / "run/mpic" / f"{candidate.name}.tflite"
        found = evaluate(path, (IMAGES, labels), metrics=[metric])
        assert found == {metric: candidate.metrics[metric]}
        assert candidate.metrics["argmax_agreement"] == 1.0
