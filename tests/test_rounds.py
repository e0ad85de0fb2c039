"""Searches in rounds: what is expected chooses what is measured, and the front."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from fixtures.toy_search import (
    options,
    provenance,
    toy_costs,
    toy_metrics,
    toy_problem,
    toy_space,
)

from matar_tf.errors import SearchError
from matar_tf.evolution import (
    EvaluationStore,
    Limit,
    Surrogate,
    dominates,
    evaluate_in_turn,
    most_measured,
    pareto_front,
    search_in_rounds,
)
from matar_tf.evolution import _choosing as module
from matar_tf.policy import Policy
from matar_tf.results import SearchResult, StopReason

NAMES = {"accuracy": "expected_accuracy"}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of guesses are short: a toy space is soon known."""
    monkeypatch.setattr(module, "_FREE_EVALUATIONS", 60)


class Knowing(Surrogate):
    """Knows what is expected."""

    def __init__(self) -> None:
        pass

    def predict(self, policies: Sequence[Policy]) -> np.ndarray:
        return np.array([[-toy_metrics(one)["accuracy"]] for one in policies])

    def deviations(self, policies: Sequence[Policy]) -> np.ndarray:
        return np.full((len(policies), 1), 1e-6)


class Truth:
    """Expects what is true, whatever was measured."""

    names = ("expected_accuracy",)

    def __call__(
        self, policies: Sequence[Policy]
    ) -> Iterator[tuple[Policy, Mapping[str, float]]]:
        for one in policies:
            yield one, {"expected_accuracy": toy_metrics(one)["accuracy"]}

    def surrogate(self, policies: Sequence[Policy], values: np.ndarray) -> Surrogate:
        return Knowing()


def lucky(policy: Policy) -> dict[str, float]:
    """Measures with much luck, of each policy its own."""
    rng = random.Random(policy.digest())
    true = toy_metrics(policy)
    return {**true, "accuracy": min(max(true["accuracy"] + rng.gauss(0, 0.1), 0), 1)}


def run(
    measured: list[Policy] | None = None,
    *,
    problem: Any = None,
    num_new: int = 40,
    expect: Any = None,
    store: EvaluationStore | None = None,
    memory: dict[Policy, Mapping[str, float]] | None = None,
    evaluate: Any = None,
    **changes: Any,
) -> SearchResult:
    problem = problem or toy_problem()
    evaluate = evaluate or lucky

    def counted(policy: Policy) -> dict[str, float]:
        if measured is not None:
            measured.append(policy)
        return evaluate(policy)

    settings = options(**changes)
    return search_in_rounds(
        problem,
        evaluate_in_turn(counted),
        expect or (lambda known: Truth()),
        names=NAMES,
        widest=problem.space.widest(),
        metric_names=("accuracy", "loss"),
        num_new=num_new,
        options=settings,
        provenance=provenance(seed=settings.seed),
        store=store,
        memory=memory,
    )


def points(result: SearchResult) -> list[tuple[float, float]]:
    return [
        (one.costs["latency_ms"] or 0.0, -one.metrics["expected_accuracy"])
        for one in result.front
    ]


def test_the_front_is_by_what_is_expected() -> None:
    measured: list[Policy] = []
    result = run(measured)
    assert 20 < len(measured) == len(set(measured)) == result.num_evaluated <= 40
    assert result.stop_reason is StopReason.PLANNED
    assert [one.name for one in result.objectives] == [
        "expected_accuracy",
        "latency_ms",
    ]
    for one, other in itertools.permutations(points(result), 2):
        assert not dominates(one, other)
    for one in result.front:
        assert one.policy in measured
        assert one.metrics == {
            **lucky(one.policy),
            "expected_accuracy": toy_metrics(one.policy)["accuracy"],
        }
    # By what was measured others would be in it.
    by_luck = [
        (toy_costs(one)["latency_ms"], -lucky(one)["accuracy"]) for one in measured
    ]
    luckiest = {measured[index] for index in pareto_front(by_luck)}
    assert luckiest != {one.policy for one in result.front}


def test_few_are_enough_where_all_is_known() -> None:
    """Beside a front of all policies of a small space."""
    problem = toy_problem(space=toy_space(num_layers=3))
    every = run(problem=problem, num_new=10_000)
    assert every.stop_reason is StopReason.ENUMERATED
    found = run(problem=problem, num_new=60)
    shares = [
        max(-accuracy for cost, accuracy in points(found) if cost <= limit)
        / max(-accuracy for cost, accuracy in points(every) if cost <= limit)
        for limit in np.linspace(*(points(every)[end][0] for end in (0, -1)), 20)
    ]
    assert min(shares) > 0.97


