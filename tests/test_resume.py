"""Runs that go on with more evaluations than they began with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.runs import run

from matar_tf.errors import SearchError
from matar_tf.evolution import SearchOptions
from matar_tf.results import Candidate, SearchResult

NAMES = ("bitfusion_16x32", "mpic")  # as many policies each


def of_budget(number: int) -> SearchOptions:
    return SearchOptions(max_evaluations=number)


def is_matched(one: Candidate, result: SearchResult) -> bool:
    """Whether some policy of a front is as good in both objectives, or better."""
    return any(
        other.value(accuracy) >= one.value(accuracy)
        and other.value(latency) <= one.value(latency)
        for accuracy, latency in [result.objectives]
        for other in result.front
    )


class TestFewerThanAGeneration:
    @pytest.mark.parametrize("name", NAMES)
    def test_what_was_measured_is_measured_by_the_longer_run_as_well(
        self, tmp_path: Path, name: str
    ) -> None:
        """So that no policy is lost, unless to a better one; again and again."""
        output = tmp_path / "run"
        (before,) = run(output, name, options=of_budget(12))
        known = 12
        for budget in (30, 60):
            (after,) = run(output, name, options=of_budget(budget), resume=True)
            assert after.num_reused == known
            assert after.num_evaluated == budget - known
            assert all(is_matched(one, after) for one in before.front)
            before, known = after, budget
        (whole,) = run(tmp_path / "at_once", name, options=of_budget(12))
        (whole,) = run(tmp_path / "at_once", name, options=of_budget(60), resume=True)
        assert whole.front == after.front

    def test_what_it_was_planned_for_is_on_record(self, tmp_path: Path) -> None:
        """A run of more than a generation is one of its budget, whatever it began."""

        def planned(budget: int, *, population: int, resume: bool) -> int:
            options = replace(of_budget(budget), population_size=population)
            run(output, "cortex_m4_cmsis_nn", options=options, resume=resume)
            return json.loads((output / "run.json").read_text())["planned_evaluations"]

        output = tmp_path / "less"
        assert planned(11, population=12, resume=False) == 11
        assert planned(50, population=12, resume=True) == 11
        output = tmp_path / "as_many"
        assert planned(12, population=12, resume=False) == 12
        assert planned(50, population=12, resume=True) == 50

    def test_a_record_without_it_is_of_a_run_that_was_never_raised(
        self, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        (before,) = run(output, "mpic", options=of_budget(12))
        record = json.loads((output / "run.json").read_text())
        del record["planned_evaluations"]
        (output / "run.json").write_text(json.dumps(record))
        (after,) = run(output, "mpic", options=of_budget(30), resume=True)
        assert after.num_reused == before.num_evaluated == 12


class TestFewerEvaluations:
    def test_they_would_lose_policies(self, tmp_path: Path) -> None:
        output = tmp_path / "run"
        run(output, "cortex_m4_cmsis_nn", options=of_budget(12))
        before = (output / "run.json").read_text()
        with pytest.raises(SearchError, match="evaluations of 12 and this run 11, wi"):
            run(output, "cortex_m4_cmsis_nn", options=of_budget(11), resume=True)
        assert (output / "run.json").read_text() == before
        run(output, "cortex_m4_cmsis_nn", options=of_budget(12), resume=True)

    @pytest.mark.parametrize("wrong", [0, 1.5, "12", True])
    def test_a_record_with_no_number_of_them_is_no_run(
        self, tmp_path: Path, wrong: object
    ) -> None:
        output = tmp_path / "run"
        run(output, "cortex_m4_cmsis_nn", options=of_budget(12))
        record = json.loads((output / "run.json").read_text())
        for key in ("max_evaluations", "planned_evaluations"):
            (output / "run.json").write_text(json.dumps({**record, key: wrong}))
            with pytest.raises(SearchError, match=f"{key} is no number"):
                run(output, "cortex_m4_cmsis_nn", options=of_budget(12), resume=True)
