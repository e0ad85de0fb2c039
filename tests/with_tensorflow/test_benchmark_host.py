"""The benchmark of latencies on this machine, which makes networks of its own."""

from __future__ import annotations

import pytest

from matar_tf.tflite.latency import Latency
from tools.benchmarks import host as benchmark_host


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
