"""The recipe for chips that shift: trained for a moment, for both of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.digits import few_digits
from fixtures.programs import call

from matar_tf.artifact import read_artifact
from matar_tf.pricing import check_policy, legal_space
from matar_tf.scales import POWER_OF_TWO
from matar_tf.targets import load_target
from matar_tf.tflite._schema import parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.simulator import simulate
from recipes.common import load_recipe

CHIPS = ("ti_npu", "max78000")


@pytest.mark.slow
def test_both_chips_take_what_the_recipe_trains(tmp_path: Path, eager: None) -> None:
    data = few_digits()
    x, y = data.training()
    parts = {"x_train": x[:64], "y_train": y[:64]}
    parts |= {"x_test": data.x_test[:64], "y_test": data.y_test[:64]}
    np.savez(tmp_path / "data.npz", **parts)
    values = {"data": str(tmp_path / "data.npz"), "output": str(tmp_path / "net.matar")}
    recipe = "digits_chip:power_of_two:quick"
    assert call("train", recipe=recipe, measure="0", **values) == 0
    artifact = read_artifact(tmp_path / "net.matar")
    space = artifact.space
    assert space.scale == POWER_OF_TWO
    assert set(artifact.accuracy) == {"float", *load_recipe(recipe).evaluate_policies}
    assert all(one.signed for one in artifact.parameters.tensors.values())
    assert {one.step.shape[1] for one in artifact.parameters.layers.values()} == {1}
    for chip in map(load_target, CHIPS):
        legal = legal_space(space, artifact.workload, chip)
        assert legal.scale == POWER_OF_TWO
        assert legal.weights["conv2"] == (2, 4, 8)
        for policy in ("w8a8", "w2a8"):
            assert not check_policy(artifact.workload, space.named(policy), chip)
    content = ModelBuilder(artifact).build(space.named("w2a8"))
    tensors = parse_model(content).subgraphs[0].tensors
    grids = [one.quantization for one in tensors if one.quantization is not None]
    points = {int(one.zeroPoint[0]) for one in grids if one.zeroPoint is not None}
    assert points == {0}
    outputs = simulate(content, data.x_test[:64], kernels="shift")
    assert outputs.shape == (64, 10)
    assert np.ptp(outputs) > 0.0
