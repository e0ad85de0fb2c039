"""What belongs to a model and not to a layer: kept by its copy, or refused."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matar_tf.errors import ArtifactError, DataError, ModelError
from matar_tf.inputs import InputInfo
from matar_tf.keras import (
    MultiBitTrainer,
    calibrate,
    get_policy,
    keras,
    load_model,
    package,
    quantize_model,
    set_policy,
)
from matar_tf.keras._compat import tf

L = keras.layers
X = np.random.default_rng(0).random((16, 6, 6, 1)).astype(np.float32)
Y = np.arange(16) % 3


def network(**arguments: Any) -> Any:
    keras.utils.set_random_seed(0)
    x = inputs = L.Input((6, 6, 1), name="image")
    x = L.Conv2D(2, 3, name="conv", **arguments)(x)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x))
    return keras.Model(inputs, L.Dense(3, name="logits")(L.Flatten()(x)), name="net")


def loss_of_model(model: Any) -> None:
    kernel = model.get_layer("conv").kernel
    model.add_loss(lambda: tf.reduce_sum(kernel**2))


def loss_of_layer(model: Any) -> None:
    kernel = model.get_layer("conv").kernel
    model.get_layer("conv").add_loss(lambda: tf.reduce_sum(kernel**2))


def loss_of_tensor(model: Any) -> None:
    model.add_loss(tf.reduce_mean(model.get_layer("relu").output))


def metric_of_tensor(model: Any) -> None:
    model.add_metric(tf.reduce_mean(model.get_layer("relu").output), name="mean")


LACKING = r"got 1 more \(by add_loss, or .* which the quantized copy would lack"


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            loss_of_model,
            LACKING,
        ),
        (
            loss_of_layer,
            LACKING,
        ),
        (loss_of_tensor, r"'add_loss'\], from add_loss or add_metric"),
        (metric_of_tensor, r"'add_metric'\], from add_loss or add_metric"),
    ],
)
def test_losses_and_metrics_of_the_model_are_refused(
    add: Callable[[Any], None], message: str
) -> None:
    model = network()
    add(model)
    with pytest.raises(ModelError, match=message):
        quantize_model(model)


def test_what_the_refusals_advise_works() -> None:
    model = quantize_model(network(kernel_regularizer=keras.regularizers.L2(0.5)))
    kernel = next(one for one in model.weights if "conv/kernel" in one.name)
    # The regularizer of a layer is kept.
    penalty = 0.5 * float(tf.reduce_sum(kernel**2))
    assert [float(one) for one in model.losses] == pytest.approx([penalty])
    model.add_loss(lambda: 2.0 * tf.reduce_sum(kernel))
    added = 2.0 * float(tf.reduce_sum(kernel))
    calibrate(model, X)
    for one in (model, MultiBitTrainer(model)):
        one.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        logits = one.predict(X, verbose=0)
        labels = np.mean(keras.losses.sparse_categorical_crossentropy(Y, logits, True))
        found = one.evaluate(X, Y, verbose=0)
        assert found == pytest.approx(labels + penalty + added, rel=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64"])
def test_inputs_of_other_types_are_refused(dtype: str) -> None:
    inputs = keras.Input((6, 6, 1), dtype=dtype, name="camera")
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(inputs)))
    message = rf"'camera' takes {dtype}; leave the dtype out .* dtype='int32' for"
    with pytest.raises(ModelError, match=message):
        quantize_model(model)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, weight_decay=0.05),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.05),
    "lion": lambda: keras.optimizers.Lion(0.1, weight_decay=0.05),
}


def is_step(variable: Any) -> bool:
    return "log_steps" in variable.name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_leaves_learned_steps_alone(tmp_path: Path, name: str) -> None:
    model = quantize_model(network())
    calibrate(model, X)
    model.save(tmp_path / "model.h5")
    for one in (model, load_model(tmp_path / "model.h5")):
        variables = one.trainable_variables
        before = [variable.numpy() for variable in variables]
        optimizer = OPTIMIZERS[name]()
        optimizer.apply_gradients([(tf.zeros_like(v), v) for v in variables])
        moved = dict(zip([v.name for v in variables], before, strict=True))
        assert sum(map(is_step, variables)) == 4  # two kernels, relu, logits' input
        for variable in variables:
            share = 1.0 if is_step(variable) else 1.0 - 0.1 * 0.05
            np.testing.assert_allclose(
                variable.numpy(), moved[variable.name] * share, rtol=1e-6
            )


def test_what_the_user_excludes_stays_excluded() -> None:
    kernel = tf.Variable([1.0], name="kernel")
    bias = tf.Variable([1.0], name="bias")
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply_gradients([(tf.zeros(1), kernel), (tf.zeros(1), bias)])
    assert kernel.numpy() == pytest.approx([0.95])
    assert bias.numpy() == [1.0]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_models_are_copied_as_the_refusal_says(copied: Callable[[Any], Any]) -> None:
    model = quantize_model(network())
    calibrate(model, X)
    set_policy(model, "w4a4")
    with pytest.raises(NotImplementedError, match=r"pickle\).*clone_model\(model\)"):
        copied(model)
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    assert get_policy(twin) == get_policy(model)
    np.testing.assert_array_equal(
        twin.predict(X, verbose=0), model.predict(X, verbose=0)
    )


def test_a_model_packaged_from_python_says_how_it_was_made() -> None:
    model = quantize_model(network())
    calibrate(model, X.astype(np.float64))
    found = package(model).provenance
    assert found["command"] == "matar_tf.package"
    assert found["versions"]["tensorflow"] == tf.__version__
    content = b"float32(16, 6, 6, 1)" + X.tobytes()
    assert found["calibration_digest"] == hashlib.sha256(content).hexdigest()
    assert found["calibration_samples"] == 16
    given = package(model, provenance={"command": "mine", "seed": 3}).provenance
    assert given == {**found, "command": "mine", "seed": 3}
    for name in ("versions", "calibration_digest", "calibration_samples"):
        with pytest.raises(ArtifactError, match=f"provenance= without '{name}'"):
            package(model, provenance={name: "mine"})
    with pytest.raises(ArtifactError, match="give a dict"):
        package(model, provenance="hello")
    # A copy was given its steps by other means.
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    assert "calibration_digest" not in package(twin).provenance


def test_an_artifact_says_what_samples_were() -> None:
    model = quantize_model(network())
    calibrate(model, X)
    assert package(model).inputs == {"image": InputInfo.of(X)}
    given = package(model, samples=2.0 * X, channels="grey").inputs["image"]
    assert given == replace(InputInfo.of(2.0 * X), channels="grey")
    with pytest.raises(DataError, match="samples of shape"):
        package(model, samples=X[..., 0])
    # A copy was given its steps by other means: nobody knows the samples.
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    assert package(twin).inputs == {}
    with pytest.raises(ArtifactError, match="samples= beside channels='RGB'"):
        package(twin, channels="RGB")
