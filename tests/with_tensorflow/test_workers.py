"""Training by several workers: processes of their own, which talk over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from fixtures.paths import ROOT

# Both workers run this; one process alone, without TF_CONFIG, is the reference.
SCRIPT = """
import json, os, sys

import numpy as np
import tensorflow as tf

from matar_tf.keras import PolicyRandomizer, calibrate, keras, quantize_model

L = keras.layers
if "TF_CONFIG" in os.environ:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
else:
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
rng = np.random.default_rng(0)
X = rng.normal(2.0, 1.0, (48, 6, 6, 1)).astype(np.float32)
Y = rng.integers(0, 3, 48)


class Losses(keras.callbacks.Callback):
    found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(logs["loss"])


with strategy.scope():
    keras.utils.set_random_seed(0)
    inputs = L.Input((6, 6, 1))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3)(inputs)))
    x = L.ReLU()(L.BatchNormalization()(L.Dense(8)(L.Flatten()(x))))
    model = quantize_model(keras.Model(inputs, L.Dense(3)(x)))
    calibrate(model, X)
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
model.fit(
    X, Y, 16, 2, verbose=0, shuffle=False, callbacks=[PolicyRandomizer(), Losses()]
)
weights = {one.name: one.numpy().tolist() for one in model.weights}
print(json.dumps({"losses": list(map(float, Losses.found)), "weights": weights}))
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


def _start(config: dict[str, Any] | None) -> subprocess.Popen[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("TF_CONFIG", None)
    if config is not None:
        environment["TF_CONFIG"] = json.dumps(config)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=environment,
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
    first, second = _outcomes(
        *(
            _start(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            )
            for index in range(2)
        )
    )
    (alone,) = _outcomes(_start(None))
    assert first == second
    assert len(alone["losses"]) == 6
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert first["losses"][-1] < first["losses"][0]
    assert first["weights"].keys() == alone["weights"].keys()
