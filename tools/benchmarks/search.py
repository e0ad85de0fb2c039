"""The measurements of ``tools/benchmark.py search``. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import operator
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matar_tf.artifact import read_artifact
from matar_tf.data import load_data
from matar_tf.evolution import (
    EvaluationStore,
    SearchOptions,
    SearchProblem,
    evaluate_in_turn,
    search,
    search_order,
)
from matar_tf.evolution._pareto import Values, hypervolume
from matar_tf.policy import ALL_BITS, Policy
from matar_tf.pricing.model import CostModel
from matar_tf.results import SearchResult
from matar_tf.space import PolicySpace
from matar_tf.targets import load_target
from matar_tf.tflite.evaluate import ParallelEvaluator, PolicyEvaluator
from tools.benchmarks.bars import Bar, provenance
from tools.benchmarks.baselines import (
    greedy_policies,
    integer_program_policies,
    policy_drops,
    random_policies,
    sensitivity_policies,
)
from tools.benchmarks.reference_networks import mobilenet_v2
from tools.benchmarks.search_bench import (
    PLAIN,
    TARGETS,
    Bench,
    Enumerated,
    Measured,
    front_values,
    num_follow_up,
    target_problem,
)

__all__ = ["measure_search", "overhead_ms"]

_NUM_SEEDS = 5
_NUM_WORKERS = 2
_NUM_TARGET_SEEDS = 3
_NUM_BUDGETS = 10
_OVERHEAD_TARGET = "bismo_ultra96"
_NUM_UNSEEN = 4  # times as many samples as the searches see, at most
_MEDIAN = f"median of {_NUM_TARGET_SEEDS} seeds"


def measure_search(
    artifact_path: str,
    data_spec: str,
    *,
    num_samples: int,
    num_evaluations: int,
    store_path: str | None = None,
) -> Iterator[Bar]:
    """Yields one bar after the other as it is measured.

    Args:
      artifact_path: The network.
      data_spec: The data that it was trained on.
      num_samples: That the searches see.
      num_evaluations: Of each search.
      store_path: File that keeps what was measured, for a later run; None for a
        temporary one.
    """
    artifact = read_artifact(artifact_path)
    data = load_data(data_spec, training=False)
    end = min((1 + _NUM_UNSEEN) * num_samples, len(data.x_test))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(store_path or Path(folder) / "store.sqlite")
        store = stack.enter_context(EvaluationStore(path))

        def measured(part: slice) -> Measured:
            some = replace(data, x_test=data.x_test[part], y_test=data.y_test[part])
            make = functools.partial(
                PolicyEvaluator, artifact, some.x_test, some.y_test
            )
            workers = stack.enter_context(ParallelEvaluator(make, _NUM_WORKERS))
            return Measured(
                workers, store, artifact.digest(), some.digest(), len(some.x_test)
            )

        unseen = measured(slice(num_samples, end)) if end > num_samples else None
        bench = Bench(artifact, measured(slice(num_samples)), unseen)
        yield _enumerated(bench)
        yield from _three_targets(bench, num_evaluations)
    yield _overhead(_bare_problem(), "50 layers, costs and limits for free")
    yield _overhead(
        _real_problem(), f"MobileNet v2 of 53 layers, {_OVERHEAD_TARGET} included"
    )


def _enumerated(bench: Bench) -> Bar:
    """A network small enough to measure every policy of it."""
    small = Enumerated(bench)

    def at_random(seed: int) -> float:
        drawn = random.Random(seed).sample(small.policies, small.budget)
        return small.share(bench.values(small.problem, drawn))

    def median(**changes: Any) -> float:
        return statistics.median(
            small.share(front_values(small.search(seed, **changes)))
            for seed in range(_NUM_SEEDS)
        )

    guided, plain = median(), median(**PLAIN)
    blind = statistics.median(at_random(seed) for seed in range(_NUM_SEEDS))
    unseen = None
    if bench.has_unseen:
        best = bench.unseen_volume(small.problem, small.front)
        fronts = [small.search(seed).front for seed in range(_NUM_SEEDS)]
        unseen = statistics.median(
            bench.unseen_volume(small.problem, [one.policy for one in front]) / best
            for front in fronts
        )
    return Bar(
        name=f"share of the true hypervolume, {small.budget} of "
        f"{len(small.policies)} policies, median of {_NUM_SEEDS} seeds",
        figure=f"{guided:.4f}{_shown(unseen)} (plain NSGA-II {plain:.4f}, random "
        f"{blind:.4f})",
        limit="at least 0.99",
        held=guided >= 0.99,
    )


def _three_targets(bench: Bench, num_evaluations: int) -> Iterator[Bar]:
    every = [
        SearchOptions(max_evaluations=num_evaluations, patience=None, seed=seed)
        for seed in range(_NUM_TARGET_SEEDS)
    ]
    memories: list[dict[Policy, Mapping[str, float]]] = [{} for _ in every]
    problems = [bench.problem(name, bench.artifact.space) for name in TARGETS]
    for number, index in enumerate(search_order(problems)):
        problem = problems[index]
        # The first target teaches the others.
        results = [
            bench.search(problem, options, None if number else memory)
            for options, memory in zip(every, memories, strict=True)
        ]
        yield from _against_others(bench, problem, every, results)
        if number:
            taught = [
                bench.follow_up(problem, options, memory)
                for options, memory in zip(every, memories, strict=True)
            ]
            share, shown = _ratio(bench, problem, taught, results)
            yield Bar(
                name=f"{problem.target} after {number} other target(s): hypervolume "
                f"over a search from nothing, {num_follow_up(num_evaluations)} new "
                f"evaluations, {_MEDIAN}",
                figure=shown,
                limit="at least 0.995",
                held=share >= 0.995,
            )


def _ratio(
    bench: Bench,
    problem: SearchProblem,
    first: Sequence[SearchResult],
    second: Sequence[SearchResult],
) -> tuple[float, str]:
    """Returns the median ratio of hypervolumes, seed by seed, and all in words."""
    pairs = list(zip(first, second, strict=True))
    ratios = [bench.ratio(problem, a, b) for a, b in pairs]
    shown = f"{statistics.median(ratios):.4f} ({_listed(ratios)})"
    if bench.has_unseen:
        unseen = [bench.unseen_ratio(problem, a, b) for a, b in pairs]
        shown += (
            f"; on unseen samples {statistics.median(unseen):.4f} ({_listed(unseen)})"
        )
    return statistics.median(ratios), shown


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.3f}" for ratio in ratios)


def _against_others(
    bench: Bench,
    problem: SearchProblem,
    every: Sequence[SearchOptions],
    results: Sequence[SearchResult],
) -> Iterator[Bar]:
    """Fronts beside those of as many measurements, and beside the peers' methods."""
    number, worst = every[0].max_evaluations, bench.corner(problem)
    fronts = [front_values(result) for result in results]
    plain = [bench.search(problem, replace(one, **PLAIN)) for one in every]
    gain, shown = _ratio(bench, problem, results, plain)
    luck = statistics.median(
        hypervolume(front, worst)
        / hypervolume(
            bench.values(problem, random_policies(problem, number, one.seed)), worst
        )
        for front, one in zip(fronts, every, strict=True)
    )
    yield Bar(
        name=f"{problem.target}: hypervolume over plain NSGA-II, {number} evaluations, "
        f"{_MEDIAN}",
        figure=f"{shown}; over random policies {luck:.4f}",
        limit="at least 1.02",
        held=gain >= 1.02,
    )
    measured = sensitivity_policies(problem.space)
    losses = zip(measured, bench.metric("loss", measured), strict=True)
    drops = policy_drops(problem.space, dict(losses))
    workload = bench.artifact.workload
    model = CostModel(workload, load_target(problem.target))

    def layer_costs(policy: Policy) -> Mapping[str, float]:
        return {one.name: one.cycles for one in model.estimate(policy).layers}

    for method, policies in (
        ("greedy", greedy_policies(problem, drops, "latency_ms", _NUM_BUDGETS)),
        (
            "integer program",
            integer_program_policies(
                problem, drops, workload, layer_costs, _NUM_BUDGETS
            ),
        ),
    ):
        points = bench.values(problem, policies)
        met = [_num_met(points, front) for front in fronts]
        unseen = ""
        if bench.has_unseen:
            theirs = bench.unseen_values(problem, policies)
            found = [
                _num_met(
                    theirs,
                    bench.unseen_values(problem, [one.policy for one in result.front]),
                )
                for result in results
            ]
            unseen = f"; on unseen samples {found}"
        over = statistics.median(hypervolume(one, worst) for one in fronts)
        over /= hypervolume(points, worst)
        yield Bar(
            name=f"{problem.target}: points of {method} on {len(measured)} "
            f"sensitivities that the front meets or dominates, "
            f"{_NUM_TARGET_SEEDS} seeds",
            figure=f"{met} of {len(points)}{unseen} "
            f"(hypervolume over theirs {over:.4f})",
            limit="all",
            held=min(met) == len(points),
        )


