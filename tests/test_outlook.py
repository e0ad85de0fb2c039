"""What a run says before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.digits import digits_artifact, write_digits
from fixtures.programs import call
from fixtures.runs import DATA, run_all, settings

from matar_tf.run import outlook as module
from matar_tf.run.outlook import largest_number, outlook, spoken
from matar_tf.run.plan import Run, make_run
from matar_tf.targets import load_target

LARGE = ("bitfusion_16x32", "bismo_ultra96")  # more than 12 policies each


def planned(*targets: str, **changes: Any) -> Run:
    found = [load_target(name) for name in targets]
    return make_run(digits_artifact(), found, DATA, settings(**changes))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01, "1 s"),
        (59.0, "59 s"),
        (60.0, "1 min"),
        (61.0, "2 min"),
        (3599.0, "60 min"),
        (3600.0, "1.0 h"),
        (12600.0, "3.5 h"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_later_targets_measure_their_share() -> None:
    assert largest_number(planned(LARGE[0])) == 12
    assert largest_number(planned(*LARGE)) == 12 + 2  # 0.15 of 12, rounded
    assert largest_number(planned(*LARGE, follow_up_share=1.0)) == 24


def test_no_more_than_there_are(tmp_path: Path) -> None:
    """A space that is enumerated teaches nobody."""
    found = run_all(tmp_path / "run", "cortex_m4_cmsis_nn", *LARGE).results
    assert found[0].num_evaluated < 12
    expected = found[0].num_evaluated + 12 + 2
    assert largest_number(planned("cortex_m4_cmsis_nn", *LARGE)) == expected


def test_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_seconds", lambda *_: 600.0)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 4)
    start = "Up to 12 evaluations of 60 samples, "
    name = LARGE[0]
    assert outlook(planned(name)) == f"{start}about 2.0 h in 1 process on 4 cores."
    for jobs, time in ((2, "1.0 h"), (8, "30 min")):
        end = f"about {time} in {jobs} processes on 4 cores."
        assert outlook(planned(name, num_jobs=jobs)) == start + end
    options = replace(settings().options, max_minutes=5.0)
    assert "about 5 min in" in outlook(planned(name, options=options))
    text = outlook(planned(name, num_jobs=3, executor="ray"))
    assert text == f"{start}3 at a time."


def test_the_program_says_it_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(tmp_path)
    asked = {
        "artifact": str(tmp_path / "net.matar"),
        "targets": [LARGE[0]],
        "data": str(tmp_path / "data.npz"),
        "output": str(tmp_path / "run"),
        "max_evaluations": 4,
        "compare": "none",
    }
    assert call("search", **asked) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == f"Writing to {tmp_path / 'run'}."
    assert second.startswith("Up to 4 evaluations of 200 samples, about 1 s in 1 proc")
