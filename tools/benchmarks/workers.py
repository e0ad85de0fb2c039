"""Two measurements of ``tools/benchmark.py search``: workers, and kills.

Needs no TensorFlow.
"""

from __future__ import annotations

import functools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matar_tf.artifact import read_artifact
from matar_tf.data import load_data
from matar_tf.policy import Policy
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite.evaluate import ParallelEvaluator, PolicyEvaluator
from tools.benchmarks.bars import Bar

__all__ = ["kills_bar", "measure_workers", "workers_bar"]

_TARGET = "bismo_ultra96"
_NUM_ROUNDS = 3
_NUM_POLICIES = 24
_MIN_RATIO = 1.7
_NUM_KILLS = 20
_KILLED_EVALUATIONS = 60
_SEARCH = Path(__file__).resolve().parents[1] / "search.py"


def measure_workers(
    artifact_path: str, data_spec: str, *, num_samples: int, seed: int
) -> Iterator[Bar]:
    """Yields one bar after the other as it is measured."""
    yield _two_workers(artifact_path, data_spec, num_samples)
    yield _killed(artifact_path, data_spec, num_samples, seed)


def _two_workers(artifact_path: str, data_spec: str, num_samples: int) -> Bar:
    artifact = read_artifact(artifact_path)
    data = load_data(data_spec, training=False).head(num_samples)
    make = functools.partial(PolicyEvaluator, artifact, data.x_test, data.y_test)
    policies = draw_policies(artifact.space, IndependentSampler(), _NUM_POLICIES, 0)
    rates: dict[int, list[float]] = {1: [], 2: []}
    with ParallelEvaluator(make, 1) as alone, ParallelEvaluator(make, 2) as both:
        list(both(policies[:2]))  # the processes have started
        for _ in range(_NUM_ROUNDS):
            for number, evaluate_many in ((1, alone), (2, both)):
                rates[number].append(_rate(evaluate_many, policies))
    return workers_bar(rates[1], rates[2])


def workers_bar(alone: Sequence[float], both: Sequence[float]) -> Bar:
    """Returns the bar of two workers; evaluations per second of one and of two."""
    one, two = statistics.median(alone), statistics.median(both)
    ratio = two / one
    return Bar(
        name="evaluations per second of two workers over one",
        figure=f"{ratio:.2f} ({two:.1f} over {one:.1f})",
        limit=f"at least {_MIN_RATIO}",
        held=ratio >= _MIN_RATIO,
    )


def _rate(evaluate_many: Any, policies: Sequence[Policy]) -> float:
    start = time.perf_counter()
    list(evaluate_many(policies))
    return len(policies) / (time.perf_counter() - start)


def _killed(artifact_path: str, data_spec: str, num_samples: int, seed: int) -> Bar:
    """Searches that are killed once each, at a random moment, and resumed."""
    command = [
        sys.executable,
        str(_SEARCH),
        f"--artifact={artifact_path}",
        f"--data={data_spec}",
        f"--num_samples={num_samples}",
        f"--targets={_TARGET}",
        f"--max_evaluations={_KILLED_EVALUATIONS}",
        f"--seed={seed}",
        "--compare=none",
        "--resume",
    ]
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        start = time.perf_counter()
        _run(command, whole)
        took = time.perf_counter() - start
        expected = _outcome(whole)
        num_equal = num_killed = 0
        for number in range(_NUM_KILLS):
            output = Path(folder) / str(number)
            num_killed += _run(command, output, kill_after=rng.uniform(0.0, took))
            _run(command, output)
            num_equal += _outcome(output) == expected
    return kills_bar(num_equal, num_killed)


def kills_bar(num_equal: int, num_killed: int) -> Bar:
    """Returns the bar of searches that were killed, of which some ended before."""
    return Bar(
        name=f"equal fronts and files of {_NUM_KILLS} searches of "
        f"{_KILLED_EVALUATIONS} policies, killed at random moments and resumed "
        f"({num_killed} died before their end)",
        figure=f"{num_equal}",
        limit=f"{_NUM_KILLS}",
        held=num_equal == _NUM_KILLS,
    )


def _run(command: list[str], output: Path, kill_after: float | None = None) -> bool:
    """Runs a search; returns whether it was killed before its end."""
    with subprocess.Popen(
        [*command, f"--output={output}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
        if process.returncode != 0:
            raise RuntimeError(f"Expected the search to end well, got {command}.")
    return False


def _outcome(output: Path) -> dict[str, Any]:
    """Returns the rows of the front and the bytes of every exported file."""
    folder = output / _TARGET
    rows = json.loads((folder / "front.json").read_text(encoding="utf-8"))["rows"]
    files = {path.name: path.read_bytes() for path in folder.glob("*.tflite")}
    return {"rows": rows, "files": files}
