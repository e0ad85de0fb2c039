from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from matar_tf.errors import SearchError
from matar_tf.policy import Policy
from matar_tf.report import to_csv, to_json, to_markdown, to_text
from matar_tf.report.columns import COLUMNS, column_of, wilson_half_width
from matar_tf.results import (
    Candidate,
    Objective,
    Provenance,
    SearchResult,
    StopReason,
)

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
        assert wilson_half_width(0.5, 100) == pytest.approx(0.09617, abs=2e-5)

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_both_ends_have_a_width(self, share: float) -> None:
        square = 1.959964**2 / 100
        expected = square / 2 / (1 + square)
        assert wilson_half_width(share, 100) == pytest.approx(expected, rel=1e-5)

    def test_shrinks_with_the_root_of_the_samples(self) -> None:
        ratio = wilson_half_width(0.5, 100) / wilson_half_width(0.5, 10_000)
        assert math.isclose(ratio, 10.0, rel_tol=0.02)

    @pytest.mark.parametrize(("share", "num_samples"), [(0.5, 0), (1.1, 9), (-0.1, 9)])
    def test_what_is_no_share_is_refused(self, share: float, num_samples: int) -> None:
        with pytest.raises(SearchError, match="print it without an interval"):
            wilson_half_width(share, num_samples)


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

    def test_the_source_of_an_unknown_figure_is_unknown(
        self, result: SearchResult
    ) -> None:
        assert to_json(result)["columns"][-1] == {"name": "f1", "kind": "unknown"}

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


class TestMarkdown:
    def test_prints_units_intervals_and_dashes(self, result: SearchResult) -> None:
        text = to_markdown(result)
        assert "| policy | accuracy [%] | latency [ms] | energy [µJ] |" in text
        # The half width of 0.9 on 100 samples is 5.96 points.
        assert "| policy_00 | 90.00 ±6.0 | 1.5 | - | 2.0 | 0.25 |" in text
        assert "| w8a8 | 100.00 ±1.8 | 3 | 2 | 4.0 | 0.5 |" in text

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
        assert "| w8a8 | 100.00 ±1.8 | 3 | 2 | 4.0 | 0.5 |" in text
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


class TestText:
    def test_known_figures_fit_a_terminal(self, result: SearchResult) -> None:
        costs = {one.name: 99.0 for one in COLUMNS if one.kind != "measured"}
        metrics = {one.name: 1.0 for one in COLUMNS if one.kind == "measured"}
        text = to_text(_with_front(result, metrics=metrics, costs=costs))
        assert max(map(len, text.splitlines())) <= 120

    def test_columns_are_aligned(self, result: SearchResult) -> None:
        lines = to_text(result, {"accuracy": 0.95}).splitlines()
        start = next(i for i, line in enumerate(lines) if "accuracy  " in line)
        rows = [line for line in lines[start:] if line and not line.startswith("--")]
        ends = {line.index("±") for line in rows if "±" in line}
        assert len(ends) == 1
        assert [row.split()[0] for row in rows[2:]] == ["policy_00", "float", "w8a8"]


def test_an_unknown_figure_has_its_raw_name() -> None:
    assert column_of("f1").title == "f1"


def _with_front(result: SearchResult, **changes: Any) -> SearchResult:
    candidate = replace(result.front[0], **changes)
    return replace(result, front=(candidate,), references=())
