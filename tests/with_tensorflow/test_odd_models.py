"""Models, samples and calls that are not the usual ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.errors import DataError, MatarWarning, ModelError
from matar_tf.keras import (
    MultiBitTrainer,
    calibrate,
    get_policy_space,
    keras,
    package,
    quantize_model,
    reestimate_batch_norm,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.checks import check_initialized, is_initialized
from matar_tf.keras.quantizers.learned import ActivationQuantizer

L = keras.layers
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(32, 6, 6, 3)).astype(np.float32)


def normed() -> Any:
    keras.backend.reset_uids()
    keras.utils.set_random_seed(0)
    inputs = L.Input((6, 6, 3))
    x = L.ReLU()(L.BatchNormalization(name="norm")(L.Conv2D(4, 3)(inputs)))
    return quantize_model(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))


def test_a_trainer_in_the_place_of_its_model() -> None:
    model, other = normed(), normed()
    trainer = MultiBitTrainer(model)
    assert not is_initialized(trainer)
    for one in (model, other):
        calibrate(one, IMAGES)
    check_initialized(trainer)
    policies = [get_policy_space(model).named("w4a4")] * 2
    for one in (trainer, other):
        reestimate_batch_norm(
            one, IMAGES, policies=policies, batch_size=16, method="statistics"
        )
    norms = [one.get_layer("norm") for one in (model, other)]
    np.testing.assert_array_equal(*(one.moving_mean.numpy() for one in norms))
    assert np.any(norms[0].moving_mean.numpy())
    found = package(trainer, include_network=False)
    expected = package(other, include_network=False)
    assert found.parameters.digest() == expected.parameters.digest()


@pytest.mark.parametrize("noise_shape", [(None, 1, 8), (None, 16, 1), None])
def test_noise_of_a_shape_in_a_sequence(noise_shape: Any) -> None:
    """Whole channels, whole times or single values, as in the float network."""
    keras.utils.set_random_seed(0)
    inputs = L.Input((16, 4))
    x = L.Conv1D(8, 3, padding="same", bias_initializer="ones")(inputs)
    x = L.Dropout(0.5, noise_shape=noise_shape)(x)
    float_model = keras.Model(inputs, L.Conv1D(3, 1, name="last")(x))
    model = quantize_model(float_model)
    calibrate(model, IMAGES.reshape(-1, 16, 4)[:24])
    dropout = next(one for one in model.layers if "dropout" in one.name)
    x = np.ones((50, *dropout.input_shape[1:]), np.float32)
    kept = np.asarray(dropout(x, training=True)).reshape(50, 16, 8) > 0
    assert 0.4 < kept.mean() < 0.6
    assert bool((kept == kept[:, :1]).all()) is (noise_shape == (None, 1, 8))
    assert bool((kept == kept[:, :, :1]).all()) is (noise_shape == (None, 16, 1))
    outputs = model(IMAGES.reshape(-1, 16, 4)[:5], training=True)
    assert outputs.shape == (5, 16, 3)


def test_steps_learn_alike_where_sizes_are_unknown() -> None:
    """The gradient's scale is ``1 / sqrt(values of a sample * qmax)`` either way."""
    x = tf.constant(IMAGES)
    found = []
    for shape in ((None, 6, 6, 3), (None, None, None, 3)):
        quantizer = ActivationQuantizer()
        layer = keras.layers.Layer(name="owner")
        quantizer.build(shape, "output", layer)
        quantizer.set_from([tf.reshape(x, (-1,))])

        @tf.function(input_signature=[tf.TensorSpec(shape)], autograph=False)
        def gradient(x: Any, quantizer: Any = quantizer) -> Any:
            with tf.GradientTape() as tape:
                y = quantizer.fake_quantize(x, training=True)
                total = tf.reduce_sum(y * tf.abs(x))
            return tape.gradient(total, quantizer.log_steps)

        found.append(gradient(x).numpy())
    assert np.abs(found[0]).max() > 1e-3
    np.testing.assert_allclose(*found, rtol=1e-4)


@pytest.mark.parametrize("kind", [L.Add, L.Concatenate])
def test_a_single_tensor_is_no_sum(kind: Any) -> None:
    inputs = L.Input((6,))
    outputs = L.Dense(2)(kind(name="both")([L.Dense(4)(inputs)]))
    with pytest.raises(ModelError, match="two tensors for 'both'"):
        quantize_model(keras.Model(inputs, outputs), strict=True)


def test_an_input_whose_name_is_no_scope() -> None:
    inputs = L.Input((6,), name="heart rate")
    model = quantize_model(keras.Model(inputs, L.Dense(2)(inputs)))
    calibrate(model, IMAGES.reshape(-1, 6))
    assert package(model).workload.inputs == ("heart rate",)


@pytest.mark.parametrize(("size", "is_refused"), [(9e-7, True), (2e-6, False)])
def test_samples_that_would_count_as_zero(size: float, is_refused: bool) -> None:
    inputs = L.Input((6, 6, 3), name="samples")
    model = quantize_model(keras.Model(inputs, L.Dense(2)(L.Flatten()(inputs))))
    samples = IMAGES / np.abs(IMAGES).max() * np.float32(size)
    with pytest.warns(MatarWarning, match="zero, which tells nothing"):
        calibrate(model, np.zeros_like(samples))  # and stands
    if is_refused:
        with pytest.raises(DataError, match="scale the samples"):
            calibrate(model, samples)
    else:
        calibrate(model, samples)
        found = model.get_layer("samples_quantize")(samples).numpy()
        np.testing.assert_allclose(found, samples, atol=size / 100)
