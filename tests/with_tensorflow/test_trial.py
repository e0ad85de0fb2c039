"""What cannot be packaged is refused before the training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fixtures.nets import L

from matar_tf.errors import MatarWarning, ModelError
from matar_tf.keras import calibrate, keras, package, quantize_model
from matar_tf.keras._compat import tf


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


def looped(x: Any) -> Any:
    return tf.while_loop(lambda y: tf.reduce_sum(y) > 1.0, lambda y: (y / 2.0,), [x])[0]


@pytest.mark.parametrize(
    ("body", "name", "operator"),
    [
        (tf.math.erf, "tf.math.erf", "Erf"),
        (tf.signal.dct, "tf.signal.dct", "converter"),
        (L.Lambda(tf.math.digamma, name="lambda"), "'lambda'", "Digamma"),
        (L.Lambda(looped, name="loop"), "'loop'", "subgraph"),
        (Halved(name="own"), "'own' (Halved)", "Erf"),
        (L.Activation(tf.math.tan, name="function"), "'function' (tan)", "Tan"),
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


def test_tfmots_own_way_refuses_too() -> None:
    from tensorflow_model_optimization.quantization import keras as tfmot

    from matar_tf.keras import MatarQuantizeScheme

    with pytest.raises(ModelError, match="Erf"):
        tfmot.quantize_apply(
            tfmot.quantize_annotate_model(around(L.Lambda(tf.math.erf))),
            scheme=MatarQuantizeScheme(),
        )
