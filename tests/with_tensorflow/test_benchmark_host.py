"""The benchmark of latencies on this machine, which makes networks of its own."""

from __future__ import annotations

import pytest

from matar_tf.policy import Policy
from matar_tf.pricing import estimate
from matar_tf.run.timing import TimedFile
from matar_tf.targets import load_target
from matar_tf.tflite.drawn_networks import draw_networks
from matar_tf.tflite.latency import Latency
from tools.benchmarks import host as benchmark_host
from tools.benchmarks.calibration import Timeable, calibration_bars


@pytest.mark.slow
@pytest.mark.parametrize(
    ("turned", "rank", "held"), [(1, 1.0, True), (-1, -1.0, False)]
)
def test_the_benchmark_ranks_random_networks(monkeypatch, turned, rank, held):
    """Clocks that go by the model of this machine, and against it."""
    priced: list[float] = []
    estimate = benchmark_host.estimate

    def estimated(*args):
        found = estimate(*args)
        priced.append(found.latency_ms)
        return found

    def measured(contents, **_):
        assert len(contents) == len(priced)
        runs = {"num_repeats": 1, "num_threads": 1}
        return [
            Latency(median_ms=ms, low_ms=ms, high_ms=ms, **runs)
            for ms in (one**turned for one in priced)
        ]

    monkeypatch.setattr(benchmark_host, "estimate", estimated)
    monkeypatch.setattr(benchmark_host, "measure_latencies", measured)
    (bar,) = benchmark_host.measure_host(seed=0, num_networks=3)
    assert "3 random networks" in bar.name
    assert float(bar.figure.split()[0]) == pytest.approx(rank)
    assert bar.held == held


@pytest.mark.parametrize(
    ("factor", "turned", "held"),
    [(1.1, 1, [True, True]), (1.3, 1, [True, False]), (1.0, -1, [False, False])],
)
def test_bars_of_a_calibration(factor, turned, held, capsys):
    target = load_target("host_litert")
    networks = []
    for one in draw_networks(12):
        names = {layer.weights for layer in one.workload.layers if layer.weights}
        policy = Policy(weights=dict.fromkeys(names, 8), activations={"input": 8})
        file = TimedFile(name=one.name, content=one.content)
        networks.append(Timeable(file=file, workload=one.workload, policy=policy))
    times = [
        (factor * estimate(one.workload, one.policy, target).latency_ms) ** turned
        for one in networks
    ]
    bars = [*calibration_bars("networks", networks, times, target)]
    assert [bar.held for bar in bars] == held
    assert ("network_003" in capsys.readouterr().out) == (not held[1])
