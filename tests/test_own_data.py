"""Commands without ``--data``: no data set stands in for a network's own unsaid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.digits import digits_artifact
from fixtures.paths import ROOT
from fixtures.programs import call, fails

from matar_tf.artifact import write_artifact
from matar_tf.tflite.build import ModelBuilder


def written(folder: Path, **provenance: Any) -> str:
    path = folder / "net.matar"
    write_artifact(replace(digits_artifact(), provenance=provenance), path)
    return str(path)


def test_compare_takes_digits_for_a_network_of_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, data="digits")
    assert call("compare", path, num_random=0) == 0
    assert "500 samples of digits; accuracy in %" in capsys.readouterr().out


def test_compare_asks_for_data_of_all_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = ROOT / "recipes" / "artifacts" / "cifar10_resnet8.matar"
    line = fails(capsys, "compare", str(shipped), num_random=0)
    assert "'cifar10_resnet8', which was made on 'cifar10.npz', got none" in line
    line = fails(capsys, "compare", written(tmp_path), num_random=0)
    assert "Expected --data for 'net', got none; name samples and labels" in line


def test_evaluate_measures_nothing_without_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, path = digits_artifact(), tmp_path / "a.tflite"
    path.write_bytes(ModelBuilder(artifact).build(artifact.space.widest()))
    assert call("evaluate", str(path)) == 0
    shown = capsys.readouterr().out
    assert "data      none, so no metrics" in shown
    assert "latency" in shown
    assert "accuracy" not in shown
    for flag in ({"metrics": ["loss"]}, {"num_samples": 3}):
        line = fails(capsys, "evaluate", str(path), **flag)
        assert f"Expected --data beside --{next(iter(flag))}, got none" in line
