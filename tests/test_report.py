from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from matar_tf.errors import SearchError
from matar_tf.figures import FIGURES, figure_of, is_taken, wilson_interval
from matar_tf.policy import Policy
from matar_tf.reporting import to_csv, to_json, to_markdown, to_text
from matar_tf.results import Candidate, Objective, Provenance, SearchResult, StopReason
from matar_tf.tflite.metrics import CLASS_METRICS, METRIC_NAMES, VALUE_METRICS

POLICY = Policy(weights={"conv": 4}, activations={"input": 8, "relu": 2})


@pytest.fixture
def result() -> SearchResult:
    front = Candidate(
        name="policy_00",
        policy=POLICY,
        metrics={"accuracy": 0.9, "f1": 0.25},
        costs={"latency_ms": 1.5, "energy_pj": None, "weight_bytes": 2048.0},
    )
    reference = Candidate(
        name="w8a8",
        policy=Policy(weights={"conv": 8}, activations={"input": 8, "relu": 8}),
        metrics={"accuracy": 1.0, "f1": 0.5},
        costs={"latency_ms": 3.0, "energy_pj": 2e6, "weight_bytes": 4096.0},
    )
    return SearchResult(
        target="npu",
        objectives=(
            Objective(name="accuracy", maximize=True),
            Objective(name="latency_ms"),
        ),
        front=(front,),
        references=(reference,),
        num_evaluated=3,
        num_reused=1,
        stop_reason=StopReason.MAX_EVALUATIONS,
        history=(),
        provenance=Provenance(
            seed=5,
            command="search",
            versions={},
            artifact_digest="a",
            data_digest="d",
            num_samples=100,
            created="2026-11-23T00:00:00+00:00",
        ),
    )


class TestWilson:
    def test_one_half(self) -> None:
        # z = 1.96: 1.96 / (1 + 0.038416) * sqrt(0.0025 + 0.00009604) = 0.09617
        low, high = wilson_interval(0.5, 100)
        assert low == pytest.approx(0.5 - 0.09617, abs=2e-5)
        assert high == pytest.approx(0.5 + 0.09617, abs=2e-5)

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_both_ends_have_a_width(self, share: float) -> None:
        square = 1.959964**2 / 100
        low, high = wilson_interval(share, 100)
        assert high - low == pytest.approx(square / (1 + square), rel=1e-5)
        assert share in (low, high)

    def test_shrinks_with_the_root_of_the_samples(self) -> None:
        (low, high), (lower, higher) = (wilson_interval(0.5, n) for n in (10_000, 100))
        assert math.isclose((higher - lower) / (high - low), 10.0, rel_tol=0.02)

    @pytest.mark.parametrize(
        ("num_right", "num_samples"),
        [(0, 1), (1, 1), (50, 50), (0, 50), (498, 500), (1, 7), (6, 7), (77, 10_000)],
    )
    def test_bounds_are_those_of_scipy(self, num_right: int, num_samples: int) -> None:
        test = stats.binomtest(num_right, num_samples)
        expected = test.proportion_ci(0.95, method="wilson")
        found = wilson_interval(num_right / num_samples, num_samples)
        assert found == pytest.approx((expected.low, expected.high), abs=1e-12)

    @pytest.mark.parametrize(("share", "num_samples"), [(0.5, 0), (1.1, 9), (-0.1, 9)])
    def test_what_is_no_share_is_refused(self, share: float, num_samples: int) -> None:
        with pytest.raises(SearchError, match="print it without an interval"):
            wilson_interval(share, num_samples)

    @pytest.mark.parametrize(
        ("share", "num_samples", "shown"),
        [(1.0, 50, "100.00 (92.87..100.00)"), (0.996, 500, "99.60 (98.55..99.89)")],
    )
    def test_tables_show_the_bounds(
        self, result: SearchResult, share: float, num_samples: int, shown: str
    ) -> None:
        provenance = replace(result.provenance, num_samples=num_samples)
        metrics = {"accuracy": share, "top_5_accuracy": share}
        one = replace(_with_front(result, metrics=metrics), provenance=provenance)
        assert to_markdown(one).count(f"| {shown} ") == 2
        assert to_text(one).count(f"  {shown}") == 2
        assert "top-5 [%]" in to_markdown(one)


