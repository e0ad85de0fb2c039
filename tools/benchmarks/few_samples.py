"""Searches with few samples, for ``tools/benchmark.py data``: drawn from one half.

Each front is judged on the other half. Where samples are of another kind than those
that a developer measured on, both halves are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

import matar_tf
from matar_tf.artifact import Artifact
from matar_tf.data import Data
from matar_tf.errors import MatarError
from matar_tf.evolution import SearchProblem
from matar_tf.figures import DISAGREEMENT
from matar_tf.results import SearchResult
from matar_tf.verdict import CHEAPEST, verdict_of
from tools.benchmarks.bars import Bar
from tools.benchmarks.search_bench import Bench

__all__ = [
    "KINDS",
    "PARTS",
    "Drawing",
    "Judged",
    "Sampling",
    "few_bars",
    "judge",
    "shifted",
]

KINDS: Final = {
    "noise": "noise and half the contrast",
    "classes": "five of ten classes",
}

PARTS: Final = ("predictor", "memory", "front", "few", "shifted", "time")

_CONTRAST: Final = 0.5
_NOISE: Final = 0.01  # standard deviation, of inputs in 0..1; 0.1 leaves 11 % right
_WITHIN: Final = 0.01  # accuracy that may be lost, a point
_MOST_COST: Final = 1.1
_LEAST_WITHIN: Final = 0.9  # of the cases
_LEAST: Final = 0.965  # of the hypervolume, of every seed


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are drawn, and what fronts found on them must come to.

    Attributes:
      number: How many.
      limit: Least mean share of the references' hypervolume.
      is_labelled: Whether searches know their labels.
      kind: Of `KINDS`, in what they are others than the developer's; empty for his.
      is_measured: Whether searches know the developer's measurements.
    """

    number: int
    limit: float
    is_labelled: bool = True
    kind: str = ""
    is_measured: bool = True

    @property
    def name(self) -> str:
        """What tables call it."""
        kind = f", {KINDS[self.kind]}" if self.kind else ""
        kind += "" if self.is_measured else ", nobody's measurements"
        return (
            f"{self.number:,} {'' if self.is_labelled else 'un'}labelled samples{kind}"
        )


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How many searches there are.

    Attributes:
      num_evaluations: Of each search, at most.
      num_draws: Draws of samples, of as many seeds.
      store: File that keeps what is measured; None for none.
      parts: What is measured, of `PARTS`; all if there is none.

    Raises:
      MatarError: If there is no such part.
    """

    num_evaluations: int
    num_draws: int = 10
    store: str | None = None
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for one in self.parts:
            if one not in PARTS:
                raise MatarError(
                    f"Expected parts of the benchmark among {', '.join(PARTS)}, got "
                    f"{one!r}."
                )

    def has(self, part: str) -> bool:
        """Whether a part is measured."""
        return not self.parts or part in self.parts


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A front beside those of searches on all of the first half.

    Attributes:
      share: Of their mean hypervolume, on the second half.
      alone: That of the uniform policies.
      lost: Accuracy that the policy within a point loses there against the widest.
      cost: Its latency, over that of the cheapest one that loses no more than a point.
      num_evaluated: Policies that were measured.
      differs: Whether the search said that the samples are of another kind.
    """

    share: float
    alone: float
    lost: float
    cost: float
    num_evaluated: int
    differs: bool


def judge(
    bench: Bench,
    problem: SearchProblem,
    result: SearchResult,
    references: Sequence[SearchResult],
) -> Judged:
    """Returns what a front comes to on the samples that nobody searched."""
    volume = float(np.mean([_volume(bench, problem, one) for one in references]))
    uniform = [
        problem.space.named(name) for name in problem.space.uniform_names(mixed=True)
    ]
    pick = next(one for one in verdict_of(result) if one.kind == CHEAPEST)
    beside = problem.space.named(str(pick.beside))
    others = [one for found in references for one in found.front]
    policies = [beside, pick.policy.policy, *(one.policy for one in others)]
    level, found, *judged = (-one[0] for one in bench.unseen_values(problem, policies))
    cost = float(problem.costs(pick.policy.policy)["latency_ms"] or 0.0)
    within = (
        float(one.costs["latency_ms"] or 0.0)
        for one, accuracy in zip(others, judged, strict=True)
        if accuracy >= level - _WITHIN
    )
    return Judged(
        share=_volume(bench, problem, result) / volume,
        alone=bench.unseen_volume(problem, uniform) / volume,
        lost=level - found,
        cost=cost / min(within, default=cost),
        num_evaluated=result.num_evaluated,
        differs=DISAGREEMENT in result.provenance.versions,
    )


