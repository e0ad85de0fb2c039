"""What the benchmark of searches computes, on figures made up by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fixtures.digits import digits_artifact

from matar_tf.evolution import EvaluationStore
from matar_tf.policy import Policy
from tools.benchmarks.core import _memory
from tools.benchmarks.search import _num_met
from tools.benchmarks.search_bench import Bench, Enumerated, Measured, num_follow_up


def accuracy(policy: Policy) -> float:
    """Damages that add up: 0.01 for each bit that an entry lacks."""
    bits = [*policy.weights.values(), *policy.activations.values()]
    return 0.9 - 0.01 * sum(8 - one for one in bits)


@pytest.fixture
def bench(tmp_path: Any) -> Any:
    def measure(policies: list[Policy]) -> Any:
        for policy in policies:
            metrics = {"accuracy": accuracy(policy), "loss": 1.0 - accuracy(policy)}
            yield policy, metrics

    with EvaluationStore(tmp_path / "store.sqlite") as store:
        yield Bench(
            digits_artifact(), Measured(measure, store, "artifact", "data", 1), None
        )


def front(*points: tuple[float, float]) -> Any:
    """A result whose front has these accuracies and latencies."""
    return SimpleNamespace(
        front=[
            SimpleNamespace(metrics={"accuracy": one}, costs={"latency_ms": ms})
            for one, ms in points
        ]
    )


def test_a_later_target_has_a_share_of_the_evaluations() -> None:
    assert [num_follow_up(number) for number in (300, 100, 7)] == [45, 15, 1]


def test_points_that_a_front_meets_or_dominates() -> None:
    ours = [(-0.9, 2.0), (-0.8, 1.0)]
    assert _num_met([(-0.9, 2.0)], ours) == 1  # met
    assert _num_met([(-0.85, 3.0), (-0.7, 1.5)], ours) == 2  # dominated
    assert _num_met([(-0.9, 1.9), (-0.81, 1.0)], ours) == 0


def test_hypervolumes_are_measured_from_the_worst_of_uniform_policies(
    bench: Any,
) -> None:
    problem = bench.problem("bitfusion_16x32", bench.artifact.space)
    worst, slowest = bench.corner(problem)
    names = problem.space.uniform_names(mixed=True)
    named = [problem.space.named(name) for name in names]
    high, low = max(map(accuracy, named)), min(map(accuracy, named))
    assert worst == pytest.approx(-low + (high - low) / 10)
    times = [float(problem.costs(one)["latency_ms"]) for one in named]
    assert slowest == pytest.approx(max(times) + (max(times) - min(times)) / 10)
    good, half = 0.2 - worst, slowest / 2
    # Rectangles of 0.2 by half of the latency, and of 0.1 by it; then both as a step.
    one, other = front((good, half)), front((good - 0.1, half))
    assert bench.ratio(problem, one, other) == pytest.approx(2.0)
    steps = front((good, half), (good - 0.1, 0.0))
    assert bench.ratio(problem, steps, one) == pytest.approx(1.5)


def test_a_network_small_enough_to_measure_every_policy(bench: Any) -> None:
    small = Enumerated(bench)
    assert len(small.policies) == len(set(small.policies))
    assert small.budget == int(0.15 * len(small.policies))
    every = bench.values(small.problem, small.policies)
    assert small.share(every) == pytest.approx(1.0)
    assert small.share(bench.values(small.problem, small.front)) == pytest.approx(1.0)
    assert small.share(every[:1]) < 1.0
    for policy, (negative, _) in zip(small.policies, every, strict=True):
        assert -negative == pytest.approx(accuracy(policy))


@pytest.mark.slow
def test_the_memory_of_a_search_on_few_samples(tmp_path: Any) -> None:
    from matar_tf.artifact import write_artifact

    write_artifact(digits_artifact(), tmp_path / "net.matar")
    bar = _memory(str(tmp_path / "net.matar"), "digits")
    assert "500 samples" in bar.name
    assert 50 < float(bar.figure.split()[0]) < 2000
