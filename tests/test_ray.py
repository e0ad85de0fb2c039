"""Measuring on a real Ray cluster of two workers, one of which is killed at work."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.paths import ROOT, SHIPPED

from matar_tf.artifact import Artifact, read_artifact, write_artifact
from matar_tf.data import Data
from matar_tf.errors import MatarError, PolicyError
from matar_tf.evolution import SearchOptions
from matar_tf.policy import Policy
from matar_tf.run import evaluators
from matar_tf.run.plan import make_run
from matar_tf.run.retarget import retarget
from matar_tf.run.settings import RunSettings
from matar_tf.targets import load_target
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import PolicyEvaluator
from matar_tf.tflite.parts import parts_without_notes
from matar_tf.tflite.ray_evaluate import RayEvaluator
from matar_tf.tflite.runtime import Runner

ray: Any = pytest.importorskip("ray")

NAMES = ("w8a8", "w2a2", "w4a4", "w3a8")


@functools.cache
def network() -> Artifact:
    """A network whose developer measured nothing: all evaluations are made."""
    return replace(read_artifact(SHIPPED), measurements=None)


def policies() -> list[Policy]:
    return [network().space.named(name) for name in NAMES]


@functools.cache
def samples() -> Data:
    """Noise, labelled by what the network makes of it at 8 bits."""
    noise = np.random.default_rng(0).random((24, 32, 32, 3), np.float32)
    content = ModelBuilder(network()).build(network().space.named("w8a8"))
    labels = Runner(content).predict(noise).argmax(axis=-1)
    return Data(name="noise", x_test=noise, y_test=labels)


def make_evaluator() -> Callable[[], PolicyEvaluator]:
    data = samples()
    return functools.partial(PolicyEvaluator, network(), data.x_test, data.y_test)


class SlowToDie:
    """Measures; the second worker that gets that far waits to be killed, once.

    The other one then waits for the worker that takes the place of the killed one.
    """

    def __init__(self, folder: Path, make: Callable[[], PolicyEvaluator]) -> None:
        self._folder = folder
        self._evaluate = make()
        self._num_measured = 0

    def __call__(self, policy: Policy) -> Mapping[str, float]:
        (self._folder / f"worker_{os.getpid()}").touch()
        self._num_measured += 1
        if self._num_workers() == 2 and self._num_measured == 3:
            try:
                victim = (self._folder / "victim").open("x")
            except FileExistsError:
                return self._evaluate(policy)
            with victim:
                victim.write(f"{os.getpid()}\n")
            time.sleep(60)
        deadline = time.monotonic() + 50
        while (self._folder / "victim").exists() and self._num_workers() < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self._evaluate(policy)

    def _num_workers(self) -> int:
        return len(list(self._folder.glob("worker_*")))


class Deadly:
    """Ends every worker."""

    def __call__(self, policy: Policy) -> Mapping[str, float]:
        os._exit(9)


class Racing:
    """Refuses the first policy while another is on its way."""

    def __call__(self, policy: Policy) -> Mapping[str, float]:
        if policy == policies()[0]:
            raise PolicyError("not this one")
        time.sleep(0.002)
        return {"accuracy": 1.0}


def kill_victim(folder: Path, killed: list[int]) -> None:
    """Waits for a worker that says that it measures, and kills it."""
    path = folder / "victim"
    deadline = time.monotonic() + 50
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().endswith("\n"):
            killed.append(int(path.read_text()))
            os.kill(killed[0], signal.SIGKILL)
            return
        time.sleep(0.02)


def named_in_command_lines(text: str) -> list[str]:
    """Returns the command lines of running processes that hold a text."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if text in line:
            found.append(line)
    return found


