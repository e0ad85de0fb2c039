"""The door in Python: what a notebook types, without a folder, TensorFlow or a plan."""

from __future__ import annotations

import copy
import inspect
import pickle
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.paths import ROOT

import matar_tf as mt
from matar_tf.data import Data
from matar_tf.errors import MatarWarning
from matar_tf.results import Candidate, SearchResult
from matar_tf.tflite.metadata import read_metadata

ARTIFACT = ROOT / "recipes/artifacts/cifar10_resnet8.matar"
OPTIONS: dict[str, Any] = {"max_evaluations": 8, "progress": False}


def samples(number: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.random((number, 32, 32, 3), dtype=np.float32)
    return x, rng.integers(0, 10, number)


@pytest.fixture(scope="module")
def net() -> Any:
    return mt.load_artifact(ARTIFACT)


@pytest.fixture(scope="module")
def result(net: Any) -> Any:
    return mt.search(net, "mpic", samples(), **OPTIONS)


class TestLoadArtifact:
    def test_shows_name_size_widths_and_accuracy(self, net: Any) -> None:
        text = repr(net)
        kernels = sum(one.kernel.size for one in net.parameters.layers.values())
        biases = sum(one.kernel.shape[one.channel_axis] for one in _layers(net))
        assert text.startswith("cifar10_resnet8: ")
        constants = 4 * 2 * biases  # a scale beside each
        assert f"{kernels + constants:,} bytes of weights at 8 bits" in text
        assert "10 weights in 2/3/4/5/6/7/8 bits" in text
        for name, row in net.accuracy.items():
            assert f"  {name:8s} " in text
            assert f"accuracy {row['accuracy']:.4f}" in text


def _layers(net: Any) -> Any:
    return net.parameters.layers.values()


class TestSearch:
    def test_needs_no_folder(
        self, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        found = mt.search(net, "mpic", samples(), **OPTIONS)
        assert found.num_evaluated == 8
        assert not any(tmp_path.iterdir())

    def test_finds_what_a_run_with_a_folder_finds(
        self, net: Any, result: Any, tmp_path: Path
    ) -> None:
        run = mt.retarget(net, "mpic", samples(), tmp_path / "run", **OPTIONS)
        assert run.results[0].front == result.front
        assert run.results[0].references == result.references

    @pytest.mark.parametrize("form", ["column", "mapping", "file", "data", "bytes"])
    def test_takes_data_in_every_form(
        self, net: Any, result: Any, tmp_path: Path, form: str
    ) -> None:
        x, y = samples()
        data: Any = {
            "column": (x, y[:, None]),
            "mapping": {"x_test": x, "y_test": y},
            "file": str(tmp_path / "data.npz"),
            "data": Data(name="mine", x_test=x, y_test=y),
            "bytes": (np.round(255 * x).astype(np.uint8), y.astype(np.uint8)),
        }[form]
        np.savez(tmp_path / "data.npz", x_test=x, y_test=y)
        if form == "bytes":
            with pytest.warns(
                MatarWarning, match=r"divided by 255, to the range 0\.\.1"
            ):
                found = mt.search(net, "mpic", data, **OPTIONS)
            assert found.provenance.data_digest != result.provenance.data_digest
            return
        found = mt.search(net, "mpic", data, **OPTIONS)
        assert found.front == result.front
        assert found.provenance.data_digest == result.provenance.data_digest

    def test_a_limit_is_kept_in_either_spelling(self, net: Any) -> None:
        for bound in ({"weight_bytes": "60KiB"}, ["weight_bytes=61440"]):
            found = mt.search(net, "mpic", samples(), max=bound, **OPTIONS)
            assert max(one.costs["weight_bytes"] for one in found.front) <= 61440
        assert any(
            one.costs["weight_bytes"] > 61440
            for one in mt.search(net, "mpic", samples(), **OPTIONS).references
        )

    def test_holds_samples_out_without_a_store(self, net: Any) -> None:
        found = mt.search(net, "mpic", samples(60), holdout=0.5, **OPTIONS)
        assert found.provenance.num_samples == 30
        assert "search_accuracy" in found.front[0].metrics

    def test_is_a_table_in_text_in_html_and_as_a_plot(
        self, result: Any, tmp_path: Path
    ) -> None:
        assert isinstance(result, SearchResult)
        text = repr(result)
        parser = _Cells()
        parser.feed(result._repr_html_())
        for one in result.front:
            assert one.name in text
            assert one.name in parser.cells
            shown = f"{100 * one.metrics['accuracy']:.2f} ("
            assert shown in text
            assert any(cell.startswith(shown) for cell in parser.cells)
        assert "float" in parser.cells
        plot = result.plot()
        assert plot._repr_svg_().lstrip().startswith("<?xml")
        plot.save(tmp_path / "front.svg")
        assert (tmp_path / "front.svg").read_text() == plot.svg
        for kind in (SearchResult, type(result)):
            assert kind.from_json(result.to_json()).front == result.front

    def test_html_escapes_what_others_wrote(self, net: Any, tmp_path: Path) -> None:
        target = mt.load_target("mpic").model_copy(update={"name": "<b>mine</b>"})
        page = mt.search(net, target, samples(), **OPTIONS)._repr_html_()
        assert "<b>" not in page
        assert "&lt;b&gt;mine" in page

    def test_options_stand_in_the_signature_and_a_misspelt_one_is_refused(
        self, net: Any
    ) -> None:
        for function in (mt.search, mt.retarget):
            parameters = inspect.signature(function).parameters
            assert parameters["max_evaluations"].default == 400
            assert "options" not in parameters
            with pytest.raises(mt.MatarError, match="Did you mean 'max_evaluations'"):
                function(net, "mpic", samples(), "out", max_evaluation=3) if (
                    function is mt.retarget
                ) else function(net, "mpic", samples(), max_evaluation=3)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"objectives": "accuracy"}, r"a list for objectives, .*=\['accuracy'\]"),
            ({"max": {"weight_bytes": "40KB"}}, "Unknown unit 'KB'"),
            ({"max": {"weight_byte": 4}}, "Did you mean 'weight_bytes'"),
            ({"fix": ["weights:stm*=8"]}, "Did you mean 'stem'"),
            ({"holdout": 1.0}, "holdout of at least 0 and below 1, got 1.0"),
            ({"profile": "int9"}, "int9"),
            ({"start": ["w4a4"]}, "uniform policies need none"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_sentence(
        self, net: Any, changes: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(mt.MatarError, match=sentence):
            mt.search(net, "mpic", samples(), **{**OPTIONS, **changes})

    def test_samples_without_labels_are_refused_by_others(self, net: Any) -> None:
        with pytest.raises(mt.MatarError, match=r"ndarray of shape \(24, .*add the"):
            mt.measure(net, samples()[0], progress=False)

    def test_starts_by_name(self, net: Any) -> None:
        mine = net.space.policy("w4a4", weights={"stack3*": 3})
        found = mt.search(net, "mpic", samples(), start={"mine": "w8a8"}, **OPTIONS)
        assert "mine" in {one.name for one in found.references}
        with pytest.raises(mt.MatarError, match="w3a3"):
            mt.search(net, "mpic", samples(), start={"w3a3": mine}, **OPTIONS)


class TestRetarget:
    def test_prepares_its_folder_and_speaks_of_arguments(
        self, net: Any, tmp_path: Path
    ) -> None:
        output = tmp_path / "x"
        first = mt.retarget(net, ["mpic", "t4"], samples(), output, **OPTIONS)
        assert {one.target for one in first.results} == {"mpic", "t4"}
        with pytest.raises(mt.MatarError) as caught:
            mt.retarget(net, ["mpic", "t4"], samples(), output, **OPTIONS)
        assert "resume=True" in str(caught.value)
        assert "overwrite=True" in str(caught.value)
        assert "--" not in str(caught.value)
        again = mt.retarget(
            net, ["mpic", "t4"], samples(), output, resume=True, **OPTIONS
        )
        assert [one.num_evaluated for one in again.results] == [0, 0]
        assert [one.front for one in again.results] == [
            one.front for one in first.results
        ]
        with pytest.raises(mt.MatarError, match="resume=True or overwrite=True, got"):
            mt.retarget(
                *(net, "mpic", samples(), output),
                resume=True,
                overwrite=True,
                **OPTIONS,
            )

    def test_reports_what_it_has_left(self, net: Any, tmp_path: Path) -> None:
        run = mt.retarget(net, ["t4", "mpic"], samples(), tmp_path / "x", **OPTIONS)
        report = mt.report(tmp_path / "x")
        assert [one.target for one in report.results] == ["mpic", "t4"]
        assert report["t4"].front == run.results[0].front
        assert repr(report["t4"]) in repr(report)
        assert repr(run.results[0]) == repr(report["t4"])
        assert repr(report["t4"]) in repr(run)
        with pytest.raises(mt.MatarError, match="Did you mean 'mpic'"):
            report["mpik"]
        with pytest.raises(mt.MatarError, match="found no results"):
            mt.report(tmp_path)


class TestExport:
    def test_takes_names_patterns_files_and_what_a_search_found(
        self, net: Any, result: Any, tmp_path: Path
    ) -> None:
        found: Candidate = result.front[0]
        policies = [
            "w4a8",
            found,
            found.policy,
            net.space.policy("w4a8", weights={"stem*": 8}),
        ]
        for number, policy in enumerate(policies):
            path = tmp_path / f"{number}.tflite"
            exported = mt.export(net, policy, path)
            assert exported.num_bytes == path.stat().st_size
        assert (tmp_path / "1.tflite").read_bytes() == (
            tmp_path / "2.tflite"
        ).read_bytes()
        shown = mt.inspect(tmp_path / "0.tflite")
        assert shown.metadata["policy"] == net.space.named("w4a8").to_json()
        assert str(shown.num_bytes) in repr(shown)

    def test_a_file_that_is_there_stays(self, net: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.tflite"
        path.write_bytes(b"years")
        with pytest.raises(mt.MatarError, match="overwrite=True"):
            mt.export(net, "w4a8", path)
        assert path.read_bytes() == b"years"
        mt.export(net, "w4a8", path, overwrite=True)
        assert path.read_bytes() != b"years"

    def test_names_target_and_metrics(self, net: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.tflite"
        mt.export(net, "w4a4", path, target="mpic", data=samples())
        metadata = read_metadata(path.read_bytes())
        assert metadata["target"] == "mpic"
        assert metadata["num_samples"] == 24
        assert metadata["metrics"] == mt.evaluate(path, samples())
        with pytest.raises(mt.MatarError, match="Expected a policy that mpic takes"):
            mt.export(net, "w3a3", tmp_path / "b.tflite", target="mpic")
        assert not (tmp_path / "b.tflite").exists()


class TestEvaluate:
    def test_path_and_bytes(self, net: Any, tmp_path: Path) -> None:
        x, y = samples()
        path = tmp_path / "a.tflite"
        mt.export(net, "w8a8", path)
        metrics = mt.evaluate(path, (x, y), metrics=["accuracy", "top_10_accuracy"])
        assert metrics == mt.evaluate(
            path.read_bytes(), (x, y), metrics=["accuracy", "top_10_accuracy"]
        )
        assert metrics["top_10_accuracy"] == 1.0
        with pytest.raises(mt.MatarError, match=r"labels in 0\.\.9"):
            mt.evaluate(path, (x, y + 9))
        with pytest.raises(mt.MatarError, match="there is none"):
            mt.evaluate(tmp_path / "b.tflite", (x, y))


class TestCost:
    def test_one_and_many(self, net: Any, result: Any) -> None:
        one = mt.cost(net, "w4a4", "mpic")
        figures = one.entry("w4a4", "mpic").figures
        expected = mt.estimate(net, "w4a4", "mpic")
        assert sum(one.cycles for one in expected.layers) == expected.cycles
        assert figures["cycles"] == expected.cycles
        assert f"{expected.latency_ms:.4g}" in repr(one)
        many = mt.cost(net, ["w4a4", "w3a3", *result.front], ["mpic", "t4"])
        assert many.entry("w4a4", "mpic") == one.entry("w4a4", "mpic")
        assert not many.entry("w3a3", "mpic").legal
        assert "not allowed" in many._repr_html_()
        named = mt.cost(net, {"mine": "w4a4"}, "mpic")
        assert named.policies == ("mine",)
        assert set(mt.cost(net, "w8a8").targets) == set(mt.list_targets())

    def test_two_of_one_name_are_refused(self, net: Any) -> None:
        with pytest.raises(mt.MatarError, match="'w4a4' twice"):
            mt.cost(net, ["w4a4", "w4a4"], "mpic")


class TestWrongThings:
    @pytest.mark.parametrize(
        ("call", "sentence"),
        [
            (
                lambda net: mt.search(net, ["mpic"], samples()),
                "one target.* got list",
            ),
            (
                lambda net: mt.search(net, None, samples()),
                "one target.* got None",
            ),
            (
                lambda net: mt.search(None, "mpic", samples()),
                "path for an artifact, got",
            ),
            (lambda net: mt.evaluate(net, samples()), "one .tflite file, got Artifact"),
            (lambda net: mt.inspect(ARTIFACT), "got one of another kind"),
            (lambda net: mt.export(net, ("w4a4",), "x.tflite"), "one policy: .* tuple"),
            (lambda net: mt.cost(net, "w4a4", "mpic").entry("w4a4", "t4"), "got 't4'"),
            (
                lambda net: mt.search(net, "t4", samples(), metrics="loss"),
                r"=\['loss'\]",
            ),
        ],
    )
    def test_are_named(self, net: Any, call: Any, sentence: str) -> None:
        with pytest.raises(mt.MatarError, match=sentence):
            call(net)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("max_evaluations", "12"), ("seed", "a"), ("seed", True)),
            *(("population_size", 8.5), ("max_minutes", "1"), ("holdout", "0.5")),
        ],
    )
    def test_options_of_another_kind(self, net: Any, name: str, value: Any) -> None:
        with pytest.raises(mt.MatarError, match=f"as {name}, got {value!r}"):
            mt.search(net, "mpic", samples(), **{**OPTIONS, name: value})

    def test_integers_of_numpy_are_integers(self, net: Any, result: Any) -> None:
        options = {**OPTIONS, "max_evaluations": np.int64(8), "seed": np.int32(0)}
        found = mt.search(net, "mpic", samples(), **options)
        assert found.front == result.front
        assert found.to_json()["provenance"]["seed"] == 0

    def test_a_plot_is_saved_as_what_it_is(self, result: Any, tmp_path: Path) -> None:
        with pytest.raises(mt.MatarError, match=r"ends in \.svg"):
            result.plot().save(tmp_path / "front.png")
        assert not any(tmp_path.iterdir())


class TestCopies:
    def test_what_is_returned_can_be_copied_pickled_and_hashed(
        self, net: Any, result: Any, tmp_path: Path
    ) -> None:
        run = mt.retarget(net, "t4", samples(), tmp_path / "x", **OPTIONS)
        matrix = mt.cost(net, ["w4a4", "w3a3"], "mpic")
        for one in (result, matrix, run, mt.report(tmp_path / "x"), result.front[0]):
            for copied in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
                assert copied == one
                assert repr(copied) == repr(one)
        assert hash(result) == hash(copy.deepcopy(result))

    def test_a_source_of_data_does_not_end_the_program(self, net: Any) -> None:
        with pytest.raises(mt.MatarError, match="it ends the program"):
            mt.search(net, "mpic", "sys:exit", **OPTIONS)


class TestPolicies:
    def test_patterns_change_what_they_match_and_nothing_else(self, net: Any) -> None:
        plain = net.space.policy("w4a8")
        changed = net.space.policy(
            "w4a8", weights={"stack1*": 2}, activations={"*_1_relu": 4}
        )
        for name, bits in changed.weights.items():
            assert bits == (2 if name.startswith("stack1") else plain.weights[name])
        for name, bits in changed.activations.items():
            assert bits == (4 if name.endswith("_1_relu") else plain.activations[name])
        for kind in ("weights", "activations"):
            with pytest.raises(mt.MatarError, match="a pattern that matches some, got"):
                net.space.policy("w4a8", **{kind: {"nothing*": 8}})
        with pytest.raises(mt.MatarError, match=r"Expected one of \[8\] bits"):
            net.space.policy("w4a8", weights={"logits": 4})


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []

    def handle_data(self, data: str) -> None:
        self.cells.append(data)
