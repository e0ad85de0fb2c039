"""Recipes trained end to end, each for a step of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits_training import build_net
from fixtures.programs import call

import recipes.common
from matar_tf.artifact import read_artifact
from matar_tf.keras import load_network, set_policy
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

load_recipe = recipes.common.load_recipe
NUM_SAMPLES = 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "build"),
    [
        # To trace its steps takes longer than all the rest: they run as they stand.
        ("fsdd_dscnn", (49, 10, 1), None),
        # To trace the steps of the residual networks takes minutes: the training of the
        # one is done with a small network, and artifacts of both are shipped.
        ("cifar10_resnet20", (32, 32, 3), build_net),
    ],
)
def test_a_quick_run_ends_in_an_artifact_that_the_runtime_runs(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    shape: tuple[int, ...],
    build: Callable[..., Any] | None,
) -> None:
    def load(spec: str) -> recipes.common.RecipeConfig:
        config = load_recipe(spec)
        return replace(config, build_model=build or config.build_model)

    monkeypatch.setattr(recipes.common, "load_recipe", load)
    if build is None:
        request.getfixturevalue("eager")
    samples = np.random.default_rng(0).random((NUM_SAMPLES, *shape), np.float32)
    labels = np.arange(NUM_SAMPLES) % 10
    parts = {f"x_{part}": samples for part in ("train", "test")}
    parts |= {f"y_{part}": labels for part in ("train", "test")}
    np.savez(tmp_path / "data.npz", **parts)
    values = {"data": str(tmp_path / "data.npz"), "output": str(tmp_path / "net.matar")}
    assert call("train", recipe=f"{name}:quick", **values) == 0
    artifact = read_artifact(tmp_path / "net.matar")
    assert artifact.provenance["recipe"] == f"{name}:quick"
    assert set(artifact.accuracy) == {"float", "w8a8", "w6a6", "w4a4", "w3a3", "w2a2"}
    # A fifth of the samples is held out at most.
    assert artifact.provenance["held_out"] == NUM_SAMPLES // 5
    assert artifact.measurements is not None
    assert len(artifact.measurements.policies) == 20
    assert artifact.measurements.num_samples == NUM_SAMPLES // 5
    assert not artifact.measurements.trained_on
    (known,) = artifact.inputs.values()
    assert (known.shape, known.num_samples) == (shape, NUM_SAMPLES - NUM_SAMPLES // 5)
    assert "preprocessing" in artifact.provenance["card"]
    network, builder = load_network(artifact), ModelBuilder(artifact)
    for policy in ("w8a8", "w2a4"):
        outputs = Runner(builder.build(artifact.space.named(policy))).predict(samples)
        set_policy(network, policy)
        expected = network.predict(samples, verbose=0)
        assert outputs.shape == (NUM_SAMPLES, 10)
        assert np.ptp(outputs) > 0.0
        # A level at most, but where a flipped narrow one has spread.
        step = float(artifact.parameters.tensors["logits"].step[-1])
        assert np.mean(np.abs(outputs - expected) > 1.01 * step) < 0.05
