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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import matar_tf
from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import Data, load_data
from matar_tf.errors import DataError
from matar_tf.evolution import EvaluationStore, SearchOptions, search
from matar_tf.measurements import Levels, Measurements
from matar_tf.predictor import Predictor, rank_correlation
from matar_tf.results import SearchResult
from matar_tf.run.predicting import Predicting, predicted_names
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite.evaluate import ParallelEvaluator, evaluator_without_notes
from tools.benchmarks.bars import Bar, provenance
from tools.benchmarks.few_samples import (
    KINDS,
    Drawing,
    Sampling,
    few_bars,
    judge,
    shifted,
)
from tools.benchmarks.memory import OBJECTIVES, best_within, memory_problem
from tools.benchmarks.search_bench import TARGETS, Bench, Measured

__all__ = ["measure_data"]

_FAMILIES = (range(4, 9), range(2, 9), (2, 4, 8))  # widths of unseen policies
_NUM_OF_A_FAMILY = 100
_BEST_SHARE = 0.2
_SEEDS = range(3)  # of the searches that the others are compared with
_BUDGETED = "cifar10_resnet8"
_BUDGETS = {0.5: 87.0, 0.4: 86.2, 0.3: 85.8}  # of its 8-bit kernel memory: accuracy
_SAMPLINGS = (
    Sampling(number=100, limit=0.985, is_labelled=False),
    Sampling(number=100, limit=0.985),
    Sampling(number=1000, limit=0.995),
    Sampling(number=5000, limit=1.0),
    Sampling(number=200, limit=0.985, is_measured=False),
    Sampling(number=1000, limit=0.985, is_measured=False),
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


def measure_data(artifact_path: str, data_spec: str, drawing: Drawing) -> Iterator[Bar]:
    """Yields one bar after the other as it is measured.

    Args:
      artifact_path: An artifact with measurements.
      data_spec: The test images.
      drawing: How many searches, and where what they measured is kept.

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
    half, measured = data.num_samples // 2, artifact.measurements
    parts = data.part(slice(half)), data.part(slice(half, 2 * half))
    with _measuring(artifact, parts, drawing.store) as halves:
        if drawing.has("predictor"):
            yield from _predictor_bars(artifact, measured, halves)
        if drawing.has("memory") and artifact.name == _BUDGETED:
            yield from _memory_bars(artifact, measured, halves)
        measured = _levelled(artifact, measured, halves.first)
        artifact = replace(artifact, measurements=measured)
        bench, number = halves.bench, drawing.num_evaluations
        references: dict[str, list[SearchResult]] = {}
        if drawing.has("front") or drawing.has("few"):
            references = _references(bench, artifact, number, _SEEDS)
        if drawing.has("front"):
            yield from _front_bars(artifact, bench, references, number)
        if drawing.has("few"):
            yield from _few_bars(artifact, parts[0], bench, references, drawing)
    if drawing.has("shifted"):
        yield from _shifted_bars(artifact, parts, drawing)
    if drawing.has("time"):
        yield _time_bar(artifact_path)


@contextlib.contextmanager
def _measuring(
    artifact: Artifact, halves: Sequence[Data], store_path: str | None
) -> Iterator[_Halves]:
    """Yields what measures on each half."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(store_path or Path(folder) / "store.sqlite")
        store = stack.enter_context(EvaluationStore(path))
        parts: list[Measured] = []
        for samples in halves:
            evaluator = evaluator_without_notes(
                artifact, samples.x_test, samples.y_test
            )
            many = ParallelEvaluator(lambda found=evaluator: found)
            digest = artifact.digest(), samples.digest()
            parts.append(Measured(many, store, *digest, samples.num_samples))
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
            [2000 + number],
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
    # Of 4 to 8 bits in all entries none is told from another, whatever is measured.
    narrow = slice(_NUM_OF_A_FAMILY, None)
    pairs = [(expected, first), (expected, second)], [(second, first), (first, second)]
    ours, theirs = (
        np.mean([_best_ranks(one[narrow], judge[narrow]) for one, judge in some])
        for some in pairs
    )
    yield Bar(
        name="the same in the best fifth of each half, of those with narrow entries "
        "(that of the other half)",
        figure=f"{ours:.3f} ({theirs:.3f})",
        limit="at least 0.9 times the other half's",
        held=bool(ours >= 0.9 * theirs),
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


def _references(
    bench: Bench, artifact: Artifact, num_evaluations: int, seeds: Sequence[int]
) -> dict[str, list[SearchResult]]:
    """Returns results of searches on all of the first half, by target."""
    found: dict[str, list[SearchResult]] = {}
    for target in TARGETS:
        problem = bench.problem(target, artifact.space)
        found[target] = [
            bench.search(
                problem,
                SearchOptions(
                    seed=seed, max_evaluations=num_evaluations, patience=None
                ),
            )
            for seed in seeds
        ]
    return found


def _front_bars(
    artifact: Artifact,
    bench: Bench,
    references: Mapping[str, Sequence[SearchResult]],
    num_evaluations: int,
) -> Iterator[Bar]:
    """Yields what fronts without data come to, beside searches on the first half."""
    shares: list[float] = []
    for target, results in references.items():
        problem = bench.problem(target, artifact.space)
        front = matar_tf.search(
            artifact, target, max_evaluations=num_evaluations, progress=False
        )
        found = judge(bench, problem, front, results)
        shares.append(found.share)
        yield Bar(
            name=f"{target}: hypervolume without data over that of a search on the "
            f"first half (uniform policies alone {found.alone:.3f})",
            figure=f"{found.share:.4f}",
            limit="at least 0.965, and uniform policies",
            held=found.share >= max(0.965, found.alone),
        )
        yield Bar(
            name=f"{target}: fastest within a point of the widest, without data",
            figure=f"{100.0 * found.lost:.2f} points below, {found.cost:.3f} times "
            "the cheapest of the references",
            limit="at most 1 point, 1.10 times",
            held=found.lost <= 0.01 and found.cost <= 1.1,
        )
    mean = float(np.mean(shares))
    yield Bar(
        name="the same hypervolume, mean of the targets",
        figure=f"{mean:.4f}",
        limit="at least 0.985",
        held=mean >= 0.985,
    )


def _few_bars(
    artifact: Artifact,
    data: Data,
    bench: Bench,
    references: Mapping[str, Sequence[SearchResult]],
    drawing: Drawing,
) -> Iterator[Bar]:
    """Yields what fronts of few samples come to.

    Args:
      artifact: The network; levels of its measurements are of the first half.
      data: The first half.
      bench: Judges on the second.
      references: Of `_references`.
      drawing: How many searches of each kind.
    """
    for sampling in _SAMPLINGS:
        yield from few_bars(artifact, data, bench, references, sampling, drawing)


def _shifted_bars(
    artifact: Artifact, parts: tuple[Data, Data], drawing: Drawing
) -> Iterator[Bar]:
    """Yields what fronts of samples of other kinds come to.

    Args:
      artifact: The network; levels of its measurements are of the first half.
      parts: The first half, and the second.
      drawing: How many searches of each kind.
    """
    for kind in KINDS:
        with _measuring(
            artifact, [shifted(one, kind) for one in parts], drawing.store
        ) as halves:
            others = _references(
                halves.bench, artifact, drawing.num_evaluations, range(1)
            )
            yield from few_bars(
                artifact,
                shifted(parts[0], kind),
                halves.bench,
                others,
                Sampling(number=1000, limit=0.98, kind=kind),
                drawing,
            )


def _memory_bars(
    artifact: Artifact, measurements: Measurements, halves: _Halves
) -> Iterator[Bar]:
    """Yields accuracies at budgets of kernel memory, found without data."""
    predictors = [Predictor(measurements, "accuracy")]
    predicting = Predicting(predictors, OBJECTIVES)
    problem, full = memory_problem(artifact)
    front = search(
        replace(problem, metric_names=predicted_names(predictors)),
        predicting,
        options=SearchOptions(
            max_evaluations=400, patience=None, objectives=OBJECTIVES
        ),
        provenance=provenance(num_samples=0),
        surrogate=predicting.surrogate,
    )
    for share, limit in _BUDGETS.items():
        best = best_within(front.front, share * full)
        found = 0.0
        if best is not None:
            parts = [
                half.metric("accuracy", [best.policy])[0]
                for half in (halves.first, halves.second)
            ]
            found = 50.0 * sum(parts)
        yield Bar(
            name=f"accuracy at {share:.0%} of the 8-bit kernel memory, without data, "
            "on all test images",
            figure=f"{found:.2f} %",
            limit=f"at least {limit} %",
            held=found >= limit,
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
