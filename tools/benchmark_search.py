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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.cost import CostModel
from matar_tf.data import load_data
from matar_tf.policy import Policy, PolicySpace
from matar_tf.results import Provenance, SearchResult
from matar_tf.search import (
    EvaluationStore,
    SearchOptions,
    SearchProblem,
    evaluate_in_turn,
    follow_up,
    search,
    search_order,
)
from matar_tf.search._genome import GenomeCodec
from matar_tf.search._pareto import Values, box, hypervolume, pareto_front
from matar_tf.targets import check_policy, legal_space, load_target
from matar_tf.tflite.evaluate import ParallelEvaluator, PolicyEvaluator
from tools.bars import Bar, provenance
from tools.baselines import (
    greedy_policies,
    integer_program_policies,
    measure_damages,
    random_policies,
)

__all__ = ["measure_search"]

_TARGETS = ("bismo_ultra96", "bitfusion_16x32", "mpic")
_NUM_ENUMERATED_ENTRIES = 7  # of three widths each: 2,187 policies
_NUM_SEEDS = 5
_NUM_WORKERS = 2
_NUM_TARGET_SEEDS = 3
_FOLLOW_UP = 0.15
_NUM_BUDGETS = 10
_NUM_UNSEEN = 4  # times as many samples as the searches see, at most
_MEDIAN = f"median of {_NUM_TARGET_SEEDS} seeds"
_PLAIN = {"sensitivity": False, "oversampling": 1}


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

        def measured(part: slice) -> _Measured:
            some = replace(data, x_test=data.x_test[part], y_test=data.y_test[part])
            make = functools.partial(
                PolicyEvaluator, artifact, some.x_test, some.y_test
            )
            workers = stack.enter_context(ParallelEvaluator(make, _NUM_WORKERS))
            return _Measured(
                workers, store, artifact.digest(), some.digest(), len(some.x_test)
            )

        unseen = measured(slice(num_samples, end)) if end > num_samples else None
        bench = _Bench(artifact, measured(slice(num_samples)), unseen)
        yield _enumerated(bench)
        yield from _three_targets(bench, num_evaluations)
    yield _overhead()


@dataclass(frozen=True)
class _Measured:
    """What a network does on some samples, measured once.

    Attributes:
      evaluate_many: Measures policies.
      store: Keeps what was measured.
      artifact_digest: Of the network.
      data_digest: Of the samples.
      num_samples: Number of samples.
    """

    evaluate_many: Any
    store: EvaluationStore
    artifact_digest: str
    data_digest: str
    num_samples: int

    def metric(self, name: str, policies: Sequence[Policy]) -> list[float]:
        """Returns a metric of policies, measured where it is not known."""
        digests = {
            "artifact_digest": self.artifact_digest,
            "data_digest": self.data_digest,
        }
        known = self.store.get(policies, **digests)
        missing = [one for one in policies if one not in known]
        for policy, metrics in self.evaluate_many(missing):
            self.store.put(policy, metrics, **digests)
            known[policy] = dict(metrics)
        return [known[one][name] for one in policies]

    def provenance(self, seed: int) -> Provenance:
        """Returns the provenance of a search on these samples."""
        return provenance(
            seed=seed,
            artifact_digest=self.artifact_digest,
            data_digest=self.data_digest,
            num_samples=self.num_samples,
        )


