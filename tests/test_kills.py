"""Programs that are killed, or whose disk is full: what counts as whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fixtures.paths import GOLDEN

from tools.benchmarks.kills import PROGRAMS, measure_kills
from tools.benchmarks.whole_files import broken_files


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "matrix.csv",
        "report.html",
        "evaluations.sqlite",
        "mpic/policy_00.tflite",
        "mpic/front.md",
    ],
)
def test_what_is_cut_off_is_broken(run_folder: Path, name: str) -> None:
    assert broken_files(run_folder) == []
    path = run_folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (broken,) = broken_files(run_folder)
    assert broken.startswith(f"{name}: ")
    path.rename(path.with_name(f".{path.name}"))  # as before a file is whole
    assert broken_files(run_folder) == []


def test_an_artifact_with_half_a_member_is_broken(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "net", tmp_path / "net"))
    assert broken_files(tmp_path) == []
    content = (folder / "parameters.npz").read_bytes()
    (folder / "parameters.npz").write_bytes(content[:1000])
    assert "parameters.npz" in broken_files(tmp_path)[0]


@pytest.mark.slow
def test_a_real_program_is_killed_and_its_disk_is_full() -> None:
    programs = {"export": PROGRAMS["export"]}
    bars = list(measure_kills(seed=1, num_kills=2, num_full_disks=1, programs=programs))
    assert [bar.held for bar in bars] == [True, True]
    # A kill may come before there is something to go on with.
    left, resumed = bars[0].figure.split("; ")
    assert left == "2 of 2"
    assert resumed in {f"{number} of {number}" for number in range(1, 5)}
    assert bars[1].figure == "1 of 1; 1 of 1"
