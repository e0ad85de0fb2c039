"""What version 0.1.0 wrote is read, and says the same, for ever: no TensorFlow."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.paths import GOLDEN, ROOT
from fixtures.programs import call
from golden.shipped import digests

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.policy import Policy
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.metadata import read_metadata
from matar_tf.tflite.runtime import Runner

TARGETS = ("mpic", "ne16_gap9")
_DESCRIBED = {
    "artifact_digest",
    "kernels",
    "notes",
    "policy",
    "profile",
    "stored_bits",
}


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return read_artifact(GOLDEN / "net.matar")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden run, which a program may change."""
    return Path(
        shutil.copytree(GOLDEN / "run", tmp_path_factory.mktemp("golden") / "run")
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def policy() -> Policy:
    return Policy.from_json(read(GOLDEN / "policy.json"))


def search(output: Path, **changes: Any) -> int:
    return call(
        "search",
        artifact=str(GOLDEN / "net.matar"),
        targets=[str(GOLDEN / f"targets/{name}.toml") for name in TARGETS],
        output=str(output),
        data=str(GOLDEN / "data.npz"),
        max_evaluations=16,
        population_size=8,
        compare="none",
        **changes,
    )


def stored(run: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(run / "evaluations.sqlite")
    try:
        columns = "artifact_digest, data_digest, policy_digest, metric, value"
        return sorted(connection.execute(f"SELECT {columns} FROM evaluations"))
    finally:
        connection.close()


def same_figures(rows: list[Any], golden: list[Any]) -> None:
    """Checks that rows of the same policies have the figures that they had."""
    by_policy = {json.dumps(row["policy"]): row for row in rows}
    others = [row for row in golden if json.dumps(row["policy"]) in by_policy]
    assert len(others) > len(golden) / 2
    for other in others:
        figures = by_policy[json.dumps(other["policy"])]["figures"]
        same = {name: figures[name] for name in other["figures"]}
        same["file_bytes"] = other["figures"][
            "file_bytes"
        ]  # says what is expected, too
        assert known({"figures": same}) == pytest.approx(known(other), rel=1e-9)


def known(row: dict[str, Any]) -> dict[str, float]:
    """The figures of a row, without those that it has not."""
    return {name: one for name, one in row["figures"].items() if one is not None}


class TestArtifact:
    def test_the_file_and_the_folder_are_the_same(self, artifact: Artifact) -> None:
        folder = read_artifact(GOLDEN / "net")
        assert folder.members() == artifact.members()
        assert folder.digest() == artifact.digest()
        for name, content in artifact.members().items():
            golden = (GOLDEN / "net" / name).read_bytes()
            if name != "manifest.json":
                assert golden == content
                continue
            manifest = json.loads(content)  # which has had a digest since
            assert len(manifest.pop("manifest_sha256")) == 64
            assert manifest == {**json.loads(golden), "schema_version": 4}

    def test_stored_evaluations_are_its_own(self, artifact: Artifact) -> None:
        assert read(GOLDEN / "run/run.json")["artifact_digest"] == artifact.digest()
        assert {row[0] for row in stored(GOLDEN / "run")} == {artifact.digest()}

    def test_what_is_on_record(self, artifact: Artifact) -> None:
        assert set(artifact.accuracy) == {"float", "w8a8", "w4a4"}
        assert artifact.provenance == {"made_by": "tests/golden/make.py"}
        assert list(artifact.space.weights) == ["stem", "conv", "wide", "logits"]


class TestFiles:
    def test_the_policy_gives_the_same_file(self, artifact: Artifact) -> None:
        golden = (GOLDEN / "policy.tflite").read_bytes()
        metadata = read_metadata(golden)
        assert Policy.from_json(metadata["policy"]) == policy()
        added = {key: metadata[key] for key in metadata.keys() - _DESCRIBED}
        assert set(added) == {"metrics", "num_samples"}
        assert ModelBuilder(artifact).build(policy(), metadata=added) == golden

    @pytest.mark.parametrize("target", TARGETS)
    def test_so_do_the_policies_of_a_front(
        self, artifact: Artifact, target: str
    ) -> None:
        builder = ModelBuilder(artifact)
        paths = sorted((GOLDEN / "run" / target).glob("policy_*.json"))
        assert len(paths) == 3
        for path in paths:
            golden = path.with_suffix(".tflite").read_bytes()
            metadata = read_metadata(golden)
            added = {key: metadata[key] for key in metadata.keys() - _DESCRIBED}
            assert added["target"] == target
            one = Policy.from_json(read(path))
            assert builder.build(one, metadata=added) == golden

    def test_the_file_still_classifies_as_it_says(self) -> None:
        content = (GOLDEN / "policy.tflite").read_bytes()
        with np.load(GOLDEN / "data.npz") as data:
            outputs = Runner(content).predict(data["x_test"])
            right = np.argmax(outputs, axis=-1) == data["y_test"]
        assert right.mean() == read_metadata(content)["metrics"]["accuracy"]

    def test_shipped_artifacts_give_the_same_files(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(ROOT)
        expected = read(GOLDEN / "shipped.json")
        assert sum(map(len, expected.values())) == 2 * 4
        assert digests() == expected


class TestRun:
    def test_the_report_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("report", run=str(GOLDEN / "run"), format="md") == 0
        printed = capsys.readouterr().out
        for target in TARGETS:
            front = (GOLDEN / "run" / target / "front.md").read_text()
            rows = [line for line in front.splitlines() if line.startswith("| policy_")]
            assert len(rows) == 2 * 3  # figures and widths
            assert all(row in printed for row in rows)
        assert printed.endswith("since an earlier version packaged it.\n")

    def test_it_goes_on(self, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Parts of samples are measured since; figures of all are what they were."""
        before = stored(copied)
        assert search(copied, resume=True) == 0
        assert "All targets: evaluated 18, reused 5." in capsys.readouterr().out
        assert [row for row in stored(copied) if "/" not in row[3]] == before

    def test_the_same_seed_measures_the_same(self, tmp_path: Path) -> None:
        assert search(tmp_path / "run") == 0
        measured = [row for row in stored(tmp_path / "run") if "/" not in row[3]]
        assert measured == stored(GOLDEN / "run")
        for target in TARGETS:
            found, golden = (
                read(run / target / "front.json")
                for run in (tmp_path / "run", GOLDEN / "run")
            )
            for key in ("num_evaluated", "num_reused", "stop_reason"):
                assert found[key] == golden[key]
            same_figures(found["rows"], golden["rows"])

    def test_another_seed_is_refused(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert search(copied, resume=True, seed=1) == 1
        assert "the same seed" in capsys.readouterr().err


def test_golden_files_name_no_machine() -> None:
    machine = [str(ROOT).encode(), b"/home/", b"/root/", b"/tmp/"]
    for path in GOLDEN.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            assert not [one for one in machine if one in content], path


def test_nothing_here_needs_tensorflow() -> None:
    program = (
        "import sys; sys.modules['tensorflow'] = None; "
        "from matar_tf.artifact import read_artifact; "
        f"print(read_artifact({str(GOLDEN / 'net')!r}).digest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == read(GOLDEN / "run/run.json")["artifact_digest"]
