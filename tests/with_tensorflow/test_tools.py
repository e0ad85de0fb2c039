"""Programs, called as a user calls them: through main, and in processes."""

from __future__ import annotations

import csv
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.digits_training import trained_pair
from fixtures.paths import ROOT, TARGETS
from fixtures.programs import call, fails, load
from scipy import stats

from matar_tf import keras as matar_keras
from matar_tf.artifact import read_artifact
from matar_tf.errors import SearchError
from matar_tf.evolution import EvaluationStore
from matar_tf.figures import COST_NAMES
from matar_tf.keras import keras, quantize_model
from matar_tf.samplers import BandSampler
from matar_tf.targets import list_targets, target_json_schema
from matar_tf.tflite import latency, runtime
from matar_tf.tflite._schema import COMPUTE_OPS, op_name, parse_model, schema
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.metadata import read_metadata
from matar_tf.tflite.metrics import METRIC_NAMES
from matar_tf.tflite.runtime import Runner
from recipes.common import load_recipe

# Blocks what the integrator does not have, then runs a program.
WITHOUT_TENSORFLOW = """
import runpy, sys
for name in ("tensorflow", "tf_keras", "keras", "tensorflow_model_optimization",
             "tflite_runtime"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def arguments(files: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "artifact": str(files / "net.matar"),
        "targets": ["bitfusion_16x32", "bismo_ultra96"],
        "output": str(output),
        "data": str(files / "data.npz"),
        "max_evaluations": 40,
        "compare": "none",
        **changes,
    }


def worst_margin(outputs: np.ndarray, labels: np.ndarray) -> float:
    """A metric of a user's own: the worst lead of the label over the rest."""
    rows = np.arange(len(labels))
    others = outputs.copy()
    others[rows, labels] = -np.inf
    return float((outputs[rows, labels] - others.max(axis=-1)).min())


def num_stored(store: Path) -> int:
    """Returns how many policies a search has measured so far."""
    try:
        with EvaluationStore(store) as opened:
            return len(opened)
    except SearchError:
        return 0  # not there yet


