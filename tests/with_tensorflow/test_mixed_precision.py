"""Networks of Keras' mixed policies: trained in half precision, exact afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fixtures.digits import few_digits

from matar_tf.errors import ModelError
from matar_tf.keras import (
    MatarQuantizeScheme,
    MultiBitTrainer,
    PolicyRandomizer,
    calibrate,
    get_policy_space,
    keras,
    load_model,
    package,
    policy_space,
    quantize_model,
    set_policy,
)
from matar_tf.keras._compat import tf, tfmot

L = keras.layers
X = few_digits().x_test[:64].astype(np.float32)
Y = few_digits().y_test[:64]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HALVES = {"mixed_float16": tf.float16, "mixed_bfloat16": tf.bfloat16}
PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


@pytest.fixture(params=HALVES)
def mixed(request: Any) -> Iterator[str]:
    """The global policy of a test, by its name."""
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def network(**of_head: Any) -> Any:
    keras.utils.set_random_seed(0)
    inputs = L.Input((8, 8, 1), name="image")
    x = L.Conv2D(4, 3, strides=2, use_bias=False, name="stem")(inputs)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x))
    x = L.DepthwiseConv2D(3, activation="relu", name="depth")(x)
    x = L.Flatten(name="flat")(x)
    return keras.Model(inputs, L.Dense(10, name="head", **of_head)(x), name="net")


def quantized(model: Any) -> Any:
    copy = quantize_model(model)
    calibrate(copy, X)
    return copy


def trained(model: Any) -> Any:
    model.compile(keras.optimizers.SGD(0.05), LOSS)
    history = model.fit(
        X, Y, 16, 3, verbose=0, shuffle=False, callbacks=[PolicyRandomizer(seed=1)]
    )
    return history.history["loss"]


def float32_twin(model: Any) -> Any:
    """A network that was never of half precision, with the weights of `model`."""
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    twin = quantized(network())
    keras.mixed_precision.set_global_policy(policy)
    twin.set_weights(model.get_weights())
    return twin


def products(model: Any, *, training: bool) -> set[Any]:
    """Returns the types in which a pass computes convolutions and dense layers."""
    run = tf.function(lambda x: model(x, training=training))
    graph = run.get_concrete_function(tf.TensorSpec((4, 8, 8, 1))).graph
    operations = graph.get_operations()
    rounded = [one for one in operations if one.type == "QuantizeAndDequantizeV3"]
    assert all(one.get_attr("T") == tf.float32 for one in rounded)
    assert bool(rounded) is training
    found = [one.get_attr("T") for one in operations if one.type in PRODUCTS]
    assert len(found) == 3
    return set(found)


def test_products_of_training_are_in_half_and_all_else_is_exact(
    mixed: str, tmp_path: Any
) -> None:
    model = quantized(network())
    assert products(model, training=True) == {HALVES[mixed]}
    assert products(model, training=False) == {tf.float32}
    assert {one.dtype for one in model.weights} == {tf.float32, tf.int32}
    twin = float32_twin(model)
    losses, expected = trained(model), trained(twin)
    scales = isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    assert scales is (mixed == "mixed_float16")
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.03)
    assert losses[-1] < losses[0]

    twin.set_weights(model.get_weights())
    for policy in ("w8a8", "w2a2"):
        for one in (model, twin):
            set_policy(one, policy)
        np.testing.assert_array_equal(
            model.predict(X, verbose=0), twin.predict(X, verbose=0)
        )
    model.save(tmp_path / "net.h5")
    keras.mixed_precision.set_global_policy("float32")
    loaded = load_model(tmp_path / "net.h5")
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), twin.predict(X, verbose=0)
    )
    np.testing.assert_array_equal(loaded(X, training=False), twin.predict(X, verbose=0))
    assert products(loaded, training=True) == {HALVES[mixed]}
    if mixed == "mixed_float16":  # the conversions take seconds
        assert package(loaded).digest() == package(twin).digest()


def test_policies_of_layers_in_a_model_inside() -> None:
    inner = network(dtype="mixed_bfloat16")
    inputs = L.Input((8, 8, 1))
    model = quantized(keras.Model(inputs, inner(inputs)))
    assert products(model, training=True) == {tf.float32, tf.bfloat16}
    assert products(model, training=False) == {tf.float32}


@pytest.mark.usefixtures("eager")
def test_a_trainer_scales_the_loss_and_nothing_else() -> None:
    weights = []
    for wrap in (keras.mixed_precision.LossScaleOptimizer, lambda one: one):
        teacher = network()
        model = quantized(teacher)
        trainer = MultiBitTrainer(
            model, teacher=teacher, distillation=0.5, sandwich=("narrowest",)
        )
        trainer.compile(wrap(keras.optimizers.SGD(0.05)), LOSS)
        trainer.fit(X, Y, 32, 1, verbose=0, shuffle=False)
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("eager")
def test_a_trainer_follows_the_policy(mixed: str) -> None:
    teacher = network()
    model = quantized(teacher)
    trainer = MultiBitTrainer(model, teacher=teacher, distillation=0.5)
    losses = trained(trainer)
    scales = isinstance(trainer.optimizer, keras.mixed_precision.LossScaleOptimizer)
    assert scales is (mixed == "mixed_float16")
    assert losses[-1] < losses[0]
    # Samples reach the network as they are.
    np.testing.assert_array_equal(
        trainer.predict(X, verbose=0), model.predict(X, verbose=0)
    )


def test_spaces_are_those_of_float32(mixed: str) -> None:
    model = network()
    space = policy_space(model)
    assert get_policy_space(quantize_model(model)) == space


def test_tfmots_own_way_is_refused_under_a_mixed_policy() -> None:
    model = tfmot.quantization.keras.quantize_annotate_model(network())
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        with pytest.raises(ModelError, match="global policy to be float32"):
            tfmot.quantization.keras.quantize_apply(model, MatarQuantizeScheme())
    finally:
        keras.mixed_precision.set_global_policy("float32")
