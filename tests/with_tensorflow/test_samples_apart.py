"""Layers in which samples of a batch meet, which files compute one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras as keras3
import numpy as np
import pytest
from fixtures.nets import L

from matar_tf.errors import ModelError
from matar_tf.keras import from_keras3, keras, quantize_model
from matar_tf.keras._compat import tf
from matar_tf.keras.rewrite.prepare import as_layers

SHAPE = (4, 8)


class Centred(L.Layer):
    """Subtracts the mean over an axis."""

    def __init__(self, axis: int, **options: Any) -> None:
        super().__init__(**options)
        self.over = axis

    def call(self, x: Any) -> Any:
        return x - tf.reduce_mean(x, self.over, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.over}


@keras.utils.register_keras_serializable("tests")
class LessFirst:
    """A function that Keras can write down: an object."""

    def __call__(self, x: Any) -> Any:
        return x - x[0]

    def get_config(self) -> dict[str, Any]:
        return {}


class Noisy(L.Layer):
    """Drops, normalises by what it saw, and counts its calls."""

    def build(self, shape: Any) -> None:
        self.norm, self.drop = L.BatchNormalization(), L.Dropout(0.5)
        self.calls = self.add_weight("calls", (), initializer="zeros", trainable=False)

    def call(self, x: Any, training: Any = True) -> Any:
        self.calls.assign_add(1.0)
        self.add_loss(tf.reduce_sum(x))
        x = self.norm(self.drop(x, training=training), training=training)
        return self.calls * x

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


def network(apply: Callable[[Any], Any], shape: Any = SHAPE, **options: Any) -> Any:
    inputs = keras.Input(shape, **options)
    return keras.Model(inputs, apply(inputs))


def own(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: L.Lambda(function)(x)


def less_first(x: Any) -> Any:
    return x - x[0]


def nested(x: Any) -> Any:
    inner = network(lambda y: Centred(0, name="centred")(L.ReLU()(y)))
    return inner(x)


MIXING = {
    "an object as activation": L.Activation(LessFirst()),
    "an object as a dense layer's": L.Dense(8, activation=LessFirst()),
    "time before samples": L.GRU(8, time_major=True, return_sequences=True),
    "the same, both ways": L.Bidirectional(
        L.SimpleRNN(4, time_major=True, return_sequences=True)
    ),
    "a mean": lambda x: x - tf.reduce_mean(x, axis=0),
    "a mean of all": lambda x: x / tf.reduce_max(x),
    "a deviation, which is 0 of one": lambda x: x + tf.math.reduce_std(x, -3),
    "softmax": lambda x: tf.nn.softmax(x, axis=-3),
    "reverse": lambda x: tf.reverse(x, [0]),
    "cumsum": lambda x: tf.cumsum(x, axis=0),
    "transpose": lambda x: tf.transpose(x, [1, 0, 2]),
    "sort": lambda x: tf.sort(x, axis=0),
    "l2": lambda x: tf.math.l2_normalize(x, axis=0),
    "stack": lambda x: tf.stack([x, x]),
    "unstack": lambda x: tf.stack(tf.unstack(x, 3)),
    "a product of samples": lambda x: tf.einsum("abc,dbc->adc", x, x),
    "first sample": lambda x: x[:1],
    "a batch along another axis": lambda x: x + L.GlobalMaxPooling1D()(x),
    "Softmax": lambda x: L.Softmax(axis=-3)(x),
    "UnitNormalization": lambda x: L.UnitNormalization(axis=[0, 1])(x),
    "TimeDistributed": lambda x: L.TimeDistributed(L.Softmax(axis=0))(x),
    "a layer": lambda x: Centred(0)(x),
    "a Lambda": own(lambda x: x / tf.reduce_max(x)),
    "a Lambda of logarithms": own(lambda x: tf.math.log(x / tf.reduce_sum(x, 0))),
    "an activation": lambda x: L.Dense(3, activation=less_first)(x),
    "a model": nested,
    "rows": lambda x: tf.reshape(x, (-1, 8)),
    "rows and back": lambda x: tf.reshape(
        L.Dense(8)(tf.reshape(x, (-1, 8))), (-1, *SHAPE)
    ),
    "rows of a known number": lambda x: tf.reshape(x, (tf.shape(x)[0] * 4, 8)),
    "parts of samples": lambda x: tf.reshape(x, (-1, 2, 8)),
    "rows in a Lambda": own(lambda x: tf.reshape(x, (-1, 8))),
}


@pytest.mark.parametrize("apply", MIXING.values(), ids=MIXING.keys())
def test_refused_once(apply: Callable[[Any], Any]) -> None:
    with pytest.raises(ModelError, match="mixes the samples") as caught:
        quantize_model(network(lambda x: L.Dense(2)(apply(L.ReLU()(x)))))
    assert str(caught.value).count("mixes") == 1


@pytest.mark.parametrize("join", [L.Concatenate(axis=-3), lambda x: tf.concat(x, -3)])
def test_joined_samples(join: Callable[[Any], Any]) -> None:
    with pytest.raises(ModelError, match="got axis -3, that of samples"):
        quantize_model(network(lambda x: join([x, x])))


APART = {
    "a mean": lambda x: x - tf.reduce_mean(x, axis=-1, keepdims=True),
    "cumsum": lambda x: tf.cumsum(x, axis=-2),
    "a shape": lambda x: tf.reshape(x, (-1, 2, 2, 8)),
    "a shape of itself": lambda x: tf.reshape(x, (tf.shape(x)[0], -1)),
    "positions": lambda x: x + L.Embedding(9, 8)(tf.range(tf.shape(x)[1])),
    "ones": lambda x: x + tf.ones((tf.shape(x)[0], *SHAPE)),
    "noise": lambda x: x + tf.random.normal(tf.shape(x)),
    "dropout": lambda x: tf.nn.dropout(x, 0.5),
    "logarithms": lambda x: tf.math.log(x),
    "levels": lambda x: tf.round(50.0 * x),
    "a layer": lambda x: Centred(-2)(x),
    "a layer with states": lambda x: Noisy()(x),
    "UnitNormalization": lambda x: L.UnitNormalization(axis=-2)(x),
    "one that fails": own(lambda x: tf.reshape(x, (2, *SHAPE)) + 0.0 * x),
}


@pytest.mark.parametrize("apply", APART.values(), ids=APART.keys())
def test_accepted(apply: Callable[[Any], Any]) -> None:
    as_layers(network(lambda x: apply(L.ReLU()(x))))


def test_a_trial_leaves_no_trace() -> None:
    model = network(lambda x: Noisy(name="noisy")(x))
    layer = model.get_layer("noisy")
    tf.random.set_seed(0)
    expected = tf.random.uniform(())
    tf.random.set_seed(0)
    as_layers(model)
    assert float(layer.calls) == 0.0
    assert float(tf.random.uniform(())) == float(expected)
    assert not layer._eager_losses


def test_inputs_of_other_kinds() -> None:
    words = keras.Input((6,), dtype="int32")
    sizes = keras.Input((None, 8))
    table = L.Embedding(2, 8, mask_zero=True)(words)
    both = L.Lambda(lambda x: tf.matmul(x[0], x[1], transpose_b=True))([table, sizes])
    as_layers(keras.Model([words, sizes], both))
    met = L.Lambda(lambda x: x[0] + tf.gather(x[0], x[1][:, 0]))([table, words])
    with pytest.raises(ModelError, match="mixes the samples"):
        as_layers(keras.Model(words, met))


@pytest.mark.parametrize(("size", "is_taken"), [(1, True), (2, False)])
def test_batches_of_a_fixed_size(size: int, is_taken: bool) -> None:
    model = network(lambda x: Centred(0)(x), batch_size=size)
    if is_taken:
        as_layers(model)  # it can be computed for one sample alone
    else:
        with pytest.raises(ModelError, match="mixes the samples"):
            as_layers(model)


def of_keras3(apply: Callable[[Any], Any]) -> Any:
    inputs = keras3.Input(SHAPE)
    return keras3.Model(inputs, apply(keras3.layers.Dense(8)(inputs)))


@pytest.mark.parametrize(
    "apply",
    [
        lambda x: x - keras3.ops.mean(x, axis=0),
        lambda x: keras3.ops.softmax(x, axis=0),
        lambda x: keras3.ops.reshape(x, (-1, 8)),
        lambda x: keras3.ops.reshape(x, (-1, 2, 8)),
        lambda x: keras3.ops.transpose(x, (1, 0, 2)),
        lambda x: keras3.ops.stack([x, x], axis=0),
        lambda x: keras3.layers.Softmax(axis=0)(x),
        lambda x: keras3.layers.UnitNormalization(axis=0)(x),
        lambda x: keras3.layers.Concatenate(axis=0)([x, x]),
    ],
)
def test_networks_of_keras_3(apply: Callable[[Any], Any]) -> None:
    with pytest.raises(ModelError, match=r"mixes the samples|that of samples"):
        quantize_model(from_keras3(of_keras3(apply)))


def test_a_shape_of_keras_3_that_keeps_samples() -> None:
    model = of_keras3(lambda x: keras3.ops.reshape(x, (-1, 2, 16)))
    x = np.ones((3, *SHAPE), np.float32)
    again = as_layers(from_keras3(model))
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0))
