"""Metrics of tasks beside one class a sample, and which labels they take."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.digits import digits_artifact

from matar_tf import evaluate, search
from matar_tf.data import Data
from matar_tf.errors import DataError, SearchError
from matar_tf.figures import figure_of, larger_is_better
from matar_tf.run.holdout import split_data
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.fitting_data import check_labels
from matar_tf.tflite.metrics import (
    CLASS_METRICS,
    VALUE_METRICS,
    argmax_agreement,
    compute_metrics,
    get_metrics,
)
from matar_tf.tflite.runtime import Runner

SAMPLES = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)


def measured(names, outputs, labels, **kind):
    metrics = get_metrics(names, **{"probabilities": False, **kind})
    return compute_metrics(metrics, np.asarray(outputs, np.float32), np.array(labels))


MAPS = [[[[3, 1, 0], [0, 2, 1]]], [[[5, 1, 2], [1, 0, 2]]]]  # 0 1 / 0 2
CLASSES = [[[0, 1]], [[1, 2]]]
VALUES = [[1.0, 2.0], [3.0, 5.0]]
WANTED = [[1.0, 0.0], [4.0, 5.0]]


class TestMaps:
    """Two samples of 1 x 2 places, three classes."""

    def test_accuracy_and_loss_are_of_places(self):
        found = measured(["accuracy", "loss"], MAPS, CLASSES)
        assert found["accuracy"] == 0.75
        rows = np.reshape(MAPS, (4, 3))
        labels = np.ravel(CLASSES)
        expected = measured(["loss"], rows, labels)["loss"]
        assert found["loss"] == pytest.approx(expected, rel=1e-12)

    def test_top_k(self):
        found = measured(["top_2_accuracy"], MAPS, CLASSES)
        assert found["top_2_accuracy"] == 0.75  # class 1 is the last of the third

    def test_mean_iou_by_hand(self):
        # Class 0: 1 of 2; class 1: 1 of 2; class 2: 1 of 1.
        found = measured(["mean_iou"], MAPS, CLASSES)
        assert found["mean_iou"] == pytest.approx((0.5 + 0.5 + 1.0) / 3)

    def test_a_class_that_is_nowhere_does_not_count(self):
        found = measured(["mean_iou"], [[9, 0, 0], [9, 0, 0]], [0, 1])
        assert found["mean_iou"] == pytest.approx((0.5 + 0.0) / 2)

    def test_one_output_tells_two_classes_apart(self):
        logits = [[[1.0], [-1.0]], [[2.0], [3.0]]]  # 1 0 / 1 1
        labels = [[1, 0], [0, 1]]
        assert measured(["mean_iou"], logits, labels)["mean_iou"] == pytest.approx(
            (1 / 2 + 2 / 3) / 2
        )
        shares = 1.0 / (1.0 + np.exp(-np.array(logits)))
        assert measured(["accuracy"], shares, labels, probabilities=True) == {
            "accuracy": 0.75
        }


class TestValues:
    def test_errors_by_hand(self):
        found = measured(["mean_squared_error", "mean_absolute_error"], VALUES, WANTED)
        assert found == {"mean_squared_error": 1.25, "mean_absolute_error": 0.75}

    def test_one_output_takes_a_column_or_a_row(self):
        for labels in ([1.0, 2.0], [[1.0], [2.0]]):
            found = measured(["mean_squared_error"], [[1.0], [4.0]], labels)
            assert found == {"mean_squared_error": 2.0}

    @pytest.mark.parametrize(
        ("kind", "outputs"),
        [({}, [[1, -1], [-2, 0.5]]), ({"is_sigmoid": True}, [[0.6, 0.4], [0.1, 0.7]])],
    )
    def test_binary_accuracy_counts_every_output(self, kind, outputs):
        found = measured(["binary_accuracy"], outputs, [[1, 0], [1, 1]], **kind)
        assert found == {"binary_accuracy": 0.75}


class TestAreaUnderCurve:
    def test_by_hand_with_a_tie(self):
        # Pairs of a 1 and a 0: 3 > 1, 3 > 2, 2 > 1 and one tie of 2 and 2.
        found = measured(["auc"], [[1.0], [2.0], [2.0], [3.0]], [0, 0, 1, 1])
        assert found == {"auc": 3.5 / 4}

    def test_two_outputs_are_ranked_by_their_difference(self):
        outputs = [[0.0, 1.0], [5.0, 7.0], [9.0, 9.5], [1.0, 4.0]]
        assert measured(["auc"], outputs, [0, 1, 0, 1]) == {"auc": 1.0}

    @pytest.mark.parametrize(
        ("outputs", "labels"),
        [([[1.0], [2.0]], [1, 1]), ([[1, 2, 3], [4, 5, 6]], [0, 1])],
    )
    def test_other_tasks_are_refused(self, outputs, labels):
        with pytest.raises(
            DataError, match="outputs of two classes and labels of both"
        ):
            measured(["auc"], outputs, labels)


class TestLabels:
    """Which labels metrics take of four samples."""

    @pytest.mark.parametrize(
        ("labels", "shape", "metrics", "message"),
        [
            (np.zeros(4), (10,), ["loss"], r"4 integer labels .* type float32"),
            (np.eye(4, 3, dtype=int)[[0, 1, 2, 2]], (3,), ["accuracy"], "one-hot"),
            (np.zeros((4, 3), int), (3,), ["accuracy"], "give the number of its class"),
            (np.zeros((4, 2), "f4"), (3,), ["loss"], "values, measure mean_squared"),
            (np.zeros((4, 2, 1), int), (2, 3), ["loss"], r"give y\[\.\.\., 0\]"),
            (
                np.zeros((4, 2, 1)),
                (2, 1),
                ["accuracy"],
                r"values, or give y\[\.\.\., 0",
            ),
            (np.eye(5)[np.zeros((4, 2), int)], (2, 5), ["loss"], r"or give y\.argmax"),
            (np.zeros((4, 2, 2), int), (2, 3, 5), ["mean_iou"], "4 x 2 x 3 integer"),
            (np.full((4, 2), 5), (2, 5), ["accuracy"], r"in 0\.\.4 for .*, got 5\.\.5"),
            (np.zeros((4, 2, 5)), (2, 5), ["accuracy"], "class of each place"),
            (
                np.zeros(4),
                (3,),
                ["mean_squared_error"],
                r"shape of the outputs, \(4, 3",
            ),
            (np.zeros(4, int), (3,), ["mean_absolute_error"], "or measure accuracy"),
            (np.full((4, 3), 2), (3,), ["binary_accuracy"], "labels 0 and 1"),
        ],
    )
    def test_others_are_refused(self, labels, shape, metrics, message):
        data = Data(x_test=SAMPLES, y_test=labels)
        with pytest.raises(DataError, match=message):
            check_labels(data, shape, metrics)

    def test_functions_of_ones_own_take_all(self):
        for labels in (np.zeros(4), np.zeros((4, 3)), np.full(4, -7)):
            check_labels(Data(x_test=SAMPLES, y_test=labels), (10,), ["mine"])

    def test_every_metric_is_of_one_kind(self):
        assert not {*CLASS_METRICS} & {*VALUE_METRICS}
        for name in (*CLASS_METRICS, *VALUE_METRICS):
            (found,) = get_metrics([name], probabilities=False)
            assert found == name
            assert figure_of(name).kind == "measured"

    def test_which_way_is_better(self):
        better = {"accuracy", "mean_iou", "auc", "binary_accuracy", "agreement"}
        for name in (*CLASS_METRICS, *VALUE_METRICS):
            assert larger_is_better(name) is (name in better)
            assert figure_of(name).maximize is (name in better)


def test_values_are_split_without_classes():
    data = Data(x_test=SAMPLES, y_test=np.arange(8.0).reshape(4, 2))
    first, second = split_data(data, 0.5, 0)
    both = np.concatenate([first.y_test, second.y_test])
    np.testing.assert_array_equal(np.sort(both, axis=0), data.y_test)


def test_maps_agree_where_values_are_a_step_apart():
    """Ties among the channels of an image do not make another image."""
    outputs = np.zeros((2, 3, 3, 2), np.float32)
    outputs[0, 0, 0] = 0.1, 0.0
    assert argmax_agreement(outputs, np.zeros_like(outputs), step=0.1) == 1.0
    outputs[0, 0, 0, 0] = 0.2
    agreement = argmax_agreement(outputs, np.zeros_like(outputs), step=0.1)
    assert agreement == pytest.approx(35 / 36)


def test_several_labels_agree_where_each_is_a_step_apart():
    outputs, reference = (
        np.array([[0.5, 0.49], [0.1, 0.9]]),
        np.array([[0.49, 0.5], [0.1, 0.8]]),
    )
    assert argmax_agreement(outputs, reference, step=0.02) == 0.5
    assert argmax_agreement(outputs, reference, step=0.02, is_sigmoid=True) == 0.75


def test_a_search_makes_errors_smaller(tmp_path):
    """The network's own outputs at 8 bits as values: w8a8 has an error of 0."""
    artifact = digits_artifact()
    content = ModelBuilder(artifact).build(artifact.space.named("w8a8"))
    path = tmp_path / "w8a8.tflite"
    path.write_bytes(content)
    x = np.random.default_rng(1).random((24, 8, 8, 1), np.float32)
    values = Runner(content).predict(x)
    result = search(
        artifact,
        "mpic",
        (x, values),
        metrics=["mean_squared_error"],
        max_evaluations=12,
        progress=False,
    )
    errors = [one.metrics["mean_squared_error"] for one in result.front]
    assert min(errors) == 0.0
    assert max(errors) > 0.0
    slowest = max(result.front, key=lambda one: one.costs["latency_ms"])
    assert slowest.metrics["mean_squared_error"] == 0.0
    assert evaluate(path, (x, values), metrics=["mean_squared_error"]) == {
        "mean_squared_error": 0.0
    }
    with pytest.raises(DataError, match="24 integer labels"):
        search(artifact, "mpic", (x, values), max_evaluations=12, progress=False)
    with pytest.raises(SearchError, match="accuracy"):
        search(
            artifact,
            "mpic",
            (x, values),
            metrics=["mean_squared_error"],
            objectives=["accuracy", "latency_ms"],
            progress=False,
        )
