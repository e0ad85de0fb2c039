"""Models survive saving: loaded in a new process they predict the same."""

from __future__ import annotations

import functools
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.nets import NETS as ALL_NETS
from fixtures.nets import build_net, calibrated, free_space, samples_for
from fixtures.paths import ROOT
from fixtures.programs import load

from matar_tf.artifact import Artifact
from matar_tf.errors import ArtifactError
from matar_tf.keras import (
    IndependentSampler,
    MultiBitTrainer,
    calibrate,
    get_policy,
    get_policy_space,
    keras_tensors,
    load_model,
    load_network,
    package,
    quantize_model,
    set_policy,
)
from matar_tf.keras.packaging.network import _checked, network_members
from matar_tf.samplers import draw_policies

LOAD = """
import pathlib, sys, numpy as np, warnings
warnings.simplefilter("ignore")
import matar_tf.keras
import tf_keras
for path in map(pathlib.Path, sys.argv[1:]):
    model = tf_keras.models.load_model(path)
    samples = np.load(path.parent / "samples.npy")
    np.save(path.with_suffix(".npy"), model.predict(samples, verbose=0))
    model.compile("adam", "mse")
    model.fit(samples, np.zeros((len(samples), 5)), verbose=0)
"""
NETS = ("residual_bn", "concat_shared", "concat_norms", "average_pool")
FORMS = {"model.h5": "h5", "saved_model": "tf"}


