"""Metrics of a user's own: what they may do to arrays, and what they may return."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from matar_tf.errors import DataError
from matar_tf.tflite.metrics import accuracy, compute_metrics

OUTPUTS = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 0.5], [2.0, 1.0, 0.0]], np.float32)
LABELS = np.array([1, 2, 1])


def subtracts(outputs: Any, labels: Any) -> float:
    labels -= 1
    return 0.0


def sorts(outputs: Any, labels: Any) -> float:
    outputs.sort()
    return 0.0


def assigns(outputs: Any, labels: Any) -> float:
    outputs[0, 0] = 9.0
    return 0.0


def reshapes(outputs: Any, labels: Any) -> float:
    outputs.shape = (9,)
    return float(outputs[0])


class TestArrays:
    @pytest.mark.parametrize("metric", [subtracts, sorts, assigns])
    def test_are_not_written_into(self, metric: Callable[..., float]) -> None:
        outputs, labels = OUTPUTS.copy(), LABELS.copy()
        with pytest.raises(DataError, match=r"metric 'mine' that leaves .* copies"):
            compute_metrics({"mine": metric, "accuracy": accuracy}, outputs, labels)
        np.testing.assert_array_equal(outputs, OUTPUTS)
        np.testing.assert_array_equal(labels, LABELS)
        outputs += 1  # the caller's own stay as they were

    def test_of_one_metric_are_not_those_of_another(self) -> None:
        figures = compute_metrics(
            {"mine": reshapes, "accuracy": accuracy}, OUTPUTS, LABELS
        )
        assert figures == {"mine": 1.0, "accuracy": pytest.approx(2 / 3)}

    @pytest.mark.parametrize(
        "error", [ValueError, TypeError, RuntimeError, ImportError, AssertionError]
    )
    def test_whatever_a_metric_raises_names_it(self, error: type[Exception]) -> None:
        def fails(outputs: Any, labels: Any) -> float:
            raise error("two classes only")

        with pytest.raises(DataError, match=r"the metric 'mine' .*two classes only"):
            compute_metrics({"mine": fails}, OUTPUTS, LABELS)


class TestShares:
    @pytest.mark.parametrize("name", ["accuracy", "top_3_accuracy"])
    @pytest.mark.parametrize("value", [90.0, 1.0001, -0.001])
    def test_lie_in_0_to_1(self, name: str, value: float) -> None:
        def metric(outputs: Any, labels: Any) -> float:
            return value

        message = rf"0\.\.1 from the metric '{name}', got {re.escape(str(value))};"
        with pytest.raises(DataError, match=message):
            compute_metrics({name: metric}, OUTPUTS, LABELS)
        assert compute_metrics({"percent": metric}, OUTPUTS, LABELS)

    @pytest.mark.parametrize("value", [0.0, 1.0, np.float32(0.25)])
    def test_may_be_all_or_nothing(self, value: float) -> None:
        found = compute_metrics({"accuracy": lambda *_: value}, OUTPUTS, LABELS)
        assert found == {"accuracy": float(value)}
