"""The benchmark of searches without data, on a tiny network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits, write_digits

import matar_tf
from matar_tf.artifact import write_artifact
from matar_tf.errors import DataError
from matar_tf.tflite.build import ModelBuilder
from tools.benchmarks import data as module
from tools.benchmarks.bars import Bar
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
                num_evaluations=40,
                store_path=None,
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
    arguments = str(tmp_path / "net.matar"), str(tmp_path / "data.npz")
    options = {"num_evaluations": 40, "store_path": str(store)}
    bars = [*module.measure_data(*arguments, **options)]
    names = [bar.name for bar in bars]
    assert len(names) == len(set(names)) == 4 + 2 * len(TARGETS) + 2
    shares = [float(bar.figure) for bar in bars if "hypervolume" in bar.name]
    assert len(shares) == len(TARGETS)
    mean = next(float(bar.figure) for bar in bars if "mean of the targets" in bar.name)
    assert mean == pytest.approx(np.mean(shares), abs=1e-3)
    # What was measured is kept: the same bars again.
    assert [*module.measure_data(*arguments, **options)] == bars


def test_levels_are_those_of_the_first_half() -> None:
    artifact = digits_artifact()
    net = matar_tf.measure(artifact, few_digits(), num_policies=12, progress=False)
    assert net.measurements is not None
    with module._measuring(artifact, few_digits(), None) as halves:
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