@functools.cache
def trained(name: str) -> Any:
    """A model after a training step, under a mixed policy; do not change it."""
    net = build_net(name)
    model = calibrated(net, samples_for(name), free_space(net))
    model.compile("adam", "mse", run_eagerly=True)
    samples = samples_for(name)
    model.fit(samples, np.zeros((len(samples), 5)), verbose=0)
    policy = draw_policies(get_policy_space(model), IndependentSampler(), 1, 3)[0]
    set_policy(model, policy)
    return model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What whole models predict that a new process has loaded, a folder for each."""
    folder = tmp_path_factory.mktemp("models")
    for name in NETS:
        (folder / name).mkdir()
        np.save(folder / name / "samples.npy", samples_for(name))
        for path, form in FORMS.items():
            trained(name).save(folder / name / path, save_format=form)
    paths = [str(folder / name / path) for name in NETS for path in FORMS]
    subprocess.run(
        [sys.executable, "-c", LOAD, *paths], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETS)
def test_whole_models_in_a_new_process(loaded: Path, name: str, form: str) -> None:
    found = np.load((loaded / name / form).with_suffix(".npy"))
    expected = trained(name).predict(samples_for(name), verbose=0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", ["weights.h5", "checkpoint"])
def test_weights(tmp_path: Path, form: str) -> None:
    model = trained("residual_bn")
    samples = samples_for("residual_bn")
    expected = model.predict(samples, verbose=0)
    model.save_weights(tmp_path / form, save_format="h5" if "h5" in form else "tf")
    net = build_net("residual_bn")
    other = quantize_model(net, free_space(net))
    status = other.load_weights(tmp_path / form)
    if status is not None:
        status.expect_partial()
    np.testing.assert_array_equal(other.predict(samples, verbose=0), expected)
    assert get_policy(other) == get_policy(model)


@pytest.mark.parametrize("frozen", ["layer", "model"])
def test_frozen_layers_are_kept_and_saved_as_others(
    tmp_path: Path, frozen: str
) -> None:
    net = build_net("residual_bn")
    model = quantize_model(net)
    samples = samples_for("residual_bn")
    calibrate(model, samples)
    names = [weight.name for weight in model.weights]
    layer = next(one for one in model.layers if one.name == "quant_logits")
    (layer if frozen == "layer" else model).trainable = False
    assert [weight.name for weight in model.weights] == names
    before = {id(one): one.numpy() for one in layer.weights}
    moved = next(one for one in model.layers if one.name == "quant_conv2d")
    kernel = moved.trainable_weights[0].numpy() if frozen == "layer" else None
    if kernel is not None:
        model.compile("adam", "mse")
        model.fit(samples, np.ones((len(samples), 5)), verbose=0)
        assert not np.array_equal(moved.trainable_weights[0], kernel)
    for one in layer.weights:
        np.testing.assert_array_equal(one.numpy(), before[id(one)])
    expected = model.predict(samples, verbose=0)
    path = str(tmp_path / "model.h5")
    model.save(path)
    again = quantize_model(net)
    model.save_weights(str(tmp_path / "weights.h5"))
    again.load_weights(str(tmp_path / "weights.h5"))
    for loaded in (load_model(path), again, load_network(package(model))):
        np.testing.assert_array_equal(loaded.predict(samples, verbose=0), expected)


def test_the_keras_format_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="HDF5"):
        trained("residual_bn").save(tmp_path / "model.keras")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotImplementedError, match="HDF5"):
        trained("residual_bn").save_weights(tmp_path / "model.weights.h5")


def test_a_trainer_is_not_saved_in_the_keras_format(tmp_path: Path) -> None:
    trainer = MultiBitTrainer(trained("residual_bn"))
    trainer(samples_for("residual_bn"))
    with pytest.raises(NotImplementedError, match="got its trainer; save"):
        trainer.save(tmp_path / "trainer.keras")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return package(trained("concat_shared"))


class TestNetworkInTheArtifact:
    def test_predicts_the_same(self) -> None:
        model = trained("concat_shared")
        samples = samples_for("concat_shared")
        expected = model.predict(samples, verbose=0)
        policy = get_policy(model)
        rebuilt = load_network(package(model))
        set_policy(rebuilt, policy)
        np.testing.assert_array_equal(rebuilt.predict(samples, verbose=0), expected)

    def test_tensors_lie_on_their_grids(self, artifact: Artifact) -> None:
        policy = artifact.space.named("w4a4")
        tensors = keras_tensors(artifact, policy, samples_for("concat_shared", 4))
        assert set(tensors) == set(artifact.space.activations)
        assert {name: len(of) for name, of in tensors.items() if len(of) > 1} == {
            "conv2d_1": 2  # the parts of the concatenation
        }
        every = [(name, one) for name, found in tensors.items() for one in found]
        for name, values in every:
            parameters = artifact.parameters.tensors[name]
            row = parameters.bits.index(policy.activations[name])
            levels = values / parameters.step[row]
            np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
            assert len(np.unique(np.rint(levels))) <= 2 ** policy.activations[name]

    @pytest.mark.parametrize(
        "foreign",
        [
            '{"class_name": "Lambda", "config": {}}',
            '{"class_name": "Popen", "module": "subprocess", "config": {}}',
        ],
    )
    def test_foreign_code_is_refused(self, artifact: Artifact, foreign: str) -> None:
        extras = {**artifact.extras, "network.json": foreign.encode()}
        with pytest.raises(ArtifactError, match="foreign code"):
            load_network(replace(artifact, extras=extras))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {
                    "module": "keras.layers",
                    "class_name": "TFOpLambda",
                    "config": {"name": "evil", "function": "io.write_file"},
                    "inbound_nodes": [["_CONSTANT_VALUE", -1, "f", {"contents": "x"}]],
                },
                "TFOpLambda, which could run foreign code",
            ),
            ({"registered_name": "Other>ReLU"}, "foreign code"),
            ({"module": "somewhere"}, "foreign code"),
            ({"class_name": "function", "module": "builtins"}, "foreign code"),
            ({"class_name": ["ReLU"]}, "foreign code"),
            ({"compile_config": {"optimizer": "adam"}}, "foreign code"),
            ({"inbound_nodes": [["_CONSTANT_VALUE", -1, "f", {}]]}, "before it make"),
            ({"inbound_nodes": [[["_CONSTANT_VALUE", -1, 0, {}]]]}, "before it make"),
            ({"inbound_nodes": [[["evil", 0, 0, {}]]]}, "before it make"),
            ({"inbound_nodes": [[["samples", 7, 0, {}]]]}, "before it make"),
            ({"inbound_nodes": [[["samples", 0, 0, {"mask": 1}]]]}, "before it make"),
            (
                {"inbound_nodes": [[["samples", 0, 0, {"a": [["evil", 0, 0]]}]]]},
                "before it make",
            ),
            ({"inbound_nodes": [[["samples", 0, 0, {"a": True}]]]}, "can be rebuilt"),
            ({"name": "samples"}, "name of their own"),
            ({"config": {"name": "evil", "max_value": "six"}}, "can be rebuilt"),
            ({"config": {"no_such": 1}}, "can be rebuilt"),
        ],
    )
    def test_a_foreign_layer_is_refused(
        self, artifact: Artifact, change: dict[str, Any], message: str
    ) -> None:
        config = json.loads(artifact.extras["network.json"])
        config["layers"].append(
            {
                "module": "keras.layers",
                "class_name": "ReLU",
                "config": {"name": "evil"},
                "name": "evil",
                "inbound_nodes": [[["samples", 0, 0, {}]]],
                **change,
            }
        )
        extras = {**artifact.extras, "network.json": json.dumps(config).encode()}
        with pytest.raises(ArtifactError, match=message):
            load_network(replace(artifact, extras=extras))

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("network.json", b"[" * 100_000, "nested too deeply"),
            ("network.json", b"[" * 60 + b"]" * 60, "at most 50 levels"),
            ("network.json", b"3", "list of layers"),
            ("network.json", b"{", "Expected JSON"),
            ("network.npz", b"PK", "damaged"),
        ],
    )
    def test_a_malformed_network(
        self, artifact: Artifact, name: str, content: bytes, message: str
    ) -> None:
        extras = {**artifact.extras, name: content}
        with pytest.raises(ArtifactError, match=message):
            load_network(replace(artifact, extras=extras))

    @pytest.mark.parametrize("name", sorted(ALL_NETS))
    def test_every_kind_of_layer_may_be_named(self, name: str) -> None:
        members = network_members(quantize_model(build_net(name)))
        _checked(json.loads(members["network.json"]))

    def test_a_missing_network(self, artifact: Artifact) -> None:
        with pytest.raises(ArtifactError, match="include_network"):
            load_network(replace(artifact, extras={}))

    def test_weights_of_other_shapes(self, artifact: Artifact) -> None:
        with np.load(io.BytesIO(artifact.extras["network.npz"])) as stored:
            arrays = dict(stored)
        arrays["0"], arrays["1"] = arrays["1"], arrays["0"]
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        extras = {**artifact.extras, "network.npz": buffer.getvalue()}
        with pytest.raises(ArtifactError, match="version that wrote it"):
            load_network(replace(artifact, extras=extras))


class Saved:
    def save(self, path: Path) -> None:
        path.write_bytes(b"weights")


def test_a_float_network_behind_a_link_is_replaced_there(tmp_path: Path) -> None:
    link, real = tmp_path / "link.h5", tmp_path / "real.h5"
    real.write_bytes(b"old")
    link.symlink_to(real)
    load("train")._save(Saved(), link)
    assert link.is_symlink()
    assert real.read_bytes() == b"weights"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.h5", "real.h5"]
