"""What a developer measured travels in an artifact, and is checked where it is read."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact
from fixtures.manifests import change_manifest
from fixtures.paths import GOLDEN

from matar_tf.artifact import read_artifact, write_artifact
from matar_tf.errors import ArtifactError, MatarError, PolicyError
from matar_tf.measurements import MAX_POLICIES, Levels, Measurements
from matar_tf.reporting.card_page import model_card
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.space import PolicySpace

SPACE = PolicySpace(
    weights={"one": (8,), "two": (2, 4, 8)}, activations={"one": tuple(range(2, 9))}
)
LEVELS = {
    "policies": ["888", "822"],
    "metrics": {"accuracy": [0.9, 0.8]},
    "num_samples": 0,
}


def document(**changes: Any) -> dict[str, Any]:
    policies = [f"8{two}{one}" for two in (4, 8) for one in range(2, 9)]
    rows = [[0.5 + 0.01 * index for index in range(14)] for _ in range(2)]
    whole = {
        "schema_version": 1,
        "policies": policies,
        "metrics": {"accuracy": rows, "loss": rows},
        "num_samples": 100,
        "trained_on": True,
        "levels": LEVELS,
        "cross_validation": {"spearman": -0.5},
    }
    return {**whole, **changes}


def test_goes_to_other_processes() -> None:
    measured = Measurements.from_json(document(), SPACE)
    again = pickle.loads(pickle.dumps(measured))
    assert again.to_json(SPACE) == document()


def test_is_read_as_it_was_written() -> None:
    measured = Measurements.from_json(document(), SPACE)
    assert measured.to_json(SPACE) == document()
    assert dict(measured.policies[0].weights) == {"one": 8, "two": 4}
    assert dict(measured.policies[0].activations) == {"one": 2}
    assert measured.metrics["accuracy"].shape == (2, 14)
    assert str(measured) == (
        "14 policies measured on 100 training samples (accuracy, loss)"
    )


def test_samples_held_out_need_no_levels() -> None:
    held_out = document(trained_on=False, levels=None)
    assert Measurements.from_json(held_out, SPACE).to_json(SPACE) == held_out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policies": ["888"]}, "Expected 8 to 2048 measured policies, got 1"),
        ({"policies": ["888", "888", *document()["policies"][2:]]}, "twice"),
        ({"policies": ["88", *document()["policies"][1:]]}, "Expected 3 digits"),
        ({"policies": [888, *document()["policies"][1:]]}, "Expected 3 digits"),
        ({"policies": ["819", *document()["policies"][1:]]}, "Expected 3 digits"),
        ({"policies": "888"}, "Expected list under 'policies'"),
        ({"metrics": {}}, "Expected one or more metrics"),
        ({"metrics": {"loss": [[1.0] * 14]}}, "shape (2, 14)"),
        ({"metrics": {"loss": [[1.0] * 14, [1.0]]}}, "shape (2, 14)"),
        ({"metrics": {"loss": [["a"] * 14] * 2}}, "finite numbers"),
        ({"metrics": {"loss": [[None] * 14] * 2}}, "finite numbers"),
        ({"metrics": {"accuracy": [[1.01] * 14] * 2}}, "finite numbers"),
        ({"metrics": {"a\n": [[1.0] * 14] * 2}}, "Expected names"),
        ({"num_samples": 1}, "at least 2 samples"),
        ({"num_samples": 2.0}, "Expected int"),
        ({"trained_on": False}, "Expected levels"),
        ({"levels": None}, "Expected levels"),
        ({"levels": {**LEVELS, "policies": ["888"]}}, "2 to 2048"),
        ({"levels": {**LEVELS, "metrics": {"accuracy": [0.9]}}}, "shape (2,)"),
        ({"cross_validation": {"spearman": [1.0]}}, "finite numbers"),
        ({"schema_version": 2}, "schema_version 1"),
        ({"samples": []}, "Unknown key 'samples'"),
    ],
)
def test_refuses_what_is_no_measurement(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MatarError) as caught:
        Measurements.from_json(document(**changes), SPACE)
    assert sentence in str(caught.value)


def test_takes_no_more_than_can_be_learned_from() -> None:
    wide = PolicySpace(weights=dict.fromkeys("abcdefgh", (2, 3, 4, 5)), activations={})
    policies = draw_policies(wide, IndependentSampler(), 2 * MAX_POLICIES, 0)
    policies = tuple(dict.fromkeys(policies))[: MAX_POLICIES + 1]
    zeros = np.zeros((2, len(policies)))
    with pytest.raises(ArtifactError, match="got 2049"):
        Measurements(
            policies=policies, metrics={"loss": zeros}, num_samples=2, trained_on=False
        )
    Measurements(
        policies=policies[:-1],
        metrics={"loss": zeros[:, :-1]},
        num_samples=2,
        trained_on=False,
    )


def test_takes_no_16_bit_activations() -> None:
    measured = Measurements.from_json(document(), SPACE)
    policies = (*measured.policies[1:], SPACE.named("w8a16"))
    with pytest.raises(ArtifactError, match="of 2 to 8 bits, got one of 16-bit"):
        replace(measured, policies=policies)


class TestMember:
    @pytest.fixture
    def measured(self) -> Measurements:
        space = digits_artifact().space
        policies = tuple(
            dict.fromkeys(draw_policies(space, IndependentSampler(), 40, 0))
        )
        rows = np.linspace(0.5, 0.9, 2 * len(policies)).reshape(2, -1)
        ends = (space.widest(), space.narrowest())
        return Measurements(
            policies=policies,
            metrics={"accuracy": rows},
            num_samples=200,
            trained_on=True,
            levels=Levels(
                policies=ends, metrics={"accuracy": [0.9, 0.8]}, num_samples=0
            ),
        )

    @pytest.mark.parametrize("name", ["net", "net.matar"])
    def test_travels(self, tmp_path: Path, measured: Measurements, name: str) -> None:
        artifact = replace(digits_artifact(), measurements=measured)
        assert f"holds: {len(measured.policies)} policies measured" in model_card(
            artifact
        )
        write_artifact(artifact, tmp_path / name)
        found = read_artifact(tmp_path / name)
        assert found.measurements is not None
        space = artifact.space
        assert found.measurements.to_json(space) == measured.to_json(space)
        assert "training samples (accuracy" in str(found)

    def test_changes_no_other_member(self, measured: Measurements) -> None:
        before = digits_artifact().members()
        artifact = replace(digits_artifact(), measurements=measured)
        after = artifact.members()
        assert set(after) - set(before) == {"measurements.json"}
        for name in set(before) - {"manifest.json"}:
            assert before[name] == after[name]
        # Stored evaluations stay valid.
        assert artifact.digest() == digits_artifact().digest()

    def test_is_covered_by_the_digest(
        self, tmp_path: Path, measured: Measurements
    ) -> None:
        artifact = replace(digits_artifact(), measurements=measured)
        with_them = write_artifact(artifact, tmp_path / "net")
        assert with_them != write_artifact(digits_artifact(), tmp_path / "without")
        member = tmp_path / "net/measurements.json"
        member.write_text(member.read_text().replace("0.9", "0.8", 1))
        with pytest.raises(ArtifactError, match="does not match its SHA-256"):
            read_artifact(tmp_path / "net")

    def test_a_malformed_one_names_the_artifact(
        self, tmp_path: Path, measured: Measurements
    ) -> None:
        artifact = replace(digits_artifact(), measurements=measured)
        write_artifact(artifact, tmp_path / "net")
        member = tmp_path / "net/measurements.json"
        changed = json.loads(member.read_text())
        changed["policies"][0] = "9" * len(changed["policies"][0])
        member.write_text(json.dumps(changed))
        digest = hashlib.sha256(member.read_bytes()).hexdigest()
        change_manifest(
            tmp_path / "net",
            lambda manifest: manifest["sha256"].update({member.name: digest}),
        )
        with pytest.raises(ArtifactError, match=r"Expected \d+ digits of 2 to 8"):
            read_artifact(tmp_path / "net")

    def test_policies_are_of_the_space(self, measured: Measurements) -> None:
        artifact = digits_artifact()
        narrow = artifact.space.only(artifact.space.widest())
        with pytest.raises(PolicyError, match="Expected one of"):
            replace(artifact, space=narrow, measurements=measured)

    def test_older_artifacts_have_none(self) -> None:
        assert read_artifact(GOLDEN / "net").measurements is None
