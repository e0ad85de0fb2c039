"""Forms in which users write layers and operations: read rightly, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from matar_tf.errors import ModelError
from matar_tf.keras import (
    MatarQuantizeConfig,
    calibrate,
    keras,
    package,
    policy_space,
    quantize_model,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.packaging.network import keras_reference
from matar_tf.keras.quantizers.tracing import FloatTracer, tracing
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers
IMAGE = (8, 8, 4)
SAMPLES = np.random.default_rng(0).normal(size=(16, *IMAGE)).astype(np.float32)
CONSTANT = np.random.default_rng(1).normal(size=(1, *IMAGE)).astype(np.float32)


def conv(filters: int = 4, **kwargs: Any) -> Any:
    return L.Conv2D(filters, 3, padding="same", **kwargs)


def net(body: Callable[[Any], Any], shape: tuple[int, ...] = IMAGE) -> Any:
    keras.utils.set_random_seed(0)
    inputs = L.Input(shape)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(body(inputs))), name="net")


def of_two_outputs() -> Any:
    inputs = L.Input(IMAGE)
    x = conv()(inputs)
    return keras.Model(inputs, [x, L.MaxPooling2D(name="unused")(x)], name="two")


def gate(x: Any) -> Any:
    y = L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D()(x))
    return L.Multiply()([x, L.Reshape((1, 1, 4))(y)])


def twice(x: Any) -> Any:
    """Equal operations on one tensor, which the converter makes one."""
    x = conv()(x)
    parts = [gate(x), gate(x), x * x, x * x, L.ELU()(x), L.ELU()(x)]
    return L.Concatenate()([*parts, L.Add()([x, parts[0]]), L.Add()([x, parts[0]])])


TAKEN: dict[str, Callable[[Any], Any]] = {
    "functions": lambda x: tf.nn.silu(tf.nn.relu(tf.exp(-conv()(x) * 0.1))),
    "lists of tensors": lambda x: tf.concat([tf.add_n([conv()(x), x]), x], -1),
    "sizes as numbers": lambda x: tf.nn.max_pool(conv()(x), 2, 2, "SAME"),
    "sizes as lists": lambda x: tf.nn.avg_pool2d(x, [1, 2, 2, 1], [2], "SAME"),
    "axes as a tensor": lambda x: tf.transpose(x, tf.constant([0, 2, 1, 3])),
    "no ceiling": lambda x: tf.clip_by_value(L.ReLU(float("inf"))(x), 0.0, np.inf),
    "a shape of itself": lambda x: tf.reshape(conv()(x), (tf.shape(x)[0], 256)),
    "an output that nobody reads": lambda x: of_two_outputs()(x)[0],
    "one slope for all": lambda x: L.PReLU("ones", shared_axes=[1, 2, 3])(conv()(x)),
    "five axes": lambda x: L.LeakyReLU()(L.Reshape((4, 2, 8, 4))(conv()(x))),
    "equal operations": twice,
}


@pytest.mark.parametrize("name", TAKEN)
def test_is_what_the_float_network_computes(name: str) -> None:
    model = net(TAKEN[name])
    quantized = quantize_model(model)
    with tracing(FloatTracer()):
        found = quantized(SAMPLES, training=False).numpy()
    expected = model.predict(SAMPLES, verbose=0)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (IMAGE, twice),
        ((6,), lambda x: L.PReLU("ones")(L.Dense(4)(x))),
        ((8, 3), lambda x: L.PReLU("ones", shared_axes=[1])(L.Conv1D(4, 3)(x))),
        (IMAGE, lambda x: L.Concatenate()([x, L.Conv2D(2, 1, activation="tanh")(x)])),
    ],
)
def test_its_file_is_what_keras_computes(
    shape: tuple[int, ...], body: Callable[[Any], Any]
) -> None:
    samples = np.random.default_rng(2).normal(size=(32, *shape)).astype(np.float32)
    model = quantize_model(net(body, shape))
    calibrate(model, samples)
    artifact = package(model)
    policy = artifact.space.named("w4a4")
    found = Runner(ModelBuilder(artifact).build(policy)).predict(samples)
    expected = keras_reference(artifact)(policy, samples)
    np.testing.assert_allclose(found, expected, atol=1e-6)


class Doubled(keras.Model):
    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return 2.0 * super().call(inputs, training=training)


class Stepping(keras.Model):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def doubled() -> Any:
    inputs = L.Input(IMAGE)
    return Doubled(inputs, conv()(inputs), name="doubled")


def constrained(x: Any) -> Any:
    norm = L.BatchNormalization(gamma_initializer=keras.initializers.Constant(-1.0))
    return norm(conv(kernel_constraint="non_neg", name="bound")(x))


ADDED, OTHERS = "'net'.* got 1 more .by add_loss, or the bias_reg", "'NCHW'. beside"
REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda x: doubled()(x), "subclassed Doubled 'doubled'"),
    (lambda x: tf.nn.silu(x, 2.0), r"is called with \[2\.0\]"),
    (lambda x: L.ReLU(6.0, negative_slope=0.1)(x), "a slope or a ceiling"),
    (lambda x: L.ReLU(0.0)(x), "a ceiling above 0"),
    (lambda x: tf.add_n([x, tf.constant(CONSTANT)]), "a constant among its tensors"),
    (
        lambda x: tf.concat([x, tf.constant(CONSTANT)], 1),
        "a constant among its tensors",
    ),
    (lambda x: L.Add()([conv()(x), x, CONSTANT]), "got a constant among them"),
    (lambda x: L.Multiply()([x, tf.constant(CONSTANT)]), "got a constant among them"),
    (lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME", data_format="NCHW"), OTHERS),
    (lambda x: tf.nn.max_pool2d(x, 2, 2, [[0, 0], [1, 1], [1, 1], [0, 0]]), "numbers"),
    (lambda x: x * float("inf"), "infinity has no value"),
    (constrained, "no kernel_constraint in 'bound'"),
    (lambda x: L.BatchNormalization()(L.Reshape((4, 2, 8, 4))(x)), "at most 4 axes"),
    (lambda x: L.ELU(0.5)(L.Reshape((4, 2, 8, 4))(x)), "at most 4 axes"),
    (lambda x: L.RandomCrop(6, 6)(x), "RandomCrop.*do it to the samples"),
    (lambda x: L.BatchNormalization()(conv(bias_regularizer="l2")(x)), ADDED),
    (lambda x: L.Concatenate(axis=0)([x, x]), "got axis 0, that of samples"),
    (lambda x: L.BatchNormalization(renorm=True)(x), "without renorm"),
    (
        lambda x: conv(activation=functools.partial(tf.nn.leaky_relu, alpha=0.5))(x),
        "such as a functools.partial",
    ),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_would_be_read_wrongly_is_refused(
    body: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        quantize_model(net(body), strict=True)


def test_a_call_of_ones_own_is_refused_and_a_step_of_ones_own_is_not() -> None:
    with pytest.raises(ModelError, match="subclassed Doubled 'doubled'"):
        quantize_model(doubled())
    inputs = L.Input(IMAGE)
    quantize_model(Stepping(inputs, conv()(inputs)))


@pytest.mark.parametrize("training", [False, True])
def test_training_may_be_told_by_position(training: bool) -> None:
    inputs = L.Input(IMAGE)
    x = L.BatchNormalization(name="norm")(conv()(inputs))
    inner = keras.Model(inputs, x, name="inner")
    model = net(lambda x: inner(x, training))
    if training:
        with pytest.raises(ModelError, match=r"'inner/norm'.*training=True"):
            quantize_model(model)
    else:
        layers = quantize_model(model).layers
        (norm,) = [one for one in layers if one.name.endswith("inner/norm")]
        assert not norm.trainable


def test_a_frozen_model_is_frozen_whatever_its_layers_say() -> None:
    inner = keras.Sequential([conv(name="a"), conv(name="b")], name="inner")
    model = net(inner)
    inner.trainable = False
    inner.layers[-1].trainable = True
    assert len(model.trainable_weights) == 2
    trained = [one.name for one in quantize_model(model).trainable_weights]
    assert not [name for name in trained if "inner/" in name]


def test_equal_operations_have_one_entry() -> None:
    space = policy_space(net(twice))
    assert sum("global_average" in name for name in space.activations) == 1


def test_widths_are_a_list() -> None:
    with pytest.raises(ModelError, match=r"ascending widths in 2\.\.8 as weight_bits"):
        MatarQuantizeConfig(weight_bits=8)  # type: ignore[arg-type]