class _Bench:
    """Searches of one network."""

    def __init__(
        self, artifact: Artifact, seen: _Measured, unseen: _Measured | None
    ) -> None:
        self.artifact = artifact
        self._seen = seen
        self._unseen = unseen

    def problem(self, target_name: str, space: PolicySpace) -> SearchProblem:
        target = load_target(target_name)
        workload = self.artifact.workload
        model = CostModel(workload, target)

        def violations(policy: Policy) -> tuple[str, ...]:
            found = check_policy(workload, policy, target)
            return tuple(one.message for one in found)

        return SearchProblem(
            target=target.name,
            space=legal_space(space, workload, target),
            costs=model.totals,
            violations=violations,
            pairs=workload.entry_pairs(),
        )

    def search(
        self,
        problem: SearchProblem,
        options: SearchOptions,
        memory: dict[Policy, Mapping[str, float]] | None = None,
    ) -> SearchResult:
        return search(
            problem,
            self._seen.evaluate_many,
            options=options,
            provenance=self._seen.provenance(options.seed),
            store=self._seen.store,
            memory=memory,
        )

    def corner(self, problem: SearchProblem) -> Values:
        """Returns the worst accuracy and the largest latency of uniform policies."""
        space = problem.space
        named = [space.named(name) for name in space.uniform_names(mixed=True)]
        return box(self.values(problem, named))[1]

    def values(
        self, problem: SearchProblem, policies: Sequence[Policy]
    ) -> list[Values]:
        """Returns accuracy (negative) and latency of feasible policies."""
        return self._values(problem, policies, self._seen)

    def metric(self, name: str, policies: Sequence[Policy]) -> list[float]:
        """Returns a metric of policies, measured where it is not known."""
        return self._seen.metric(name, policies)

    def unseen_ratio(
        self, problem: SearchProblem, first: SearchResult, second: SearchResult
    ) -> float:
        """Returns the ratio of two hypervolumes on samples that no search saw.

        A front is chosen by noisy figures, the luckiest of all measured; here its
        policies are measured anew.
        """
        volumes = [
            self.unseen_volume(problem, [one.policy for one in result.front])
            for result in (first, second)
        ]
        return volumes[0] / volumes[1]

    def unseen_volume(
        self, problem: SearchProblem, policies: Sequence[Policy]
    ) -> float:
        """Returns the hypervolume of policies on samples that no search saw."""
        names = problem.space.uniform_names(mixed=True)
        uniform = [problem.space.named(name) for name in names]
        worst = box(self.unseen_values(problem, uniform))[1]
        return hypervolume(self.unseen_values(problem, policies), worst)

    @property
    def has_unseen(self) -> bool:
        """Whether there are samples that no search saw."""
        return self._unseen is not None

    def unseen_values(
        self, problem: SearchProblem, policies: Sequence[Policy]
    ) -> list[Values]:
        """Returns what `values` does, measured on samples that no search saw."""
        return self._values(problem, policies, self._unseen)

    @staticmethod
    def _values(
        problem: SearchProblem, policies: Sequence[Policy], measured: _Measured | None
    ) -> list[Values]:
        if measured is None:
            raise ValueError("Expected samples that no search saw, got none.")
        feasible = [one for one in policies if not problem.violations(one)]
        accuracies = measured.metric("accuracy", feasible)
        return [
            (-accuracy, float(problem.costs(one)["latency_ms"] or 0.0))
            for accuracy, one in zip(accuracies, feasible, strict=True)
        ]


def _front(result: SearchResult) -> list[Values]:
    return [
        (-one.metrics["accuracy"], float(one.costs["latency_ms"] or 0.0))
        for one in result.front
    ]


def _enumerated(bench: _Bench) -> Bar:
    """A network small enough to measure every policy of it."""
    space = bench.artifact.space
    free = [name for name, bits in space.weights.items() if len(bits) > 1]
    free = free[:_NUM_ENUMERATED_ENTRIES]
    weights = {
        name: (2, 4, 8) if name in free else (bits[-1],)
        for name, bits in space.weights.items()
    }
    rest = _NUM_ENUMERATED_ENTRIES - len(free)
    names = [name for name, bits in space.activations.items() if len(bits) > 1][:rest]
    activations = {
        name: (2, 4, 8) if name in names else (bits[-1],)
        for name, bits in space.activations.items()
    }
    problem = bench.problem(
        "bitfusion_16x32", PolicySpace(weights=weights, activations=activations)
    )
    codec = GenomeCodec(problem.space)
    every = [codec.decode(genome) for genome in codec.all_genomes()]
    values = bench.values(problem, every)
    worst = bench.corner(problem)
    truth = hypervolume(values, worst)
    budget = int(_FOLLOW_UP * len(every))

    def found(seed: int, **changes: Any) -> SearchResult:
        options = SearchOptions(
            seed=seed,
            max_evaluations=budget,
            population_size=min(40, budget),
            patience=None,
            **changes,
        )
        return bench.search(problem, options)

    def share(seed: int, **changes: Any) -> float:
        return hypervolume(_front(found(seed, **changes)), worst) / truth

    def at_random(seed: int) -> float:
        drawn = random.Random(seed).sample(every, budget)
        return hypervolume(bench.values(problem, drawn), worst) / truth

    guided = statistics.median(share(seed) for seed in range(_NUM_SEEDS))
    plain = statistics.median(share(seed, **_PLAIN) for seed in range(_NUM_SEEDS))
    blind = statistics.median(at_random(seed) for seed in range(_NUM_SEEDS))
    unseen = None
    if bench.has_unseen:
        best = bench.unseen_volume(problem, [every[i] for i in pareto_front(values)])
        unseen = statistics.median(
            bench.unseen_volume(problem, [one.policy for one in found(seed).front])
            / best
            for seed in range(_NUM_SEEDS)
        )
    return Bar(
        name=f"share of the true hypervolume, {budget} of {len(every)} policies, "
        f"median of {_NUM_SEEDS} seeds",
        figure=f"{guided:.4f}{_shown(unseen)} (plain NSGA-II {plain:.4f}, random "
        f"{blind:.4f})",
        limit="at least 0.99",
        held=guided >= 0.99,
    )