def few_bars(
    artifact: Artifact,
    data: Data,
    bench: Bench,
    references: Mapping[str, Sequence[SearchResult]],
    sampling: Sampling,
    drawing: Drawing,
) -> Iterator[Bar]:
    """Yields what searches on drawn samples come to.

    Args:
      artifact: The network, with measurements of its developer.
      data: The first half.
      bench: Judges on the second.
      references: Results of searches on all of the first half, by target.
      sampling: What is drawn.
      drawing: How many searches.
    """
    found: dict[str, list[Judged]] = {}
    if not sampling.is_measured:
        artifact = replace(artifact, measurements=None)
    for target, results in references.items():
        problem = bench.problem(target, artifact.space)
        for seed in range(drawing.num_draws):
            samples = _drawn(data, sampling.number, seed)
            result = matar_tf.search(
                artifact,
                target,
                (samples.x_test, samples.y_test)
                if sampling.is_labelled
                else samples.x_test,
                max_evaluations=drawing.num_evaluations,
                seed=seed,
                progress=False,
            )
            one = judge(bench, problem, result, results)
            found.setdefault(target, []).append(one)
            print(
                f"{sampling.name}, {target}, seed {seed}: {one.share:.4f}, within a "
                f"point: {100 * one.lost:.2f} at {one.cost:.3f}",
                flush=True,
            )
    yield from _bars(sampling, found, drawing.num_evaluations)


def _bars(
    sampling: Sampling,
    found: Mapping[str, Sequence[Judged]],
    num_evaluations: int,
) -> Iterator[Bar]:
    every = [one for judged in found.values() for one in judged]
    mean = float(np.mean([one.share for one in every]))
    least = min(one.share for one in every)
    margin = min(one.share - one.alone for one in every)
    each = ", ".join(
        f"{target} {np.mean([one.share for one in judged]):.4f}"
        for target, judged in found.items()
    )
    name = sampling.name
    yield Bar(
        name=f"{name}: share of the hypervolume of a search on the first half ({each})",
        figure=f"{mean:.4f}",
        limit=f"at least {sampling.limit}",
        held=mean >= sampling.limit,
    )
    said = float(np.mean([one.differs for one in every]))
    if sampling.kind:
        yield Bar(
            name=f"{name}: searches that say so",
            figure=f"{said:.0%}",
            limit="at least 90 %",
            held=said >= 0.9,
        )
        return
    yield Bar(
        name=f"{name}: least of all draws, and beside uniform policies alone",
        figure=f"{least:.4f}, {margin:+.4f}",
        limit=f"at least {_LEAST}, +0",
        held=least >= _LEAST and margin >= 0.0,
    )
    within = float(np.mean([one.lost <= _WITHIN for one in every]))
    cost = float(np.mean([one.cost for one in every]))
    dearest = max(one.cost for one in every)
    yield Bar(
        name=f"{name}: policies within a point that are so, their cost (the dearest)",
        figure=f"{within:.0%}, {cost:.3f} ({dearest:.3f})",
        limit="at least 90 %, 1.10 times",
        held=within >= _LEAST_WITHIN and dearest <= _MOST_COST,
    )
    if not sampling.is_measured:
        return
    yield Bar(
        name=f"{name}: searches that take them for others",
        figure=f"{said:.1%}",
        limit="at most 5 %",
        held=said <= 0.05,
    )
    most = max(one.num_evaluated for one in every) / num_evaluations
    yield Bar(
        name=f"{name}: images measured, of those of {num_evaluations} evaluations",
        figure=f"{most:.1%}",
        limit="at most 25 %",
        held=most <= 0.25,
    )


def shifted(data: Data, kind: str) -> Data:
    """Returns samples of another kind.

    Args:
      data: Images in 0..1 of ten classes.
      kind: Which, of `KINDS`.
    """
    if kind == "classes":
        labels: Any = data.y_test
        return data.part(np.flatnonzero(labels < 5).tolist())
    samples: Any = data.x_test
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, _NOISE, samples.shape)
    turned = np.clip(0.5 + _CONTRAST * (samples - 0.5) + noise, 0.0, 1.0)
    return Data(x_test=turned.astype(np.float32), y_test=data.y_test)


def _drawn(data: Data, number: int, seed: int) -> Data:
    number = min(number, data.num_samples)
    rng = np.random.default_rng([seed, number])
    return data.part(
        sorted(rng.choice(data.num_samples, number, replace=False).tolist())
    )


def _volume(bench: Bench, problem: SearchProblem, result: SearchResult) -> float:
    return bench.unseen_volume(problem, [one.policy for one in result.front])
