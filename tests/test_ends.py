"""Networks of several inputs and outputs: data, files, metrics and searches by name."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.graphs import float_graph
from fixtures.programs import call
from fixtures.samples import net_artifact, two_ends_samples

from matar_tf import evaluate, export, measure, search, write_artifact
from matar_tf.data import Data, as_data
from matar_tf.errors import ArtifactError, DataError, MatarWarning, SearchError
from matar_tf.figures import wilson_interval
from matar_tf.named_arrays import by_name, each, num_rows, rows
from matar_tf.outputs import OutputInfo
from matar_tf.reporting import to_csv
from matar_tf.results import SearchResult
from matar_tf.run.holdout import split_data
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import inputs_of, outputs_of
from matar_tf.tflite.fitting_data import check_data, for_inputs, metrics_for
from matar_tf.tflite.heads import metrics_of
from matar_tf.tflite.metrics import smooth_l1
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate
from matar_tf.tflite.verify import verify

SAMPLES = two_ends_samples()
KIND = np.arange(32) % 3
BOXES = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
DATA = Data(x_test=SAMPLES, y_test={"kind": KIND, "boxes": BOXES})
NET = net_artifact("two_ends")


def content(policy: str = "w4a4") -> bytes:
    return ModelBuilder(NET).build(NET.space.named(policy))


def outputs() -> dict[str, np.ndarray]:
    return Runner(content()).predict(SAMPLES)


class TestNamedArrays:
    def test_an_array_alone_is_of_any_one_name(self) -> None:
        ones = np.ones((2, 3))
        assert by_name(ones, ["x"], "samples") == {"x": ones}
        assert by_name({"other": ones}, ["x"], "samples") == {"x": ones}

    def test_they_come_in_the_order_of_the_names(self) -> None:
        given = {"b": np.zeros(1), "a": np.ones(1)}
        assert list(by_name(given, ["a", "b"], "samples")) == ["a", "b"]
        assert list(by_name(given, ["c", "b", "a"], "s", partly=True)) == ["b", "a"]

    @pytest.mark.parametrize(
        ("given", "partly", "message"),
        [
            (np.ones((2, 3)), False, r"by the names 'a', 'b', got one array.*x_test/a"),
            ({"a": np.ones(1)}, False, "got arrays for 'a'; give one for each"),
            ({"A": np.ones(1)}, True, "Did you mean 'a'"),
            ({}, True, "got arrays for none"),
        ],
    )
    def test_refuses(self, given: Any, partly: bool, message: str) -> None:
        with pytest.raises(DataError, match=message):
            by_name(given, ["a", "b"], "samples for each input", partly=partly)

    def test_rows_of_all_alike(self) -> None:
        given = {"a": np.arange(4), "b": np.arange(8).reshape(4, 2)}
        assert num_rows(given) == 4
        part: Any = rows(given, [2, 0])
        assert part["a"].tolist() == [2, 0]
        assert part["b"].tolist() == [[4, 5], [0, 1]]
        assert each(np.sum, given) == {"a": 6, "b": 28}


class TestData:
    def test_a_file_has_them_under_their_names(self, tmp_path: Path) -> None:
        arrays = {f"x_test/{name}": one for name, one in SAMPLES.items()}
        np.savez(tmp_path / "a.npz", **arrays, **{"y_test/kind": KIND})
        data: Any = as_data(tmp_path / "a.npz")
        assert set(data.x_test) == {"image", "meta"}
        np.testing.assert_array_equal(data.x_test["meta"], SAMPLES["meta"])
        np.testing.assert_array_equal(data.y_test["kind"], KIND)
        assert data.num_samples == 32
        np.savez(tmp_path / "b.npz", **arrays, x_test=KIND, y_test=KIND)
        with pytest.raises(DataError, match="either x_test or arrays x_test/NAME"):
            as_data(tmp_path / "b.npz")

    def test_names_count_in_the_digest_and_their_order_does_not(self) -> None:
        turned = Data(x_test=dict(reversed(SAMPLES.items())), y_test=DATA.y_test)
        assert turned.digest() == DATA.digest()
        renamed = {"image": SAMPLES["image"], "meta2": SAMPLES["meta"]}
        assert replace(DATA, x_test=renamed).digest() != DATA.digest()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x_test": {"a": np.ones((3, 1)), "b": np.ones((2, 1))}}, "2 in 'b'"),
            ({"x_test": {}}, "by the names of inputs"),
            ({"x_test": {0: np.ones((32, 1))}}, r"got the keys \[0\]"),
            ({"y_test": {"kind": KIND[:2]}}, "32 labels.*in y_test/kind"),
            (
                {"x_train": {"image": np.ones((1, 2))}, "y_train": np.zeros(1)},
                "one shape in x_train and x_test",
            ),
        ],
    )
    def test_refuses(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            replace(DATA, **changes)

    def test_integers_are_for_inputs_that_are_not_quantized(self) -> None:
        tokens = Data(x_test=np.array([[1, 2], [3, 4]]), y_test=[0, 1])
        assert tokens.x_test.dtype == np.int32
        with pytest.raises(DataError, match=r"integers; give x.astype\('float32'\)"):
            check_data(NET, replace(DATA, x_test=each(np.int32, SAMPLES)))

    def test_bytes_of_tokens_are_integers(self, tmp_path: Path) -> None:
        ids = np.zeros((1, 2), np.int32)
        made = np.zeros((1, 2, 4), np.float32)
        model = float_graph("GATHER", ids, [made[0, :1], None], [made])
        tokens = np.array([[0, 1], [7, 255], [255, 0]], np.uint8)
        np.savez(tmp_path / "a.npz", x_test=tokens, y_test=[0, 1, 0])
        with pytest.warns(MatarWarning, match="but where an input takes integers"):
            own = Data(x_test=tokens, y_test=[0, 1, 0])
        for data in (own, as_data(tmp_path / "a.npz")):
            found: Any = for_inputs(data.head(2), model).x_test
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, tokens[:2])
            # They are not counted twice.
            again: Any = for_inputs(for_inputs(data, model), model).x_test
            np.testing.assert_array_equal(again, tokens)
        whole: Any = for_inputs(Data(x_test=tokens * 1.0, y_test=[0, 1, 0]), model)
        np.testing.assert_array_equal(whole.x_test, tokens)
        with pytest.raises(DataError, match=r"fractions; give x.astype\('int32'\)"):
            for_inputs(Data(x_test=tokens / 2, y_test=[0, 1, 0]), model)

    def test_bytes_of_images_stay_divided(self) -> None:
        with pytest.warns(MatarWarning, match="divided by 255"):
            data = Data(
                x_test=each(lambda one: (one > 0).astype(np.uint8), SAMPLES),
                y_test=DATA.y_test,
            )
        assert for_inputs(data, NET.template) is data

    def test_a_holdout_has_the_classes_in_the_same_shares(self) -> None:
        first, second = (one for one in split_data(DATA, 0.5, seed=1))
        for part in (first, second):
            given: Any = part.y_test
            assert np.bincount(given["kind"]).tolist() == pytest.approx(
                [5, 5, 5], abs=1
            )
            assert len(given["boxes"]) == part.num_samples == 16

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x_test": SAMPLES["image"]}, r"for each input.*'meta', 'image', got one"),
            ({"x_test": {**SAMPLES, "meta": KIND[:, None] * 1.0}}, "the input 'meta'"),
            ({"y_test": KIND}, r"for each output.*y_test/boxes"),
            ({"y_test": {"kinds": KIND}}, "Did you mean 'kind'"),
            ({"y_test": {"kind": KIND + 1}}, r"labels in 0\.\.2 .*, kind'"),
            ({"x_test": {**SAMPLES, "meta": 9 + SAMPLES["meta"]}}, "arrays, meta'"),
        ],
    )
    def test_what_does_not_fit_is_named(self, changes: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            check_data(NET, replace(DATA, **changes))


class TestFiles:
    def test_the_signature_ties_names_to_tensors(self) -> None:
        inputs = {one.name: one.shape for one in inputs_of(content())}
        assert inputs == {"image": (6, 6, 2), "meta": (4,)}
        boxes, kind = sorted(outputs_of(content()), key=lambda one: one.name)
        assert (boxes.name, boxes.shape, boxes.function) == (
            *("boxes", (2,)),
            "FULLY_CONNECTED",
        )
        assert (kind.name, kind.shape, kind.function) == ("kind", (3,), "SOFTMAX")
        assert (boxes.gives_probabilities, kind.gives_probabilities) == (False, True)
        assert kind.step == pytest.approx(1 / 256)

    def test_the_order_of_a_mapping_does_not_count(self) -> None:
        turned = Runner(content()).predict(dict(reversed(SAMPLES.items())))
        for name, expected in outputs().items():
            np.testing.assert_array_equal(turned[name], expected)

    def test_the_simulator_agrees_on_every_output(self) -> None:
        simulated = simulate(content(), SAMPLES)
        for name, expected in outputs().items():
            np.testing.assert_array_equal(simulated[name], expected)
        assert verify(content(), SAMPLES).agreement == 1.0

    def test_the_artifact_says_what_outputs_are(self, tmp_path: Path) -> None:
        assert NET.outputs == {
            "boxes": OutputInfo(shape=(2,), kind="linear"),
            "kind": OutputInfo(shape=(3,), kind="softmax"),
        }
        assert "inputs meta (4,), image (6, 6, 2)" in repr(NET)
        assert "outputs boxes (2,) linear, kind (3,) softmax" in repr(NET)
        boxes = OutputInfo(shape=(3,), kind="linear", about="corners")
        for name, outputs, message in (
            ("a", {"boxes": boxes, "kind": NET.outputs["kind"]}, "outputs as those"),
            ("b", {"kind": NET.outputs["kind"]}, "outputs as those"),
        ):
            path = tmp_path / f"{name}.matar"
            with pytest.raises(ArtifactError, match=message):
                write_artifact(replace(NET, outputs=outputs), path)
        with pytest.raises(ArtifactError, match="printable texts"):
            replace(boxes, about="two\nlines")


class TestMetrics:
    def test_by_head_by_hand(self) -> None:
        found = evaluate(
            content(),
            DATA,
            metrics=["loss", "kind_accuracy", "boxes_mean_absolute_error"],
        )
        made = outputs()
        right = made["kind"].argmax(1) == KIND
        assert found["kind_accuracy"] == pytest.approx(right.mean())
        missed = np.abs(made["boxes"].astype(float) - BOXES)
        assert found["boxes_mean_absolute_error"] == pytest.approx(missed.mean())
        chosen = made["kind"][np.arange(32), KIND].astype(float)
        expected = -np.log(np.maximum(chosen, 1e-7)).mean() + (missed**2).mean()
        assert found["loss"] == pytest.approx(expected)

    def test_a_name_alone_is_the_mean_over_heads(self) -> None:
        heads = [
            replace(one, name=name)
            for name, one in zip(
                ("a", "b"), [outputs_of(content())[0]] * 2, strict=True
            )
        ]
        (mean,) = metrics_of(heads, ["mean_squared_error"]).values()
        made = {"a": np.ones((2, 1)), "b": np.zeros((2, 1))}
        labels = {"a": np.zeros((2, 1)), "b": np.zeros((2, 1))}
        assert mean(made, labels) == 0.5
        assert mean(made, {"a": labels["a"]}) == 1.0  # of those that have labels

    def test_what_is_measured_if_nobody_says(self) -> None:
        assert metrics_for(NET, DATA) == [
            *("loss", "boxes_mean_absolute_error", "kind_accuracy")
        ]
        alone = replace(DATA, y_test={"kind": KIND})
        assert metrics_for(NET, alone) == ["accuracy", "loss", "kind_accuracy"]
        assert list(evaluate(content(), alone)) == metrics_for(NET, alone)

    @pytest.mark.parametrize(
        ("metrics", "message"),
        [
            (["kin_accuracy"], "Did you mean 'kind_accuracy'"),
            (["kind_loss", "kind_loss"], "twice"),
            (["boxes_accuracy"], "integer labels .*boxes"),
            (["accuracy"], "integer labels .*boxes"),
            (["kind_mean_squared_error"], "labels of the shape of the outputs"),
            ("loss", "a list of metrics"),
        ],
    )
    def test_refuses(self, metrics: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            evaluate(content(), DATA, metrics=metrics)

    def test_smooth_l1_by_hand(self) -> None:
        outputs, labels = np.array([[0.5, 3.0]]), np.array([[0.0, 0.0]])
        assert smooth_l1(outputs, labels) == (0.125 + 2.5) / 2
        assert smooth_l1(outputs[:, :1] + 0.5, labels[:, :1]) == 0.5  # where both meet

    def test_of_a_head_without_labels(self) -> None:
        alone = replace(DATA, y_test={"kind": KIND})
        with pytest.raises(DataError, match="labels for the output 'boxes'"):
            evaluate(content(), alone, metrics=["boxes_mean_squared_error"])

    def test_a_function_gets_all_outputs_and_labels(self) -> None:
        found = evaluate(content(), DATA, metrics=["test_ends:right_and_near"])
        expected = right_and_near(outputs(), DATA.y_test)
        assert found == {"right_and_near": expected}


def right_and_near(outputs: Any, labels: Any) -> float:
    """A metric of the user's own: samples of the right class whose box is near."""
    near = np.abs(outputs["boxes"] - labels["boxes"]).max(axis=1) < 2.0
    return float(np.mean(near & (outputs["kind"].argmax(1) == labels["kind"])))


