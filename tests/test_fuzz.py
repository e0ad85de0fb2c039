"""The program that opens changed files: its inputs, its verdicts, and a short run."""

from __future__ import annotations

import bz2
import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from fixtures.paths import DATA, ROOT
from fixtures.programs import fails

from matar_tf.artifact import read_artifact
from matar_tf.errors import MatarError
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import SIMULATED
from tools.fuzzing import bombs, children
from tools.fuzzing.children import Nursery, Report
from tools.fuzzing.inputs import (
    FAULTS,
    ContradictionError,
    Input,
    Kind,
    Outcome,
    RefusedError,
    Verdict,
    read_input,
    write_input,
)
from tools.fuzzing.kinds import KINDS, make_input
from tools.fuzzing.program import table
from tools.fuzzing.programs import UnreadableError

Open = Callable[..., Report]


class TestInputs:
    def test_a_seed_and_a_number_give_one_input(self) -> None:
        names = list(KINDS)
        made = [make_input(names, 3, index) for index in range(60)]
        assert made == [make_input(names, 3, index) for index in range(60)]
        assert made != [make_input(names, 4, index) for index in range(60)]
        assert {one.kind for one in made} > {"tflite", "signed", "folder", "archive"}

    def test_of_archives_the_time_of_day_is_no_part(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = [make_input(["archive"], 5, index) for index in range(40)]
        now = time.time() + 3600.0
        monkeypatch.setattr(time, "time", lambda: now)
        assert made == [make_input(["archive"], 5, index) for index in range(40)]
        assert {one.change.split(": ")[1] for one in made} >= {"_repeated", "_methods"}

    def test_what_is_kept_is_read_again(self, tmp_path: Path) -> None:
        given = Input(
            kind="folder",
            door="read",
            change="words",
            files={"net/a": b"\x00\xff", "b": b""},
            links={"net/link": "nowhere"},
            expected="{}",
            must_be_refused=True,
        )
        write_input(given, tmp_path / "kept", "SIGSEGV")
        assert read_input(tmp_path / "kept") == given
        assert read_input(tmp_path / "kept" / "input.json") == given
        assert (tmp_path / "kept/files/net/link").is_symlink()

    def test_a_bomb_unfolds_to_zeros(self) -> None:
        packed = bombs.bzip2_zeros(2 * 45_899_235)
        assert len(packed) == 4 + 2 * 32 + 10
        assert bz2.decompress(packed) == bytes(2 * 45_899_235)
        packed = bombs.deflated_zeros(3 << 20)
        assert len(packed) < 4_000
        assert zlib.decompress(packed, -15) == bytes(3 << 20)
        for bzip2, method in ((True, zipfile.ZIP_BZIP2), (False, zipfile.ZIP_DEFLATED)):
            content = bombs.bomb("a", 1 << 20, claimed=5, bzip2=bzip2)
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                (member,) = archive.infolist()
            assert (member.filename, member.file_size) == ("a", 5)
            assert member.compress_type == method


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Returns what opens an input by a function, and tells how that ended."""
    monkeypatch.setattr(Interpreter, "invoke", Interpreter.invoke)
    for name, computation in list(SIMULATED.items()):
        monkeypatch.setitem(SIMULATED, name, computation)
    nursery = Nursery(tmp_path)
    gc.unfreeze()

    def run(door: Callable[[Path], str | None], **changes: object) -> Report:
        kind = Kind(name="k", share=1, make=lambda _: given, doors={"d": door})
        monkeypatch.setattr(children, "KINDS", {"k": kind})
        values = {"kind": "k", "door": "d", "change": "", "files": {"in/a": b"1"}}
        given = Input(**{**values, **changes})  # type: ignore[arg-type]
        ((number, report),) = nursery.open_all([7], lambda _: given)
        assert number == 7
        return report

    return run


def refuse(_: Path) -> None:
    raise MatarError("Expected another file.")


def fail(_: Path) -> None:
    {}["missing"]


def abort(_: Path) -> None:
    os.abort()


def spin(_: Path) -> None:
    while True:
        pass


def allocate(_: Path) -> None:
    np.ones(2 << 27)


def hide_allocation(_: Path) -> None:
    try:
        np.ones(2 << 27)
    except MemoryError as error:
        raise MatarError("Expected less.") from error


def write_beside(folder: Path) -> None:
    (folder.parent / "beside").write_bytes(b"x")
    (folder.parent / "beside").unlink()


def write_by_native_code(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", "open('../beside', 'w')"], check=True)


def start_a_program(_: Path) -> None:
    with contextlib.suppress(OSError):
        subprocess.run(["true"], check=True)


def steer_the_terminal(_: Path) -> None:
    raise RefusedError("Expected a name, got \x1b[2J.")


def print_much(_: Path) -> None:
    raise UnreadableError("x")


def contradict(_: Path) -> None:
    raise ContradictionError("accuracy 2")


class TestVerdicts:
    @pytest.mark.parametrize(
        ("door", "verdict"),
        [
            (lambda folder: None, Verdict.ACCEPTED),
            (refuse, Verdict.REFUSED),
            (fail, Verdict.TRACEBACK),
            (abort, Verdict.DEATH),
            (spin, Verdict.HANG),
            (allocate, Verdict.MEMORY),
            (hide_allocation, Verdict.MEMORY),
            (write_beside, Verdict.OUTSIDE),
            (write_by_native_code, Verdict.OUTSIDE),
            (start_a_program, Verdict.OUTSIDE),
            (steer_the_terminal, Verdict.UNREADABLE),
            (print_much, Verdict.UNREADABLE),
            (contradict, Verdict.OTHER),
        ],
    )
    def test_each_end_has_its_own(
        self,
        opened: Open,
        monkeypatch: pytest.MonkeyPatch,
        door: Callable[[Path], str | None],
        verdict: Verdict,
    ) -> None:
        monkeypatch.setattr(children, "_MAX_SECONDS", 0.5)
        report = opened(door)
        assert report.verdict is verdict
        assert not report.reached
        assert (verdict in FAULTS) == (verdict.name not in ("ACCEPTED", "REFUSED"))

    def test_a_process_that_waits_is_killed(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(children, "_PATIENCE", 0.5)
        report = opened(lambda folder: signal.pause())  # type: ignore[func-returns-value]
        assert (report.verdict, report.words) == (Verdict.HANG, "0.5 s by the clock")

    def test_what_a_digest_covers_is_as_it_was(self, opened: Open) -> None:
        def read(folder: Path) -> str:
            return (folder / "in/a").read_text()

        assert opened(read, expected="1").verdict is Verdict.ACCEPTED
        assert opened(read, expected="2").verdict is Verdict.OTHER
        assert opened(read, must_be_refused=True).verdict is Verdict.OTHER
        assert opened(refuse, must_be_refused=True).verdict is Verdict.REFUSED

    def test_that_an_interpreter_ran_is_known(self, opened: Open) -> None:
        artifact = read_artifact(DATA / "dense.matar")
        content = ModelBuilder(artifact).build(artifact.space.policy("w8a8"))

        def predict(_: Path) -> None:
            Runner(content).predict(np.zeros((1, 12), np.float32))
            os.abort()

        report = opened(predict)
        assert (report.verdict, report.reached) == (Verdict.DEATH, True)
        assert report.words == "SIGABRT"


def test_the_table_adds_up() -> None:
    def outcome(kind: str, verdict: Verdict, *, reached: bool) -> Outcome:
        return Outcome(index=0, kind=kind, verdict=verdict, reached=reached, words="")

    some = [
        outcome("b", Verdict.DEATH, reached=True),
        outcome("a", Verdict.REFUSED, reached=False),
        outcome("a", Verdict.ACCEPTED, reached=True),
    ]
    rows = [line.split() for line in table(some).splitlines()[1:]]
    assert [(name, *map(int, numbers)) for name, *numbers in rows] == [
        ("a", 2, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0),
        ("b", 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0),
        ("all", 3, 2, 1, 1, 1, 0, 0, 0, 0, 0, 0),
    ]


def test_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'tflite'?" in fails(capsys, "fuzz", kinds="tflit", inputs=1)


@pytest.mark.slow
def test_readers_hold(tmp_path: Path) -> None:
    """As many changed files as half a minute allows on two quiet cores."""
    program = ROOT / "tools/fuzz.py"
    words = ["--inputs=1500", "--seed=0", "--jobs=2", f"--keep={tmp_path}"]
    done = subprocess.run(
        [sys.executable, str(program), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    *_, last = (line for line in done.stdout.splitlines() if line.startswith("all"))
    assert last.split()[1] == "1500"
