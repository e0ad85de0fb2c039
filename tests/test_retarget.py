"""The whole way for an integrator: what is left behind when something goes wrong."""

from __future__ import annotations

import functools
import importlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact
from fixtures.runs import DATA, run, run_all, settings

from matar_tf.errors import (
    DataError,
    ExportError,
    MatarError,
    PolicyError,
    SearchError,
    StoreError,
    TargetError,
)
from matar_tf.evolution import EvaluationStore, Limit, SearchOptions
from matar_tf.figures import COST_NAMES
from matar_tf.policy import Policy
from matar_tf.results import Objective
from matar_tf.run import evaluators, export, plan, searches
from matar_tf.run import retarget as retargeting
from matar_tf.run.costs import PolicyCosts
from matar_tf.run.folder import prepare_folder
from matar_tf.run.holdout import split_data
from matar_tf.run.plan import Run, make_run
from matar_tf.run.report import read_report
from matar_tf.run.settings import RunSettings
from matar_tf.targets import load_target
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import evaluate_model
from matar_tf.tflite.metadata import read_metadata
from matar_tf.tflite.runtime import Runner


def planned(*targets: Any, chosen: RunSettings | None = None) -> Run:
    return make_run(digits_artifact(), targets, DATA, chosen or settings())


def begin(
    output: Path, targets: Any, data: Any, chosen: RunSettings, **how: bool
) -> str:
    """Begins a run in a folder, but searches nothing; returns what it says."""
    run = make_run(digits_artifact(), targets, data, chosen)
    return prepare_folder(run, output, **how)[1]


def other_outputs(policy: Policy, samples: np.ndarray) -> np.ndarray:
    """A reference that every file disagrees with."""
    outputs = same_outputs(policy, samples)
    return -outputs


def same_outputs(policy: Policy, samples: np.ndarray) -> np.ndarray:
    return Runner(ModelBuilder(digits_artifact()).build(policy)).predict(samples)


