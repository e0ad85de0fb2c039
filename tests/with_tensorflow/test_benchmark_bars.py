"""Bars of tools/benchmark.py training, memory and search's workers.

What they make of figures is checked by hand, on both sides of each bar; the suites
run on tiny networks, where their own figures say nothing.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.digits_training import build_net
from fixtures.programs import call, load

from matar_tf.artifact import write_artifact
from matar_tf.data import DIGITS
from matar_tf.policy import Policy
from matar_tf.results import Candidate
from matar_tf.tflite.evaluate import ParallelEvaluator
from recipes.common import load_recipe
from tools.benchmarks import (
    memory as benchmark_memory,
)
from tools.benchmarks import search as benchmark_search
from tools.benchmarks import (
    training as benchmark_training,
)
from tools.benchmarks import (
    untrained as benchmark_untrained,
)
from tools.benchmarks import (
    workers as benchmark_workers,
)
from tools.benchmarks.bars import Bar

SECONDS = {
    "recipe": 0.4,
    "plain": 0.11,
    "stock": 0.1,
    "dedicated": 0.1,
    "float": 0.05,
}


def bar(name: str, *, held: bool) -> Bar:
    return Bar(name=name, figure="3", limit="at least 2", held=held)


@pytest.mark.parametrize(
    ("held", "status"), [([True, True], 0), ([True, False], 1), ([False, True], 1)]
)
def test_each_bar_is_a_line_and_one_that_falls_short_is_the_status(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    held: list[bool],
    status: int,
) -> None:
    bars = [bar(f"claim {i}", held=one) for i, one in enumerate(held)]
    suites = load("benchmark").SUITES
    monkeypatch.setitem(suites, "host", lambda _: iter(bars))
    assert call("benchmark", "host") == status
    words = {True: "held        ", False: "falls short "}
    assert capsys.readouterr().out.splitlines() == [
        f"{words[one]} claim {i}: 3 (bar: at least 2)" for i, one in enumerate(held)
    ]


class TestUntrained:
    @pytest.mark.parametrize(
        ("before", "after", "held"),
        [
            ((89.5, 88.5, 70.0), (89.2, 88.2, 69.7), [True, True, True]),
            ((89.4, 88.4, 70.0), (89.4, 88.4, 69.6), [False, False, False]),
        ],
    )
    def test_below_float_and_below_what_it_was(
        self,
        before: tuple[float, ...],
        after: tuple[float, ...],
        held: list[bool],
    ) -> None:
        names = ("w8a8", "w6a6", "w3a3")
        ours = dict(zip((*names, "band"), (*before, 60.0), strict=True))
        theirs = dict(zip((*names, "band"), (*after, 10.0), strict=True))
        bars = list(benchmark_untrained.untrained_bars(90.0, ours, theirs, names))
        assert [one.held for one in bars] == held
        assert bars[0].figure == f"{90.0 - before[0]:.2f} points"
        table = benchmark_untrained.untrained_table(90.0, ours, theirs)
        assert table.splitlines()[0] == "float 90.00 %"
        assert table.splitlines()[-1].split() == ["band", "60.00", "10.00"]

    def test_a_digits_network(self, capsys: pytest.CaptureFixture[str]) -> None:
        bars = list(
            benchmark_untrained.measure_untrained(
                "digits_resnet8:quick",
                DIGITS,
                float_path=None,
                num_samples=32,
                seed=0,
            )
        )
        assert len(bars) == 3
        lines = capsys.readouterr().out.splitlines()
        table = lines[lines.index("policy   calibrated  matched") :]
        names = [*(f"w{bits}a{bits}" for bits in range(8, 1, -1)), "2..8", "8/4/2"]
        assert [line.split()[0] for line in table[1:]] == [*names, "band"]


class TestTraining:
    def bars(self, num_samples: int = 1000, **changes: float) -> list[Bar]:
        # 80 epochs in batches of 32.
        config = load_recipe("digits_resnet8")
        seconds = {**SECONDS, **changes}
        return list(benchmark_training.training_bars(seconds, config, num_samples))

    def test_a_step_may_take_a_tenth_longer_than_one_of_stock_training(self) -> None:
        held, short = self.bars()[0], self.bars(plain=0.111)[0]
        assert held.figure == "1.10 (110 ms, all of the recipe's passes 400, float 50)"
        assert "digits_resnet8, batch of 32" in held.name
        assert held.held
        assert short.figure.startswith("1.11 (111 ms")
        assert not short.held
        assert self.bars(stock=0.099)[0].held is False

    def test_one_shared_training_is_compared_with_five(self) -> None:
        # 80 epochs of 32 steps: 2,560 steps of 0.4 s, or five times 2,560 of 0.1 s.
        held = self.bars()[1]
        assert held.figure == "17 against 21"
        assert held.held
        # Of another sample, 33 steps an epoch.
        assert self.bars(num_samples=1025)[1].figure == "18 against 22"
        assert not self.bars(recipe=0.5)[1].held
        assert self.bars(recipe=0.499)[1].held
        assert not self.bars(dedicated=0.08)[1].held

    def test_a_time_is_the_lower_quartile_of_steps_taken_in_turns(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(benchmark_training, "_NUM_ROUNDS", 3)
        now, order = [0.0], []
        # Three steps that are not counted, then three that are.
        durations = {"a": iter([9, 9, 9, 4, 2, 8]), "b": iter([9, 9, 9, 1, 30, 2])}

        def step(name: str) -> None:
            order.append(name)
            now[0] += next(durations[name])

        found = benchmark_training.interleaved(
            {name: lambda name=name: step(name) for name in durations}, lambda: now[0]
        )
        # The first of three quartiles of three values is the least.
        assert found == {"a": 2.0, "b": 1.0}
        assert "".join(order) == "aaabbb" + "ababab"

    @pytest.mark.slow
    def test_the_suite(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(benchmark_training, "_NUM_ROUNDS", 2)
        monkeypatch.setattr(benchmark_training, "_NUM_WARM", 1)
        monkeypatch.setattr(
            benchmark_training,
            "load_recipe",
            lambda name: replace(load_recipe(name), build_model=build_net),
        )
        seen: dict[str, float] = {}
        interleaved = benchmark_training.interleaved

        def record(steps: Any) -> dict[str, float]:
            seen.update(interleaved(steps))
            return seen

        monkeypatch.setattr(benchmark_training, "interleaved", record)
        status = call("benchmark", "training", recipe="digits_resnet8", data=DIGITS)
        lines = capfd.readouterr().out.splitlines()
        lines = [one for one in lines if one.startswith(("held  ", "falls short  "))]
        config = load_recipe("digits_resnet8")
        expected = list(benchmark_training.training_bars(seen, config, 1297))
        assert seen.keys() == SECONDS.keys()
        assert [one[13:] for one in lines] == [
            f"{one.name}: {one.figure} (bar: {one.limit})" for one in expected
        ]
        assert status == int(not all(one.held for one in expected))


def candidate(name: str, accuracy: float, num_bytes: float) -> Candidate:
    return Candidate(
        name=name,
        policy=Policy(weights={"a": 8}, activations={"b": 8}),
        metrics={"accuracy": accuracy},
        costs={"kernel_bytes": num_bytes},
    )


class TestMemory:
    FRONT = (
        candidate("small", 0.7, 30.0),
        candidate("middle", 0.8, 40.0),
        candidate("large", 0.9, 50.0),
    )

    @pytest.mark.parametrize(
        ("num_bytes", "name"),
        [(60, "large"), (50, "large"), (49.9, "middle"), (30, "small"), (29.9, None)],
    )
    @pytest.mark.parametrize("order", [1, -1])
    def test_the_most_accurate_that_fits(
        self, num_bytes: float, name: str | None, order: int
    ) -> None:
        best = benchmark_memory.best_within(self.FRONT[::order], num_bytes)
        assert (best and best.name) == name

    @pytest.mark.parametrize(
        ("share", "peer", "limit"),
        [(0.5, 85.3, 86.5), (0.4, 80.9, 86), (0.3, 68.7, 85)],
    )
    def test_the_bar_of_a_budget(self, share: float, peer: float, limit: float) -> None:
        for unseen, held in ((limit, True), (limit - 0.01, False)):
            every = 2 * limit - unseen
            one = benchmark_memory.budget_bar(share, (unseen, every), 8000)
            assert one.held is held
            assert one.figure == (
                f"{unseen:.2f} %, on all {every:.2f} % (peer {peer:.1f} %)"
            )
            assert one.limit == f"at least {limit:.1f} %"
            assert f"accuracy at {100 * share:.0f}% of" in one.name
            assert "on 8000 samples" in one.name
        none = benchmark_memory.budget_bar(share, None, 8000)
        assert none.figure.startswith("no policy fits")
        assert not none.held

    def test_the_bar_of_the_time(self) -> None:
        # Three times the peer's 5 s for each of three budgets.
        held = benchmark_memory.time_bar(45.0, 200, 2000)
        assert (held.figure, held.limit) == ("45.0 s", "at most 45 s")
        assert "200 policies on 2000 samples" in held.name
        assert held.held
        assert not benchmark_memory.time_bar(45.01, 200, 2000).held

    def test_figures_are_of_samples_that_the_search_did_not_see(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        searched: list[np.ndarray] = []

        def in_processes(make: Any, num_jobs: int) -> ParallelEvaluator:
            searched.append(make.args[1])
            return ParallelEvaluator(make, num_jobs)

        monkeypatch.setattr(benchmark_memory, "ParallelEvaluator", in_processes)
        write_artifact(digits_artifact(), tmp_path / "net.matar")
        data = few_digits()
        found: dict[str, list[str]] = {}
        for name, wrong in (("seen", slice(0, 80)), ("unseen", slice(80, 200))):
            labels = data.y_test.copy()
            labels[wrong] = (labels[wrong] + 1) % 10
            path = tmp_path / f"{name}.npz"
            np.savez(path, x_test=data.x_test, y_test=labels)
            values = {"artifact": str(tmp_path / "net.matar"), "data": str(path)}
            values |= {"num_samples": 80, "evaluations": 40}
            assert call("benchmark", "memory", **values) == 1
            lines = capsys.readouterr().out.splitlines()
            found[name] = [one for one in lines if "samples" in one]
        for samples in searched:
            np.testing.assert_array_equal(samples, data.x_test[:80])
        for name, lines in found.items():
            assert len(lines) == 4
            for line, share in zip(lines[:2], ("50%", "40%"), strict=True):
                assert f"accuracy at {share}" in line
                assert "on 120 samples" in line
                unseen, every = map(float, re.findall(r"([0-9.]+) %[, ]", line)[:2])
                assert unseen > 86.5 if name == "seen" else unseen < 20.0
                # Of all 200 samples, 120 or 80 have the right label.
                share_right = (0.6 if name == "seen" else 0.4) * 100
                assert every == pytest.approx(share_right, abs=5.0)
                assert line.startswith("held" if name == "seen" else "falls short")
            # The first and the last layer keep 8 bits: a third of all kernels.
            assert lines[2].startswith("falls short ")
            assert "no policy fits" in lines[2]
            assert "policies on 80 samples" in lines[3]

    def test_some_samples_are_left(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_artifact(digits_artifact(), tmp_path / "net.matar")
        values = {"artifact": str(tmp_path / "net.matar"), "num_samples": 500}
        assert call("benchmark", "memory", **values) == 1
        assert "fewer samples to search on than the 500" in capsys.readouterr().err


class TestWorkers:
    @pytest.mark.parametrize(
        ("both", "held", "figure"),
        [
            ([17.0, 30.0, 1.0], True, "1.70 (17.0 over 10.0)"),
            ([16.9, 30.0, 1.0], False, "1.69 (16.9 over 10.0)"),
        ],
    )
    def test_medians_are_compared(
        self, both: list[float], held: bool, figure: str
    ) -> None:
        one = benchmark_workers.workers_bar([10.0, 2.0, 90.0], both)
        assert one.figure == figure
        assert one.limit == "at least 1.7"
        assert one.held is held

    def test_two_workers_are_measured_beside_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_artifact(digits_artifact(), tmp_path / "net.matar")
        rates: list[tuple[Any, int]] = []

        def rate(evaluate_many: Any, policies: Any) -> float:
            rates.append((evaluate_many, len(list(evaluate_many(policies)))))
            return float(len(rates))

        monkeypatch.setattr(benchmark_workers, "_rate", rate)
        bar = benchmark_workers._two_workers(
            str(tmp_path / "net.matar"), DIGITS, num_samples=20
        )
        # In turns, three rounds: one worker at 1, 3, 5, two at 2, 4, 6.
        assert bar.figure == "1.33 (4.0 over 3.0)"
        assert [number for _, number in rates] == [24] * 6
        alone, both = rates[0][0], rates[1][0]
        assert [one for one, _ in rates] == [alone, both] * 3
        assert alone is not both

    def test_a_rate_is_policies_a_second(self) -> None:
        def slowly(policies: list[int]) -> Iterator[int]:
            for policy in policies:
                time.sleep(0.01)
                yield policy

        assert 1.0 < benchmark_workers._rate(slowly, [1, 2, 3, 4]) < 100.0


class TestKills:
    def test_every_search_has_to_end_alike(self) -> None:
        held = benchmark_workers.kills_bar(20, 17)
        assert (held.figure, held.limit, held.held) == ("20", "20", True)
        assert "20 searches of 60 policies" in held.name
        assert "(17 died before their end)" in held.name
        assert not benchmark_workers.kills_bar(19, 20).held

    def test_an_outcome_is_rows_and_the_bytes_of_files(self, tmp_path: Path) -> None:
        def outcome(name: str, rows: str, **files: bytes) -> dict[str, Any]:
            folder = tmp_path / name / "bismo_ultra96"
            folder.mkdir(parents=True)
            created = f'"created": "{name}"'
            (folder / "front.json").write_text(f'{{"rows": {rows}, {created}}}')
            for stem, content in files.items():
                (folder / f"{stem}.tflite").write_bytes(content)
            return benchmark_workers._outcome(tmp_path / name)

        first = outcome("first", "[1, 2]", a=b"x", b=b"y")
        assert first == outcome("same", "[1, 2]", a=b"x", b=b"y")
        assert first != outcome("rows", "[1, 3]", a=b"x", b=b"y")
        assert first != outcome("bytes", "[1, 2]", a=b"x", b=b"z")
        assert first != outcome("fewer", "[1, 2]", a=b"x")

    def test_a_search_that_runs_too_long_is_killed(self, tmp_path: Path) -> None:
        def run(code: str, kill_after: float | None) -> bool:
            command = [sys.executable, "-c", code]
            return benchmark_workers._run(command, tmp_path, kill_after)

        start = time.monotonic()
        assert run("import time; time.sleep(60)", 0.2)
        assert time.monotonic() - start < 30.0
        assert not run("pass", None)
        assert not run("pass", 60.0)
        with pytest.raises(RuntimeError, match="search to end well"):
            run("raise SystemExit(3)", None)

    def test_each_is_killed_at_a_moment_of_its_own_and_resumed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs: list[tuple[list[str], str, float | None]] = []
        took = 0.05

        def run(command: list[str], output: Path, kill_after: Any = None) -> bool:
            runs.append((command, output.name, kill_after))
            if output.name == "whole":
                time.sleep(took)
            return kill_after is not None and output.name != "3"

        def outcome(output: Path) -> str:
            return "other" if output.name == "5" else "expected"

        monkeypatch.setattr(benchmark_workers, "_run", run)
        monkeypatch.setattr(benchmark_workers, "_outcome", outcome)
        bar = benchmark_workers._killed("net.matar", "a.npz", 70, seed=4)
        assert (bar.figure, bar.held) == ("19", False)
        assert "(19 died" in bar.name
        commands = {tuple(command) for command, _, _ in runs}
        assert len(commands) == 1  # and so the resumed run is the run that was killed
        wanted = {"--artifact=net.matar", "--data=a.npz", "--num_samples=70"}
        assert wanted | {"--seed=4", "--resume"} <= set(*commands)
        assert runs[0][1:] == ("whole", None)
        for number in range(20):
            (_, first, moment), (_, second, never) = runs[1 + 2 * number :][:2]
            assert first == second == str(number)
            assert never is None
            assert moment is not None
            assert 0.0 <= moment < 100 * took
        assert len({moment for _, _, moment in runs if moment is not None}) == 20

    @pytest.mark.slow
    def test_a_real_search(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(benchmark_workers, "_NUM_KILLS", 1)
        write_artifact(digits_artifact(), tmp_path / "net.matar")
        bar = benchmark_workers._killed(str(tmp_path / "net.matar"), DIGITS, 50, seed=0)
        assert (bar.figure, bar.limit, bar.held) == ("1", "1", True)


def test_the_suite_search_ends_with_the_workers(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, Any]] = []

    def workers(*paths: str, **values: Any) -> Iterator[Bar]:
        seen.append({"paths": paths, **values})
        yield bar("workers", held=True)

    monkeypatch.setattr(benchmark_search, "measure_search", lambda *_, **__: ())
    monkeypatch.setattr(benchmark_workers, "measure_workers", workers)
    values = {"artifact": "net.matar", "num_samples": 5000, "seed": 2}
    assert call("benchmark", "search", **values) == 0
    # Forty searches would take long on more samples.
    paths = ("net.matar", DIGITS)
    assert seen == [{"paths": paths, "num_samples": 1000, "seed": 2}]
    assert "held         workers: 3" in capsys.readouterr().out
