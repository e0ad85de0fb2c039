"""Models, samples and calls that are not the usual ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from matar_tf.keras import (
    MultiBitTrainer,
    calibrate,
    get_policy_space,
    graph,
    keras,
    package,
    quantize_model,
    reestimate_batch_norm,
)

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
    assert not graph.is_initialized(trainer)
    for one in (model, other):
        calibrate(one, IMAGES)
    graph.check_initialized(trainer)
    policies = [get_policy_space(model).named("w4a4")] * 2
    reestimate_batch_norm(trainer, IMAGES, policies=policies, batch_size=16)
    reestimate_batch_norm(other, IMAGES, policies=policies, batch_size=16)
    norms = [one.get_layer("norm") for one in (model, other)]
    np.testing.assert_array_equal(*(one.moving_mean.numpy() for one in norms))
    assert np.any(norms[0].moving_mean.numpy())
    found = package(trainer, include_network=False)
    expected = package(other, include_network=False)
    assert found.parameters.digest() == expected.parameters.digest()
