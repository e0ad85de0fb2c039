"""The measurements of ``tools/benchmark.py data``: searches without data, and with few.

Written for the shipped artifacts and CIFAR-10. What a predictor learns from is measured
on training images. The test images are cut into halves: the first plays the samples
that somebody has, or that a developer held out; every front is judged on the second,
which nobody searched. The scale is set by the five uniform policies of the accuracy
tables, on the first half where the second judges.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import Data, load_data
from matar_tf.errors import DataError
from matar_tf.evolution import EvaluationStore, SearchOptions, SearchProblem, search
from matar_tf.measurements import Levels, Measurements
from matar_tf.predictor import Predictor, rank_correlation
from matar_tf.results import Objective, SearchResult
from matar_tf.run.predicting import Predicting, predicted_names
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite.evaluate import ParallelEvaluator, evaluator_without_notes
from matar_tf.verdict import CHEAPEST, verdict_of
from tools.benchmarks.bars import Bar, provenance
from tools.benchmarks.search_bench import TARGETS, Bench, Measured

__all__ = ["measure_data"]

_FAMILIES = (range(4, 9), range(2, 9), (2, 4, 8))  # widths of unseen policies
_NUM_OF_A_FAMILY = 100
_BEST_SHARE = 0.2
_SEEDS = range(3)  # of the searches that the others are compared with
_WITHIN = 0.01  # accuracy that may be lost, a point
_OBJECTIVES = (
    Objective(name="accuracy", maximize=True),
    Objective(name="latency_ms"),
)


@dataclass(frozen=True)
class _Halves:
    """A network, and what it does on each half of the test images.

    Attributes:
      bench: Searches on the first half, judges on the second.
      first: The first half.
      second: The second.
    """

    bench: Bench
    first: Measured
    second: Measured


def measure_data(
    artifact_path: str, data_spec: str, *, num_evaluations: int, store_path: str | None
) -> Iterator[Bar]:
    """Yields one bar after the other as it is measured.

    Args:
      artifact_path: An artifact with measurements.
      data_spec: The test images.
      num_evaluations: Of each search that the others are compared with.
      store_path: File that keeps what is measured; None for none.

    Raises:
      DataError: If the artifact has no measurements.
    """
    artifact = read_artifact(artifact_path)
    if artifact.measurements is None:
        raise DataError(
            f"Expected an artifact with measurements, got {artifact_path} without; "
            "add them by `matar measure`."
        )
    data = load_data(data_spec, training=False)
    with _measuring(artifact, data, store_path) as halves:
        yield from _predictor_bars(artifact, artifact.measurements, halves)
        yield from _front_bars(artifact, artifact.measurements, halves, num_evaluations)
    yield _time_bar(artifact_path)


@contextlib.contextmanager
def _measuring(
    artifact: Artifact, data: Data, store_path: str | None
) -> Iterator[_Halves]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(store_path or Path(folder) / "store.sqlite")
        store = stack.enter_context(EvaluationStore(path))
        half = data.num_samples // 2
        parts: list[Measured] = []
        for part in (slice(half), slice(half, 2 * half)):
            samples = data.part(part)
            evaluator = evaluator_without_notes(
                artifact, samples.x_test, samples.y_test
            )
            many = ParallelEvaluator(lambda found=evaluator: found)
            digest = artifact.digest(), samples.digest()
            parts.append(Measured(many, store, *digest, half))
        yield _Halves(Bench(artifact, parts[0], parts[1]), parts[0], parts[1])


def _predictor_bars(
    artifact: Artifact, measurements: Measurements, halves: _Halves
) -> Iterator[Bar]:
    """Yields how well unseen policies are predicted."""
    policies = [
        policy
        for number, widths in enumerate(_FAMILIES)
        for policy in draw_policies(
            artifact.space,
            IndependentSampler(bits=tuple(widths)),
            _NUM_OF_A_FAMILY,
            [1000 + number],
        )
    ]
    first, second = (
        np.array(part.metric("accuracy", policies))
        for part in (halves.first, halves.second)
    )
    whole = (first + second) / 2.0
    expected, low, high = Predictor(measurements, "accuracy").with_bounds(policies)
    ranks = rank_correlation(expected, whole)
    yield Bar(
        name=f"rank correlation with test accuracies, {len(policies)} random policies",
        figure=f"{ranks:.4f}",
        limit="at least 0.94",
        held=ranks >= 0.94,
    )
    pairs = [(expected, first), (expected, second)], [(second, first), (first, second)]
    ours, theirs = (np.mean([_best_ranks(*one) for one in some]) for some in pairs)
    yield Bar(
        name="in the best fifth of each half, that of the predictor (that of the other "
        "half)",
        figure=f"{ours:.3f} ({theirs:.3f})",
        limit="at least 0.9 times the other half's",
        held=bool(ours >= min(0.9 * theirs, theirs / 0.9)),
    )
    error = 100.0 * float(np.abs(expected - whole).mean())
    yield Bar(
        name="mean absolute error of test accuracies, levels of the accuracy table",
        figure=f"{error:.2f} points",
        limit="at most 0.4",
        held=error <= 0.4,
    )
    share = float(np.mean((low <= whole) & (whole <= high)))
    yield Bar(
        name="test accuracies within their 95 % intervals",
        figure=f"{share:.1%}",
        limit="93 to 97 %",
        held=0.93 <= share <= 0.97,
    )


def _best_ranks(one: np.ndarray, judge: np.ndarray) -> float:
    best = judge >= np.quantile(judge, 1.0 - _BEST_SHARE)
    return rank_correlation(one[best], judge[best])


def _front_bars(
    artifact: Artifact,
    measurements: Measurements,
    halves: _Halves,
    num_evaluations: int,
) -> Iterator[Bar]:
    """Yields what fronts without data come to, beside searches on the first half."""
    measurements = _levelled(artifact, measurements, halves.first)
    predictors = [Predictor(measurements, "accuracy")]
    predicting = Predicting(predictors, _OBJECTIVES)
    shares: dict[str, float] = {}
    for target in TARGETS:
        problem = halves.bench.problem(target, artifact.space)
        references = [
            halves.bench.search(
                problem,
                SearchOptions(
                    seed=seed, max_evaluations=num_evaluations, patience=None
                ),
            )
            for seed in _SEEDS
        ]
        front = search(
            replace(problem, metric_names=predicted_names(predictors)),
            predicting,
            options=SearchOptions(max_evaluations=num_evaluations, patience=None),
            provenance=provenance(num_samples=0),
            surrogate=predicting.surrogate,
        )
        uniform = [
            problem.space.named(name)
            for name in problem.space.uniform_names(mixed=True)
        ]
        volumes = [_volume(halves, problem, one) for one in references]
        volume = float(np.mean(volumes))
        shares[target] = _volume(halves, problem, front) / volume
        alone = halves.bench.unseen_volume(problem, uniform) / volume
        yield Bar(
            name=f"{target}: hypervolume without data over that of a search on the "
            f"first half (uniform policies alone {alone:.3f}; searches "
            f"{min(volumes) / volume:.3f}..{max(volumes) / volume:.3f})",
            figure=f"{shares[target]:.4f}",
            limit="at least 0.965, and uniform policies",
            held=shares[target] >= max(0.965, alone),
        )
        yield _within_bar(halves, problem, front, references)
    mean = float(np.mean([*shares.values()]))
    yield Bar(
        name="the same, mean of the targets",
        figure=f"{mean:.4f}",
        limit="at least 0.985",
        held=mean >= 0.985,
    )


def _levelled(
    artifact: Artifact, measurements: Measurements, part: Measured
) -> Measurements:
    """Returns measurements whose scale is set by uniform policies on some samples."""
    levels = measurements.levels
    policies = tuple(map(artifact.space.named, artifact.space.uniform_names()))
    policies = policies if levels is None else levels.policies
    return replace(
        measurements,
        trained_on=True,
        levels=Levels(
            policies=policies,
            metrics={"accuracy": np.array(part.metric("accuracy", policies))},
            num_samples=part.num_samples,
        ),
    )


def _volume(halves: _Halves, problem: SearchProblem, result: SearchResult) -> float:
    return halves.bench.unseen_volume(problem, [one.policy for one in result.front])


def _within_bar(
    halves: _Halves,
    problem: SearchProblem,
    front: SearchResult,
    references: Sequence[SearchResult],
) -> Bar:
    """Returns whether the policy that a verdict says is within a point is so."""
    pick = next(one for one in verdict_of(front) if one.kind == CHEAPEST)
    chosen, beside = pick.policy.policy, problem.space.named(str(pick.beside))
    level = halves.second.metric("accuracy", [beside])[0]
    found = halves.second.metric("accuracy", [chosen])[0]
    others = [one for result in references for one in result.front]
    judged = halves.second.metric("accuracy", [one.policy for one in others])
    cost = float(problem.costs(chosen)["latency_ms"] or 0.0)
    within = (
        float(one.costs["latency_ms"] or 0.0)
        for one, accuracy in zip(others, judged, strict=True)
        if accuracy >= level - _WITHIN
    )
    cheapest = min(within, default=cost)
    return Bar(
        name=f"{problem.target}: fastest within a point of {pick.beside}, without data",
        figure=f"{100.0 * (level - found):.2f} points below, {cost / cheapest:.3f} "
        "times the cheapest of the references",
        limit="at most 1 point, 1.10 times",
        held=found >= level - _WITHIN and cost <= 1.1 * cheapest,
    )


def _time_bar(artifact_path: str) -> Bar:
    """Returns what a whole search without data takes, with imports and files."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "matar_tf", "search", artifact_path),
                *(f"--targets={TARGETS[0]}", f"--output={folder}/run"),
            ],
            check=True,
            capture_output=True,
        )
        took = time.perf_counter() - start
    limit = 5 if "resnet8" in artifact_path else 10
    return Bar(
        name="a search without data, with imports and files",
        figure=f"{took:.1f} s",
        limit=f"at most {limit} s",
        held=took <= limit,
    )
