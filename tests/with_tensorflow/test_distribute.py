"""Training on several replicas: the same weights on all, the same as on one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from fixtures.paths import ROOT

# Two logical CPUs can only be made before TensorFlow is used.
SCRIPT = """
import functools
import sys

import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
from matar_tf.keras import (
    MultiBitTrainer,
    PolicyRandomizer,
    calibrate,
    keras,
    package,
    quantize_model,
)

L = keras.layers
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(32, 6)).astype(np.float32), rng.integers(0, 3, 32)


@functools.cache
def train(strategy, norm, *, calibrated=True):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        inputs = L.Input((6,))
        x = L.Dense(8, activation=None if norm else "relu")(inputs)
        x = L.ReLU()(L.BatchNormalization()(x)) if norm else x
        network = keras.Model(inputs, L.Dense(3)(L.Dense(8, activation="relu")(x)))
        model = quantize_model(network)
        if calibrated:
            calibrate(model, X)
        trainer = MultiBitTrainer(
            model, teacher=network, distillation=0.5, step_rates={4: 0.5}
        )
        trainer.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    callbacks = [PolicyRandomizer()]
    trainer.fit(X, Y, 16, 2, verbose=0, shuffle=False, callbacks=callbacks)
    return model


two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
one = tf.distribute.OneDeviceStrategy("CPU:0")
"""
CHECKS = {
    "all_replicas_have_the_same_weights": """
model = train(two, True)
for variable in model.variables:
    first, second = (one.numpy() for one in variable.values)
    np.testing.assert_array_equal(first, second, variable.name)
assert package(model).digest()
""",
    "two_replicas_learn_what_one_learns": """
for norm in (False, True):
    pairs = zip(train(one, norm).weights, train(two, norm).weights, strict=True)
    for first, second in pairs:
        # Gradients of steps are estimated from a quarter of each replica's samples.
        rtol = 1e-3 if "log_steps" in first.name else 1e-4
        np.testing.assert_allclose(
            first.numpy(), second.numpy(), rtol=rtol, atol=1e-6, err_msg=first.name
        )
""",
    "weight_decay_leaves_learned_steps_alone": """
with two.scope():
    model = train(two, False)
    variables = model.trainable_variables
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.build(variables)
before = [one.numpy() for one in variables]
two.run(
    lambda: optimizer.apply_gradients([(tf.zeros_like(one), one) for one in variables])
)
for one, old in zip(variables, before, strict=True):
    share = 1.0 if "log_steps" in one.name else 0.95
    np.testing.assert_allclose(one.numpy(), old * share, rtol=1e-5, err_msg=one.name)
""",
    "a_model_without_steps_is_refused": """
try:
    train(two, False, calibrated=False)
except Exception as error:
    assert "Expected a calibrated model to train on several replicas" in str(error)
else:
    raise AssertionError("trained")
""",
}


RUN_ALL = """
import json, traceback

errors = {}
for name, check in json.loads(sys.argv[1]).items():
    try:
        exec(check)
    except BaseException:
        errors[name] = traceback.format_exc()
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def errors() -> dict[str, str]:
    """What went wrong, by check; all are made in one process with two devices."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + RUN_ALL, json.dumps(CHECKS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_on_two_replicas(check: str, errors: dict[str, str]) -> None:
    assert check not in errors, errors[check]