class TestSearch:
    def test_writes_what_the_table_says(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "run"
        assert call("search", **arguments(files, output)) == 0
        assert "bitfusion_16x32" in capsys.readouterr().out
        assert (output / "evaluations.sqlite").is_file()
        run = json.loads((output / "run.json").read_text())
        assert run["seed"] == 0
        data = few_digits()
        for target in ("bitfusion_16x32", "bismo_ultra96"):
            folder = output / target
            document = json.loads((folder / "front.json").read_text())
            front = [row for row in document["rows"] if row["role"] == "front"]
            assert front
            for row in front:
                content = (folder / f"{row['name']}.tflite").read_bytes()
                outputs = Runner(content).predict(data.x_test)
                right = np.mean(outputs.argmax(1) == data.y_test)
                assert right == pytest.approx(row["figures"]["accuracy"])
                assert row["figures"]["file_bytes"] == len(content)
                policy = json.loads((folder / f"{row['name']}.json").read_text())
                assert policy == row["policy"]
            for name in ("front.csv", "front.md", "result.json"):
                assert (folder / name).stat().st_size > 0
        assert not list(output.glob(".*"))

    def test_resumes_to_the_same_front_without_measuring(
        self, files: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        values = arguments(files, output, targets=["bitfusion_16x32"])
        assert call("search", **values) == 0
        before = json.loads((output / "bitfusion_16x32/front.json").read_text())
        assert call("search", **values, resume=True) == 0
        after = json.loads((output / "bitfusion_16x32/front.json").read_text())
        assert after["num_evaluated"] == 0
        assert after["num_reused"] == before["num_evaluated"] + before["num_reused"]
        assert after["rows"] == before["rows"]

    def test_a_store_serves_later_runs_and_changes_no_front(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = tmp_path / "shared.sqlite"
        rows: list[Any] = []
        totals: list[str] = []
        for name, path in (("cold", store), ("warm", store), ("alone", None)):
            values = arguments(files, tmp_path / name, targets=["bitfusion_16x32"])
            assert call("search", **values, store=path and str(path)) == 0
            front = tmp_path / name / "bitfusion_16x32/front.json"
            rows.append(json.loads(front.read_text())["rows"])
            totals.append(capsys.readouterr().out.strip().splitlines()[-1])
            # Only a run without a store of its own choice makes one in its output.
            assert (tmp_path / name / "evaluations.sqlite").exists() == (path is None)
        assert rows[0] == rows[1] == rows[2]
        assert totals == [
            "All targets: evaluated 40, reused 0.",
            "All targets: evaluated 0, reused 40.",
            "All targets: evaluated 40, reused 0.",
        ]

    def test_keeps_to_limits_and_resumes_with_the_same_only(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = arguments(files, tmp_path / "run", targets=["bitfusion_16x32"])
        free = arguments(files, tmp_path / "free", targets=["bitfusion_16x32"])
        assert call("search", **free) == 0
        path = tmp_path / "free/bitfusion_16x32/front.json"
        times = [
            row["figures"]["latency_ms"]
            for row in json.loads(path.read_text())["rows"]
            if row["role"] == "front"
        ]
        bound = (min(times) + max(times)) / 2
        limits = [f"latency_ms={bound!r}"]
        assert call("search", **values, max=limits) == 0
        path = tmp_path / "run/bitfusion_16x32/front.json"
        rows = json.loads(path.read_text())["rows"]
        limited = [
            row["figures"]["latency_ms"] for row in rows if row["role"] == "front"
        ]
        assert limited
        assert max(limited) <= bound < max(times)
        capsys.readouterr()
        line = fails(capsys, "search", **values, resume=True)
        assert "same limits" in line

    def test_takes_all_that_one_can_ask_for(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        space = digits_artifact().space
        mine = tmp_path / "mine.json"
        mine.write_text(json.dumps(space.named("w4a8").to_json()))
        entry = list(space.weights)[1]
        values = arguments(
            files,
            tmp_path / "run",
            targets=["bismo_ultra96"],
            fix=[f"weights:{entry}=4,8"],
            start=[str(mine)],
            holdout=0.5,
            patience=0,
            population_size=16,
            max_minutes=30.0,
        )
        assert call("search", **values, min=["accuracy=0.2"]) == 0
        table = json.loads((tmp_path / "run/bismo_ultra96/front.json").read_text())
        assert table["num_evaluated"] == 40
        assert table["num_samples"] == len(few_digits().x_test) // 2
        assert "mine" in {row["name"] for row in table["rows"]}
        for row in table["rows"]:
            if row["policy"]:
                assert row["policy"]["weights"][entry] in (4, 8)
                assert row["figures"]["search_accuracy"] >= 0.2
        capsys.readouterr()
        line = fails(
            capsys, "search", **values, min=["accuracy=0.9999"], overwrite=True
        )
        assert "less than the requested 0.9999" in line

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("a/mine.json", "b/mine.json"), "files of different names, got 'mine'"),
            (("a/policy_01.json", "a/policy_01.json"), "got 'a_policy_01' twice"),
            (("w8a8.json",), "that of a uniform policy"),
        ],
    )
    def test_policies_to_start_from_have_names_of_their_own(
        self,
        files: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        names: tuple[str, ...],
        message: str,
    ) -> None:
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(digits_artifact().space.named("w4a8").to_json()))
        values = arguments(files, tmp_path / "run", start=[str(one) for one in paths])
        assert message in fails(capsys, "search", **values)
        assert not (tmp_path / "run").exists()

    def test_policies_of_another_front_are_called_after_their_folder_as_well(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        starts: list[str] = []
        for folder, name in (("npu", "w3a5"), ("cpu", "w4a8"), ("gpu", "w3a5")):
            path = tmp_path / folder / "policy_00.json"
            path.parent.mkdir()
            path.write_text(json.dumps(digits_artifact().space.named(name).to_json()))
            starts.append(str(path))
        values = arguments(
            files, tmp_path / "run", start=starts, targets=["bismo_ultra96"]
        )
        assert call("search", **values) == 0
        table = (tmp_path / "run/bismo_ultra96/front.json").read_text()
        rows = {row["name"]: row["role"] for row in json.loads(table)["rows"]}
        assert rows["npu_policy_00"] == rows["cpu_policy_00"] != rows["policy_00"]
        assert "gpu_policy_00" not in rows
        assert capsys.readouterr().out.strip().splitlines()[-1] == (
            "Not in the table of bismo_ultra96: 'gpu_policy_00'. It is the same policy "
            "as 'npu_policy_00'."
        )

    def test_a_start_that_one_target_does_not_take_names_the_target(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.json").write_text(
            json.dumps(digits_artifact().space.named("w3a5").to_json())
        )
        start = [str(tmp_path / "mine.json")]
        values = arguments(files, tmp_path / "run", start=start)
        assert call("search", **values) == 0
        lines = capsys.readouterr().out.splitlines()
        (line,) = [line for line in lines if "Not in the table of" in line]
        assert line.startswith("Not in the table of bitfusion_16x32: 'mine'. ")

    def test_a_budget_of_a_population_can_be_raised_afterwards(
        self, files: Path, tmp_path: Path
    ) -> None:
        fronts = []
        for name, budgets in (("resumed", (20, 60)), ("whole", (60,))):
            for budget in budgets:
                values = arguments(
                    files,
                    tmp_path / name,
                    targets=["bismo_ultra96"],
                    max_evaluations=budget,
                    population_size=20,
                )
                assert call("search", **values, resume=budget != budgets[0]) == 0
            table = json.loads(
                (tmp_path / name / "bismo_ultra96/front.json").read_text()
            )
            fronts.append(table["rows"])
        assert fronts[0] == fronts[1]

    def test_a_target_that_cannot_meet_a_limit_is_named_at_the_end(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        targets = ["cortex_m4_cmsis_nn", "bitfusion_16x32"]
        values = arguments(files, tmp_path / "run", targets=targets)
        line = fails(capsys, "search", **values, max=["latency_ms=0.1"])
        assert line.startswith("SearchError: Expected a policy")
        assert "target 'cortex_m4_cmsis_nn'" in line
        assert (tmp_path / "run/bitfusion_16x32/policy_00.tflite").is_file()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[" * 100_000, "nested too deeply"),
            ('{"weights": {}, "weights": {}}', "'weights' is there twice"),
            ("{", "Expected JSON in"),
        ],
    )
    def test_a_policy_that_is_no_json(
        self,
        files: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        content: str,
        message: str,
    ) -> None:
        (tmp_path / "mine.json").write_text(content)
        start = [str(tmp_path / "mine.json")]
        values = arguments(files, tmp_path / "run", start=start)
        assert message in fails(capsys, "search", **values)

    def test_ctrl_c_leaves_a_front_and_a_resume_ends_as_if_nothing_had_been(
        self, files: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        command = [
            sys.executable,
            str(ROOT / "tools/search.py"),
            f"--artifact={files / 'net.matar'}",
            f"--data={files / 'data.npz'}",
            "--targets=bismo_ultra96",
            "--max_evaluations=600",
            "--patience=0",
            "--compare=none",
        ]
        process = subprocess.Popen(
            [*command, f"--output={output}"],
            stderr=subprocess.DEVNULL,
            # Tests that were started in the background ignore Ctrl-C, and so would it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        store = output / "evaluations.sqlite"
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline and num_stored(store) < 60:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        table = json.loads((output / "bismo_ultra96/front.json").read_text())
        assert table["stop_reason"] == "interrupted"
        assert 60 <= table["num_evaluated"] < 600
        for row in table["rows"]:
            if row["role"] == "front":
                assert (output / f"bismo_ultra96/{row['name']}.tflite").is_file()
        assert (output / "matrix.csv").is_file()
        subprocess.run([*command, f"--output={output}", "--resume"], check=True)
        subprocess.run([*command, f"--output={tmp_path / 'whole'}"], check=True)
        rows = [
            json.loads((folder / "bismo_ultra96/front.json").read_text())["rows"]
            for folder in (output, tmp_path / "whole")
        ]
        assert rows[0] == rows[1]

    def test_a_full_disk_is_one_sentence_and_loses_nothing(
        self, files: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        command = [
            sys.executable,
            str(ROOT / "tools/search.py"),
            f"--artifact={files / 'net.matar'}",
            f"--data={files / 'data.npz'}",
            "--targets=bismo_ultra96",
            "--max_evaluations=60",
            "--compare=none",
        ]

        def limit_files() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

        full = subprocess.run(
            [*command, f"--output={output}"],
            capture_output=True,
            text=True,
            preexec_fn=limit_files,
            check=False,
        )
        assert full.returncode == 1
        lines = [line for line in full.stderr.splitlines() if "Error" in line]
        assert len(lines) == 1
        assert "the space on the disk" in lines[0]
        assert not (output / "bismo_ultra96").exists()
        assert num_stored(output / "evaluations.sqlite") > 0
        subprocess.run([*command, f"--output={output}", "--resume"], check=True)
        subprocess.run([*command, f"--output={tmp_path / 'whole'}"], check=True)
        tables = [
            json.loads((folder / "bismo_ultra96/front.json").read_text())
            for folder in (output, tmp_path / "whole")
        ]
        assert tables[0]["rows"] == tables[1]["rows"]
        assert tables[0]["num_reused"] > 0 == tables[1]["num_reused"]

    def test_overwriting_a_run_keeps_a_shared_store(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = str(tmp_path / "shared.sqlite")
        values = arguments(files, tmp_path / "run", targets=["bitfusion_16x32"])
        assert call("search", **values, store=store) == 0
        assert call("search", **values, store=store, overwrite=True) == 0
        assert "evaluated 0, reused 40." in capsys.readouterr().out

    def test_two_processes_find_the_same_front(
        self, files: Path, tmp_path: Path
    ) -> None:
        rows = []
        for jobs in (1, 2):
            output = tmp_path / str(jobs)
            values = arguments(files, output, targets=["bitfusion_16x32"], jobs=jobs)
            assert call("search", **values) == 0
            document = json.loads((output / "bitfusion_16x32/front.json").read_text())
            rows.append(document["rows"])
        assert rows[0] == rows[1]

    def test_exports_agree_with_the_keras_network(
        self, files: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        values = arguments(
            files, output, targets=["bismo_ultra96"], compare="keras", num_samples=100
        )
        assert call("search", **values) == 0
        document = json.loads((output / "bismo_ultra96/front.json").read_text())
        front = [row for row in document["rows"] if row["role"] == "front"]
        assert min(row["figures"]["argmax_agreement"] for row in front) >= 0.99

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"targets": ["bitfusion"]}, "Did you mean 'bitfusion_16x32'"),
            ({"artifact": "nowhere"}, "found nothing"),
            ({"data": "nowhere.npz"}, "found nothing"),
            ({"data": "mnist"}, "'digits'"),
            ({"objectives": ["accuracy", "latency"]}, "latency_ms"),
            ({"num_samples": 100_000}, "1 to 200"),
            ({"max": ["weigth_bytes=40KiB"]}, "Did you mean 'weight_bytes'"),
            ({"fix": ["weights:nosuch=8"]}, "got 'nosuch'"),
            ({"objectives": ["accuracy", "ms"]}, "Did you mean 'latency_ms'"),
            ({"objectives": ["accuracy", "BOPs"]}, "Did you mean 'bops'"),
            ({"metrics": ["acuracy"]}, "Did you mean 'accuracy'"),
            ({"min": ["accuracy=85"]}, "write 0.85 or 85%"),
            ({"start": ["w4a4"]}, "every search starts from them already"),
            (
                {"max": ["energy_pj=1e8"], "targets": ["bismo_haq", "bitfusion_16x32"]},
                "Target 'bismo_haq': Expected a limit on a cost",
            ),
        ],
    )
    def test_bad_requests_write_nothing(
        self,
        files: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        changes: dict[str, Any],
        message: str,
    ) -> None:
        output = tmp_path / "run"
        values = arguments(files, output, **changes)
        assert message in fails(capsys, "search", **values)
        assert not output.exists()

    def test_the_help_names_all_that_can_be_asked_for(self) -> None:
        done = subprocess.run(
            [sys.executable, "tools/search.py", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        named = done.stdout.split("--objectives:")[1].split("--metrics:")[0]
        for name in (*COST_NAMES, "file_bytes", *METRIC_NAMES):
            assert re.search(rf"\b{name}\b", named), name
        assert len(re.findall(r"names\s+are\s+those\s+of\s+--obj", done.stdout)) == 2

    def test_a_bad_request_does_not_cost_the_run_that_it_would_overwrite(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "run"
        output.mkdir()
        (output / "run.json").write_text("{}")
        values = arguments(
            files, output, overwrite=True, objectives=["accuracy", "latency"]
        )
        assert "latency_ms" in fails(capsys, "search", **values)
        assert (output / "run.json").read_text() == "{}"

    def test_samples_of_another_shape(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.savez(
            tmp_path / "d.npz",
            x_test=np.zeros((4, 9, 9, 1), np.float32),
            y_test=np.zeros(4, int),
        )
        values = arguments(files, tmp_path / "run", data=str(tmp_path / "d.npz"))
        assert "(200" not in (line := fails(capsys, "search", **values))
        assert "8, 8, 1" in line

    def test_a_folder_that_holds_something_else(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "thesis.txt").write_text("years")
        values = arguments(files, tmp_path, overwrite=True)
        assert "other files" in fails(capsys, "search", **values)
        assert (tmp_path / "thesis.txt").read_text() == "years"

    def test_an_earlier_run(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = arguments(files, tmp_path / "run", targets=["cortex_m4_cmsis_nn"])
        assert call("search", **values) == 0
        assert "--resume" in fails(capsys, "search", **values)
        other = {**values, "seed": 1, "resume": True}
        assert "same seed" in fails(capsys, "search", **other)
        assert call("search", **values, overwrite=True) == 0

    def test_metrics_of_the_users_choice(self, files: Path, tmp_path: Path) -> None:
        values = arguments(
            files,
            tmp_path / "run",
            targets=["bismo_ultra96"],
            metrics=["top_2_accuracy", "test_tools:worst_margin"],
            objectives=["max:worst_margin", "weight_bytes"],
        )
        assert call("search", **values) == 0
        front = (tmp_path / "run/bismo_ultra96/front.json").read_text()
        rows = [row for row in json.loads(front)["rows"] if row["role"] == "front"]
        assert rows
        for one in rows:
            data = few_digits()
            path = tmp_path / "run/bismo_ultra96" / f"{one['name']}.tflite"
            outputs = Runner(path.read_bytes()).predict(data.x_test)
            expected = worst_margin(outputs, data.y_test)
            assert one["figures"]["worst_margin"] == pytest.approx(expected)
            assert 0.0 < one["figures"]["top_2_accuracy"] <= 1.0

    def test_an_unknown_metric(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = arguments(files, tmp_path / "run", metrics=["acuracy"])
        assert "'accuracy'" in fails(capsys, "search", **values)

    def test_stray_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        message = fails(capsys, "search", "net.matar", "bitfusion_16x32")
        assert "one word beside flags" in message


class TestReport:
    def test_prints_every_format(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = arguments(files, tmp_path / "run", targets=["cortex_m4_cmsis_nn"])
        assert call("search", **values) == 0
        for kind, words in (
            ("text", "accuracy"),
            ("md", "| policy |"),
            ("csv", "name,role"),
            ("json", '"schema_version"'),
            ("html", '<section id="target-cortex_m4_cmsis_nn">'),
            ("svg", "</svg>"),
        ):
            capsys.readouterr()
            assert call("report", run=str(tmp_path / "run"), format=kind) == 0
            assert words in capsys.readouterr().out
        page = (tmp_path / "run/report.html").read_text()
        files_of_front = re.findall(r'href="([^#"]+)"', page)
        assert len(files_of_front) >= 2
        assert all((tmp_path / "run" / one).is_file() for one in files_of_front)

    def test_what_a_killed_search_was_writing_is_no_target(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = arguments(files, tmp_path / "run", targets=["cortex_m4_cmsis_nn"])
        assert call("search", **values) == 0
        shutil.copytree(
            tmp_path / "run/cortex_m4_cmsis_nn", tmp_path / "run/.mpic.0123456789abcdef"
        )
        capsys.readouterr()
        assert call("report", run=str(tmp_path / "run"), format="json") == 0
        assert isinstance(json.loads(capsys.readouterr().out), dict)

    def test_one_target_of_several(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = str(tmp_path / "run")
        targets = ["cortex_m4_cmsis_nn", "mpic"]
        values = arguments(files, tmp_path / "run", targets=targets)
        assert call("search", **values) == 0
        capsys.readouterr()
        assert call("report", run=run, format="csv", target="mpic") == 0
        one = capsys.readouterr().out
        assert one.count("name,role") == 1
        assert call("report", run=run, format="csv") == 0
        both = capsys.readouterr().out
        assert both.count("name,role") == 1
        rows = list(csv.DictReader(both.splitlines()))
        assert list(rows[0])[:3] == ["target", "name", "role"]
        assert {row["target"] for row in rows} == set(targets)
        mine = [row for row in rows if row.pop("target") == "mpic"]
        known = [{k: v for k, v in row.items() if k in mine[0]} for row in mine]
        assert known == list(csv.DictReader(one.splitlines()))
        assert one == (tmp_path / "run/mpic/front.csv").read_text()
        assert call("report", run=run, format="json") == 0
        documents = json.loads(capsys.readouterr().out)
        assert [document["target"] for document in documents] == targets
        assert call("report", run=run, format="svg", target="mpic") == 0
        assert "--targets" in fails(capsys, "report", run=run, format="svg")
        assert "mpic" in fails(capsys, "report", run=run, target="mpig")
        message = fails(capsys, "report", run=run, format="html", target="mpic")
        assert "whole run" in message
        assert call("report", run=run, format="html") == 0
        page = capsys.readouterr().out
        assert page == (tmp_path / "run/report.html").read_text()
        (tmp_path / "run/matrix.json").unlink()
        assert "--resume" in fails(capsys, "report", run=run, format="html")

    def test_a_damaged_run_is_one_sentence(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        assert call("search", **arguments(files, run, targets=["mpic"])) == 0
        capsys.readouterr()
        path = run / "mpic/result.json"
        whole, record = path.read_text(), (run / "run.json").read_text()

        def changed(**changes: Any) -> str:
            return json.dumps({**json.loads(whole), **changes})

        huge = json.loads(whole)
        huge["front"][0]["metrics"]["accuracy"] = 10**400
        for text, words in (
            ("[1]", "result.json is damaged: Expected a JSON object"),
            ("[" * 100_000, "nested too deeply"),
            (json.dumps(huge), "is damaged"),
            (changed(objectives=3), "under 'objectives'"),
            (changed(front=[]), "got 0 policies"),
            (changed(objectives=[]), "the objectives []; print a table"),
        ):
            path.write_text(text)
            assert words in fails(capsys, "report", run=str(run), format="svg")
        path.write_text(whole)
        path = run / "run.json"
        for text in ("[1]", "3", "null", "{}"):
            path.write_text(text)
            message = fails(capsys, "report", run=str(run))
            assert f"Expected the record of a run in {path}, but: " in message
        for metrics, words in (
            (3, "float_metrics"),
            ({"accuracy": "high"}, "float_metrics"),
            ({"accuracy": None}, "float_metrics"),
            ({"accuracy": True}, "float_metrics"),
            ({"accuracy": 10**400}, "has 401 digits. Search again"),
        ):
            path.write_text(
                json.dumps({**json.loads(record), "float_metrics": metrics})
            )
            assert words in fails(capsys, "report", run=str(run))
        path.write_text(json.dumps({**json.loads(record), "colour": "red"}))
        assert "Unknown key 'colour'" in fails(capsys, "report", run=str(run))
        (run / "run.json").write_text(record)
        assert call("report", run=str(run)) == 0

    def test_nothing_to_report(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "no results" in fails(capsys, "report", run=str(tmp_path))


class TestExport:
    @pytest.mark.parametrize(
        "profile", ["int8", "packed-litert", "packed-float", "packed-portable"]
    )
    def test_every_profile(
        self,
        files: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        profile: str,
    ) -> None:
        path = tmp_path / "x.tflite"
        values = {"artifact": str(files / "net.matar"), "output": str(path)}
        assert call("export", **values, policy="w2a4", profile=profile) == 0
        assert f"{path.stat().st_size} bytes" in capsys.readouterr().out
        assert call("inspect", str(path)) == 0
        printed = capsys.readouterr().out
        assert profile in printed
        assert ("  INT2  " in printed) == (profile in ("packed-litert", "packed-float"))

    def test_a_folder_is_no_file_to_overwrite(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "x.tflite"
        output.mkdir()
        values = {"artifact": str(files / "net.matar"), "output": str(output)}
        line = fails(capsys, "export", **values, policy="w8a8", overwrite=True)
        assert f"a file at {output}, got a folder; choose another path" in line

    def test_a_file_that_cannot_be_written_is_named(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        output = tmp_path / "file/x.tflite"
        values = {"artifact": str(files / "net.matar"), "output": str(output)}
        line = fails(capsys, "export", **values, policy="w8a8")
        assert f"write x.tflite in at {output.parent}, found a file; make" in line

    def test_verifies_layer_by_layer(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = {
            "artifact": str(files / "net.matar"),
            "output": str(tmp_path / "x.tflite"),
            "data": str(files / "data.npz"),
        }
        checks = {"compare": "keras", "verify": True}
        assert call("export", **values, policy="w3a3", **checks) == 0
        printed = capsys.readouterr().out
        assert "differ on 0.0000% of outputs" in printed
        assert "  conv_relu  " in printed
        assert "First layer on which runtime and simulator differ: none." in printed
        assert "First layer that differs from Keras: " in printed

    @pytest.mark.parametrize("profile", ["packed-float", "packed-portable"])
    def test_verifies_packed_files(
        self,
        files: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        profile: str,
    ) -> None:
        values = {
            "artifact": str(files / "net.matar"),
            "output": str(tmp_path / "x.tflite"),
            "data": str(files / "data.npz"),
        }
        checks = {"profile": profile, "verify": True}
        assert call("export", **values, policy="w2a4", **checks) == 0
        assert "simulator differ: none." in capsys.readouterr().out

    def test_a_file_says_whom_it_is_for_and_how_good_it_is(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "x.tflite"
        values = {
            "artifact": str(files / "net.matar"),
            "output": str(path),
            "data": str(files / "data.npz"),
            "verify": True,
        }
        target = {"target": "cortex_m7"}
        line = fails(capsys, "export", **values, **target, policy="w4a4")
        assert "cortex_m7" in line
        assert "Weights must use a width" in line
        assert "Violation(" not in line
        assert not path.exists()
        assert call("export", **values, **target, policy="w8a8") == 0
        capsys.readouterr()
        metadata = read_metadata(path.read_bytes())
        assert metadata["target"] == "cortex_m7"
        with np.load(files / "data.npz") as stored:
            outputs = Runner(path.read_bytes()).predict(stored["x_test"])
            right = float(np.mean(outputs.argmax(axis=-1) == stored["y_test"]))
            assert metadata["num_samples"] == len(stored["y_test"])
        assert metadata["metrics"]["accuracy"] == right

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"policy": "w9a9"}, "2..8"),
            ({"policy": "nowhere.json"}, "nowhere.json"),
            ({"output": "x.bin"}, ".tflite"),
        ],
    )
    def test_bad_requests_write_nothing(
        self,
        files: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        changes: dict[str, str],
        message: str,
    ) -> None:
        values = {
            "artifact": str(files / "net.matar"),
            "output": str(tmp_path / "x.tflite"),
            "policy": "w4a4",
        }
        assert message in fails(capsys, "export", **{**values, **changes})
        assert not list(tmp_path.iterdir())

    def test_spares_existing_files(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "x.tflite"
        path.write_text("precious")
        values = {"artifact": str(files / "net.matar"), "output": str(path)}
        line = fails(capsys, "export", **values, policy="w4a4")
        assert "--overwrite" in line
        assert path.read_text() == "precious"
        assert call("export", **values, policy="w4a4", overwrite=True) == 0
        artifact = digits_artifact()
        policy = artifact.space.named("w4a4").to_json()
        assert read_metadata(path.read_bytes())["policy"] == policy


class TestEvaluate:
    def test_both_runtimes_in_processes(self, files: Path, tmp_path: Path) -> None:
        path = tmp_path / "x.tflite"
        values = {"artifact": str(files / "net.matar"), "output": str(path)}
        assert call("export", **values, policy="w8a8") == 0
        accuracies = []
        for name in ("litert", "tflite_runtime"):
            done = subprocess.run(
                [
                    *(sys.executable, "tools/evaluate.py", f"--model={path}"),
                    *(f"--data={files / 'data.npz'}", f"--runtime={name}"),
                ],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            assert "ms (median" in done.stdout
            assert f"{path.stat().st_size} bytes" in done.stdout
            line = next(x for x in done.stdout.splitlines() if "accuracy" in x)
            accuracies.append(float(line.split()[1].rstrip("%")))
            bounds = line.split("(")[1].split("%, 95 % interval")[0].split("%..")
            number = len(np.load(files / "data.npz")["y_test"])
            right = round(accuracies[-1] / 100 * number)
            wilson = stats.binomtest(right, number).proportion_ci(method="wilson")
            assert [float(one) / 100 for one in bounds] == pytest.approx(
                [wilson.low, wilson.high], abs=1e-4
            )
        assert abs(accuracies[0] - accuracies[1]) <= 2.0

    def test_prints_what_is_asked_for(
        self,
        files: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        artifact = digits_artifact()
        content = ModelBuilder(artifact).build(artifact.space.named("w4a4"))
        path = tmp_path / "x.tflite"
        path.write_bytes(content)
        values = {"model": str(path), "data": str(files / "data.npz"), "threads": 2}
        asked: list[int] = []
        made = runtime.make_interpreter

        def make_interpreter(content: bytes, name: str, num_threads: int) -> Any:
            asked.append(num_threads)
            return made(content, name, num_threads)

        monkeypatch.setattr(runtime, "make_interpreter", make_interpreter)
        monkeypatch.setattr(latency, "make_interpreter", make_interpreter)
        metrics = ["top_2_accuracy", "test_tools:worst_margin"]
        assert call("evaluate", **values, metrics=metrics, operators=True) == 0
        shown = capsys.readouterr().out
        assert set(asked) == {2}
        outputs = Runner(content).predict(few_digits().x_test)
        margin = worst_margin(outputs, few_digits().y_test)
        assert f"worst_margin {margin:.4f}\n" in shown
        assert "top_2_accuracy" in shown
        assert "loss" not in shown
        lines = [line for line in shown.splitlines() if " us  " in line]
        graph = parse_model(content).subgraphs[0]
        assert len(lines) == len(graph.operators)
        assert sum(line.endswith(" logits") for line in lines) == 1
        message = fails(
            capsys, "evaluate", **values, operators=True, runtime="tensorflow"
        )
        assert "--runtime=litert" in message

    def test_a_missing_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "there is none" in fails(capsys, "evaluate", model="no.tflite")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"y_test": np.full(3, 10)}, "Expected labels in 0..9"),
            ({"y_test": np.full(3, -1)}, "labels"),
            ({"x_test": np.zeros((3, 4, 4, 1), np.float32)}, "samples of shape"),
        ],
    )
    def test_data_of_another_network(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        change: dict[str, Any],
        message: str,
    ) -> None:
        artifact = digits_artifact()
        path = tmp_path / "x.tflite"
        path.write_bytes(ModelBuilder(artifact).build(artifact.space.named("w8a8")))
        data = few_digits().head(3)
        arrays = {"x_test": data.x_test, "y_test": data.y_test, **change}
        np.savez(tmp_path / "data.npz", **arrays)
        values = {"model": str(path), "data": str(tmp_path / "data.npz")}
        assert message in fails(capsys, "evaluate", **values)


class TestWhatTrainingStartsFrom:
    def test_where_the_float_network_goes_is_checked_before_training(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kept = tmp_path / "keep.h5"
        kept.write_text("precious")
        for path, message in (
            (kept, "pass --overwrite"),
            (tmp_path / "nowhere" / "f.h5", "in a folder that is there"),
            (tmp_path / "f.keras", "path.h5"),
        ):
            values = {"recipe": "digits_resnet8", "output": str(tmp_path / "run")}
            assert message in fails(capsys, "train", **values, save_float=str(path))
        assert kept.read_text() == "precious"
        assert list(tmp_path.iterdir()) == [kept]

    def test_stock_networks_start_from_a_float_one(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = {"recipe": "digits_resnet8:scratch", "output": str(tmp_path / "run")}
        assert "from scratch" in fails(capsys, "train_stock", **values)


class TestTrain:
    def test_an_unknown_recipe(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = {"recipe": "digits_resnet9", "output": str(tmp_path / "a")}
        assert "digits_resnet8" in fails(capsys, "train", **values)
        assert not list(tmp_path.iterdir())

    def test_missing_data(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = {"recipe": "cifar10_resnet8", "output": str(tmp_path / "a")}
        assert "--data" in fails(capsys, "train", **values)

    def test_reuses_an_artifact(
        self, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = {"recipe": "digits_resnet8", "output": str(files / "net.matar")}
        assert call("train", **values, reuse=True) == 0
        assert "Reusing" in capsys.readouterr().out
        assert "--overwrite" in fails(capsys, "train", **values)
        both = fails(capsys, "train", **values, reuse=True, overwrite=True)
        assert "--reuse or --overwrite" in both

    def test_each_choice_makes_another_network(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = few_digits()
        x, y = data.training()
        few = {"x_train": x[:64], "y_train": y[:64]}
        path, kept = tmp_path / "data.npz", tmp_path / "float.h5"
        np.savez(path, x_test=data.x_test[:64], y_test=data.y_test[:64], **few)
        values = {
            "recipe": "digits_resnet8:quick",
            "data": str(path),
            "output": str(tmp_path / "net.matar"),
            "policy": "w2a8",
        }
        assert call("train", **values, save_float=str(kept)) == 0
        assert "w2a8" in capsys.readouterr().out
        first = read_artifact(tmp_path / "net.matar")
        assert first.space.uniform_names(mixed=True) == ("w2a8",)
        assert first.provenance["seed"] == 0
        assert first.provenance["data"] == str(path)
        # From the network that was saved, with another seed, in the place of the first.
        values |= {"float": str(kept), "seed": 1, "policy": "w8a2"}
        assert "--overwrite" in fails(capsys, "train", **values)
        assert call("train", **values, overwrite=True) == 0
        second = read_artifact(tmp_path / "net.matar")
        assert second.space.uniform_names(mixed=True) == ("w8a2",)
        assert second.provenance["seed"] == 1
        assert second.accuracy["float"] == first.accuracy["float"]

    def test_from_scratch_there_is_no_float_network(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        values = {
            "recipe": "digits_resnet8:scratch:quick",
            "output": str(tmp_path / "a.matar"),
        }
        message = fails(capfd, "train", **values, float=str(tmp_path / "float.h5"))
        assert "scratch" in message
        assert call("train", **values) == 0
        shown = capfd.readouterr().out
        assert "w8a8" in shown
        assert "float" not in shown
        assert "float" not in read_artifact(tmp_path / "a.matar").accuracy


class TestAblate:
    def test_variants_see_as_many_policies(self) -> None:
        module = load("ablate")
        method = load_recipe("cifar10_resnet8").method
        assert method.draws + len(method.sandwich) == 5
        chosen = module.variants(method, 20)
        passes = {
            name: module._num_epochs(one, 20) * (one.draws + len(one.sandwich))
            for name, one in chosen.items()
        }
        assert list(chosen["curriculum"].sampler) == [0, 1]  # of four epochs
        longer = module.variants(replace(method, sandwich=(), draws=1), 20)
        assert list(longer["curriculum"].sampler) == [0, 6]
        assert all(18 <= number <= 20 for number in passes.values())
        assert passes["one policy a step"] == passes["default"] == 20

    def test_a_variant_differs_by_what_it_is_called_after(self) -> None:
        module = load("ablate")
        method = load_recipe("cifar10_resnet8").method
        chosen = module.variants(method, 20)
        changed = {
            name: {
                field.name
                for field in fields(method)
                if getattr(one, field.name) != getattr(method, field.name)
            }
            for name, one in chosen.items()
        }
        for same in ("default", "an update a pass", "averaged weights"):
            assert changed.pop(same) == set()
        assert changed["any widths for bands"] == {"sampler"}
        assert changed["an update a step"] == {"update_every_pass"}
        assert changed["no soft labels"] == {"distillation"}
        assert changed["statistics per weight bits"] == {"norm_context"}
        assert all(changed.values())
        bands = chosen["any widths for bands"].sampler
        assert bands.probs == method.sampler.probs
        assert not any(isinstance(one, BandSampler) for one in bands.samplers)

    def test_prints_a_line_for_each(
        self,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        network, _ = trained_pair()
        network.save(tmp_path / "float.h5")
        module = load("ablate")
        monkeypatch.setattr(module, "_NUM_RANDOM", 2)
        monkeypatch.setattr(module, "_REESTIMATION", 2)
        values = {
            "recipe": "digits_resnet8",
            "float": str(tmp_path / "float.h5"),
            "epochs": 3,
            "variants": ["moving statistics"],
        }
        assert call("ablate", **values) == 0
        (line,) = [
            line
            for line in capfd.readouterr().out.splitlines()
            if line.startswith("moving statistics")
        ]
        figures = [float(one.strip(",")) for one in line.split()[2:]]
        assert len(figures) == 9  # four uniform, two of each family, minutes
        assert figures[0] > 50.0  # w8a8
        for mean, worst in (figures[4:6], figures[6:8]):
            assert worst <= mean

    def test_averaged_weights_are_a_matter_of_the_schedule(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = load("ablate")
        config = load_recipe("digits_resnet8")
        averages: list[float] = []

        def train(network: Any, data: Any, schedule: Any, *_: Any, **__: Any) -> Any:
            averages.append(schedule.ema)
            raise KeyboardInterrupt

        monkeypatch.setattr(matar_keras, "train_multi_bit", train)
        monkeypatch.setattr(matar_keras, "policy_space", lambda *_, **__: None)
        given = SimpleNamespace(epochs=3, seed=0)
        for name in ("default", "averaged weights"):
            with pytest.raises(KeyboardInterrupt):
                module._line(name, None, None, config, config.method, given)
        assert averages == [0.0, 0.999]

    def test_an_unknown_variant(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "Did you mean" in fails(capsys, "ablate", variants=["no soft label"])

    def test_the_data_are_those_of_the_recipe(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = fails(capsys, "ablate", recipe="cifar10_resnet8")
        assert "Expected --data for the recipe 'cifar10_resnet8'" in message


class TestTrainStock:
    def test_two_files_of_int8_kernels(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        trained_pair()[0].save(tmp_path / "float.h5")
        values = {
            "recipe": "digits_resnet8:quick",
            "float": str(tmp_path / "float.h5"),
            "output": str(tmp_path / "stock"),
        }
        assert call("train_stock", **values) == 0
        shown = capfd.readouterr().out
        for name in ("ptq", "qat"):
            content = (tmp_path / "stock" / f"{name}.tflite").read_bytes()
            model = parse_model(content)
            kernels = [
                model.subgraphs[0].tensors[operator.inputs[1]].type
                for operator in model.subgraphs[0].operators
                if op_name(model, operator) in COMPUTE_OPS
            ]
            assert set(kernels) == {schema.TensorType.INT8}
            line = next(x for x in shown.splitlines() if x.startswith(f"  {name}  "))
            assert float(line.split()[1].rstrip("%")) > 80.0

    def test_a_folder_that_exists(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = {"recipe": "digits_resnet8", "output": str(tmp_path)}
        assert "choose another" in fails(capsys, "train_stock", **values)


class TestPackage:
    def test_a_saved_model(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "model.h5"
        trained_pair()[1].save(path)
        values = {"model": str(path), "output": str(tmp_path / "net.matar")}
        assert call("package", **values) == 0
        assert "policies" in capsys.readouterr().out
        assert "--overwrite" in fails(capsys, "package", **values)
        data = few_digits()
        np.savez(tmp_path / "data.npz", x_test=data.x_test, y_test=data.y_test)
        values |= {"data": str(tmp_path / "data.npz"), "measure": 12}
        assert call("package", **values, num_samples=20, overwrite=True) == 0
        assert "12 policies measured on 20 held-out samples" in capsys.readouterr().out
        artifact = read_artifact(tmp_path / "net.matar")
        assert artifact.measurements is not None
        assert artifact.measurements.num_samples == 20

    def test_what_travels_and_what_is_not_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "model.h5"
        trained_pair()[1].save(path)
        values = {
            "model": str(path),
            "output": str(tmp_path / "net.matar"),
            "author": "A. Maker",
            "class_names": "zero,one",
            "network": False,
        }
        assert call("package", **values) == 0
        printed = capsys.readouterr().out
        net = read_artifact(tmp_path / "net.matar")
        for name, content in net.members().items():
            assert f"{len(content):,d} bytes" in printed
            assert name in printed
        assert "network.json" not in printed
        missing = next(one for one in printed.splitlines() if "does not say" in one)
        assert "license" in missing
        assert "author" not in missing
        assert net.provenance["card"] == {
            "author": "A. Maker",
            "class_names": ["zero", "one"],
        }

    def test_a_model_compiled_with_a_loss_of_ones_own(self, tmp_path: Path) -> None:
        def own_loss(labels: Any, outputs: Any) -> Any:
            return abs(labels - outputs)

        inputs = keras.layers.Input((6,))
        model = quantize_model(
            keras.Model(inputs, keras.layers.Dense(2, name="last")(inputs))
        )
        model.compile("adam", own_loss)
        model.fit(np.eye(6), np.eye(6)[:, :2], verbose=0)
        model.save(tmp_path / "model.h5")
        values = {"model": str(tmp_path / "model.h5")}
        assert call("package", **values, output=str(tmp_path / "net.matar")) == 0
        assert list(read_artifact(tmp_path / "net.matar").space.weights) == ["last"]

    def test_nothing_saved(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = {"model": "no.h5", "output": str(tmp_path / "net.matar")}
        assert "found nothing" in fails(capsys, "package", **values)


class TestShowTarget:
    def test_prints_figures_with_sources(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call("targets", "bismo_ultra96") == 0
        printed = capsys.readouterr().out
        assert "source: " in printed
        assert "(assumed)" in printed

    def test_lists_the_catalogue(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("targets", list=True) == 0
        lines = capsys.readouterr().out.splitlines()
        names = [line.split()[0] for line in lines[1:]]
        assert names == list(list_targets())
        bitfusion = next(line for line in lines if line.startswith("bitfusion"))
        assert "8,192 .. 512" in bitfusion  # MACs per cycle, as published
        assert "validation 0 %" in bitfusion

    def test_checks_a_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = TARGETS / "mpic.toml"
        path = tmp_path / "mine.target"
        path.write_text(source.read_text())
        assert call("targets", check=str(path)) == 0
        assert "no mistakes" in capsys.readouterr().out
        path.write_text(source.read_text() + "\nactive_power = 3\n")
        assert "Did you mean 'active_power_mw'" in fails(
            capsys, "targets", check=str(path)
        )

    def test_prints_the_schema(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("targets", schema=True) == 0
        assert json.loads(capsys.readouterr().out) == target_json_schema()

    def test_lists_without_a_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("targets") == 0
        listed = capsys.readouterr().out
        assert call("targets", "list") == 0
        assert capsys.readouterr().out == listed
        assert "list, show NAME" in fails(capsys, "targets", "show")


class TestCost:
    def test_prints_policies_by_targets(
        self, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        artifact = str(files / "net.matar")
        policy = files / "mine.json"
        space = digits_artifact().space
        policy.write_text(json.dumps(space.named("w3a8").to_json()))
        values = {"artifact": artifact, "targets": ["mpic", "bismo_haq"]}
        policies = ["w8a8", str(policy)]
        assert call("cost", policies=policies, format="json", **values) == 0
        document = json.loads(capsys.readouterr().out)
        assert [entry["legal"] for entry in document["entries"]] == [
            *(True, False),
            *(True, True),
        ]
        assert call("cost", policies=policies, **values) == 0
        assert "not allowed" in capsys.readouterr().out
        assert call("cost", policies=policies, format="csv", **values) == 0
        assert capsys.readouterr().out.count("\n") == 5

    @pytest.mark.parametrize("form", ["md", "csv", "json"])
    def test_prints_each_layer(
        self, form: str, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(
            "cost",
            artifact=str(files / "net.matar"),
            policies=["w4a4"],
            targets=["mpic"],
            layers=True,
            format=form,
        ) == 0  # fmt: skip
        printed = capsys.readouterr().out
        for layer in digits_artifact().workload.layers:
            assert layer.name in printed

    def test_a_policy_that_is_none_is_named(
        self, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = {"artifact": str(files / "net.matar"), "targets": ["mpic"]}
        path = str(files / "none.json")
        assert path in fails(capsys, "cost", policies=[path], **values)

    def test_a_policy_is_one_of_the_artifact(
        self, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        space = digits_artifact().space
        document: Any = space.named("w8a8").to_json()
        entry = next(name for name, bits in space.weights.items() if 2 not in bits)
        document["weights"][entry] = 2
        path = tmp_path / "narrow.json"
        path.write_text(json.dumps(document))
        values = {"artifact": str(files / "net.matar"), "targets": ["mpic"]}
        assert entry in fails(capsys, "cost", policies=[str(path)], **values)


class TestHost:
    def test_a_search_times_what_it_exports(self, files: Path, tmp_path: Path) -> None:
        output = tmp_path / "run"
        changes = {"targets": ["host_litert", "mpic"], "max_evaluations": 10}
        assert call("search", **arguments(files, output, **changes)) == 0
        front = json.loads((output / "host_litert/front.json").read_text())
        rows = [row for row in front["rows"] if row["role"] == "front"]
        kinds = {column["name"]: column["kind"] for column in front["columns"]}
        assert kinds["measured_latency_ms"] == "measured"
        assert all(row["figures"]["measured_latency_ms"] > 0 for row in rows)
        latencies = json.loads((output / "latency.json").read_text())["latencies"]
        measured = {one["median_ms"] for one in latencies.values()}
        assert {row["figures"]["measured_latency_ms"] for row in rows} == measured
        other = json.loads((output / "mpic/front.json").read_text())
        assert "measured_latency_ms" not in other["rows"][0]["figures"]

        matrix = json.loads((output / "matrix.json").read_text())
        assert matrix["targets"] == ["host_litert", "mpic"]
        names = {f"host_litert/{row['name']}" for row in rows}
        assert names <= set(matrix["policies"])


class TestBenchmark:
    def test_recomputes_the_published_figures(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "table.md"
        call("benchmark", "targets", markdown=str(path))
        printed = capsys.readouterr().out
        assert "| `bitfusion_16x32` | SVHN, batch 16 |" in path.read_text()
        assert path.read_text() in printed
        assert "bitfusion_16x32: worst of 8 networks (validation)" in printed

    def test_needs_a_suite_and_its_flags(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "Did you mean 'targets'" in fails(capsys, "benchmark", "target")
        assert "--artifact" in fails(capsys, "benchmark", "core")
        message = fails(capsys, "benchmark", "memory", seed=1)
        assert "got --seed" in message
        assert "num_samples" in message


class TestWithoutTensorFlow:
    def test_the_whole_way_from_an_artifact(self, files: Path, tmp_path: Path) -> None:
        output = tmp_path / "run"
        for command in (
            [
                *("tools/search.py", f"--artifact={files / 'net.matar'}"),
                *("--targets=cortex_m4_cmsis_nn", f"--output={output}"),
                f"--data={files / 'data.npz'}",
            ],
            ["tools/report.py", f"--run={output}"],
            [
                *("tools/export.py", f"--artifact={files / 'net.matar'}"),
                *("--policy=w4a4", f"--output={tmp_path / 'x.tflite'}"),
            ],
            [
                *("tools/evaluate.py", f"--model={tmp_path / 'x.tflite'}"),
                f"--data={files / 'data.npz'}",
            ],
            ["tools/inspect_model.py", str(tmp_path / "x.tflite")],
        ):
            done = subprocess.run(
                [sys.executable, "-c", WITHOUT_TENSORFLOW, *command],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr

    def test_training_says_what_is_missing(self, tmp_path: Path) -> None:
        command = ["tools/train.py", "--recipe=digits_resnet8"]
        done = subprocess.run(
            [
                *(sys.executable, "-c", WITHOUT_TENSORFLOW, *command),
                f"--output={tmp_path / 'a'}",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "pip install 'tensorflow==2.21.*' 'tf_keras==2.21.*'" in done.stderr

    def test_importing_loads_nothing_heavy(self) -> None:
        code = (
            "import sys, matar_tf; "
            "heavy = {'numpy', 'tensorflow', 'deap', 'pydantic'} & set(sys.modules); "
            "assert not heavy, heavy; matar_tf.Policy"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_public_name_resolves() -> None:
    import matar_tf

    for name in matar_tf.__all__:
        assert getattr(matar_tf, name) is not None
    with pytest.raises(AttributeError, match="quantise_model"):
        matar_tf.quantise_model  # noqa: B018
