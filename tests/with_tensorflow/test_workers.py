"""Training by several workers: processes of their own, which talk over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from fixtures.paths import ROOT

from matar_tf.keras._compat import tf

# Both workers run this, and the test itself on one device.
TRAINING = """
import numpy as np
import tensorflow as tf

from matar_tf.keras import PolicyRandomizer, calibrate, keras, quantize_model

L = keras.layers


def train(strategy):
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 1.0, (96, 6, 6, 1)).astype(np.float32)
    y = rng.integers(0, 3, 96)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        inputs = L.Input((6, 6, 1), name="image")
        hidden = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, name="conv")(inputs))
        hidden = L.Flatten(name="flat")(L.ReLU(name="relu")(hidden))
        outputs = L.Dense(3, name="head")(hidden)
        model = quantize_model(keras.Model(inputs, outputs))
        calibrate(model, x)
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    losses = model.fit(  # of one step each
        x, y, 16, 6, verbose=0, shuffle=False, steps_per_epoch=1,
        callbacks=[PolicyRandomizer()],
    ).history["loss"]
    weights = {one.name: one.numpy().tolist() for one in model.weights}
    return {"losses": losses, "weights": weights}
"""
WORKER = """
import json

print(json.dumps(train(tf.distribute.MultiWorkerMirroredStrategy())))
"""
TIMEOUT = 300  # seconds


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _start(addresses: list[str], index: int) -> subprocess.Popen[str]:
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING + WORKER],
        cwd=ROOT,
        env={**os.environ, "TF_CONFIG": json.dumps(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _outcomes(*processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    try:
        found = [process.communicate(timeout=TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, found, strict=True):
        assert process.returncode == 0, errors[-2000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in found]


@pytest.mark.slow
def test_two_workers_learn_what_one_device_learns() -> None:
    """Batch norms too, which normalise with all of a batch."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    first, second = _outcomes(*(_start(addresses, index) for index in range(2)))
    here: dict[str, Any] = {}
    exec(TRAINING, here)
    alone = here["train"](tf.distribute.get_strategy())
    assert first == second
    assert len(alone["losses"]) == 6
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    for name, values in alone["weights"].items():
        np.testing.assert_allclose(
            first["weights"][name], values, atol=2e-4, err_msg=name
        )
