"""Networks of one output: what agrees, and what their labels are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matar_tf.artifact import Artifact
from matar_tf.data import Data
from matar_tf.errors import DataError, ExportError
from matar_tf.keras import calibrate, keras, package, quantize_model, set_policy
from matar_tf.keras.packaging.network import keras_reference
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.evaluate import (
    PolicyEvaluator,
    evaluate_model,
)
from matar_tf.tflite.export import export_model
from matar_tf.tflite.fitting_data import check_data
from matar_tf.tflite.metrics import (
    argmax_agreement,
    cross_entropy,
    get_metrics,
    negative_log_likelihood,
)
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import verify

L = keras.layers
RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(64, 6)).astype(np.float32)
LABELS = (SAMPLES @ [1.0, -2.0, 1.0, 0.0, 1.0, -1.0] > 0).astype(int)


def network(seed: int, last: Any = None) -> tuple[Any, Artifact]:
    keras.backend.reset_uids()
    keras.utils.set_random_seed(seed)
    inputs = L.Input((6,), name="samples")
    x = L.Dense(8, activation="relu")(inputs)
    model = keras.Model(inputs, (L.Dense(1) if last is None else last)(x))
    model = quantize_model(model)
    calibrate(model, SAMPLES)
    return model, package(model)


def test_outputs_agree_that_are_a_step_apart() -> None:
    """By hand: 0, 1, 2 and 3 steps of 0.25 apart, at a size where float32 rounds."""
    outputs = np.array([[10.0], [10.0], [10.0], [10.0]], np.float32)
    reference = outputs + np.array([[0.0], [-0.25], [0.5], [0.75]], np.float32)
    assert argmax_agreement(outputs, reference, step=0.25) == 0.5
    assert argmax_agreement(outputs, reference, step=0.5) == 0.75
    assert argmax_agreement(outputs, reference) == 0.25
    # A map of single outputs, and several outputs, of which the largest counts.
    maps = outputs.reshape(2, 2, 1), reference.reshape(2, 2, 1)
    assert argmax_agreement(*maps, step=0.25) == 0.5
    assert argmax_agreement(np.eye(4), 3 * np.eye(4), step=0.1) == 1.0


def test_the_network_of_another_training_does_not_agree(tmp_path: Path) -> None:
    _, artifact = network(0)
    _, other = network(5)
    builder, policy = ModelBuilder(artifact), artifact.space.named("w8a8")
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportError, match="different trainings"):
        export_model(
            builder, policy, path, samples=SAMPLES, reference=keras_reference(other)
        )
    assert not path.exists()
    exported = export_model(
        builder, policy, path, samples=SAMPLES, reference=keras_reference(artifact)
    )
    assert exported.agreement == 1.0
    assert verify(path.read_bytes(), SAMPLES).agreement == 1.0
    tensor = artifact.parameters.tensors["dense_1"]
    assert outputs_of(path.read_bytes())[0].step == pytest.approx(tensor.step[-1])


@pytest.mark.parametrize(
    ("units", "activation", "is_probability"),
    [
        (1, "sigmoid", True),
        (1, None, False),
        (2, "sigmoid", False),  # two labels, no distribution
        (2, "softmax", True),
    ],
)
def test_which_outputs_are_probabilities(
    units: int, activation: str | None, is_probability: bool
) -> None:
    _, artifact = network(0, L.Dense(units, activation=activation, name="last"))
    assert outputs_of(artifact.template)[0].gives_probabilities is is_probability


@pytest.mark.parametrize(("name", "expected"), [("softmax", True), ("logits", False)])
def test_knows_a_network_that_gives_probabilities(name, expected):
    inputs = keras.layers.Input((6, 6, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(3, 3)(inputs))
    x = keras.layers.Dense(4, activation="softmax" if expected else None)(x)
    model = quantize_model(keras.Model(inputs, x))
    samples = np.random.default_rng(0).normal(size=(16, 6, 6, 1)).astype(np.float32)
    calibrate(model, samples)
    artifact = package(model, include_network=False)
    policy = artifact.space.named("w8a8")
    content = ModelBuilder(artifact).build(policy)
    assert outputs_of(content)[0].gives_probabilities is expected
    labels = np.arange(16) % 4
    measured = PolicyEvaluator(artifact, samples, labels)(policy)["loss"]
    logits = Runner(content).predict(samples)
    loss = negative_log_likelihood if expected else cross_entropy
    assert measured == loss(logits, labels)
    expected_loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=not expected
    )(labels, logits)
    # Keras divides probabilities by their sum, which the 8-bit grid leaves near 1.
    assert measured == pytest.approx(float(expected_loss), rel=1e-3)


def test_metrics_of_two_classes_by_hand() -> None:
    logits = np.array([[2.0], [-1.0], [0.5], [0.0]], np.float32)
    labels = np.array([1, 0, 0, 0])
    names = ("accuracy", "loss", "top_1_accuracy")
    probabilities = 1 / (1 + np.exp(-logits))
    # -log sigmoid(z) for label 1, -log (1 - sigmoid(z)) = log(1 + exp(z)) for 0.
    loss = np.mean(np.log1p(np.exp([-2.0, -1.0, 0.5, 0.0])))
    for outputs, given in ((logits, False), (probabilities, True)):
        metrics = get_metrics(names, probabilities=given)
        assert metrics["accuracy"](outputs, labels) == 0.75  # 0.5 is above, 0 is not
        assert metrics["top_1_accuracy"](outputs, labels) == 0.75
        assert metrics["loss"](outputs, labels) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_a_trained_network_is_evaluated(activation: str | None) -> None:
    model, _ = network(0, L.Dense(1, activation=activation, name="last"))
    loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    model.compile(keras.optimizers.Adam(0.02), loss)
    model.fit(SAMPLES, LABELS, 16, 20, verbose=0)
    artifact = package(model, include_network=False)
    policy = artifact.space.named("w8a8")
    set_policy(model, policy)
    content = ModelBuilder(artifact).build(policy)
    found = evaluate_model(content, Data(x_test=SAMPLES, y_test=LABELS))
    outputs = model.predict(SAMPLES, verbose=0)
    threshold = 0.0 if activation is None else 0.5
    assert found["accuracy"] > 0.9
    expected = np.mean((outputs[:, 0] > threshold) == LABELS)
    assert found["accuracy"] == pytest.approx(expected, abs=1.5 / 64)
    expected = loss(LABELS[:, None], outputs).numpy()
    assert found["loss"] == pytest.approx(expected, abs=0.02)
    assert PolicyEvaluator(artifact, SAMPLES, LABELS)(policy) == found


def test_labels_are_0_and_1() -> None:
    _, artifact = network(0)
    data = Data(
        name="two",
        x_train=SAMPLES,
        y_train=LABELS,
        x_test=SAMPLES,
        y_test=LABELS,
    )
    check_data(artifact, data)
    with pytest.raises(DataError, match=r"labels in 0\.\.1"):
        check_data(artifact, replace(data, y_test=LABELS + 1))
    with pytest.raises(DataError, match=r"labels in 0\.\.1 .* got -1\.\.0"):
        check_data(artifact, replace(data, y_test=LABELS - 1))
