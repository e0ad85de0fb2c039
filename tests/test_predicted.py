"""Searches without data: everything is predicted, and says so."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits, measured_digits
from fixtures.programs import call, fails

import matar_tf
from matar_tf.artifact import Artifact, write_artifact
from matar_tf.errors import ArtifactError, DataError, SearchError
from matar_tf.evolution import hypervolume, thinned
from matar_tf.figures import PREDICTED
from matar_tf.predictor import Predictor
from matar_tf.reporting import front_svg, to_csv, to_json, to_markdown
from matar_tf.results import SearchResult
from matar_tf.tflite.metadata import read_metadata

TARGET = "bitfusion_16x32"
FIX = ["weights:stem=8", "activations:*=8"]


@pytest.fixture(scope="module")
def net() -> Artifact:
    return measured_digits()


@pytest.fixture(scope="module")
def result(net: Artifact) -> SearchResult:
    return matar_tf.search(net, TARGET, max_evaluations=120, progress=False)


def points(found: SearchResult) -> list[tuple[float, float]]:
    return [(one.costs["latency_ms"], -one.metrics["accuracy"]) for one in found.front]


class TestSearch:
    def test_metrics_are_those_of_the_predictor(
        self, net: Artifact, result: SearchResult
    ) -> None:
        assert net.measurements is not None
        for name in ("accuracy", "loss"):
            predictor = Predictor(net.measurements, name)
            for one in (*result.front, *result.references):
                expected = [float(x[0]) for x in predictor.with_bounds([one.policy])]
                found = [one.metrics[f"{name}{end}"] for end in ("", "_low", "_high")]
                assert found == pytest.approx(expected)
                assert found[1] <= found[0] <= found[2]
        assert {one.name for one in result.references} >= {"w8a8", "w2a2"}
        assert result.provenance.num_samples == 0
        assert "60 policies measured" in result.provenance.versions[PREDICTED]

    def test_a_small_space_is_enumerated(self, net: Artifact) -> None:
        """Against all its policies, priced and predicted one by one."""
        found = matar_tf.search(net, TARGET, fix=FIX, progress=False)
        assert found.stop_reason.value == "enumerated"
        costs = matar_tf.cost(
            net, {one.name: one.policy for one in found.front}, TARGET
        )
        for one in found.front:
            figures = costs.entry(one.name, TARGET).figures
            assert figures["latency_ms"] == one.costs["latency_ms"]

    def test_is_as_good_as_one_of_many_more(
        self, net: Artifact, result: SearchResult
    ) -> None:
        long = matar_tf.search(
            net, TARGET, max_evaluations=1000, patience=None, progress=False
        )
        reference = (1.05 * max(x for x, _ in points(long)), 0.0)
        share = hypervolume(points(result), reference)
        assert share > 0.999 * hypervolume(points(long), reference)

    def test_equal_seeds_give_equal_fronts(
        self, net: Artifact, result: SearchResult
    ) -> None:
        again = matar_tf.search(net, TARGET, max_evaluations=120, progress=False)
        assert points(again) == points(result)

    def test_bounds_are_on_what_is_predicted(self, net: Artifact) -> None:
        bounded = matar_tf.search(
            net,
            TARGET,
            max_evaluations=60,
            min={"accuracy": 0.9},
            objectives=["accuracy", "weight_bytes"],
            progress=False,
        )
        assert min(one.metrics["accuracy"] for one in bounded.front) >= 0.9

    def test_a_front_is_no_longer_than_a_population(self, net: Artifact) -> None:
        found = matar_tf.search(
            net, TARGET, max_evaluations=120, population_size=8, progress=False
        )
        assert len(found.front) == 8
        assert [one.name for one in found.front] == [f"policy_0{i}" for i in range(8)]


class TestThinned:
    def test_keeps_the_ends_and_what_is_widest(self, result: SearchResult) -> None:
        few = thinned(result, 5)
        assert len(few.front) == 5
        policies = [one.policy for one in result.front]
        places = [policies.index(one.policy) for one in few.front]
        assert places == sorted(places)
        assert (places[0], places[-1]) == (0, len(policies) - 1)
        reference = (1.1 * max(x for x, _ in points(result)), 0.0)
        # By hand: the best of some random choices is no better than by a percent.
        rng = np.random.default_rng(0)
        inner = [*range(1, len(policies) - 1)]
        best = max(
            hypervolume(
                [points(result)[i] for i in (0, *rng.choice(inner, 3), len(inner) + 1)],
                reference,
            )
            for _ in range(300)
        )
        assert hypervolume(points(few), reference) > 0.99 * best

    def test_a_short_one_stays(self, result: SearchResult) -> None:
        assert thinned(result, len(result.front)) is result


class TestTables:
    def test_text_and_markdown_say_it(self, result: SearchResult) -> None:
        for text in (repr(result), to_markdown(result)):
            assert "predicted accuracy" in text
            flat = " ".join(text.split())
            assert "predicted, with their 95 % intervals, from 60 policies" in flat
            assert "Wilson" not in text
            assert "accuracy_low" not in text
        one = result.front[0].metrics
        cell = "{:.2f} ({:.2f}..{:.2f})".format(
            *(100 * one[f"accuracy{end}"] for end in ("", "_low", "_high"))
        )
        assert cell in repr(result)

    def test_csv_has_the_bounds(self, result: SearchResult) -> None:
        rows = [*csv.DictReader(io.StringIO(to_csv(result)))]
        for row, one in zip(rows, result.front, strict=False):
            for name in ("accuracy", "accuracy_low", "accuracy_high", "loss_low"):
                assert float(row[name]) == pytest.approx(one.metrics[name])
            assert row["num_samples"] == "0"
            assert row["predicted"] == "yes"

    def test_a_candidate_says_it(self, result: SearchResult) -> None:
        text = repr(result.front[0])
        assert "predicted accuracy 0." in text
        assert "accuracy_low" not in text

    def test_json_names_the_kind(self, result: SearchResult) -> None:
        document = to_json(result)
        kinds = {one["name"]: one["kind"] for one in document["columns"]}
        assert (kinds["accuracy"], kinds["loss"]) == ("predicted", "predicted")
        assert kinds["latency_ms"] == "modelled"
        figures = document["rows"][0]["figures"]
        assert figures["accuracy_low"] <= figures["accuracy"]

    def test_plots_have_bars(self, result: SearchResult) -> None:
        svg = front_svg(result)
        assert "predicted accuracy" in svg
        assert 'id="bars"' in svg


class TestRun:
    def test_writes_what_other_runs_write(
        self, tmp_path: Path, net: Artifact, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_artifact(net, tmp_path / "net.matar")
        values = {
            "artifact": str(tmp_path / "net.matar"),
            "targets": [TARGET, "mpic"],
            "output": str(tmp_path / "run"),
            "max_evaluations": 60,
            "population_size": 8,
        }
        assert call("search", **values) == 0
        out = capsys.readouterr().out
        assert "No data: accuracy is predicted from 60 policies" in out
        assert "All targets: predicted 120." in out
        run = tmp_path / "run"
        assert not [*run.glob("*.sqlite*")]
        front = json.loads((run / "mpic/front.json").read_text())
        assert len(front["rows"]) >= 8
        files = sorted((run / "mpic").glob("*.tflite"))
        assert len(files) == 8
        metadata = read_metadata(files[0].read_bytes())
        assert metadata["predicted"] is True
        assert "predicted: True" in repr(matar_tf.inspect(files[0]))
        assert metadata["num_samples"] == 0
        assert "predicted accuracy" in (run / "report.html").read_text()
        record = json.loads((run / "run.json").read_text())
        assert record["data"] == "measurements of the artifact"
        before = (run / "mpic/front.csv").read_text()
        assert call("search", **values, resume=True) == 0
        assert (run / "mpic/front.csv").read_text() == before
        assert call("report", str(run)) == 0
        assert "predicted accuracy" in capsys.readouterr().out
        line = fails(capsys, "search", **values, resume=True, seed=1)
        assert "same seed" in line

    def test_other_measurements_are_another_run(
        self, tmp_path: Path, net: Artifact
    ) -> None:
        options = {"max_evaluations": 12, "population_size": 4, "progress": False}
        matar_tf.retarget(net, TARGET, None, tmp_path / "run", **options)
        other = matar_tf.measure(
            digits_artifact(), few_digits(), num_policies=20, progress=False
        )
        with pytest.raises(SearchError, match="same data_digest"):
            matar_tf.retarget(
                other, TARGET, None, tmp_path / "run", resume=True, **options
            )


class TestRefusals:
    def test_an_artifact_without_measurements(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(DataError, match=r"'digits_net' holds no .* by data=..."):
            matar_tf.search(digits_artifact(), TARGET, progress=False)
        write_artifact(digits_artifact(), tmp_path / "net.matar")
        values = {
            "artifact": str(tmp_path / "net.matar"),
            "targets": [TARGET],
            "output": str(tmp_path / "run"),
        }
        line = fails(capsys, "search", **values)
        assert "Expected samples to measure on, got none, and 'net' holds no" in line
        assert line.endswith("give some by --data=...")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ({"holdout": 0.5}, "a holdout"),
            ({"store": "x.sqlite"}, "a store"),
            ({"executor": "ray"}, "the executor"),
            ({"start": ["w8a16"]}, "16-bit activations"),
        ],
    )
    def test_what_needs_samples(
        self, net: Artifact, options: dict[str, object], what: str
    ) -> None:
        with pytest.raises(SearchError, match=f"Expected samples beside {what}"):
            matar_tf.search(net, TARGET, progress=False, **options)

    def test_metrics_that_nobody_measured(self, net: Artifact) -> None:
        with pytest.raises(ArtifactError, match="got 'top_2_accuracy'"):
            matar_tf.search(net, TARGET, metrics=["top_2_accuracy"], progress=False)

    @pytest.mark.parametrize(
        ("values", "flag"),
        [({"num_samples": 5}, "--num_samples"), ({"compare": "keras"}, "--compare")],
    )
    def test_flags_of_samples(
        self,
        tmp_path: Path,
        net: Artifact,
        capsys: pytest.CaptureFixture[str],
        values: dict[str, object],
        flag: str,
    ) -> None:
        write_artifact(net, tmp_path / "net.matar")
        values |= {
            "artifact": str(tmp_path / "net.matar"),
            "targets": [TARGET],
            "output": str(tmp_path / "run"),
        }
        assert f"Expected --data beside {flag}" in fails(capsys, "search", **values)
