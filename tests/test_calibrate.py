"""`matar targets calibrate` and `template`, with real commands as tiny scripts."""

from __future__ import annotations

import csv
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.digits import digits_artifact
from fixtures.paths import ROOT, TARGETS
from fixtures.programs import call, fails, words_of

from matar_tf.artifact import write_artifact
from matar_tf.errors import TargetError
from matar_tf.policy import Policy
from matar_tf.pricing import check_policy, estimate
from matar_tf.run.calibrate import calibrate
from matar_tf.run.outlook import host_hint
from matar_tf.run.timing import CommandTimer, TimedFile, Times, time_files
from matar_tf.targets import LitertBackend, load_target
from matar_tf.tflite._schema import CheckedModel
from matar_tf.tflite.drawn_networks import draw_networks
from matar_tf.workload import OpKind

# A board whose time is that of reading the file, and a constant.
BOARD = """
import os, sys
print("board ready")
print("1 inference:", os.path.getsize(sys.argv[1]) / 1e4 + 0.5)
"""
FILE = TimedFile(name="one", content=CheckedModel(b"x" * 1000))


def rows_of(path: Path) -> list[dict[str, str]]:
    return [*csv.DictReader(path.read_text().splitlines())]


def command_of(folder: Path, code: str) -> str:
    path = folder / "board.py"
    path.write_text(code)
    return shlex.join([sys.executable, str(path)])


@pytest.fixture
def board(tmp_path: Path) -> str:
    return command_of(tmp_path, BOARD)


def timer_of(command: str, folder: Path, timeout_s: float = 60.0) -> CommandTimer:
    return CommandTimer(command=command, timeout_s=timeout_s, folder=folder)


class TestCommandTimer:
    def test_the_last_number_is_the_time(self, board, tmp_path):
        assert timer_of(board, tmp_path)(FILE) == 0.6
        assert not [*tmp_path.glob("*.tflite")]

    def test_the_path_takes_its_place(self, tmp_path):
        code = "import sys; assert sys.argv[2] == 'last'; print(len(sys.argv[1]))"
        command = f"{command_of(tmp_path, code)} --in={{file}} last"
        expected = len(f"--in={tmp_path / FILE.key}.tflite")
        assert timer_of(command, tmp_path)(FILE) == expected

    def test_no_shell_sees_it(self, tmp_path):
        code = "import sys; print(len(sys.argv))"
        command = f"{command_of(tmp_path, code)} '$HOME' ';' 'a b' {{file}} > x"
        assert timer_of(command, tmp_path)(FILE) == 7
        assert not Path("x").exists()

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("raise SystemExit('no board')", "status 1 after it printed 'no board'"),
            ("print('5'); raise SystemExit(3)", "status 3 after it printed '5'"),
            ("print('done')", "milliseconds of one inference last.*got 'done"),
            ("", "milliseconds of one inference last.*got ''"),
            ("print(0)", "1e-07 to 1e.09, got '0"),
            ("print('nan')", "got 'nan"),
            ("print(-1.5)", "got '-1.5"),
            ("print('inf')", "got 'inf"),
        ],
    )
    def test_a_command_that_fails_or_prints_no_time(self, code, message, tmp_path):
        with pytest.raises(TargetError, match=message) as caught:
            timer_of(command_of(tmp_path, code), tmp_path)(FILE)
        assert "\n" not in str(caught.value)

    def test_one_that_does_not_end_is_ended_with_its_children(self, tmp_path):
        pid = tmp_path / "pid"
        code = (
            "import pathlib, subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', "
            "'import time; time.sleep(600)'])\n"
            f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
            "time.sleep(600)\n"
        )
        with pytest.raises(TargetError, match="to end within 2 s, got no end"):
            timer_of(command_of(tmp_path, code), tmp_path, timeout_s=2.0)(FILE)
        for _ in range(100):
            try:
                state = Path(f"/proc/{pid.read_text()}/stat").read_text()
            except FileNotFoundError:
                return
            if state.rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.05)
        raise AssertionError("its child is still there")

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("no_such_program_here", "can be run, got 'no_such_program_here'"),
            ("/", "can be run, got '/'"),
            ("unclosed 'quote", "as a shell has it"),
            (" ", "given a file and prints milliseconds, got none"),
        ],
    )
    def test_what_is_no_command(self, command, message, tmp_path):
        with pytest.raises(TargetError, match=message):
            timer_of(command, tmp_path)(FILE)