def _three_targets(bench: _Bench, num_evaluations: int) -> Iterator[Bar]:
    every = [
        SearchOptions(max_evaluations=num_evaluations, patience=None, seed=seed)
        for seed in range(_NUM_TARGET_SEEDS)
    ]
    memories: list[dict[Policy, Mapping[str, float]]] = [{} for _ in every]
    problems = [bench.problem(name, bench.artifact.space) for name in _TARGETS]
    num_new = round(_FOLLOW_UP * num_evaluations)
    for number, index in enumerate(search_order(problems)):
        problem = problems[index]
        results = [bench.search(problem, options) for options in every]
        yield from _against_others(bench, problem, every, results)
        taught: list[SearchResult] = []
        for options, memory in zip(every, memories, strict=True):
            settings = options
            if number:
                known = sum(problem.space.contains(policy) for policy in memory)
                settings = follow_up(options, num_known=known, num_new=num_new)
            taught.append(bench.search(problem, settings, memory))
        if number:
            share, shown = _ratio(bench, problem, taught, results)
            yield Bar(
                name=f"{problem.target} after {number} other target(s): hypervolume "
                f"over a search from nothing, {num_new} new evaluations, {_MEDIAN}",
                figure=shown,
                limit="at least 0.995",
                held=share >= 0.995,
            )


def _ratio(
    bench: _Bench,
    problem: SearchProblem,
    first: Sequence[SearchResult],
    second: Sequence[SearchResult],
) -> tuple[float, str]:
    """Returns the median ratio of hypervolumes, seed by seed, and all in words."""
    worst = bench.corner(problem)
    pairs = list(zip(first, second, strict=True))
    ratios = [
        hypervolume(_front(a), worst) / hypervolume(_front(b), worst) for a, b in pairs
    ]
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
    bench: _Bench,
    problem: SearchProblem,
    every: Sequence[SearchOptions],
    results: Sequence[SearchResult],
) -> Iterator[Bar]:
    """Fronts beside those of as many measurements, and beside the peers' methods."""
    number, worst = every[0].max_evaluations, bench.corner(problem)
    fronts = [_front(result) for result in results]
    plain = [bench.search(problem, replace(one, **_PLAIN)) for one in every]
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
    damages, num_measured = measure_damages(
        problem, functools.partial(bench.metric, "loss")
    )
    workload = bench.artifact.workload
    model = CostModel(workload, load_target(problem.target))

    def layer_costs(policy: Policy) -> Mapping[str, float]:
        return {one.name: one.cycles for one in model.estimate(policy).layers}

    for method, policies in (
        ("greedy", greedy_policies(problem, damages, "latency_ms", _NUM_BUDGETS)),
        (
            "integer program",
            integer_program_policies(
                problem, damages, workload, layer_costs, _NUM_BUDGETS
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
            name=f"{problem.target}: points of {method} on {num_measured} "
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


def _overhead() -> Bar:
    """All but the evaluations, for a network of 50 layers."""
    widths = dict.fromkeys((f"layer{i}" for i in range(50)), tuple(range(2, 9)))
    space = PolicySpace(weights=widths, activations=widths)
    problem = SearchProblem(
        target="synthetic",
        space=space,
        costs=lambda policy: {
            "latency_ms": float(
                sum(
                    map(
                        operator.mul,
                        policy.weights.values(),
                        policy.activations.values(),
                    )
                )
            )
        },
        pairs=tuple(zip(widths, widths, strict=True)),
    )
    spent = 0.0

    def timed(policy: Policy) -> Mapping[str, float]:
        nonlocal spent
        start = time.perf_counter()
        noise = sum(4.0**-bits for bits in policy.weights.values())
        spent += time.perf_counter() - start
        return {"accuracy": 1.0 / (1.0 + noise), "loss": noise}

    evaluate: Callable[..., Any] = evaluate_in_turn(timed)
    start = time.perf_counter()
    result = search(
        problem,
        evaluate,
        options=SearchOptions(max_evaluations=400, patience=None),
        provenance=provenance(),
    )
    total = time.perf_counter() - start - spent
    figure = 1e3 * total / (result.num_evaluated + result.num_reused)
    return Bar(
        name="time beside the evaluations, per evaluation, 50 layers",
        figure=f"{figure:.2f} ms",
        limit="under 2 ms",
        held=figure < 2.0,
    )
