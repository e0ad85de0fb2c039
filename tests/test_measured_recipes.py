"""What training holds out to measure on, and what it measures after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits

from matar_tf.commands._training import split_training, with_measurements
from matar_tf.data import Data

ACCURACY = {name: {"accuracy": 0.9, "loss": 0.3} for name in ("w8a8", "w2a2")}


def numbered(number: int) -> Data:
    """Samples and labels that say which they are."""
    x = np.arange(number, dtype=np.float32)[:, None]
    return Data(x_test=x[:2], y_test=[0, 1], x_train=x, y_train=np.arange(number))


@pytest.mark.parametrize(
    ("asked", "kept_out"), [(0, 0), (1, 0), (2, 2), (7, 7), (20, 20), (21, 20)]
)
def test_a_fifth_at_most_is_held_out(asked: int, kept_out: int) -> None:
    data, held = split_training(numbered(100), asked)
    assert (0 if held is None else held.num_samples) == kept_out
    assert len(data.x_train) == 100 - kept_out
    if held is not None:
        for parts in (
            (data.x_train[:, 0], held.x_test[:, 0]),
            (data.y_train, held.y_test),
        ):
            assert sorted(np.concatenate(parts)) == list(range(100))
        assert held.y_test.tolist() == held.x_test[:, 0].tolist()
        # Drawn, since files are sorted, and the same ones again.
        assert np.ptp(held.y_test) > kept_out
        assert split_training(numbered(100), asked)[1].digest() == held.digest()


def measured(tmp_path: Path, number: int = 12, held: Any = None, **changes: Any) -> Any:
    artifact = replace(digits_artifact(), **changes)
    options = {"seed": 0, "jobs": 1, "store": tmp_path / "kept" / "store.sqlite"}
    data = few_digits()
    found = with_measurements(artifact, data, held, number, **options).measurements
    assert (tmp_path / "kept").is_dir() == (found is not None)
    return found


def test_held_out_samples_need_no_levels(tmp_path: Path) -> None:
    data, held = split_training(few_digits(), 50)
    found = measured(tmp_path, held=held)
    assert not found.trained_on
    assert found.levels is None
    assert found.num_samples == 50
    assert len(found.policies) == 12
    assert len(data.x_train) == 550


def test_without_them_the_accuracy_table_sets_the_scale(tmp_path: Path) -> None:
    found = measured(tmp_path, accuracy=ACCURACY)
    assert found.trained_on
    assert found.num_samples == 600
    assert found.levels.metrics["accuracy"].tolist() == [0.9, 0.9]


def test_nothing_is_measured_where_it_tells_nothing(tmp_path: Path) -> None:
    space = digits_artifact().space
    held = split_training(few_digits(), 50)[1]
    assert measured(tmp_path, number=0, held=held) is None
    assert measured(tmp_path, held=held, space=space.only(space.widest())) is None
    assert measured(tmp_path, accuracy={"w8a8": ACCURACY["w8a8"]}) is None
