"""Programs that are killed, or whose disk is full: is all that they left whole?

Each program runs once undisturbed. Then it is killed (SIGKILL) at moments of a seeded
generator, or run where its disk ends after a number of bytes, and run again until it
ends: whatever stands under its final name in between must be whole, and the end must
be that of the undisturbed run. Networks and data are those of the tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matar_tf.artifact import read_artifact
from matar_tf.errors import MatarError
from tools.benchmarks.bars import Bar
from tools.benchmarks.whole_files import broken_files

__all__ = ["PROGRAMS", "Program", "measure_kills"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_GOLDEN: Final = _ROOT / "tests" / "golden"
_SHIPPED: Final = _ROOT / "recipes" / "artifacts" / "cifar10_resnet8.matar"
_PAGE: Final = 4096  # disks in memory have whole ones
_EARLIEST: Final = 0.3  # of the time that a run takes: before, modules are imported
_MAX_FAILURES: Final = 3  # shown of each program
_TARGET: Final = "mpic"
_RECIPE: Final = """
from dataclasses import replace

from matar_tf.data import DIGITS
from matar_tf.keras import RecipeConfig, Schedule, keras


def build(input_shape, num_classes):
    inputs = keras.layers.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, name="out")(x))


def get_config():
    schedule = Schedule(epochs=4, learning_rate=3e-3, batch_size=128)
    return RecipeConfig(
        name="tiny",
        data=DIGITS,
        build_model=build,
        float_schedule=schedule,
        multi_bit_schedule=schedule,
        evaluate_policies=("w8a8",),
    )
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that is disturbed.

    Attributes:
      share: How many of 100 kills it gets.
      disks: How many of 20 full disks it gets.
      words: Its command line, given the folder that it writes to.
      outcome: What it has made in that folder, in a form that is equal for equal runs.
    """

    share: int
    disks: int
    words: Callable[[Path], list[str]]
    outcome: Callable[[Path], Any]


def _train(folder: Path) -> list[str]:
    recipe = folder.parent / "tiny_recipe.py"
    if not recipe.exists():
        recipe.write_text(_RECIPE, encoding="utf-8")
    return [
        "train",
        f"--recipe={recipe}",
        f"--output={folder / 'net.matar'}",
        "--reuse",
    ]


def _package(folder: Path) -> list[str]:
    words = ["package", f"--model={_GOLDEN / 'model.h5'}"]
    return [*words, f"--output={folder / 'net'}", "--overwrite"]


def _search(folder: Path) -> list[str]:
    return [
        *("search", f"--artifact={_GOLDEN / 'net.matar'}", "--compare=none"),
        *(f"--data={_GOLDEN / 'data.npz'}", f"--targets={_TARGET},ne16_gap9"),
        *("--max_evaluations=16", "--population_size=8", f"--output={folder / 'run'}"),
        "--resume",
    ]


def _export(folder: Path) -> list[str]:
    return [
        *("export", f"--artifact={_SHIPPED}", "--policy=w4a4", "--compare=none"),
        *("--overwrite", f"--output={folder / 'x.tflite'}"),
    ]


def _report(folder: Path) -> list[str]:
    run = folder / "run"
    if not run.exists():
        shutil.copytree(_GOLDEN / "run", run)
    return ["report", f"--run={run}", "--format=html"]


def _network(name: str) -> Callable[[Path], Any]:
    def outcome(folder: Path) -> Any:
        artifact = read_artifact(folder / name)
        return artifact.digest(), artifact.workload.to_json()

    return outcome


def _front(folder: Path) -> Any:
    """Returns the rows of fronts, and the bytes of files that bear no time."""
    run = folder / "run"
    fronts = [
        json.loads(path.read_text(encoding="utf-8"))["rows"]
        for path in sorted(run.glob("*/front.json"))
    ]
    files = [
        *run.glob("*/*.tflite"),
        *run.glob("*/policy_*.json"),
        *run.glob("*/*.csv"),
    ]
    return fronts, _hashes(run, [*files, run / "matrix.csv"])


def _all_files(folder: Path) -> Any:
    return _hashes(folder, [path for path in folder.rglob("*") if path.is_file()])


def _hashes(folder: Path, paths: Sequence[Path]) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


PROGRAMS: Final[Mapping[str, Program]] = {
    "export": Program(share=28, disks=7, words=_export, outcome=_all_files),
    "report": Program(share=12, disks=0, words=_report, outcome=_all_files),
    "search": Program(share=36, disks=8, words=_search, outcome=_front),
    "package": Program(share=12, disks=3, words=_package, outcome=_network("net")),
    "train": Program(share=12, disks=2, words=_train, outcome=_network("net.matar")),
}


def measure_kills(
    *,
    seed: int,
    num_kills: int = 100,
    num_full_disks: int = 20,
    programs: Mapping[str, Program] = PROGRAMS,
) -> Iterator[Bar]:
    """Yields a bar for each program that is killed, or runs out of disk.

    Args:
      seed: Of moments and sizes.
      num_kills: In all, spread over the programs by their shares.
      num_full_disks: The same.
      programs: By name.
    """
    rng = random.Random(seed)
    shares = [one.share for one in programs.values()]
    disks = [one.disks for one in programs.values()]
    for (name, program), kills, full in zip(
        programs.items(),
        _spread(num_kills, shares),
        _spread(num_full_disks, disks),
        strict=True,
    ):
        with tempfile.TemporaryDirectory() as folder:
            trial = _Trial(name, program, Path(folder), rng)
            if kills:
                yield trial.killed(kills)
            if full:
                yield trial.with_full_disks(full)


def _spread(total: int, shares: Sequence[int]) -> list[int]:
    """Returns whole numbers in the ratio of shares that add up to a total."""
    sums = list(itertools.accumulate(shares))
    ends = [round(total * one / max(sums[-1], 1)) for one in sums]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


class _Trial:
    """One program, which is disturbed again and again."""

    def __init__(
        self, name: str, program: Program, folder: Path, rng: random.Random
    ) -> None:
        self._name, self._program = name, program
        self._folder, self._rng = folder, rng
        self._failures: list[str] = []
        whole = self._new("whole")
        start = time.perf_counter()
        self._finish(whole)
        self._seconds = time.perf_counter() - start
        self._expected = program.outcome(whole)
        files = [path for path in whole.rglob("*") if path.is_file()]
        self._num_bytes = sum(path.stat().st_size for path in files)

    def killed(self, num_kills: int) -> Bar:
        """Kills the program; runs it to its end after a few kills each."""
        num_killed = num_whole = num_ends = num_equal = 0
        while num_killed < num_kills:
            folder = self._new(f"kills{num_ends}")
            for _ in range(min(3, num_kills - num_killed)):
                moment = self._rng.uniform(_EARLIEST, 1.0) * self._seconds
                if not self._kill(folder, moment):
                    break
                num_killed += 1
                num_whole += self._is_whole(folder)
            self._finish(folder)
            num_ends += 1
            num_equal += self._is_equal(folder)
            shutil.rmtree(folder)
        return self._bar(
            f"{num_kills} kills", num_kills, num_whole, num_equal, num_ends
        )

    def with_full_disks(self, num_disks: int) -> Bar:
        """Runs the program where the disk is too small, then where it is not."""
        num_full = num_whole = num_equal = num_ends = 0
        while num_ends < num_disks:
            folder = self._new(f"disks{num_ends}")
            with _disk(folder) as limit:
                size = self._rng.randrange(
                    _PAGE, max(self._num_bytes, 2 * _PAGE), _PAGE
                )
                if not self._runs_in(folder, limit, size):
                    num_full += 1
                    num_whole += self._is_whole(folder)
                limit(None)
                self._finish(folder)
                num_ends += 1
                num_equal += self._is_equal(folder)
        counts = num_full, num_whole, num_equal, num_ends
        return self._bar(f"{num_full} full disks", *counts)

    def _bar(
        self, what: str, total: int, num_whole: int, num_equal: int, num_ends: int
    ) -> Bar:
        shown = "".join(f"\n  {one}" for one in self._failures[:_MAX_FAILURES])
        failed, self._failures = bool(self._failures), []
        return Bar(
            name=f"{self._name}: what {what} leave is whole; runs that go on end as "
            "one that was not disturbed",
            figure=f"{num_whole} of {total}; {num_equal} of {num_ends}{shown}",
            limit="all",
            held=num_whole == total and num_equal == num_ends and not failed,
        )

    def _new(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _command(self, folder: Path) -> list[str]:
        return [sys.executable, "-m", "matar_tf", *self._program.words(folder)]

    def _start(self, folder: Path, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
            **options,
        )

    def _finish(self, folder: Path) -> None:
        with self._start(folder) as process:
            _, errors = process.communicate()
        if process.returncode != 0:
            self._failures.append(f"status {process.returncode}: {errors[-500:]}")

    def _kill(self, folder: Path, moment: float) -> bool:
        """Returns whether the program was killed before its end."""
        start = time.perf_counter()
        with self._start(folder) as process:
            try:
                process.communicate(timeout=moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        if process.returncode != -signal.SIGKILL:  # the machine is less busy now
            self._seconds = min(self._seconds, time.perf_counter() - start)
        return process.returncode == -signal.SIGKILL

    def _runs_in(
        self, folder: Path, limit: Callable[[int | None], Any], size: int
    ) -> bool:
        """Returns whether the program ends well on a disk of a size."""
        with self._start(folder, preexec_fn=limit(size)) as process:
            _, errors = process.communicate()
        if "Traceback" in errors or process.returncode not in (0, 1):
            self._failures.append(
                f"{size} bytes: {process.returncode}: {errors[-800:]}"
            )
        return process.returncode == 0

    def _is_whole(self, folder: Path) -> bool:
        broken = broken_files(folder)
        self._failures += broken
        return not broken

    def _is_equal(self, folder: Path) -> bool:
        try:
            found = self._program.outcome(folder)
        except (MatarError, OSError, ValueError, KeyError) as error:
            self._failures.append(f"{type(error).__name__}: {error}")
            return False
        if found != self._expected:
            self._failures.append(f"another end: {str(found)[:300]}")
        return found == self._expected


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Callable[[int | None], Any]]:
    """Yields what gives a folder a disk of a size: a small one, or a limit of files.

    What it returns is for the process that writes there: to be called before it starts.
    """
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4096", "matar_kills", str(folder)],
        capture_output=True,
        check=False,
    )

    def resize(size: int | None) -> None:
        option = f"remount,size={size or '64m'}"
        subprocess.run(["mount", "-o", option, str(folder)], check=True)

    def bound(size: int | None) -> Callable[[], None]:
        most = resource.RLIM_INFINITY if size is None else size

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        return limit

    try:
        yield bound if mounted.returncode else resize
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", str(folder)], check=True)