class TestDoors:
    def test_search_and_export(self, tmp_path: Path) -> None:
        result = search(NET, "mpic", DATA, max_evaluations=20, progress=False)
        assert [one.name for one in result.objectives] == ["loss", "latency_ms"]
        best = min(result.front, key=lambda one: one.metrics["loss"])
        exported = export(NET, best, tmp_path / "a.tflite", data=DATA)
        assert evaluate(exported, DATA) == best.metrics
        text = str(result)
        assert "kind accuracy" in text
        assert "unknown" not in text
        assert "loss" in text.partition("---")[0].splitlines()[-2]  # its column
        again = SearchResult.from_json(result.to_json())
        assert again.heads == ("boxes", "kind") == result.heads
        row = next(csv.DictReader(io.StringIO(to_csv(again))))
        share = float(row["kind_accuracy"])
        bounds = wilson_interval(share, 32)
        assert (float(row["kind_accuracy_low"]), float(row["kind_accuracy_high"])) == (
            pytest.approx(bounds)
        )

    def test_points_are_those_of_a_head(self) -> None:
        def ask(metric: str) -> SearchResult:
            return search(
                NET,
                "mpic",
                DATA,
                metrics=[metric],
                want="smallest within 90",
                max_evaluations=8,
                min={"kind_accuracy": "1%"} if "kind" in metric else {},
                progress=False,
            )

        assert len(ask("kind_accuracy").front) == 1
        with pytest.raises(SearchError, match=r"Expected an accuracy .*'boxes_mean"):
            ask("boxes_mean_absolute_error")

    def test_measurements(self) -> None:
        found = measure(NET, DATA, num_policies=20, progress=False).measurements
        assert found is not None
        assert {"loss", "kind_accuracy", "divergence"} <= set(found.metrics)

    def test_commands(self, tmp_path: Path, capsys: Any) -> None:
        arrays = {f"x_test/{name}": one for name, one in SAMPLES.items()}
        arrays |= {"y_test/kind": KIND, "y_test/boxes": BOXES}
        np.savez(tmp_path / "data.npz", **arrays)
        data = str(tmp_path / "data.npz")
        artifact, file = tmp_path / "net.matar", tmp_path / "w4a4.tflite"
        write_artifact(NET, artifact)
        given = {"artifact": str(artifact), "data": data}
        run = {**given, "targets": "mpic", "max_evaluations": 8, "compare": "none"}
        assert call("search", output=str(tmp_path / "run"), **run) == 0
        assert (tmp_path / "run/report.html").is_file()
        export_flags = {**given, "policies": "w4a4", "verify": True}
        assert call("export", output=str(file), **export_flags) == 0
        capsys.readouterr()
        assert call("evaluate", model=str(file), data=data) == 0
        assert "kind_accuracy" in capsys.readouterr().out