class TestJson:
    def test_keeps_plain_numbers_and_null(self, result: SearchResult) -> None:
        document = to_json(result, {"accuracy": 0.95, "loss": 0.2})
        front, floats, reference = document["rows"]
        assert front["figures"]["latency_ms"] == 1.5
        assert front["figures"]["energy_pj"] is None
        assert front["policy"] == POLICY.to_json()
        assert floats["name"] == "float"
        assert floats["figures"]["accuracy"] == 0.95
        assert floats["figures"]["latency_ms"] is None
        assert floats["policy"] is None
        assert reference["role"] == "reference"
        assert document["num_samples"] == 100

    def test_unknown_figures_are_shown(self, result: SearchResult) -> None:
        names = [column["name"] for column in to_json(result)["columns"]]
        assert names == ["accuracy", "latency_ms", "energy_pj", "weight_bytes", "f1"]

    def test_the_source_of_an_unknown_cost_is_unknown(
        self, result: SearchResult
    ) -> None:
        assert to_json(result)["columns"][-1] == {"name": "f1", "kind": "measured"}
        front = [replace(one, costs={**one.costs, "x": 1.0}) for one in result.front]
        found = to_json(replace(result, front=tuple(front)))["columns"]
        assert {"name": "x", "kind": "unknown"} in found

    def test_a_metric_wins_over_a_cost_of_its_name(self, result: SearchResult) -> None:
        both = _with_front(
            result,
            metrics={"accuracy": 1.0, "latency_ms": 2.0},
            costs={"latency_ms": None},
        )
        assert to_json(both)["rows"][0]["figures"]["latency_ms"] == 2.0

    def test_survives_a_file(self, result: SearchResult) -> None:
        document = to_json(result, {"accuracy": 0.95})
        assert json.loads(json.dumps(document)) == document


class TestCsv:
    def test_parses_back(self, result: SearchResult) -> None:
        rows = list(csv.DictReader(io.StringIO(to_csv(result))))
        assert [row["name"] for row in rows] == ["policy_00", "w8a8"]
        assert float(rows[0]["weight_bytes"]) == 2048.0
        assert rows[0]["energy_pj"] == ""
        assert float(rows[1]["energy_pj"]) == 2e6

    def test_bounds_stand_beside_a_share(self, result: SearchResult) -> None:
        front, floats, reference = csv.DictReader(
            io.StringIO(to_csv(result, {"accuracy": 0.95}))
        )
        assert list(front)[:6] == [
            *("name", "role", "num_samples"),
            *("accuracy", "accuracy_low", "accuracy_high"),
        ]
        assert front["num_samples"] == "100"
        assert float(front["accuracy_low"]) == pytest.approx(0.82563, abs=1e-5)
        assert float(front["accuracy_high"]) == pytest.approx(0.94477, abs=1e-5)
        assert float(reference["accuracy_high"]) == 1.0
        # How many samples the float network saw is not on record.
        assert floats["num_samples"] == floats["accuracy_low"] == ""
        assert not {"f1_low", "latency_ms_low"} & set(front)