def short_folder() -> Iterator[Path]:
    """A folder with a name that leaves room for those of sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))
    yield folder
    deadline = time.monotonic() + 20
    while named_in_command_lines(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = named_in_command_lines(str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    assert not left


cluster_folder = pytest.fixture(short_folder, scope="module")
own_folder = pytest.fixture(short_folder)


@pytest.fixture(scope="module")
def cluster(cluster_folder: Path) -> Iterator[str]:
    """The address of a cluster of two workers that can import this module."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(cluster_folder),
        )
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data file, and a network that nobody measured."""
    folder = tmp_path_factory.mktemp("files")
    write_artifact(network(), folder / "net.matar")
    data = samples()
    np.savez(folder / "data.npz", x_test=data.x_test, y_test=data.y_test)
    return folder


def rows(output: Path) -> Any:
    return json.loads((output / "bismo_ultra96/front.json").read_text())["rows"]


def search_command(
    files: Path, output: Path, *flags: str, artifact: Path | None = None
) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "tools/search.py"),
        f"--artifact={artifact or files / 'net.matar'}",
        f"--data={files / 'data.npz'}",
        "--targets=bismo_ultra96",
        "--max_evaluations=40",
        "--compare=none",
        f"--output={output}",
        *flags,
    ]


@pytest.mark.slow
class TestCluster:
    def test_gives_what_one_process_gives(self, cluster: str) -> None:
        alone = make_evaluator()()
        with RayEvaluator(make_evaluator(), 2) as evaluate:
            first = list(evaluate(iter(policies())))
            again = dict(evaluate(policies()[:1]))
        expected = {policy: alone(policy) for policy in policies()}
        assert dict(first) == expected
        assert len(first) == len(policies())
        assert again == {policies()[0]: expected[policies()[0]]}
        assert ray.is_initialized()  # it is not the evaluator's to end

    def test_an_error_of_one_policy_reaches_the_caller(self, cluster: str) -> None:
        other = Policy(weights={"z": 8}, activations={})
        with (
            RayEvaluator(make_evaluator(), 2) as evaluate,
            pytest.raises(PolicyError),
        ):
            list(evaluate([policies()[0], other]))

    def test_an_error_while_another_policy_ends_leaves_the_process_alive(
        self, cluster: str
    ) -> None:
        # Ray aborts a process that cancels a task just as it ends.
        with RayEvaluator(Racing, 2) as evaluate:
            for _ in range(200):
                with pytest.raises(PolicyError, match="not this one"):
                    list(evaluate(policies()[:2]))

    def test_a_policy_that_kills_every_worker_is_an_error(self, cluster: str) -> None:
        with (
            RayEvaluator(Deadly, 2) as evaluate,
            pytest.raises(MatarError, match="WorkerCrashedError 5 times"),
        ):
            list(evaluate(policies()[:1]))

    def test_a_search_outlives_a_worker_that_is_killed_at_work(
        self, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data: Data = samples()
        fronts: dict[str, Any] = {}
        killed: list[int] = []
        for executor in ("local", "ray"):
            settings = RunSettings(
                options=SearchOptions(max_evaluations=40, population_size=12),
                num_jobs=2 if executor == "ray" else 1,
                executor=executor,
                progress=False,
            )
            output = tmp_path / executor
            target = load_target("bismo_ultra96")
            run = make_run(network(), [target], data, settings)
            if executor == "ray":
                (tmp_path / "pids").mkdir()
                monkeypatch.setattr(
                    evaluators,
                    "parts_without_notes",
                    functools.partial(make_slow_to_die, tmp_path / "pids"),
                )
                killer = threading.Thread(
                    target=kill_victim, args=(tmp_path / "pids", killed)
                )
                killer.start()
            (result,) = retarget(run, output).results
            fronts[executor] = [
                (one.policy, dict(one.metrics), dict(one.costs)) for one in result.front
            ]
        killer.join()
        assert len(killed) == 1
        workers = {path.name for path in (tmp_path / "pids").glob("worker_*")}
        # Two from the start, one of which died, and the one in its place.
        assert f"worker_{killed[0]}" in workers
        assert len(workers) == 3
        assert fronts["ray"] == fronts["local"]

    def test_the_program_attaches_by_address(
        self, cluster: str, files: Path, tmp_path: Path
    ) -> None:
        command = search_command(files, tmp_path / "local")
        subprocess.run(command, check=True, capture_output=True)
        flags = ("--executor=ray", "--jobs=2", f"--ray_address={cluster}")
        command = search_command(files, tmp_path / "ray", *flags)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert "evaluated 40, reused 0" in done.stdout
        assert rows(tmp_path / "ray") == rows(tmp_path / "local")


def make_slow_to_die(folder: Path, *args: Any, **kwargs: Any) -> SlowToDie:
    return SlowToDie(folder, functools.partial(parts_without_notes, *args, **kwargs))


@pytest.mark.slow
def test_the_program_starts_a_cluster_of_its_own_and_ends_it(
    files: Path, own_folder: Path, tmp_path: Path
) -> None:
    # Invented samples, of another kind than the developer's: all are measured.
    command = search_command(
        files, tmp_path / "run", "--executor=ray", "--jobs=2", artifact=SHIPPED
    )
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_TMPDIR": str(own_folder)},
    )
    assert list(own_folder.iterdir())  # Ray was there; the fixture looks what is left
    assert "evaluated 40, reused 0" in done.stdout
    assert "expected accuracy" in done.stdout
    assert "ray" not in done.stderr.lower()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_sentence(
    files: Path, tmp_path: Path
) -> None:
    flags = ("--executor=ray", "--ray_address=127.0.0.1:1")
    command = search_command(files, tmp_path / "run", *flags)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "MatarError" in line]
    assert len(lines) == 1
    assert "a Ray cluster at 127.0.0.1:1, but it cannot be reached" in lines[0]


def test_without_ray_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MatarError, match=r"pip install 'ray>="):
        RayEvaluator(make_evaluator(), 1)


@pytest.mark.parametrize("num_jobs", [0, -1])
def test_refuses_no_processes(num_jobs: int) -> None:
    with pytest.raises(MatarError, match="at least one process"):
        RayEvaluator(make_evaluator(), num_jobs)
