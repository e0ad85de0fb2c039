"""Keras computes what files of 16-bit activations do, but for the last levels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from fixtures.nets import build_net, calibrated, samples_for

from matar_tf.errors import PolicyError
from matar_tf.keras import get_policy, keras, package, set_policy
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import verify
from matar_tf.wide import step_at

# A sum of products has 24 digits in Keras and all of them in the file, whose factors
# have 15: some levels of 32,767.
LARGEST_DIFFERENCE = 1e-3
NAMES = (
    "add_three",
    "average_pool",
    "concat_global",
    "fixed_grids",
    "leaky_relu",
    "residual_bn",
    "separable",
)


@functools.cache
def model_of(name: str) -> Any:
    keras.utils.set_random_seed(0)
    return calibrated(build_net(name), samples_for(name))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_file(name: str) -> None:
    model, samples = model_of(name), samples_for(name, 8)
    artifact = package(model, include_network=False)
    builder = ModelBuilder(artifact)
    for policy in ("w8a16", "w3a16"):
        content = builder.build(artifact.space.named(policy))
        set_policy(model, policy)
        assert get_policy(model) == artifact.space.named(policy)
        found = verify(content, samples)
        assert found.first_runtime_difference is None
        expected = Runner(content).predict(samples)
        off = np.abs(model(samples, training=False).numpy() - expected).max()
        assert off < LARGEST_DIFFERENCE * np.abs(expected).max()


def test_steps_are_those_of_the_file() -> None:
    model = model_of("residual_bn")
    parameters = package(model, include_network=False).parameters
    set_policy(model, "w8a16")
    quantizers = [
        one
        for layer in model.layers
        for one in wrapper.all_quantizers(layer)
        if one.kind == "activations"
    ]
    assert quantizers
    for one in quantizers:
        expected = step_at(parameters.tensors[one.entry], 16)
        assert float(one.step()) == pytest.approx(float(expected), rel=1e-6)
        assert bool(one.is_wide())


def test_other_policies_come_back_as_they_were() -> None:
    model, samples = model_of("residual_bn"), samples_for("residual_bn", 4)
    outputs = {}
    for policy in ("w4a4", "w4a16", "w4a4"):
        set_policy(model, policy)
        outputs.setdefault(policy, []).append(model(samples, training=False).numpy())
    np.testing.assert_array_equal(*outputs["w4a4"])
    assert np.abs(outputs["w4a16"][0] - outputs["w4a4"][0]).max() > 0
    with pytest.raises(PolicyError, match=r"in 2\.\.8"):
        set_policy(model, "w16a16")


def test_training_takes_them_for_the_widest_width() -> None:
    model, samples = model_of("residual_bn"), tf.constant(samples_for("residual_bn", 4))
    gradients = []
    for policy in ("w8a8", "w8a16"):
        set_policy(model, policy)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(samples, training=True))
        found = tape.gradient(loss, model.trainable_variables)
        gradients.append([tf.convert_to_tensor(one).numpy() for one in found])
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(one, other)
