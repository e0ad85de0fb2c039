"""Models inside models, frozen layers, and calls that say training= themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matar_tf.errors import ModelError
from matar_tf.keras import (
    as_layers,
    calibrate,
    keras,
    load_model,
    package,
    policy_space,
    quantize_model,
)
from matar_tf.keras.packaging.network import keras_reference
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers


def samples(number: int = 48) -> np.ndarray:
    return np.random.default_rng(0).random((number, 12, 12, 3), np.float32)


def base() -> Any:
    """A feature extractor of any size, as those of keras.applications."""
    return keras.Sequential(
        [
            L.Conv2D(8, 3, use_bias=False, input_shape=(None, None, 3), name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(name="relu"),
            L.SeparableConv2D(8, 3, activation="relu", name="split"),
            L.Dropout(0.5, name="drop"),
        ],
        name="base",
    )


def transfer(*, is_frozen: bool = True) -> Any:
    """Keras' guide to transfer learning: augmentation, a frozen base, a new head."""
    keras.utils.set_random_seed(0)
    extractor = base()
    extractor.trainable = not is_frozen
    inputs = L.Input((12, 12, 3))
    x = keras.Sequential([L.RandomFlip("horizontal", name="flip")], name="aug")(inputs)
    x = L.Rescaling(2.0, offset=-1.0, name="scale")(x)
    x = extractor(x, training=False)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(4, name="head")(x))


def two_outputs() -> Any:
    """A network inside, of two outputs, with one inside that and an operation."""
    keras.utils.set_random_seed(1)
    most = keras.Sequential([L.Dense(5, input_shape=(12, 12, 3), name="d")], name="in")
    fed = L.Input((12, 12, 3))
    x = most(fed)
    inner = keras.Model(fed, [x * 2.0, L.MaxPooling2D(name="pool")(x)], name="mid")
    inputs = L.Input((12, 12, 3))
    one, other = inner(inputs)
    both = [L.GlobalMaxPooling2D()(one), L.Flatten()(other)]
    return keras.Model(inputs, L.Dense(3, name="head")(L.Concatenate()(both)))


@pytest.mark.parametrize("build", [transfer, two_outputs])
def test_a_flat_copy_computes_the_same(build: Any) -> None:
    model, x = build(), samples()
    flat = as_layers(model)
    assert as_layers(flat) is flat
    np.testing.assert_allclose(
        flat.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


def test_names_are_paths() -> None:
    assert {"mid/in/d", "head"} <= set(policy_space(two_outputs()).weights)
    names = [one.name for one in as_layers(transfer()).layers]
    assert names[1:7] == [
        "aug/flip",
        "scale",
        "base/conv",
        "base/norm",
        "base/relu",
        "base/split",
    ]


def test_transfer_learning_as_keras_guide_has_it(tmp_path: Path) -> None:
    x, labels = samples(), np.arange(48) % 4
    model = quantize_model(transfer(), signed_inputs=False)
    calibrate(model, x)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [one.numpy() for one in model.weights]
    model.fit(x, labels, verbose=0)
    moved = {
        one.name
        for one, old in zip(model.weights, before, strict=True)
        if "log_steps" not in one.name and np.any(one.numpy() != old)
    }
    assert moved == {"head/kernel:0", "head/bias:0"}
    assert not [one for one in model.trainable_weights if "base/" in one.name]

    model.save(tmp_path / "net.h5")
    loaded = load_model(tmp_path / "net.h5")
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    assert len(loaded.trainable_weights) == len(model.trainable_weights)

    artifact = package(model)
    reference = keras_reference(artifact)
    for name in ("w8a8", "w4a4"):
        policy = artifact.space.named(name)
        found = Runner(ModelBuilder(artifact).build(policy)).predict(x)
        np.testing.assert_allclose(found, reference(policy, x), atol=1e-6)

    model.trainable = True  # the guide's second part
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_layer("quant_base/conv").get_weights()
    model.fit(x, labels, verbose=0)
    after = model.get_layer("quant_base/conv").get_weights()
    assert any(np.any(a != b) for a, b in zip(after, before, strict=True))


def test_what_is_called_in_evaluation_rests() -> None:
    """The norm of a base that is trained, but called with training=False."""
    inputs = L.Input((12, 12, 3))
    x = L.GlobalAveragePooling2D()(base()(inputs, training=False))
    model = quantize_model(keras.Model(inputs, L.Dense(2)(x)), signed_inputs=False)
    norm = model.get_layer("base/norm")
    assert not norm.trainable
    assert model.get_layer("quant_base/conv").trainable
    x = samples()
    calibrate(model, x)
    before = norm.get_weights()
    once, again = (model(x, training=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(once, again)  # no dropout
    for one, other in zip(norm.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def called(layer: Any, **told: Any) -> Any:
    inputs = L.Input((12, 12, 3))
    return keras.Model(inputs, L.Dense(2, name="head")(layer(inputs, **told)))


@pytest.mark.parametrize("kind", [L.Dropout, L.GaussianNoise])
def test_what_acts_in_evaluation_too_is_refused(kind: Any) -> None:
    with pytest.raises(ModelError, match=r"'noisy'.*called with training=True; leave"):
        quantize_model(called(kind(0.5, name="noisy"), training=True))
    with pytest.raises(ModelError, match=r"'base/norm'.*training=True"):
        quantize_model(called(base(), training=True))
    quantize_model(called(kind(0.5, name="noisy"), training=False))


def test_a_subclassed_model_inside_is_refused_by_its_path() -> None:
    class Own(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    fed = L.Input((12, 12, 3))
    outer = keras.Model(fed, Own(name="own")(fed), name="outer")
    with pytest.raises(ModelError, match="subclassed Own 'outer/own'; rebuild it"):
        quantize_model(called(outer))


def test_a_quantized_model_inside_is_refused() -> None:
    inner = quantize_model(called(L.ReLU()))
    with pytest.raises(ModelError, match="is quantized already"):
        quantize_model(called(inner))
