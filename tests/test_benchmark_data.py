"""The benchmark of searches without data, on a tiny network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits, write_digits

import matar_tf
from matar_tf.artifact import write_artifact
from matar_tf.data import Data
from matar_tf.errors import DataError, MatarError
from matar_tf.tflite.build import ModelBuilder
from tools.benchmarks import data as module
from tools.benchmarks import few_samples
from tools.benchmarks.bars import Bar
from tools.benchmarks.few_samples import Drawing, Sampling
from tools.benchmarks.search_bench import TARGETS


def test_the_best_fifth_is_that_of_the_judge() -> None:
    judge = np.arange(20.0)
    # The best four, 16 to 19: their order is turned, of the others nothing counts.
    one = np.concatenate([np.zeros(16), [4.0, 3.0, 2.0, 1.0]])
    assert module._best_ranks(one, judge) == pytest.approx(-1.0)


def test_needs_measurements(tmp_path: Path) -> None:
    write_digits(tmp_path)
    with pytest.raises(DataError, match="Expected an artifact with measurements"):
        next(
            module.measure_data(
                str(tmp_path / "net.matar"),
                str(tmp_path / "data.npz"),
                Drawing(num_evaluations=40),
            )
        )


def test_every_bar_has_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path)
    net = matar_tf.measure(
        digits_artifact(), few_digits(), num_policies=40, progress=False
    )
    write_artifact(net, tmp_path / "net.matar", overwrite=True)
    monkeypatch.setattr(
        module, "_time_bar", lambda _: Bar(name="t", figure="0", limit="1", held=True)
    )
    monkeypatch.setattr(module, "_SEEDS", range(1))
    monkeypatch.setattr(module, "_NUM_OF_A_FAMILY", 5)
    store = tmp_path / "store.sqlite"
    arguments = (
        str(tmp_path / "net.matar"),
        str(tmp_path / "data.npz"),
        Drawing(num_evaluations=40, num_draws=1, store=str(store)),
    )
    monkeypatch.setattr(module, "_SAMPLINGS", (Sampling(number=50, limit=0.9),))
    monkeypatch.setattr(module, "KINDS", {"noise": "noise"})
    bars = [*module.measure_data(*arguments)]
    names = [bar.name for bar in bars]
    assert len(names) == len(set(names)) == 4 + 2 * len(TARGETS) + 1 + 5 + 2 + 1
    shares = [float(bar.figure) for bar in bars if "without data over" in bar.name]
    assert len(shares) == len(TARGETS)
    mean = next(float(bar.figure) for bar in bars if "mean of the targets" in bar.name)
    assert mean == pytest.approx(np.mean(shares), abs=1e-3)
    # What was measured is kept: the same bars again.
    assert [*module.measure_data(*arguments)] == bars
    some = replace(arguments[2], parts=("predictor", "shifted", "time"))
    kept = [*bars[:4], *bars[-3:]]
    assert [*module.measure_data(*arguments[:2], some)] == kept


def test_parts_that_there_are() -> None:
    with pytest.raises(MatarError, match="Expected parts of the benchmark among"):
        Drawing(num_evaluations=40, parts=("fronts",))


def test_what_a_front_comes_to_by_hand() -> None:
    """Of two policies, priced and measured by hand."""
    halves = few_samples.Judged(
        share=0.98, alone=0.9, lost=0.012, cost=1.05, num_evaluated=10, differs=True
    )
    better = replace(halves, share=1.0, lost=0.005, differs=False)
    found = {"one": [halves, better], "two": [better, better]}
    sampling = Sampling(number=100, limit=0.99)
    bars = [*few_samples._bars(sampling, found, 40)]
    assert [bar.figure for bar in bars] == [
        *("0.9950", "0.9800, +0.0800", "75%, 1.050 (1.050)", "25.0%", "25.0%"),
    ]
    assert [bar.held for bar in bars] == [True, True, False, False, True]
    other = replace(sampling, kind="noise", limit=0.999)
    bars = [*few_samples._bars(other, found, 40)]
    assert [bar.held for bar in bars] == [False, False]
    assert bars[1].figure == "25%"


def test_samples_of_other_kinds() -> None:
    x = np.linspace(0.0, 1.0, 24, dtype=np.float32).reshape(12, 2)
    data = Data(x_test=x, y_test=np.arange(12) % 10)
    few = few_samples.shifted(data, "classes")
    assert few.y_test.tolist() == [0, 1, 2, 3, 4, 0, 1]
    noisy = few_samples.shifted(data, "noise").x_test
    slope = np.polyfit(x.ravel(), noisy.ravel(), 1)[0]
    assert 0.3 < slope < 0.7
    assert noisy.min() >= 0.0
    assert noisy.max() <= 1.0


def test_levels_are_those_of_the_first_half() -> None:
    artifact = digits_artifact()
    net = matar_tf.measure(artifact, few_digits(), num_policies=12, progress=False)
    assert net.measurements is not None
    parts = [few_digits().part(part) for part in (slice(100), slice(100, 200))]
    with module._measuring(artifact, parts, None) as halves:
        found = module._levelled(artifact, net.measurements, halves.first)
        policy = artifact.space.named("w2a2")
        expected = matar_tf.evaluate(
            ModelBuilder(artifact).build(policy), few_digits().part(slice(100))
        )
    levels = found.levels
    assert levels is not None
    assert levels.num_samples == 100
    place = levels.policies.index(policy)
    assert levels.metrics["accuracy"][place] == pytest.approx(expected["accuracy"])