class TestMarkdown:
    def test_prints_units_intervals_and_dashes(self, result: SearchResult) -> None:
        text = to_markdown(result)
        assert "| policy | accuracy [%] | latency [ms] | energy [µJ] |" in text
        # 0.9 on 100 samples: centre (0.9 + 0.0192) / 1.0384, half width 5.96 points.
        assert "| policy_00 | 90.00 (82.56..94.48) | 1.5 | - | 2.0 | 0.25 |" in text
        assert "| w8a8 | 100.00 (96.30..100.00) | 3 | 2 | 4.0 | 0.5 |" in text

    def test_lists_the_bits(self, result: SearchResult) -> None:
        text = to_markdown(result)
        assert "| policy | W conv | A input | A relu |" in text
        assert "| policy_00 | 4 | 8 | 2 |" in text

    def test_says_where_figures_come_from(self, result: SearchResult) -> None:
        text = to_markdown(result)
        assert "measured: accuracy" in text
        assert "modelled: latency, energy" in text
        assert "stored bytes: weights" in text
        assert "evaluated 3, reused 1; stopped: max_evaluations; seed 5" in text

    def test_counts_the_policies(self, result: SearchResult) -> None:
        assert "1 policy; evaluated" in to_markdown(result)
        other = replace(result.references[0], name="policy_01")
        two = replace(result, front=(*result.front, other))
        assert "2 policies; evaluated" in to_markdown(two)

    def test_many_entries_become_lines(self, result: SearchResult) -> None:
        policy = Policy(weights={f"c{i}": 4 for i in range(30)}, activations={})
        wide = _with_front(result, policy=policy)
        assert "- policy_00: W c0:4, W c1:4" in to_markdown(wide)

    def test_bits_follow_their_names(self, result: SearchResult) -> None:
        first = result.front[0]
        turned = replace(
            first,
            name="policy_01",
            policy=Policy(weights={}, activations={"relu": 2, "input": 8}),
        )
        text = to_markdown(replace(result, front=(first, turned)))
        assert "| policy_01 | - | 8 | 2 |" in text

    def test_an_empty_front_has_no_bits(self, result: SearchResult) -> None:
        text = to_markdown(replace(result, front=()))
        assert "| w8a8 | 100.00 (96.30..100.00) | 3 | 2 | 4.0 | 0.5 |" in text
        assert "Bits per layer" not in text

    def test_pipes_are_escaped(self, result: SearchResult) -> None:
        text = to_markdown(_with_front(result, metrics={"a|b": 1.0}))
        assert r" | a\|b |" in text

    def test_without_samples_there_is_no_interval(self, result: SearchResult) -> None:
        none = replace(result, provenance=replace(result.provenance, num_samples=0))
        assert "| policy_00 | 90.00 | 1.5 | - | 2.0 | 0.25 |" in to_markdown(none)

    def test_float_has_no_interval(self, result: SearchResult) -> None:
        text = to_markdown(result, {"accuracy": 0.95})
        assert "| float | 95.00 | - | - | - | - |" in text
        assert "interval; float as packaged, without one." in text
        assert "as packaged" not in to_markdown(result)


class TestSources:
    @pytest.mark.parametrize(
        ("tool", "kind", "names"),
        [
            ("ethos-u-vela", "compiler estimate", {"latency_ms", "weight_bytes"}),
            ("latency table", "latency table", {"latency_ms"}),
            ("numpy", "modelled", {"latency_ms", "energy_pj"}),
            (
                "not validated",
                "modelled, not validated",
                {"latency_ms", "energy_pj"},
            ),
        ],
    )
    def test_what_priced_a_result_marks_its_columns(
        self, result: SearchResult, tool: str, kind: str, names: set[str]
    ) -> None:
        costs = {"latency_ms": 1.0, "energy_pj": 2.0, "weight_bytes": 3.0}
        provenance = replace(result.provenance, versions={tool: "1"})
        priced = replace(_with_front(result, costs=costs), provenance=provenance)
        columns = to_json(priced)["columns"]
        assert {one["name"] for one in columns if one["kind"] == kind} == names
        if tool != "numpy":
            assert f"{kind}: latency" in to_markdown(priced)

    def test_rounded_scales_are_a_sentence_of_every_form(
        self, result: SearchResult
    ) -> None:
        sentence = "Accuracies are those of free scales."
        provenance = replace(result.provenance, versions={"scales": sentence})
        scaled = replace(result, provenance=provenance)
        assert sentence in to_markdown(scaled)
        assert sentence in to_text(scaled)
        assert sentence not in to_text(result)


