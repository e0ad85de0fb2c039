"""What is built: a wheel that works where nothing else is, and a complete source."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fixtures.paths import ROOT

import matar_tf
from matar_tf.commands import COMMANDS

ARTIFACT = ROOT / "recipes/artifacts/cifar10_resnet8.matar"
TRAINING = re.compile(r"tensorflow|tf_keras|keras|tensorflow_model_optimization")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    source = tmp_path_factory.mktemp("source") / "matar_tf"
    # From a copy: building leaves files beside the sources.
    left_out = shutil.ignore_patterns(
        *(".git", ".venv", ".*_cache", "__pycache__"),
        *("runs", "build", "dist", "*.egg-info"),
    )
    shutil.copytree(ROOT, source, ignore=left_out, symlinks=True)
    output = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", str(output), str(source)])
    return output


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    run(
        [
            *(str(folder / "bin/python"), "-m", "pip", "install", "--quiet"),
            *("--constraint", str(ROOT / "constraints.txt"), str(wheel)),
        ]
    )
    return folder / "bin"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artifact and samples of noise, and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    shutil.copy(ARTIFACT, folder / "net.matar")
    noise = np.random.default_rng(0).random((16, 32, 32, 3), np.float32)
    np.savez(folder / "data.npz", x_test=noise, y_test=np.arange(16) % 10)
    return folder


def run(
    command: list[str], folder: Path | None = None, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs a command without what this process has set; checks its exit status."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TF_"))}
    done = subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done


class TestWheel:
    def test_holds_the_package_and_what_it_reads(self, wheel: Path) -> None:
        names = zipfile.ZipFile(wheel).namelist()
        package = ROOT / "matar_tf"
        for path in package.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(ROOT)) in names
        others = {name.partition("/")[0] for name in names}
        assert others == {"matar_tf", f"matar_tf-{matar_tf.__version__}.dist-info"}

    def test_says_what_it_is(self, wheel: Path) -> None:
        folder = f"matar_tf-{matar_tf.__version__}.dist-info"
        with zipfile.ZipFile(wheel) as archive:
            metadata = archive.read(f"{folder}/METADATA").decode()
            programs = archive.read(f"{folder}/entry_points.txt").decode()
        assert f"\nVersion: {matar_tf.__version__}\n" in metadata
        assert "\nLicense-Expression: Apache-2.0\n" in metadata
        assert (ROOT / "README.md").read_text(encoding="utf-8") in metadata
        assert programs.split() == [
            "[console_scripts]",
            "matar",
            "=",
            "matar_tf.cli:main",
        ]
        for line in re.findall(r"^Requires-Dist: (.*)", metadata, re.MULTILINE):
            assert not TRAINING.match(line) or "extra" in line


def test_the_source_is_complete(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("matar_tf", "recipes", "tests", "tools"):
        for one in (ROOT / folder).rglob("*"):
            if one.is_file() and "__pycache__" not in one.parts:
                assert str(one.relative_to(ROOT)) in names
    files = (
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "BUILD_NOTES.md",
        "LICENSE",
    )
    more = ("pyproject.toml", "constraints.txt", "Makefile", "ci.sh")
    assert names.issuperset((*files, *more))


class TestInstalled:
    def test_without_tensorflow_it_can_be_imported_and_has_a_version(
        self, installed: Path, empty: Path
    ) -> None:
        code = (
            "import importlib.metadata, importlib.util, matar_tf;"
            "assert importlib.util.find_spec('tensorflow') is None;"
            "assert matar_tf.__version__ == importlib.metadata.version('matar_tf');"
            "print(matar_tf.__version__)"
        )
        python = str(installed / "python")
        done = run([python, "-c", code], empty)
        assert done.stdout.strip() == matar_tf.__version__
        done = run([str(installed / "matar"), "--version"], empty)
        assert done.stdout == f"matar_tf {matar_tf.__version__}\n"

    def test_every_command_has_its_help(self, installed: Path, empty: Path) -> None:
        pages = [
            run([str(installed / "matar"), "--help"], empty).stdout,
            run([str(installed / "matar")], empty).stdout,
            run([str(installed / "python"), "-m", "matar_tf"], empty).stdout,
        ]
        assert pages[0] == pages[1] == pages[2]
        for name in COMMANDS:
            assert f"\n  {name} " in pages[0]
            page = run([str(installed / "matar"), name, "--help"], empty).stdout
            assert page.startswith(f"usage: matar {name}")

    def test_the_whole_way_from_a_copied_artifact(
        self, installed: Path, empty: Path
    ) -> None:
        matar = str(installed / "matar")
        printed = run(
            [
                *(matar, "search", "net.matar", "--targets=mpic", "--output=run"),
                *("--data=data.npz", "--num_samples=8", "--max_evaluations=4"),
            ],
            empty,
        ).stdout
        assert "evaluated 4, reused 0." in printed
        table = json.loads((empty / "run/mpic/front.json").read_text(encoding="utf-8"))
        assert table["num_samples"] == 8
        front = sorted((empty / "run/mpic").glob("policy_*.tflite"))
        assert front
        file = str(front[0].relative_to(empty))
        record = json.loads((empty / "run/run.json").read_text(encoding="utf-8"))
        assert record["command"].startswith("matar search net.matar --targets=mpic")
        assert "mpic" in run([matar, "report", "run"], empty).stdout
        assert "<html" in run([matar, "report", "run", "--format=html"], empty).stdout
        printed = run([matar, "verify", file, "--artifact=net.matar"], empty).stdout
        assert "those that the artifact makes" in printed
        assert "CONV_2D" in run([matar, "inspect", file], empty).stdout
        words = (file, "--data=data.npz", "--num_samples=4")
        assert "4 samples" in run([matar, "evaluate", *words], empty).stdout
        words = ("net.matar", "--policy=w4a8", "--output=x.tflite")
        assert "Wrote x.tflite" in run([matar, "export", *words], empty).stdout
        words = ("net.matar", "--policies=w8a8", "--target=mpic")
        assert "mpic" in run([matar, "cost", *words], empty).stdout
        words = ("net.matar", "--data=data.npz", "--num_random=0")
        assert "w4a4" in run([matar, "compare", *words], empty).stdout
        assert "mpic" in run([matar, "targets", "list"], empty).stdout

    @pytest.mark.parametrize("name", ["train", "package"])
    def test_what_needs_tensorflow_says_what_to_install(
        self, installed: Path, empty: Path, name: str
    ) -> None:
        words = {"train": "digits_resnet8", "package": "data.npz"}
        command = [str(installed / "matar"), name, words[name], "--output=new.matar"]
        done = run(command, empty, status=1)
        (line,) = done.stderr.splitlines()
        assert line.startswith("ModuleNotFoundError: Expected TensorFlow 2.21")
        packages = "'tensorflow==2.21.*' 'tf_keras==2.21.*' "
        packages += "tensorflow-model-optimization==0.8.1 'h5py>=3.10'"
        assert line.endswith(f"run pip install {packages}.")
        assert not (empty / "new.matar").exists()