def _shown(unseen: float | None) -> str:
    return "" if unseen is None else f"; on unseen samples {unseen:.4f}"


def _num_met(points: Sequence[Values], front: Sequence[Values]) -> int:
    """Returns how many points a front meets or dominates."""
    return sum(
        any(all(a <= b for a, b in zip(ours, one, strict=True)) for ours in front)
        for one in points
    )


def _bare_problem() -> SearchProblem:
    """Returns a network of 50 layers whose costs and limits take no time."""
    widths = dict.fromkeys((f"layer{i}" for i in range(50)), ALL_BITS)

    def costs(policy: Policy) -> Mapping[str, float | None]:
        bits = policy.weights.values(), policy.activations.values()
        return {"latency_ms": float(sum(map(operator.mul, *bits)))}

    return SearchProblem(
        target="nothing",
        space=PolicySpace(weights=widths, activations=widths),
        costs=costs,
        pairs=tuple(zip(widths, widths, strict=True)),
    )


def _real_problem() -> SearchProblem:
    """Returns MobileNet v2, 53 layers with kernels, on a target of the catalogue."""
    workload = mobilenet_v2(1000)
    tensors = workload.tensors.values()
    space = PolicySpace(
        weights={one.weights: ALL_BITS for one in workload.layers if one.weights},
        activations={one.activation: ALL_BITS for one in tensors if one.activation},
    )
    return target_problem(workload, space, _OVERHEAD_TARGET)


def _overhead(problem: SearchProblem, what: str) -> Bar:
    """Returns the bar of all that a search does beside its evaluations."""
    figure = overhead_ms(problem)
    return Bar(
        name=f"time beside the evaluations, per evaluation, {what}",
        figure=f"{figure:.2f} ms",
        limit="under 2 ms",
        held=figure < 2.0,
    )


def overhead_ms(
    problem: SearchProblem, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Returns what a search takes beside its evaluations, for each of them."""
    spent = 0.0

    def timed(policy: Policy) -> Mapping[str, float]:
        nonlocal spent
        start = clock()
        noise = sum(4.0**-bits for bits in policy.weights.values())
        spent += clock() - start
        return {"accuracy": 1.0 / (1.0 + noise), "loss": noise}

    evaluate: Callable[..., Any] = evaluate_in_turn(timed)
    with (
        tempfile.TemporaryDirectory() as folder,
        EvaluationStore(Path(folder) / "store.sqlite") as store,
    ):
        start = clock()
        result = search(
            problem,
            evaluate,
            options=SearchOptions(max_evaluations=400, patience=None),
            provenance=provenance(),
            store=store,
        )
        total = clock() - start - spent
    return 1e3 * total / (result.num_evaluated + result.num_reused)
