"""Searches with samples of a network whose developer measured it, through each door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits, measured_digits
from fixtures.programs import call, fails

import matar_tf
from matar_tf.artifact import Artifact, write_artifact
from matar_tf.errors import DataError, SearchError
from matar_tf.figures import DISAGREEMENT, JOINED
from matar_tf.reporting import to_csv, to_json, to_markdown
from matar_tf.results import SearchResult, StopReason
from matar_tf.run.estimating import absent_classes
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

TARGET = "bitfusion_16x32"


@pytest.fixture(scope="module")
def net() -> Artifact:
    return measured_digits()


@pytest.fixture(scope="module")
def result(net: Artifact) -> SearchResult:
    return searched(net)


def samples(number: int = 100) -> tuple[np.ndarray, np.ndarray]:
    data: Any = few_digits()
    return data.x_test[:number], data.y_test[:number]


def searched(net: Artifact, data: Any = None, **options: Any) -> SearchResult:
    data = samples() if data is None else data
    options = {"max_evaluations": 80, "progress": False, **options}
    return matar_tf.search(net, TARGET, data, **options)


class TestSearch:
    def test_shows_what_was_measured_and_what_is_expected(
        self, net: Artifact, result: SearchResult
    ) -> None:
        assert 10 < result.num_evaluated <= 20
        assert "60 policies" in result.provenance.versions[JOINED]
        for one in (*result.front, *result.references):
            assert list(one.metrics) == [
                *("accuracy", "loss"),
                *("expected_accuracy", "expected_accuracy_low"),
                "expected_accuracy_high",
            ]
            figures = [one.metrics[name] for name in list(one.metrics)[2:]]
            assert figures[1] <= figures[0] <= figures[2]
        best = result.front[-1]
        content = ModelBuilder(net).build(best.policy)
        alone = matar_tf.evaluate(content, samples())
        assert alone["accuracy"] == best.metrics["accuracy"]

    def test_the_front_does_not_depend_on_processes(
        self, net: Artifact, result: SearchResult
    ) -> None:
        assert searched(net, jobs=2).front == result.front

    def test_tables_name_both(self, result: SearchResult) -> None:
        text = to_markdown(result)
        assert "expected accuracy [%] | accuracy [%]" in text
        assert "Expected: of these samples and of the developer's, 60 policies" in text
        assert "estimated: expected accuracy" in text
        assert "expected_accuracy_low" in to_csv(result)
        rows = to_json(result)["rows"]
        assert rows[0]["figures"]["expected_accuracy_high"] <= 1.0

    def test_the_reprs_say_expected(self, result: SearchResult) -> None:
        assert " expected_accuracy " in repr(result.front[0])
        assert "predicted" not in repr(result.front[0])

    def test_a_metric_that_nobody_measured_is_searched_by_all_evaluations(
        self, net: Artifact
    ) -> None:
        found = searched(net, metrics=["top_2_accuracy"], max_evaluations=40)
        assert found.num_evaluated == 40
        assert "expected_top_2_accuracy" in found.front[0].metrics

    def test_a_limit_is_on_what_is_expected(self, net: Artifact) -> None:
        found = searched(net, min={"accuracy": "90%"})
        assert all(one.metrics["expected_accuracy"] >= 0.9 for one in found.front)

    @pytest.mark.parametrize("names", [["accuracy/0"], ["bops", "macs"]])
    def test_parts_of_samples_are_named_nowhere(
        self, net: Artifact, names: list[str]
    ) -> None:
        with pytest.raises(SearchError) as caught:
            searched(net, objectives=["latency_ms", *names])
        assert "/1" not in str(caught.value)

    def test_a_holdout_judges(self, net: Artifact) -> None:
        found = searched(net, samples(200), holdout=0.5)
        assert found.objectives[0].name == "expected_accuracy"
        assert found.provenance.num_samples == 100
        assert {"search_accuracy", "expected_accuracy"} <= set(found.front[0].metrics)

    def test_later_targets_measure_little(self, net: Artifact, tmp_path: Path) -> None:
        outcome = matar_tf.retarget(
            net,
            [TARGET, "mpic"],
            samples(),
            tmp_path / "run",
            max_evaluations=80,
            progress=False,
        )
        numbers = sorted(one.num_evaluated for one in outcome.results)
        assert numbers[0] <= 0.15 * 80
        assert 10 < numbers[1] <= 20

    def test_other_samples_are_told(self, net: Artifact) -> None:
        x, y = samples(200)
        rng = np.random.default_rng(0)
        noisy = np.clip(x + rng.normal(0.0, 0.35, x.shape), 0.0, 1.0).astype(np.float32)
        found = searched(net, (noisy, y))
        said = found.provenance.versions[DISAGREEMENT]
        assert "These 200 samples are of another kind than the developer's" in said
        text = to_markdown(found)
        assert said in text
        # The developer's measurements are left out, and all evaluations are made.
        assert "went on without what the developer measured" in said
        assert "of the developer's, 60 policies" not in text
        assert (found.num_evaluated, found.num_reused) == (80, 0)
        assert "expected_accuracy" in found.front[0].metrics

    def test_other_samples_are_searched_in_the_time_there_is(
        self, net: Artifact
    ) -> None:
        x, y = samples(200)
        dark = (x * np.float32(0.3)).astype(np.float32)
        found = searched(net, (dark, y), max_minutes=1e-4, allow_odd_data=True)
        assert found.stop_reason is StopReason.MAX_MINUTES
        assert "went on" not in found.provenance.versions.get(DISAGREEMENT, "")

    def test_absent_classes_are_told(self, net: Artifact) -> None:
        x, y = samples(200)
        found = searched(net, (x[y < 8], y[y < 8]))
        said = found.provenance.versions[DISAGREEMENT]
        assert f"None of these {np.sum(y < 8)} samples is of the classes 8, 9:" in said


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros(1000, np.int64), "1,000 samples is of the classes 1, 2, 3:"),
        (np.arange(100) % 3, "100 samples is of the classes 3:"),
        (np.arange(100) % 4, None),
        (np.zeros(23, np.int64), None),  # 4 log(4 / 0.01) = 23.97
        (np.zeros(24, np.int64), "24 samples"),
    ],
)
def test_absent_classes(labels: np.ndarray, said: str | None) -> None:
    found = absent_classes(labels, 4)
    assert (found is None) if said is None else (found is not None and said in found)


class TestWithoutLabels:
    def test_answers_tell_of_accuracy(self, net: Artifact) -> None:
        x, _ = samples()
        found = searched(net, x)
        one = found.front[0]
        assert found.objectives[0].name == "expected_accuracy"
        assert set(one.metrics) == {
            *("agreement", "expected_accuracy", "expected_accuracy_low"),
            "expected_accuracy_high",
        }
        w8a8 = next(one for one in found.references if one.name == "w8a8")
        assert w8a8.metrics["agreement"] == 1.0
        text = to_markdown(found, {"accuracy": 0.987, "loss": 0.1})
        assert "Agreement with the widest policy on 100 samples" in text
        # Nobody measured accuracy or loss: no columns of the float network alone.
        assert "| loss" not in text
        assert "| accuracy" not in text
        assert "| float | 98.70 |" in text

    def test_agreement_by_hand(self, net: Artifact) -> None:
        x, _ = samples()
        found = searched(net, {"x_test": x})
        widest, other = (
            Runner(ModelBuilder(net).build(policy)).predict(x)
            for policy in (net.space.widest(), found.front[0].policy)
        )
        share = np.mean(widest.argmax(-1) == other.argmax(-1))
        assert found.front[0].metrics["agreement"] == pytest.approx(share)

    def test_agreement_is_an_objective_of_its_own(self) -> None:
        x, _ = samples()
        found = searched(digits_artifact(), x, max_evaluations=40)
        assert [x.name for x in found.objectives] == [
            "expected_agreement",
            "latency_ms",
        ]
        assert {"agreement", "expected_agreement"} < set(found.front[0].metrics)

    def test_labels_are_needed_for_the_rest(self, net: Artifact) -> None:
        x, y = samples()
        with pytest.raises(DataError, match=r"Expected labels .* to measure accuracy"):
            searched(net, x, metrics=["accuracy"])
        with pytest.raises(DataError, match="samples without labels to measure"):
            searched(net, (x, y), metrics=["agreement"])
        content = ModelBuilder(net).build(net.space.widest())
        with pytest.raises(DataError, match="samples without labels to measure"):
            matar_tf.evaluate(content, (x, y), metrics=["agreement"])
        with pytest.raises(DataError, match="Expected samples of shape"):
            searched(net, x[:, :4])

    def test_by_the_program(
        self, net: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_artifact(net, tmp_path / "net.matar")
        np.savez(tmp_path / "x.npz", x_test=samples()[0])
        words = [
            *(str(tmp_path / "net.matar"), f"--data={tmp_path / 'x.npz'}"),
            *(f"--targets={TARGET}", f"--output={tmp_path / 'run'}"),
            *("--max_evaluations=80", "--compare=none", "--num_samples=60"),
        ]
        assert call("search", *words) == 0
        text = capsys.readouterr().out
        assert "Agreement with the widest policy on 60 samples" in text
        assert "expected accuracy" in text
        assert (tmp_path / "run" / TARGET / "policy_00.tflite").exists()
        line = fails(capsys, "search", *words, "--metrics=loss", "--overwrite")
        assert "DataError: Expected labels" in line
