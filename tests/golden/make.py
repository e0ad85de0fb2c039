"""Makes the golden files of version 0.1.0; runs on the code of that version alone.

From the root of a checkout of that version:

    git checkout 97ec0dc
    PYTHONPATH=. python GOLDEN/make.py GOLDEN

with the path of this folder as GOLDEN. Programs run in the folder, so that no path
of a machine is on record.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from matar_tf.artifact import write_artifact
from matar_tf.data import load_data
from matar_tf.keras import (
    KurtosisRegularizer,
    Schedule,
    evaluate_policies,
    get_policy_space,
    keras,
    package,
    set_policy,
    train_float,
    train_multi_bit,
)
from matar_tf.samplers import IndependentSampler, draw_policies

ROOT = Path.cwd()
SCHEDULE = Schedule(epochs=16, learning_rate=1e-2, batch_size=32)
TARGETS = ("mpic", "ne16_gap9")


def build_net(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """A residual block between a strided convolution and a dense layer."""
    layers = keras.layers
    inputs = layers.Input(input_shape, name="image")
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    short = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(
        *(6, 3),
        padding="same",
        use_bias=False,
        kernel_regularizer=KurtosisRegularizer(1e-3),
        name="conv",
    )(short)
    x = layers.BatchNormalization(name="conv_bn")(x)
    x = layers.Add(name="add")([short, x])
    x = layers.ReLU(name="add_relu")(x)
    x = layers.Conv2D(12, 1, name="wide")(x)
    x = layers.ReLU(6.0, name="wide_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="golden_net")


def call(program: str, *words: str) -> None:
    """Runs a program of the checkout in this folder; its name on record is relative."""
    start = (
        f"import runpy, sys; sys.argv[0] = 'tools/{program}.py'; "
        f"runpy.run_module('tools.{program}', run_name='__main__')"
    )
    subprocess.run(
        [sys.executable, "-c", start, *words],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def main() -> None:
    """Writes all files into the folder on the command line."""
    os.chdir(sys.argv[1])
    data = load_data("digits")
    x, y = data.training()
    np.savez_compressed("data.npz", x_test=data.x_test[:60], y_test=data.y_test[:60])
    few = replace(data.head(60), x_train=x[:800], y_train=y[:800])
    network = train_float(build_net, few, SCHEDULE)
    model = train_multi_bit(network, few, SCHEDULE)

    samples, labels = few.x_test, few.y_test
    artifact = package(
        model,
        accuracy={
            "float": network.evaluate(samples, labels, verbose=0, return_dict=True),
            **evaluate_policies(model, samples, labels, ["w8a8", "w4a4"]),
        },
        provenance={"made_by": "tests/golden/make.py"},
    )
    write_artifact(artifact, "net.matar")
    write_artifact(artifact, "net")

    policy = draw_policies(get_policy_space(model), IndependentSampler(), 1, 3)[0]
    Path("policy.json").write_text(json.dumps(policy.to_json(), indent=1) + "\n")
    outputs = {}
    for name, one in (("w8a8", "w8a8"), ("w2a2", "w2a2"), ("policy", policy)):
        set_policy(model, one)
        outputs[name] = model.predict(samples, verbose=0)
    np.savez_compressed("outputs.npz", **outputs)
    model.save("model.h5", include_optimizer=False)  # under the mixed policy

    # Beside the run: what is known of hardware may be corrected, and then is another.
    Path("targets").mkdir()
    for name in TARGETS:
        shutil.copy(ROOT / f"matar_tf/targets/data/{name}.toml", "targets")
    paths = ",".join(f"targets/{name}.toml" for name in TARGETS)
    call(
        "search",
        *("--artifact=net.matar", f"--targets={paths}", "--output=run"),
        *("--data=data.npz", "--max_evaluations=16", "--population_size=8"),
        *("--seed=0", "--compare=none"),
    )
    call(
        "export",
        *("--artifact=net.matar", "--policy=policy.json", "--output=policy.tflite"),
        *("--data=data.npz", "--compare=none"),
    )


if __name__ == "__main__":
    main()