class TestAgreement:
    def test_a_file_that_disagrees_ends_the_run_and_leaves_no_folder(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(ExportError, match="agree"):
            run(tmp_path / "run", "bismo_ultra96", reference=other_outputs)
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert "bismo_ultra96" not in names
        assert not any(name.startswith(".bismo") for name in names)
        assert "run.json" in names

    def test_agreement_is_on_record(self, tmp_path: Path) -> None:
        (result,) = run(tmp_path / "run", "bismo_ultra96", reference=same_outputs)
        assert {one.metrics["argmax_agreement"] for one in result.front} == {1.0}


class TestTargets:
    def test_one_that_cannot_run_the_network_ends_the_run_before_measuring(
        self, tmp_path: Path
    ) -> None:
        artifact = digits_artifact()
        low = dict.fromkeys(artifact.space.weights, (3,))
        narrow = replace(artifact, space=artifact.space.with_choices(weights=low))
        targets = [load_target("bismo_ultra96"), load_target("cortex_m4_cmsis_nn")]
        with pytest.raises((PolicyError, SearchError, ValueError), match="cortex_m4"):
            make_run(narrow, targets, DATA, settings())
        assert not any(tmp_path.iterdir())

    def test_costs_of_the_front_are_those_of_its_files(self, tmp_path: Path) -> None:
        (result,) = run(tmp_path / "run", "bitfusion_16x32", profile="packed-litert")
        for one in result.front:
            path = tmp_path / "run/bitfusion_16x32" / f"{one.name}.tflite"
            assert path.stat().st_size == one.costs["file_bytes"]
            document = json.loads(path.with_suffix(".json").read_text())
            assert Policy.from_json(document) == one.policy

    @pytest.mark.parametrize(
        ("profile", "holdout", "metric", "num_sizes"),
        [
            ("int8", 0.0, "accuracy", 1),
            ("packed-litert", 0.5, "accuracy", 1),
            ("packed-litert", 0.0, "loss", 2),
            ("packed-float", 0.5, "loss", 2),
        ],
    )
    def test_the_size_of_files_is_an_objective_and_a_limit(
        self,
        tmp_path: Path,
        profile: str,
        holdout: float,
        metric: str,
        num_sizes: int,
    ) -> None:
        objectives = (Objective.parse(metric), Objective(name="file_bytes"))
        free = SearchOptions(
            max_evaluations=40, population_size=12, objectives=objectives
        )
        asked: dict[str, Any] = {"profile": profile, "holdout": holdout}
        (result,) = run(tmp_path / "a", "bitfusion_16x32", options=free, **asked)
        sizes = [one.costs["file_bytes"] for one in result.front]
        folder = tmp_path / "a/bitfusion_16x32"
        paths = [folder / f"{one.name}.tflite" for one in result.front]
        assert sizes == [path.stat().st_size for path in paths]
        # It is the search that knew them: none of the front dominates another.
        assert sizes == sorted(set(sizes))
        assert len(sizes) >= num_sizes
        widest = next(one for one in result.references if one.name == "w8a8")
        largest = widest.costs["file_bytes"]
        assert (sizes[0] < largest) == (profile != "int8")
        limit = Limit(name="file_bytes", bound=(sizes[0] + largest) // 2)
        limited = SearchOptions(max_evaluations=40, population_size=12, limits=(limit,))
        (other,) = run(tmp_path / "b", "bitfusion_16x32", options=limited, **asked)
        paths = list((tmp_path / "b").glob("*/*.tflite"))
        assert len(paths) == len(other.front) > 0
        assert max(path.stat().st_size for path in paths) <= limit.bound
        beyond = {
            one.name
            for one in other.references
            if (one.costs["file_bytes"] or 0) > limit.bound
        }
        assert beyond <= {"w8a8"}  # what others are compared with

    def test_files_that_are_too_large_for_any_policy(self, tmp_path: Path) -> None:
        limit = Limit(name="file_bytes", bound=100)
        options = SearchOptions(max_evaluations=12, population_size=8, limits=(limit,))
        outcome = run_all(tmp_path / "run", "mpic", options=options)
        assert not outcome.results
        assert re.search(r"file_bytes is \d+, more than", outcome.failures["mpic"])

    def test_a_misspelt_size_is_told_of_the_right_name(self) -> None:
        for name in ("file_byte", "FILE_BYTES"):
            objectives = (Objective(name="accuracy"), Objective(name=name))
            chosen = settings(options=SearchOptions(objectives=objectives))
            with pytest.raises(SearchError, match="mean 'file_bytes'"):
                planned(load_target("mpic"), chosen=chosen)

    def test_no_other_search_pays_for_sizes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("built a file to know its size")

        monkeypatch.setattr(plan, "FileSizes", refuse)
        (result,) = run(tmp_path / "run", "mpic")
        assert all(one.costs["file_bytes"] for one in result.front)

    @pytest.mark.parametrize("target", ["mpic", "ethos_u55_128"])
    def test_the_names_of_costs_are_known(self, target: str) -> None:
        costs = PolicyCosts(digits_artifact(), load_target(target))
        found = costs(digits_artifact().space.named("w8a8"))
        assert sorted(found) == sorted(COST_NAMES)

    def test_two_of_one_name_end_the_run_before_measuring(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="got 'mpic' twice"):
            run(tmp_path / "run", "mpic", "mpic")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("names", "what"),
        [
            (["report.html"], "a file of the run"),
            (["Run.JSON"], "a file of the run"),
            (["matrix.csv"], "a file of the run"),
            (["evaluations.sqlite"], "a file of the run"),
            (["evaluations.sqlite-wal"], "a file of the run"),
            (["mine", "MINE"], "another target"),
        ],
    )
    def test_whose_folder_cannot_have_its_name_is_refused(
        self, tmp_path: Path, names: list[str], what: str
    ) -> None:
        target = load_target("mpic")
        targets = [target.model_copy(update={"name": name}) for name in names]
        with pytest.raises(TargetError, match=f"got '{names[-1]}', which {what} has"):
            begin(tmp_path / "run", targets, DATA, settings())
        assert not (tmp_path / "run").exists()

    def test_none_are_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(SearchError, match="one or more targets, got none"):
            run(tmp_path / "run")


class TestStore:
    @pytest.mark.parametrize("holdout", [0.0, 0.5])
    def test_a_front_does_not_depend_on_what_other_runs_measured(
        self, tmp_path: Path, holdout: float
    ) -> None:
        """Neither on the searched samples nor on those held out are figures missing."""
        options = SearchOptions(max_evaluations=40, population_size=12)
        changes: dict[str, Any] = {"options": options, "holdout": holdout}
        store = tmp_path / "store.sqlite"
        run(tmp_path / "a", "mpic", metrics=("accuracy",), store=store, **changes)
        (shared,) = run(tmp_path / "b", "mpic", store=store, **changes)
        (alone,) = run(tmp_path / "c", "mpic", **changes)
        assert shared.front == alone.front
        assert all("loss" in one.metrics for one in shared.front)


class TestProfile:
    @pytest.mark.parametrize("holdout", [0.0, 0.5])
    def test_metrics_are_those_of_the_exported_files(
        self, tmp_path: Path, holdout: float
    ) -> None:
        """Also where another profile's are stored, whose outputs are not the same."""
        asked: dict[str, Any] = {"holdout": holdout, "store": tmp_path / "store"}
        packed = ("packed-litert", "packed-portable")
        same, (one,), (other,) = (
            run(tmp_path / profile, "bitfusion_16x32", profile=profile, **asked)
            for profile in ("int8", *packed)
        )
        assert (one.num_evaluated, other.num_evaluated) == (0, 12)
        assert one.references[0].metrics == same[0].references[0].metrics
        assert other.references[-1].metrics != one.references[-1].metrics
        samples = split_data(DATA, holdout, 0)[1] if holdout else DATA
        for result, profile in zip((one, other), packed, strict=True):
            for found in result.front:
                path = tmp_path / profile / f"bitfusion_16x32/{found.name}.tflite"
                file = path.read_bytes()
                measured = evaluate_model(file, samples)
                assert {name: found.metrics[name] for name in measured} == measured
                assert read_metadata(file)["metrics"] == found.metrics


class TestFollowUp:
    WIDE = SearchOptions(max_evaluations=60, population_size=12)

    def test_later_targets_start_from_what_the_first_measured(
        self, tmp_path: Path
    ) -> None:
        """The first is the one of 8, 4 and 2 bits, whose policies the other can run."""
        names = ("bismo_ultra96", "bitfusion_16x32")
        alone, _ = run(tmp_path / "a", *names, options=self.WIDE, follow_up_share=1.0)
        shared, first = run(
            tmp_path / "b", *names, options=self.WIDE, follow_up_share=0.2
        )
        assert [one.target for one in (shared, first)] == list(names)
        # As many anew as the first; then a fifth of them.
        assert (alone.num_evaluated, alone.num_reused) == (60, 60)
        assert (first.num_evaluated, first.num_reused) == (60, 0)
        assert (shared.num_evaluated, shared.num_reused) == (12, 60)

    def test_a_later_run_that_names_earlier_targets_is_taught(
        self, tmp_path: Path
    ) -> None:
        """Their searches are replayed from the store, by default as all follow-ups."""
        store = tmp_path / "store.sqlite"
        (first,) = run(
            tmp_path / "a", "bitfusion_16x32", options=self.WIDE, store=store
        )
        again, later = run(
            tmp_path / "b",
            *("bitfusion_16x32", "bismo_ultra96"),
            options=self.WIDE,
            store=store,
        )
        assert (first.num_evaluated, again.num_evaluated) == (60, 0)
        assert again.front == first.front
        assert (later.num_evaluated, later.num_reused) == (9, 60)

    def test_what_breaks_a_limit_is_no_knowledge_of_later_targets(
        self, tmp_path: Path
    ) -> None:
        """The first target measures some such policies for what bits do alone."""
        limit = Limit.parse("mean_weight_bits=6")
        later, first = run(
            tmp_path / "run",
            *("bismo_ultra96", "bitfusion_16x32"),
            options=replace(self.WIDE, max_evaluations=30, limits=(limit,)),
            follow_up_share=0.2,
        )
        assert (first.num_evaluated, later.num_evaluated) == (30, 6)
        assert later.num_reused == 23

    def test_a_target_of_one_policy_teaches_nobody(self, tmp_path: Path) -> None:
        names = ("cortex_m4_cmsis_nn", "bitfusion_16x32")
        one, other = run(
            tmp_path / "run", *names, options=self.WIDE, follow_up_share=0.2
        )
        assert one.num_evaluated == 1
        assert other.num_evaluated + other.num_reused == 60

    def test_fronts_do_not_depend_on_the_order_of_targets(self, tmp_path: Path) -> None:
        names = ("mpic", "bismo_ultra96", "bitfusion_16x32")
        fronts = []
        for number, order in enumerate((names, names[::-1])):
            results = run(
                tmp_path / str(number), *order, options=self.WIDE, follow_up_share=0.2
            )
            assert [one.target for one in results] == list(order)
            fronts.append({one.target: one.front for one in results})
        assert fronts[0] == fronts[1]


class TestRequest:
    def test_fixed_entries_stay_in_every_policy(self, tmp_path: Path) -> None:
        stem = next(iter(digits_artifact().space.activations))
        (result,) = run(
            tmp_path / "run", "bismo_ultra96", fixed=(f"activations:{stem}=8",)
        )
        everyone = (*result.front, *result.references)
        assert {one.policy.activations[stem] for one in everyone} == {8}

    def test_policies_to_start_from_stand_in_the_table(self, tmp_path: Path) -> None:
        mine = digits_artifact().space.named("w3a4")
        (result,) = run(tmp_path / "run", "bismo_ultra96", starts={"mine": mine})
        by_name = {one.name: one.policy for one in result.references}
        assert by_name["mine"] == mine
        assert "w3a4" not in by_name

    def test_the_record_holds_the_history_of_every_search(self, tmp_path: Path) -> None:
        names = ("bismo_ultra96", "bitfusion_16x32")
        results = run(tmp_path / "run", *names)
        searches = json.loads((tmp_path / "run/run.json").read_text())["searches"]
        assert set(searches) == set(names)
        for result in results:
            rows = searches[result.target]["history"]
            assert len(rows) == len(result.history) > 0
            assert rows[-1]["num_evaluated"] == result.num_evaluated
            assert rows[-1]["hypervolume"] == result.history[-1].hypervolume
            assert searches[result.target]["stop_reason"] == result.stop_reason.value


class TestPreparing:
    @pytest.mark.parametrize(
        ("key", "change"),
        [
            ("metrics", {"metrics": ("accuracy", "loss", "top_2_accuracy")}),
            ("follow_up_share", {"follow_up_share": 0.5}),
            ("population_size", {"options": {"population_size": 9}}),
            ("oversampling", {"options": {"oversampling": 2}}),
            ("sensitivity", {"options": {"sensitivity": False}}),
            ("crossover_prob", {"options": {"crossover_prob": 0.5}}),
            ("mutation_prob", {"options": {"mutation_prob": 0.5}}),
            ("targets", {}),
        ],
    )
    def test_another_choice_is_another_run(
        self, tmp_path: Path, key: str, change: dict[str, Any]
    ) -> None:
        target = load_target("cortex_m4_cmsis_nn")
        ask = functools.partial(begin, tmp_path / "run")
        ask([target], DATA, settings())
        assert "Resuming" in ask([target], DATA, settings(num_jobs=2), resume=True)
        changed = target
        if key == "targets":
            changed = target.model_copy(update={"description": "another"})
        if "options" in change:
            options = replace(settings().options, **change["options"])
            change = {"options": options}
        with pytest.raises(SearchError, match=f"same {key},"):
            ask([changed], DATA, settings(**change), resume=True)

    @pytest.mark.parametrize("counted", ["objective", "limit", "neither"])
    def test_another_profile_is_another_run_where_file_sizes_count(
        self, tmp_path: Path, counted: str
    ) -> None:
        sizes = (
            Objective(name="accuracy", maximize=True),
            Objective(name="file_bytes"),
        )
        changes: dict[str, Any] = {
            "objective": {"objectives": sizes},
            "limit": {"limits": (Limit(name="file_bytes", bound=1e6),)},
            "neither": {},
        }[counted]
        asked = settings(options=replace(settings().options, **changes))
        ask = functools.partial(begin, tmp_path / "run")
        targets = [load_target("cortex_m4_cmsis_nn")]
        ask(targets, DATA, asked)
        packed = replace(asked, profile="packed-litert")
        if counted == "neither":
            assert "Resuming" in ask(targets, DATA, packed, resume=True)
            inexact = replace(asked, profile="packed-portable")
            with pytest.raises(SearchError, match="same profile"):
                ask(targets, DATA, inexact, resume=True)
            ask(targets, DATA, inexact, overwrite=True)
            with pytest.raises(SearchError, match="same profile"):
                ask(targets, DATA, asked, resume=True)
            return
        with pytest.raises(SearchError, match=r"same profile, .* 'packed-litert'"):
            ask(targets, DATA, packed, resume=True)

    def test_what_is_wrong_is_found_before_a_run_is_removed(
        self, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        run(output, "cortex_m4_cmsis_nn")
        before = sorted(path.name for path in output.rglob("*"))
        (tmp_path / "text").write_text("no database " * 100)
        for wrong, error, message in (
            ({"holdout": 0.95}, DataError, "too few"),
            ({"store": tmp_path / "text"}, SearchError, "corrupt"),
            ({"store": tmp_path / "no" / "store"}, SearchError, "make the folder"),
            ({"store": output / "mine.sqlite"}, SearchError, "outside of the run"),
        ):
            with pytest.raises(error, match=message):
                run(output, "cortex_m4_cmsis_nn", **wrong)
            assert sorted(path.name for path in output.rglob("*")) == before

    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ({"num_jobs": 0}, "at least one process as jobs, got 0"),
            ({"num_jobs": "2"}, "an integer as jobs, got '2'"),
            ({"executor": "ray"}, "Ray for measuring on a cluster, but it is not inst"),
        ],
    )
    def test_what_cannot_measure_is_found_before_a_run_is_removed(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        wrong: dict[str, Any],
        sentence: str,
    ) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        output = tmp_path / "run"
        run(output, "cortex_m4_cmsis_nn")
        before = {path: path.stat().st_mtime_ns for path in output.rglob("*.*")}
        for how in ({}, {"resume": True}):  # without: overwrite
            with pytest.raises(MatarError, match=sentence):
                run_all(output, "cortex_m4_cmsis_nn", **wrong, **how)
        after = {path: path.stat().st_mtime_ns for path in output.rglob("*.*")}
        assert after == before
        with pytest.raises(MatarError, match=sentence):
            run_all(tmp_path / "new", "cortex_m4_cmsis_nn", **wrong)
        assert not (tmp_path / "new").exists()

    def test_a_damaged_store_leaves_the_record_as_it_was(self, tmp_path: Path) -> None:
        output = tmp_path / "run"
        run(output, "cortex_m4_cmsis_nn")
        record = (output / "run.json").read_text()
        for path in output.glob("evaluations.sqlite*"):
            path.unlink()
        (output / "evaluations.sqlite").write_bytes(b"no database " * 100)
        options = replace(settings().options, max_evaluations=5000)
        with pytest.raises(StoreError, match="corrupt"):
            run_all(output, "cortex_m4_cmsis_nn", options=options, resume=True)
        assert (output / "run.json").read_text() == record

    def test_a_store_may_be_in_an_empty_output(self, tmp_path: Path) -> None:
        output = tmp_path / "run"
        output.mkdir()
        changes: dict[str, Any] = {"store": output / "mine.sqlite", "resume": True}
        (first,) = run(output, "bismo_ultra96", **changes)
        (second,) = run(output, "bismo_ultra96", **changes)
        assert first.front == second.front
        assert second.num_evaluated == 0

    @pytest.mark.parametrize("is_made", [True, False])
    def test_an_output_that_nobody_can_be_told_of_stays_as_it_was(
        self, tmp_path: Path, is_made: bool
    ) -> None:
        def on_start(_: str) -> None:
            raise BrokenPipeError

        output = tmp_path / "run"
        if is_made:
            output.mkdir()
        with pytest.raises(BrokenPipeError):
            retargeting.retarget(
                planned(load_target("mpic")), output, on_start=on_start
            )
        assert list(tmp_path.rglob("*")) == [output] * is_made

    def test_an_output_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("years")
        with pytest.raises(SearchError, match=r"run, got a file; choose another"):
            run(tmp_path / "run", "bismo_ultra96")

    def test_an_output_that_cannot_be_had_gets_no_store(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years")
        with pytest.raises(
            SearchError, match=r"files \(there is no run\.json\); choose"
        ):
            run(tmp_path, "bismo_ultra96", store=tmp_path / "mine.sqlite", resume=True)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture
def press_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Presses Ctrl-C, once or more often, when a function of a module is called."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press_at(module: Any, name: str, times: int = 1, nth: int = 1) -> None:
        called = getattr(module, name)
        num_calls = 0

        def pressed(*args: Any, **kwargs: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            if num_calls == nth:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            return called(*args, **kwargs)

        monkeypatch.setattr(module, name, pressed)

    yield press_at
    signal.signal(signal.SIGINT, before)


class TestCtrlC:
    NAMES = ("bitfusion_16x32", "bismo_ultra96")  # in the order of the search

    @pytest.mark.parametrize(
        ("module", "name", "num_jobs"),
        [
            (evaluators, "report_on", 2),
            (export, "export_model", 1),
            (export, "to_csv", 1),
            (retargeting, "write_record", 1),
        ],
    )
    def test_once_the_front_is_known_it_waits_for_its_files(
        self,
        tmp_path: Path,
        press_at: Callable[..., None],
        module: Any,
        name: str,
        num_jobs: int,
    ) -> None:
        output = tmp_path / "run"
        press_at(module, name)
        outcome = run_all(output, *self.NAMES, holdout=0.5, num_jobs=num_jobs)
        assert outcome.interrupted
        (result,) = outcome.results
        assert result.target == "bitfusion_16x32"
        assert not result.interrupted  # its search had ended
        for one in result.front:
            assert (output / result.target / f"{one.name}.tflite").is_file()
        names = {path.name for path in output.iterdir()}
        assert {"matrix.csv", "report.html", "run.json", "bitfusion_16x32"} <= names
        assert "bismo_ultra96" not in names
        assert not any(name.startswith(".") for name in names)
        assert list(outcome.failures) == ["bismo_ultra96"]
        sentence = outcome.failures["bismo_ultra96"]
        assert "'bismo_ultra96' was not begun" in sentence
        assert "--resume, in Python resume=True" in sentence
        for name in ("matrix.md", "report.html"):
            assert "bismo_ultra96: Target" in (output / name).read_text()
        assert sentence in repr(outcome)
        assert sentence in read_report(output).to_text()
        whole = run(output, *self.NAMES, holdout=0.5, resume=True)
        assert "not begun" not in (output / "report.html").read_text()
        assert whole[0].front == result.front

    def test_it_counts_while_the_last_tables_are_written(
        self, tmp_path: Path, press_at: Callable[..., None]
    ) -> None:
        press_at(export, "cost_matrix")
        outcome = run_all(tmp_path / "run", *self.NAMES)
        assert outcome.interrupted
        assert len(outcome.results) == 2
        assert not outcome.failures
        assert (tmp_path / "run/report.html").is_file()

    def test_the_second_stops_at_once(
        self, tmp_path: Path, press_at: Callable[..., None]
    ) -> None:
        output = tmp_path / "run"
        press_at(export, "export_model", times=2)
        with pytest.raises(KeyboardInterrupt):
            run_all(output, *self.NAMES)
        assert {path.name for path in output.iterdir()} == {
            "run.json",
            "evaluations.sqlite",
        }
        assert len(run(output, *self.NAMES, resume=True)) == 2

    def test_before_a_later_target_knows_anything_the_others_keep_their_tables(
        self, tmp_path: Path, press_at: Callable[..., None]
    ) -> None:
        press_at(searches, "search", nth=2)
        outcome = run_all(tmp_path / "run", *self.NAMES)
        assert outcome.interrupted
        assert [one.target for one in outcome.results] == ["bitfusion_16x32"]
        assert list(outcome.failures) == ["bismo_ultra96"]
        assert (tmp_path / "run/report.html").is_file()

    def test_before_anything_is_known_it_ends_the_run(
        self, tmp_path: Path, press_at: Callable[..., None]
    ) -> None:
        press_at(searches, "search")
        with pytest.raises(KeyboardInterrupt):
            run_all(tmp_path / "run", *self.NAMES)
        assert not list(tmp_path.iterdir())


class TestResume:
    NAMES = ("bitfusion_16x32", "bismo_ultra96")  # in the order of the search

    def test_more_evaluations_end_with_the_front_of_a_whole_run_of_such_generations(
        self, tmp_path: Path
    ) -> None:
        """Also in the later target, which starts from what the first has measured."""
        few, many = (
            SearchOptions(max_evaluations=one, population_size=20) for one in (20, 80)
        )
        first = run(tmp_path / "a", *self.NAMES, options=few)
        assert {one.num_evaluated + one.num_reused for one in first} == {20, 23}
        resumed = run(tmp_path / "a", *self.NAMES, options=many, resume=True)
        whole = run(tmp_path / "b", *self.NAMES, options=many)
        assert [one.front for one in resumed] == [one.front for one in whole]
        assert resumed[0].num_reused > 0 == whole[0].num_reused

    def test_a_target_that_was_not_reached_again_keeps_its_result(
        self, tmp_path: Path, press_at: Callable[..., None]
    ) -> None:
        output = tmp_path / "run"
        _, later = run(output, *self.NAMES)
        before = json.loads((output / "run.json").read_text())["searches"]
        press_at(export, "export_model")
        options = SearchOptions(max_evaluations=30, population_size=8)
        outcome = run_all(output, *self.NAMES, options=options, resume=True)
        assert [one.target for one in outcome.results] == ["bitfusion_16x32"]
        after = json.loads((output / "run.json").read_text())["searches"]
        assert after["bismo_ultra96"] == before["bismo_ultra96"]
        assert after["bitfusion_16x32"] != before["bitfusion_16x32"]
        matrix = (output / "matrix.csv").read_text()
        page = (output / "report.html").read_text()
        for one in (*outcome.results, later):
            for candidate in one.front:
                assert f"{one.target}/{candidate.name}" in matrix
                assert f"{one.target}/{candidate.name}" in page

    def test_a_result_that_cannot_be_read_is_left_out(
        self, tmp_path: Path, press_at: Callable[..., None]
    ) -> None:
        output = tmp_path / "run"
        run(output, *self.NAMES)
        (output / "bismo_ultra96/result.json").write_text("{")
        press_at(export, "export_model")
        assert run_all(output, *self.NAMES, resume=True).interrupted
        assert "bismo_ultra96/" not in (output / "matrix.csv").read_text()

    def test_what_a_killed_export_has_left_is_removed(self, tmp_path: Path) -> None:
        output = tmp_path / "run"
        run(output, "bismo_ultra96")
        (output / ".bismo_ultra96.0123456789abcdef").mkdir()
        (output / ".run.json.0123456789abcdef").write_text("{")
        (output / ".mine").write_text("")
        run(output, "bismo_ultra96", resume=True)
        assert [path.name for path in output.glob(".*")] == [".mine"]


class TestFailures:
    def test_a_target_that_cannot_meet_a_limit_does_not_keep_others_from_theirs(
        self, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        slow = "cortex_m4_cmsis_nn"  # the first that is searched
        options = replace(settings().options, limits=(Limit.parse("latency_ms=0.1"),))
        outcome = run_all(output, "bitfusion_16x32", slow, options=options)
        assert not outcome.interrupted
        assert [one.target for one in outcome.results] == ["bitfusion_16x32"]
        assert list(outcome.failures) == [slow]
        assert f"target '{slow}', got none" in outcome.failures[slow]
        assert (output / "bitfusion_16x32/policy_00.tflite").is_file()
        assert "bitfusion_16x32/policy_00" in (output / "matrix.csv").read_text()
        assert (output / "report.html").is_file()
        assert not (output / slow).exists()

    def test_a_store_that_fails_is_nobodys_own_fault(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise StoreError("The disk is full.")

        monkeypatch.setattr(EvaluationStore, "put", full)
        with pytest.raises(StoreError, match="full"):
            run_all(tmp_path / "run", "bismo_ultra96", "bitfusion_16x32")


MY_METRICS = """
def share(outputs, labels):
    return {share}

def nothing(outputs, labels):
    return None
"""


class TestOwnMetrics:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.delitem(sys.modules, "my_metrics_of_a_test", raising=False)
        importlib.invalidate_caches()
        return tmp_path / "my_metrics_of_a_test.py"

    def test_other_code_is_measured_anew(self, tmp_path: Path, module: Path) -> None:
        found: list[tuple[int, float]] = []
        for text in ("0.25", "0.25", "0.625"):
            module.write_text(MY_METRICS.format(share=text))
            sys.modules.pop(module.stem, None)
            importlib.invalidate_caches()
            (result,) = run(
                tmp_path / "run",
                "cortex_m4_cmsis_nn",
                metrics=("accuracy", f"{module.stem}:share"),
                store=tmp_path / "store.sqlite",
            )
            found.append((result.num_evaluated, result.front[0].metrics["share"]))
        assert found == [(1, 0.25), (0, 0.25), (1, 0.625)]

    @pytest.mark.parametrize(
        "name",
        [
            *("name", "role", "target", "num_samples", "file_bytes", "latency_ms"),
            *("accuracy_low", "top_3_accuracy_high", "search_f1", "search_accuracy"),
            *("measured_latency_ms", "argmax_agreement"),
        ],
    )
    def test_the_name_of_another_column_is_refused(
        self, module: Path, name: str
    ) -> None:
        module.write_text(
            f"def {name}(outputs, labels): return 0.5\nf1_low = my_name = {name}"
        )
        metrics = ("accuracy", f"{module.stem}:f1_low", f"{module.stem}:my_name")
        target = load_target("mpic")
        planned(target, chosen=settings(metrics=metrics))
        metrics = ("accuracy", f"{module.stem}:{name}")
        with pytest.raises(DataError, match=f"no other column for, got '{name}'"):
            planned(target, chosen=settings(metrics=metrics))

    def test_a_metric_that_returns_nothing(self, tmp_path: Path, module: Path) -> None:
        module.write_text(MY_METRICS.format(share=0))
        with pytest.raises(DataError, match="a number from the metric 'nothing', got"):
            run(
                tmp_path / "run",
                "cortex_m4_cmsis_nn",
                metrics=("accuracy", f"{module.stem}:nothing"),
            )
