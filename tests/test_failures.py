"""Targets whose search fails: where a run says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.digits import digits_artifact
from fixtures.programs import call, fails
from fixtures.runs import DATA, run_all, settings

from matar_tf.errors import DataError, SearchError, StoreError
from matar_tf.evolution import EvaluationStore, Limit
from matar_tf.run import searches
from matar_tf.run.plan import make_run
from matar_tf.run.retarget import Outcome, retarget
from matar_tf.targets import load_target

SLOW, FAST = "cortex_m4_cmsis_nn", "bitfusion_16x32"
LIMITED = replace(settings().options, limits=(Limit.parse("latency_ms=0.1"),))


def run_new(output: Path, *targets: str, **changes: Any) -> Outcome:
    """Runs without `resume` and without `overwrite`."""
    found = [load_target(name) for name in targets]
    return retarget(
        make_run(digits_artifact(), found, DATA, settings(**changes)), output
    )


def failures_in(output: Path) -> Any:
    return json.loads((output / "run.json").read_text())["failures"]


class TestFailures:
    def test_they_are_on_record_on_the_page_and_in_the_tables(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "run"
        outcome = run_all(output, FAST, SLOW, options=LIMITED)
        assert list(outcome.failures) == [SLOW]
        assert failures_in(output) == outcome.failures
        line = f"{SLOW}: {outcome.failures[SLOW]}"
        assert f"\n- {line}\n" in (output / "matrix.md").read_text()
        page = (output / "report.html").read_text()
        assert page.count(f"<li>{SLOW}: Expected a policy that meets") == 1
        capsys.readouterr()
        for form, times in (("text", 1), ("md", 1), ("csv", 0), ("json", 0)):
            assert call("report", run=str(output), format=form) == 0
            out = capsys.readouterr().out
            assert out.count(f"No front for {line}\n") == times
            assert out.endswith(f"No front for {line}\n") == bool(times)
        asked = {"run": str(output), "target": FAST}
        assert call("report", **asked, format="text") == 0
        assert "No front" not in capsys.readouterr().out
        line = fails(capsys, "report", **{**asked, "target": SLOW})
        assert line.startswith(f"SearchError: No front for {SLOW}: Expected a policy")

    def test_all_of_them(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "run"
        outcome = run_all(output, SLOW, options=LIMITED)
        assert failures_in(output) == outcome.failures
        assert not (output / "report.html").exists()
        assert f"No front for {SLOW}: " in fails(capsys, "report", run=str(output))

    def test_after_all_of_them_another_limit_needs_no_flag(
        self, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        assert run_new(output, SLOW, options=LIMITED).failures
        with EvaluationStore(output / "evaluations.sqlite") as store:
            known = len(store)
        found = run_new(output, SLOW)
        assert not found.failures
        assert found.results[0].num_reused == known
        assert failures_in(output) == {}
        with pytest.raises(SearchError, match="holds a run of"):
            run_new(output, SLOW)

    def test_a_run_that_has_only_begun_is_left_alone(self, tmp_path: Path) -> None:
        output = tmp_path / "run"
        run_new(output, SLOW, options=LIMITED)
        record = json.loads((output / "run.json").read_text())
        (output / "run.json").write_text(json.dumps({**record, "failures": {}}))
        with pytest.raises(SearchError, match="holds a run of"):
            run_new(output, SLOW)

    def test_an_error_before_a_measurement_leaves_no_trace(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise DataError("out of luck")

        monkeypatch.setattr(searches, "search", fail)
        for output in (tmp_path / "made", tmp_path):
            with pytest.raises(DataError, match="out of luck"):
                run_new(output, SLOW)
            assert not list(tmp_path.iterdir())

    def test_an_error_after_a_measurement_keeps_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put, times = EvaluationStore.put, []

        def put_two(self: Any, *args: Any, **kwargs: Any) -> None:
            times.append(1)
            if len(times) == 3:
                raise StoreError("the disk is full")
            put(self, *args, **kwargs)

        monkeypatch.setattr(EvaluationStore, "put", put_two)
        with pytest.raises(StoreError, match="the disk is full"):
            run_new(tmp_path / "run", FAST)
        with EvaluationStore(tmp_path / "run" / "evaluations.sqlite") as store:
            assert len(store) == 2
        assert (tmp_path / "run" / "run.json").exists()

    def test_they_stay_until_the_target_has_a_result(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(problem: Any, *args: Any, **kwargs: Any) -> None:
            raise SearchError(f"{problem.target} is out of luck.")

        def stop(*args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

        output = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(searches, "search", fail)
            run_all(output, FAST, SLOW)
        assert set(failures_in(output)) == {FAST, SLOW}
        with monkeypatch.context() as patch:
            patch.setattr(searches, "search", stop)
            with pytest.raises(KeyboardInterrupt):
                run_all(output, FAST, SLOW, resume=True)
        assert set(failures_in(output)) == {FAST, SLOW}
        assert not run_all(output, FAST, SLOW, resume=True).failures
        assert failures_in(output) == {}
        assert "without a front" not in (output / "report.html").read_text()

    def test_an_error_after_a_result_keeps_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where the store is another folder's."""
        search, times = searches.search, []

        def fail_second(*args: Any, **kwargs: Any) -> Any:
            times.append(1)
            if len(times) == 2:
                raise DataError("out of luck")
            return search(*args, **kwargs)

        monkeypatch.setattr(searches, "search", fail_second)
        with pytest.raises(DataError, match="out of luck"):
            run_new(tmp_path / "run", SLOW, FAST, store=tmp_path / "store.sqlite")
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert names == {"run.json", SLOW}