class TestText:
    def test_known_figures_fit_a_terminal(self, result: SearchResult) -> None:
        costs = {one.name: 99.0 for one in FIGURES if one.kind != "measured"}
        others = {*VALUE_METRICS, *CLASS_METRICS} - {*METRIC_NAMES}  # of other tasks
        measured = [one.name for one in FIGURES if one.kind == "measured"]
        metrics = {name: 1.0 for name in measured if name not in others}
        text = to_text(_with_front(result, metrics=metrics, costs=costs))
        assert max(map(len, text.splitlines())) <= 120

    def test_the_lowest_agreement_is_a_sentence(self, result: SearchResult) -> None:
        sentence = "Agreement with the Keras network: 99.50 % or more."
        first, second = (
            replace(result.front[0], name=name, metrics={"argmax_agreement": share})
            for name, share in (("policy_00", 1.0), ("policy_01", 0.995))
        )
        text = to_text(replace(result, front=(first, second)))
        assert sentence in text.splitlines()
        assert "agreement  " not in text
        equal = to_text(replace(result, front=(first, replace(first, name="second"))))
        assert "Agreement with the Keras network: 100.00 %." in equal.splitlines()
        assert "Agreement" not in to_text(result)

    def test_the_share_of_layers_in_float_is_a_sentence(
        self, result: SearchResult
    ) -> None:
        first, second = (
            replace(result.front[0], name=name, costs={"float_share": share})
            for name, share in (("policy_00", 0.5), ("policy_01", 0.625))
        )
        text = to_text(replace(result, front=(first, second)))
        sentence = "Layers that stay in float take 50.0 to 62.5 % of the cycles."
        assert sentence in text.splitlines()
        alone = to_text(replace(result, front=(first,)))
        assert "Layers that stay in float take 50.0 % of the cycles." in alone
        assert "in float" not in to_text(result)
        assert "float_share" in to_csv(replace(result, front=(first,)))

    def test_columns_are_aligned(self, result: SearchResult) -> None:
        lines = to_text(result, {"accuracy": 0.95}).splitlines()
        start = next(i for i, line in enumerate(lines) if "accuracy  " in line)
        rows = [line for line in lines[start:] if line and not line.startswith("--")]
        ends = {line.index(")") for line in rows if "(" in line}
        assert len(ends) == 1
        assert [row.split()[0] for row in rows[2:]] == ["policy_00", "float", "w8a8"]


class TestColumns:
    @pytest.mark.parametrize(
        ("name", "value", "title", "text"),
        [
            ("accuracy", 0.5, "accuracy [%]", "50.00"),
            ("search_accuracy", 0.5, "searched [%]", "50.00"),
            ("top_5_accuracy", 0.5, "top-5 [%]", "50.00"),
            ("loss", 0.5, "loss", "0.5"),
            ("argmax_agreement", 0.5, "agreement [%]", "50.00"),
            ("mean_weight_bits", 4.5, "W bits", "4.50"),
            ("mean_activation_bits", 4.5, "A bits", "4.50"),
            ("macs", 12_345_678, "MACs [1e6]", "12.346"),
            ("bops", 2_345_678_900, "BOPs [1e6]", "2,345.7"),
            ("cycles", 12_345.4, "cycles", "12,345"),
            ("latency_ms", 1.23456, "latency [ms]", "1.235"),
            ("measured_latency_ms", 1.23456, "on host [ms]", "1.235"),
            ("measured_spread_ms", 1.23456, "host spread [ms]", "1.235"),
            ("energy_pj", 1_234_567.0, "energy [µJ]", "1.235"),
            ("weight_bytes", 2_560, "weights [KiB]", "2.5"),
            ("file_bytes", 2_560, "file [KiB]", "2.5"),
            ("peak_activation_bytes", 2_560, "peak activations [KiB]", "2.50"),
            ("f1", 0.5, "f1", "0.5"),
        ],
    )
    def test_each_is_printed_in_its_unit(
        self, name: str, value: float, title: str, text: str
    ) -> None:
        column = figure_of(name)
        assert (column.title, column.text(value)) == (title, text)

    @pytest.mark.parametrize(
        ("name", "value", "num_samples", "known"),
        [
            ("accuracy", 0.0, 1, True),
            ("top_5_accuracy", 1.0, 1, True),
            ("accuracy", 0.5, 0, False),
            ("accuracy", 1.5, 9, False),
            ("accuracy", -0.5, 9, False),
            ("f1", 0.5, 9, False),
        ],
    )
    def test_only_shares_of_samples_have_an_interval(
        self, name: str, value: float, num_samples: int, known: bool
    ) -> None:
        found = figure_of(name).interval(value, num_samples)
        assert found == (wilson_interval(value, num_samples) if known else None)

    @pytest.mark.parametrize(
        ("name", "taken"),
        [
            ("accuracy", False),
            ("loss", False),
            ("top_5_accuracy", False),
            ("f1", False),
            ("f1_low", False),
            ("latency_ms", True),
            ("argmax_agreement", True),
            ("num_samples", True),
            ("accuracy_low", True),
            ("top_5_accuracy_high", True),
        ],
    )
    def test_a_metric_may_not_stand_in_the_column_of_another_figure(
        self, name: str, taken: bool
    ) -> None:
        assert is_taken(name) == taken


def _with_front(result: SearchResult, **changes: Any) -> SearchResult:
    candidate = replace(result.front[0], **changes)
    return replace(result, front=(candidate,), references=())