def test_named_policies_are_references() -> None:
    mine = Policy(
        weights={name: bits[0] for name, bits in toy_space().weights.items()},
        activations={name: bits[-1] for name, bits in toy_space().activations.items()},
    )
    result = run(problem=toy_problem(seeds={"mine": mine}))
    found = {one.name: one for one in result.references}
    assert {"mine", "w8a8", "w4a4", "w2a2"} <= set(found)
    assert found["mine"].policy == mine
    assert "expected_accuracy" in found["w4a4"].metrics


def test_limits_are_on_what_is_expected() -> None:
    limits = (Limit(name="accuracy", bound=0.9, is_minimum=True),)
    result = run(limits=limits)
    assert all(one.metrics["expected_accuracy"] >= 0.9 for one in result.front)
    assert any(one.metrics["accuracy"] < 0.9 for one in result.front)
    narrow = toy_problem(space=toy_space(widths=(2,)))
    with pytest.raises(SearchError, match=r"expected_accuracy of 0.9 at least .*'toy'"):
        run(problem=narrow, limits=limits)


def test_the_widest_is_a_reference_where_it_breaks_a_limit() -> None:
    limits = (Limit(name="weight_bytes", bound=40.0),)
    assert toy_costs(toy_space().widest())["weight_bytes"] > 40.0
    found = {one.name: one for one in run(limits=limits).references}
    assert found["w8a8"].metrics["expected_accuracy"] > 0.99


def test_an_interrupt_while_guesses_are_bred_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = itertools.count()

    class Interrupted(Knowing):
        def predict(self, policies: Sequence[Policy]) -> np.ndarray:
            if next(calls) == 5:
                raise KeyboardInterrupt
            return super().predict(policies)

    monkeypatch.setattr(Truth, "surrogate", lambda *_: Interrupted())
    result = run()
    assert result.interrupted
    assert result.front
    assert result.num_evaluated < 40


def test_what_was_measured_is_what_is_learned_from() -> None:
    seen: list[dict[Policy, Mapping[str, float]]] = []

    def expect(known: Mapping[Policy, Mapping[str, float]]) -> Truth:
        seen.append(dict(known))
        return Truth()

    run(expect=expect)
    assert [len(one) for one in seen] == sorted(len(one) for one in seen)
    assert all(toy_space().widest() in one for one in seen)
    assert all(lucky(one) == figures for one, figures in seen[-1].items())


def test_the_same_again_and_from_a_store(tmp_path: Any) -> None:
    first = run()
    with EvaluationStore(tmp_path / "store.sqlite") as store:
        kept = run(store=store)
        measured: list[Policy] = []
        again = run(measured, store=store)
    assert not measured
    assert again.front == kept.front == first.front
    assert run(seed=1).front != first.front


def test_goes_on_where_it_was_interrupted(tmp_path: Any) -> None:
    calls = itertools.count()

    def evaluate(policy: Policy) -> dict[str, float]:
        if next(calls) == 25:
            raise KeyboardInterrupt
        return lucky(policy)

    with EvaluationStore(tmp_path / "store.sqlite") as store:
        stopped = run(store=store, evaluate=evaluate)
        assert stopped.interrupted
        assert stopped.front
        measured: list[Policy] = []
        found = run(measured, store=store)
    assert len(measured) == run().num_evaluated - 25
    assert found.front == run().front


def test_later_searches_begin_with_what_earlier_ones_know() -> None:
    memory: dict[Policy, Mapping[str, float]] = {}
    run(memory=memory)
    measured: list[Policy] = []

    def costs(policy: Policy) -> dict[str, float | None]:
        bits = sum(policy.activations.values())
        return {**toy_costs(policy), "latency_ms": float(bits)}

    result = run(measured, memory=memory, problem=toy_problem(costs=costs), num_new=8)
    assert len(measured) <= 8
    assert {one.policy for one in result.front} - set(measured)


def test_a_quarter_of_the_evaluations() -> None:
    assert most_measured(options(max_evaluations=300)) == 75
    assert most_measured(options(max_evaluations=40)) == 20
    assert most_measured(options(max_evaluations=8, population_size=4)) == 8