class TestTimes:
    def test_only_what_is_missing_is_timed(self, tmp_path):
        path, files = (
            tmp_path / "a.csv",
            [FILE, TimedFile(name="b", content=FILE.content)],
        )
        keys, seen = [one.key for one in files], []

        def timer(file: TimedFile) -> float:
            seen.append(file.name)
            if len(seen) == 3:
                raise TargetError("unplugged")
            return float(len(seen))

        with pytest.raises(TargetError, match="unplugged"):
            time_files(
                files,
                Times(path, by="me", keys=keys),
                timer,
                num_rounds=2,
                progress=False,
            )
        path.write_bytes(path.read_bytes() + b"one-0")  # a row that was cut
        times = Times(path, by="me", keys=keys)
        found = time_files(files, times, timer, num_rounds=2, progress=False)
        assert seen == ["one", "b", "one", "one", "b"]
        assert found == [1.0, 2.0]  # the least of 1 and 4, of 2 and 5
        rows = [*csv.reader(path.read_text().splitlines())]
        assert rows[0] == ["file", "round", "milliseconds", "by"]
        assert [row[1:3] for row in rows[1:]] == [
            ["0", "1.0"],
            ["0", "2.0"],
            ["1", "4.0"],
            ["1", "5.0"],
        ]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (f"{FILE.key},0,1.0,other", "times by 'me'.*by 'other'"),
            ("two-1,0,1.0,me", "the same files.*'two-1'"),
            (f"{FILE.key},0,-1.0,me", "milliseconds of 1e-07"),
            (f"{FILE.key},zero,1.0,me", "in each row"),
            (f"{FILE.key},0", "in each row"),
        ],
    )
    def test_times_of_something_else_are_refused(self, row, message, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text(f"file,round,milliseconds,by\n{row}\n")
        with pytest.raises(TargetError, match=message):
            Times(path, by="me", keys=[FILE.key])
        assert path.read_text().endswith(f"{row}\n")

    def test_so_is_another_table(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("layer,value\nconv,1\n")
        with pytest.raises(TargetError, match=r"times of files at .*got .'layer'"):
            Times(path, by="me", keys=[])


class TestCalibrate:
    def test_a_board(self, board, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        values = {"name": "my_board", "command": board, "num_rounds": 1}
        words = ["calibrate", *words_of("targets", values), "--num_files=12"]
        assert call("targets", *words) == 0
        out = capsys.readouterr().out
        assert "12 files are timed, 1 times each" in out
        assert "with which --resume goes on" in out
        assert "Not measured, so refused by this target: float" in out
        target = load_target(Path("my_board.toml"))
        (validation,) = target.validation
        assert "each predicted from the others: rank correlation" in validation.against
        assert validation.source is not None
        assert "board.py" in validation.source
        assert target.backend is None
        rows = rows_of(Path("my_board.csv"))
        assert len(rows) == 12
        for row in rows:
            assert f"{row['file']}: {float(row['milliseconds']):.4g}" in (
                Path("my_board.toml").read_text()
            )
        assert call("targets", "show", "my_board.toml") == 0
        assert "cycles_per_weight = " in capsys.readouterr().out
        # What stands there is not replaced; what a target lacks, it refuses.
        line = fails(capsys, "targets", *words)
        assert "my_board.toml exists" in line
        artifact = digits_artifact()
        policy = artifact.space.named("w4a4")
        assert not check_policy(artifact.workload, policy, target)
        assert estimate(artifact.workload, policy, target).latency_ms > 0.5

    def test_this_machine_and_the_model_that_was_fitted(self, tmp_path):
        artifact = digits_artifact()
        said: list[str] = []
        found = calibrate(
            "host_litert",
            tmp_path / "host_litert.toml",
            artifacts=[artifact],
            num_files=20,
            num_rounds=1,
            weight_bytes=1 << 15,
            tensor_bytes=1 << 14,
            progress=False,
            on_start=said.append,
        )
        assert "some seconds in all" in said[0]
        assert found.unknown == (OpKind.FLOAT,)
        assert "artifact_0" in found.times.read_text()
        target = load_target(found.path)
        assert isinstance(target.backend, LitertBackend)
        for one in draw_networks(20, seed=5):
            policy = Policy(
                weights=dict.fromkeys(
                    (layer.weights for layer in one.workload.layers if layer.weights), 8
                ),
                activations={"input": 8},
            )
            cost = estimate(one.workload, policy, target)
            expected = found.rates.predict(one.workload) / 1e6
            assert cost.latency_ms == pytest.approx(expected, rel=2e-3)
        assert host_hint([target]) == ""
        assert "calibrate --name=host_litert" in host_hint([load_target("host_litert")])

    def test_a_run_that_is_killed_goes_on(self, tmp_path, capsys):
        code = f"import time; time.sleep(0.05)\n{BOARD}"
        command = command_of(tmp_path, code)
        words = ["targets", "calibrate", "--name=b", f"--command={command}"]
        words += ["--num_files=10", "--num_rounds=2", f"--output={tmp_path / 'b.toml'}"]
        times = tmp_path / "b.csv"
        with subprocess.Popen(
            [sys.executable, "-m", "matar_tf", *words],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            deadline = time.monotonic() + 60
            while not times.exists() or len(times.read_text().splitlines()) < 4:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        before = times.read_text().rpartition("\n")[0].splitlines()
        assert not (tmp_path / "b.toml").exists()
        line = fails(capsys, *words[:2], *words[2:])
        assert "pass --resume to go on with them" in line
        assert call(*words, "--resume") == 0
        after = times.read_text().splitlines()
        assert after[: len(before)] == before
        assert len(after) == 1 + 2 * 10
        assert load_target(tmp_path / "b.toml").name == "b"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": "my board"}, "name: .*match pattern"),
            ({"output": "b.json"}, "ends in .toml"),
            ({"output": "no/such/b.toml"}, "folder to write"),
            ({"num_files": 9}, "10 to 500 files, got --num_files=9"),
            ({"name": None}, "Expected --name"),
            ({"resume": True, "overwrite": True}, "got both"),
            ({"targets": ["mpic"]}, "--targets with template alone"),
            ({"command": "false"}, "'false' to end well for network"),
        ],
    )
    def test_refusals_leave_nothing(
        self, changes, message, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        values = {"name": "b", "output": "b.toml", "command": "false"} | changes
        words = ["calibrate", *words_of("targets", values)]
        assert re.search(message, fails(capsys, "targets", *words))
        assert [*tmp_path.iterdir()] == []


class TestTemplate:
    @pytest.fixture
    def artifact(self, tmp_path: Path) -> str:
        path = tmp_path / "net.matar"
        write_artifact(digits_artifact(), path)
        return str(path)

    def test_the_filled_table_is_a_target(self, artifact, tmp_path, capsys):
        table = tmp_path / "table.csv"
        words = (f"--artifact={artifact}", "--target=mpic", f"--output={table}")
        assert call("targets", "template", *words) == 0
        rows = rows_of(table)
        assert f"{len(rows)} rows to fill in" in capsys.readouterr().out
        assert {row["weight_bits"] for row in rows} == {"2", "4", "8", ""}
        text = (TARGETS / "mpic.toml").read_text()
        start, stop = text.index("[compute]"), text.index("[[ops]]")
        compute = '[compute]\nkind = "table"\nfile = "table.csv"\nsource = "x"\n\n'
        mine = tmp_path / "mine.toml"
        mine.write_text(text[:start] + compute + text[stop:])
        message = rf"got {len(rows)} rows without one, the first of them line 2"
        with pytest.raises(TargetError, match=message):
            load_target(mine)
        table.write_text(table.read_text().replace(",,ms", ",0.5,ms"))
        target = load_target(mine)
        network = digits_artifact()
        policy = network.space.named("w4a8")
        assert not check_policy(network.workload, policy, target)
        cost = estimate(network.workload, policy, target)
        own = target.overhead.layer_cycles * len(network.workload.layers)
        cycles = cost.cycles - own - target.overhead.network_cycles
        milliseconds = cycles / target.clock.frequency_hz * 1e3
        assert milliseconds == pytest.approx(0.5 * len(network.workload.layers))

    def test_all_widths_and_names(self, artifact, capsys):
        assert call("targets", "template", f"--artifact={artifact}", "--by_name") == 0
        out = capsys.readouterr().out
        rows = [*csv.DictReader(out.splitlines())]
        workload = digits_artifact().workload
        assert {row["layer"] for row in rows} == {one.name for one in workload.layers}
        assert {row["unit"] for row in rows} == {"ms"}
        assert json.dumps(rows)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "one artifact in --artifact, got 0"),
            (("--artifact=a,b",), "one artifact in --artifact, got 2"),
            (("--artifact=a", "--output=t.toml"), "ends in .csv"),
            (("--artifact=a", "--num_files=20"), "--num_files with calibrate alone"),
        ],
    )
    def test_refusals(self, words, message, capsys):
        assert message in fails(capsys, "targets", "template", *words)
