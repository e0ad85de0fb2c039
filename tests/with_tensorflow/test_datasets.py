"""Functions of the user's own that return a `tf.data.Dataset`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.data import load_data
from matar_tf.errors import DataError
from matar_tf.keras._compat import tf

SAMPLES = np.arange(12, dtype=np.float32).reshape(3, 2, 2, 1)
LABELS = np.array([0, 2, 1])


def as_dataset() -> Any:
    return tf.data.Dataset.from_tensor_slices((SAMPLES, LABELS)).batch(2)


def endless_dataset() -> Any:
    return as_dataset().repeat()


def unlabelled_dataset() -> Any:
    return as_dataset().map(lambda x, y: {"x": x})


def unbatched_dataset() -> Any:
    return as_dataset().unbatch()


def empty_dataset() -> Any:
    return as_dataset().take(0)


def test_a_data_set_is_read_whole() -> None:
    data = load_data(f"{__name__}:as_dataset")
    np.testing.assert_array_equal(data.x_test, SAMPLES)
    np.testing.assert_array_equal(data.y_test, LABELS)
    assert data.x_train is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("endless_dataset", "without repeat"),
        ("unlabelled_dataset", "batches of \\(samples, labels\\)"),
        ("unbatched_dataset", "batch the data set"),
        ("empty_dataset", "empty data set"),
    ],
)
def test_refuses_what_gives_no_data(function: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(f"{__name__}:{function}")
