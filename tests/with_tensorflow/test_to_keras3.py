"""Multi-bitwidth networks in Keras 3: equal outputs, kernels on a policy's grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras as keras3
import numpy as np
import pytest
from fixtures.nets import build_net, samples_for

from matar_tf.errors import MatarWarning, ModelError, PolicyError
from matar_tf.keras import (
    calibrate,
    from_keras3,
    get_policy,
    get_policy_space,
    keras,
    quantize_model,
    set_policy,
    to_keras3,
)
from matar_tf.keras._compat import infer, tf
from matar_tf.keras.quantizers.tracing import FloatTracer, tracing
from matar_tf.policy import Policy


class KernelsAlone(FloatTracer):
    """Quantizes kernels and nothing else."""

    def weights(self, quantizer: Any, x: Any) -> Any:
        return quantizer.fake_quantize(x)


def without_grids(model: Any, samples: np.ndarray) -> np.ndarray:
    """Returns what a network computes under its policy in float."""
    with tracing(KernelsAlone()):
        return infer(model, tf.constant(samples)).numpy()


def assert_near(one: Any, other: np.ndarray) -> None:
    bound = 1e-5 * np.abs(other).max()
    np.testing.assert_allclose(np.asarray(one), other, rtol=0, atol=bound)


@pytest.fixture(scope="module")
def quantized() -> Any:
    model = quantize_model(build_net("residual_bn"))
    calibrate(model, samples_for("residual_bn"))
    return model


# Batch norms alone, too; gates; dropout; transposed convolutions.
@pytest.mark.parametrize("name", ["norm_vector", "gates", "dropout_relu", "transposed"])
def test_outputs_are_those_of_the_network_in_float(name: str) -> None:
    model, samples = quantize_model(build_net(name)), samples_for(name, 4)
    again = to_keras3(model, "w4a8")
    set_policy(model, "w4a8")
    assert_near(again(samples, training=False), without_grids(model, samples))


@pytest.mark.parametrize("bits", [2, 3])
def test_kernels_lie_on_the_grid_of_each_entry(quantized: Any, bits: int) -> None:
    policy = get_policy_space(quantized).named("w8a8")
    first, inner, *_ = policy.weights
    weights = {**policy.weights, inner: bits}
    policy = Policy(weights=weights, activations=policy.activations)
    again = to_keras3(quantized, policy)
    values = np.asarray(again.get_layer(inner).kernel)
    levels = [len(np.unique(one)) for one in values.reshape(-1, values.shape[-1]).T]
    assert 2 ** (bits - 1) < max(levels) <= 2**bits
    assert len(np.unique(again.get_layer(first).kernel)) > 2**bits
    set_policy(quantized, policy)
    samples = samples_for("residual_bn", 4)
    assert_near(again(samples, training=False), without_grids(quantized, samples))


def test_the_policy_in_force_stays(quantized: Any) -> None:
    set_policy(quantized, "w3a3")
    before = get_policy(quantized)
    to_keras3(quantized, "w8a8")
    assert get_policy(quantized) == before
    with pytest.raises(PolicyError):
        to_keras3(quantized, "w9a9")
    assert get_policy(quantized) == before


def test_it_is_a_plain_model_of_keras_3(quantized: Any, tmp_path: Path) -> None:
    samples = samples_for("residual_bn", 4)
    model = to_keras3(quantized, "w2a8")
    expected = np.asarray(model(samples, training=False))
    model.save(tmp_path / "net.keras")
    loaded = keras3.saving.load_model(tmp_path / "net.keras")
    assert_near(loaded(samples, training=False), expected)
    assert_near(from_keras3(tmp_path / "net.keras")(samples), expected)
    model.compile("sgd", "mse")
    model.fit(samples, expected, verbose=0)


def test_other_models_are_refused() -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ModelError, match="Expected a multi-bitwidth model"):
        to_keras3(model, "w8a8")


def siamese() -> Any:
    """A tower in Keras 3 that two inputs go through; a dense layer called thrice."""
    layers = keras3.layers
    fed = keras3.Input((6, 6, 2))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="conv")(fed))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    tower = keras3.Model(fed, x, name="tower")
    dense, sides = (
        layers.Dense(4, name="dense"),
        [keras3.Input((6, 6, 2)) for _ in "ab"],
    )
    one, other = (dense(tower(side)) for side in sides)
    return keras3.Model(sides, layers.Subtract()([dense(one), other]))


def test_shared_layers_come_and_go(tmp_path: Path) -> None:
    there = siamese()
    rng = np.random.default_rng(0)
    there.set_weights([rng.uniform(0.2, 1.0, one.shape) for one in there.weights])
    x = [tf.constant(rng.standard_normal((3, 6, 6, 2), np.float32)) for _ in "ab"]
    expected = np.asarray(there(x, training=False))
    there.save(tmp_path / "net.keras")
    here = from_keras3(tmp_path / "net.keras")
    assert_near(infer(from_keras3(there), x), expected)
    assert_near(infer(here, x), expected)
    model = quantize_model(here)
    assert list(get_policy_space(model).weights) == ["tower/conv", "dense"]
    again = to_keras3(model, "w8a8")
    set_policy(model, "w8a8")
    with tracing(KernelsAlone()):
        assert_near(again(x, training=False), infer(model, x).numpy())
    assert [one.name for one in again.layers].count("dense") == 1


def test_layers_in_float_come_back() -> None:
    """Kernels on their grids, also those of a layer that is called twice."""
    inputs = [keras.Input((2, 3), name=name) for name in "ab"]
    layers = keras.layers
    lstm, norm = layers.LSTM(4, name="lstm"), layers.LayerNormalization()
    x = layers.Subtract()([norm(lstm(one)) for one in inputs])
    with pytest.warns(MatarWarning, match="stay in float"):
        model = quantize_model(keras.Model(inputs, layers.Dense(2)(x)))
    set_policy(model, "w2a8")
    again = to_keras3(model, "w2a8")
    assert len(again.get_layer("lstm")._inbound_nodes) == 2
    rng = np.random.default_rng(0)
    x = [tf.constant(rng.standard_normal((3, 2, 3), np.float32)) for _ in "ab"]
    with tracing(KernelsAlone()):
        expected = infer(model, x).numpy()
    assert_near(again(x, training=False), expected)


@pytest.mark.filterwarnings("ignore::matar_tf.errors.MatarWarning")
def test_layers_inside_layers_come_back() -> None:
    """Both ways of a Bidirectional, cells, and an Embedding, which names a shape."""
    layers = keras.layers
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 3)(inputs)
    x = layers.Bidirectional(layers.GRU(2, return_sequences=True))(x)
    x = layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(4)])(x)
    model = quantize_model(keras.Model(inputs, layers.Dense(2)(x)))
    set_policy(model, "w3a8")
    tokens = np.random.default_rng(0).integers(0, 7, (4, 5)).astype(np.int32)
    again = to_keras3(model, "w3a8")
    assert_near(again(tokens, training=False), without_grids(model, tokens))


@pytest.mark.filterwarnings("ignore::matar_tf.errors.MatarWarning")
@pytest.mark.parametrize("is_inside", [False, True])
def test_a_function_that_keras_3_computes_otherwise(is_inside: bool) -> None:
    """Hard sigmoid rises by 1/5 in tf_keras, by 1/6 in Keras 3."""
    layer = keras.layers.LSTM(2, recurrent_activation="hard_sigmoid")
    inputs = keras.Input((3, 2))
    x = (keras.layers.Bidirectional(layer) if is_inside else layer)(inputs)
    model = quantize_model(keras.Model(inputs, keras.layers.Dense(2)(x)))
    with pytest.raises(ModelError, match="recurrent_activation='hard_sigmoid', which"):
        to_keras3(model, "w4a8")
