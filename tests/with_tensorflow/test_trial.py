"""What cannot be packaged is refused before the training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fixtures.nets import L

from matar_tf.errors import MatarWarning, ModelError
from matar_tf.keras import calibrate, keras, package, quantize_model
from matar_tf.keras._compat import tf
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatarWarning)
        yield


def around(body: Callable[[Any], Any]) -> Any:
    x = keras.Input((4,))
    y = body(L.Dense(4, activation="relu")(x))
    return keras.Model(x, L.Dense(2)(y))


class Halved(L.Layer):
    def call(self, x: Any) -> Any:
        return tf.math.erf(x) / 2.0


class Sine(L.Layer):
    def call(self, x: Any) -> Any:
        return tf.sin(x)


def enlarged(x: Any) -> Any:
    grown = L.UpSampling2D(interpolation="bicubic", name="cubic")
    return L.Flatten()(grown(L.Reshape((2, 2, 1))(x)))


def looped(x: Any) -> Any:
    return tf.while_loop(lambda y: tf.reduce_sum(y) > 1e3, lambda y: (y / 2.0,), [x])[0]


@pytest.mark.parametrize(
    ("body", "name", "operator"),
    [
        (tf.math.erf, "tf.math.erf", "Erf"),
        (tf.signal.dct, "tf.signal.dct", "converter"),
        (L.Lambda(tf.math.digamma, name="lambda"), "'lambda'", "Digamma"),
        (L.Lambda(looped, name="loop"), "'loop'", "branches or loops"),
        (Halved(name="own"), "'own' (Halved)", "Erf"),
        (L.Activation(tf.math.tan, name="function"), "'function' (tan)", "Tan"),
        (enlarged, "'cubic' (UpSampling2D)", "ResizeBicubic"),
    ],
    ids=lambda one: one if isinstance(one, str) else "by",
)
def test_what_no_file_can_have_is_refused_at_once(
    body: Any, name: str, operator: str
) -> None:
    with pytest.raises(ModelError) as caught:
        quantize_model(around(body))
    assert name in str(caught.value)
    assert operator in str(caught.value)


def test_each_culprit_is_named_and_nothing_else() -> None:
    def body(x: Any) -> Any:
        return tf.math.asinh(Sine(name="right")(Halved(name="wrong")(x)))

    with pytest.raises(ModelError) as caught:
        quantize_model(around(body))
    assert "'wrong'" in str(caught.value)
    assert "asinh" in str(caught.value)
    assert "'right'" not in str(caught.value)


def test_what_passes_is_packaged() -> None:
    def body(x: Any) -> Any:
        x = tf.where(x > 0.5, Sine()(x), tf.float32.min)
        return tf.sort(tf.maximum(x, -1.0))

    model = quantize_model(around(body))
    calibrate(model, [[0.1, 0.2, 0.3, 0.4]])
    assert package(model, include_network=False).template


class Token(L.Layer):
    def build(self, shape: Any) -> None:
        self.token = self.add_weight("token", (1, 4), initializer="normal")

    def call(self, x: Any) -> Any:
        return tf.tile(self.token, [tf.shape(x)[0], 1])

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


def products(x: Any) -> Any:
    return L.Flatten()(tf.matmul(x[:, None], L.Reshape((4, 4))(L.Dense(16)(x))))


@pytest.mark.parametrize(
    "body",
    [
        lambda x: L.Concatenate()([x, Token()(x)]),
        lambda x: tf.sin(x) + L.Lambda(lambda y: 2.0 * tf.ones_like(y))(x),
        products,
    ],
    ids=["learned", "constant", "products"],
)
def test_a_file_computes_what_keras_does(eager: None, body: Any) -> None:
    keras.utils.set_random_seed(0)
    samples = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    model = quantize_model(around(body))
    calibrate(model, samples)
    expected = model.predict(samples, verbose=0)
    tf.config.run_functions_eagerly(False)
    artifact = package(model, include_network=False)
    content = ModelBuilder(artifact).build(artifact.space.named("w8a8"))
    np.testing.assert_array_equal(Runner(content).predict(samples), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "w8a8"}, "PolicySpace"),
        ({"configs": ["Dense"]}, "mapping of configs"),
        ({"norm_context": None}, "whole number"),
        ({"norm_context": 1.5}, "whole number"),
    ],
    ids=["space", "configs", "none", "fraction"],
)
def test_arguments_of_other_types_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        quantize_model(around(tf.identity), **arguments)


def test_a_network_that_diverged_is_refused() -> None:
    model = around(tf.identity)
    model.set_weights([one * np.nan for one in model.get_weights()])
    with pytest.raises(ModelError, match="finite weights"):
        quantize_model(model)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [("net.h5", "load_model"), (around, "call it"), (L.Dense, "make one")],
)
def test_what_is_no_model_is_refused_with_a_remedy(given: Any, remedy: str) -> None:
    with pytest.raises(ModelError, match=remedy):
        quantize_model(given)
