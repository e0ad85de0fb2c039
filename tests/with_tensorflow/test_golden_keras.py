"""The Keras network and model of version 0.1.0 are read, wherever classes lie now."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fixtures.paths import GOLDEN

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import ArtifactError
from matar_tf.keras import (
    get_policy,
    keras,
    load_model,
    load_network,
    package,
    set_policy,
)
from matar_tf.policy import Policy

_FOREIGN = {
    "class_name": "Popen",
    "config": {"args": ["touch", "x"]},
    "registered_name": None,
}


@functools.cache
def golden() -> Artifact:
    return read_artifact(GOLDEN / "net")


@functools.cache
def policy() -> Policy:
    return Policy.from_json(json.loads((GOLDEN / "policy.json").read_text()))


def check_outputs(network: Any, names: tuple[str, ...]) -> None:
    """Checks that a network predicts what that of 0.1.0 did, under each policy."""
    with np.load(GOLDEN / "data.npz") as data, np.load(GOLDEN / "outputs.npz") as out:
        assert len(np.unique(np.argmax(out["w8a8"], axis=-1))) > 5
        for name in names:
            set_policy(network, policy() if name == "policy" else name)
            found = network.predict(data["x_test"], verbose=0)
            # A tie of float sums went to either side then; steps of outputs are 0.1.
            moved = np.abs(found - out[name]) > 1e-5
            assert moved.mean() <= 0.002, name
            assert np.abs(found - out[name]).max() < 0.15, name


def classes(config: Any) -> list[dict[str, Any]]:
    """All objects of a JSON value that name a class."""
    if isinstance(config, list):
        return [one for item in config for one in classes(item)]
    if not isinstance(config, dict):
        return []
    found = [config] if "class_name" in config else []
    return found + classes(list(config.values()))


def with_network(config: Any) -> Artifact:
    extras = {**golden().extras, "network.json": json.dumps(config).encode()}
    return replace(golden(), extras=extras)


@pytest.mark.parametrize("path", ["net", "net.matar"])
def test_the_network_predicts_what_it_did(path: str) -> None:
    network = load_network(read_artifact(GOLDEN / path))
    check_outputs(network, ("w8a8", "w2a2", "policy"))


def test_the_hdf5_model_is_under_its_policy_and_predicts_what_it_did() -> None:
    model = load_model(str(GOLDEN / "model.h5"), compile=False)
    assert get_policy(model) == policy()
    check_outputs(model, ("policy", "w2a2"))


def test_packaged_again_it_is_the_same_artifact() -> None:
    again = package(load_network(golden()))
    assert again.digest() == golden().digest()
    assert again.template == golden().template
    check_outputs(load_network(again), ("policy",))


class TestPlaces:
    """The same network, whatever module its classes lie in."""

    def test_what_is_written_names_no_module_of_ours(self) -> None:
        content = package(load_network(golden())).extras["network.json"]
        assert b"matar_tf." not in content
        assert b"tensorflow_model_optimization." not in content
        named = {
            (one.get("module"), one["class_name"])
            for one in classes(json.loads(content))
        }
        assert {module for module, _ in named} == {
            None,
            "keras.layers",
            "keras.initializers",
        }
        assert {name for module, name in named if module is None} == {
            "QuantizeWrapperV2",
            "matar_tf>InputQuantize",
            "matar_tf>KurtosisRegularizer",
            "matar_tf>MatarQuantizeConfig",
            "matar_tf>MultiBitBatchNormalization",
        }

    def test_what_0_1_wrote_names_modules_that_may_be_gone(self) -> None:
        named = {
            one.get("module") or ""
            for one in classes(json.loads(golden().extras["network.json"]))
        }
        assert {name for name in named if name.startswith("matar_tf.")} == {
            "matar_tf.keras.layers",
            "matar_tf.keras.statistics",
        }

    def test_classes_that_moved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = package(load_network(golden())).extras["network.json"]
        for name, kind in list(keras.utils.get_custom_objects().items()):
            if name.startswith("matar_tf>"):
                monkeypatch.setattr(kind, "__module__", "matar_tf.keras.elsewhere")
        moved = load_network(golden())
        check_outputs(moved, ("policy",))
        after = package(moved)
        assert after.extras["network.json"] == before
        check_outputs(load_network(after), ("policy",))

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("matar_tf.keras.elsewhere", "InputQuantize"),
            ("matar_tf.keras.statistics", "InputQuantize"),
            ("matar_tf.keras.layers", "KurtosisRegularizer"),
            ("matar_tf.keras.layers", "Sequence"),
            ("matar_tf.keras.layers", "wrapper"),
            ("matar_tf.io.files", "remove"),
            ("subprocess", "Popen"),
        ],
    )
    def test_other_places_are_refused(self, module: str, name: str) -> None:
        config = json.loads(golden().extras["network.json"])
        own = next(
            one for one in classes(config) if one["class_name"] == "InputQuantize"
        )
        own.update(module=module, class_name=name, registered_name=None)
        with pytest.raises(ArtifactError, match="could run foreign code"):
            load_network(with_network(config))

    @pytest.mark.parametrize(
        "registered",
        ["matar_tf>MultiBitBatchNormalization", "x>InputQuantize", "Lambda"],
    )
    def test_another_registered_name_than_that_of_the_place_is_refused(
        self, registered: str
    ) -> None:
        config = json.loads(golden().extras["network.json"])
        own = next(
            one for one in classes(config) if one["class_name"] == "InputQuantize"
        )
        assert own["registered_name"] == "matar_tf>InputQuantize"
        own["registered_name"] = registered
        with pytest.raises(ArtifactError, match="could run foreign code"):
            load_network(with_network(config))

    def test_without_a_registered_name_the_place_tells(self) -> None:
        config = json.loads(golden().extras["network.json"])
        for one in classes(config):
            if str(one.get("module")).startswith("matar_tf."):
                del one["registered_name"]
        check_outputs(load_network(with_network(config)), ("policy",))

    def test_a_foreign_class_within_a_new_network_is_refused(self) -> None:
        new = package(load_network(golden()))
        config = json.loads(new.extras["network.json"])
        penalty = next(
            one
            for one in classes(config)
            if one["class_name"] == "matar_tf>KurtosisRegularizer"
        )
        penalty.update(module="subprocess", **_FOREIGN)
        with pytest.raises(ArtifactError, match="could run foreign code"):
            load_network(with_network(config))
