"""Opens changed files of all kinds that the product reads; counts how it ends.

Each input is made from a good file by a seeded generator, so that a seed gives the
same inputs for any number of processes. They are opened in child processes, which may
take 5 s of processor time and 1 GB of memory for each, as may those that they start.
Exit status 1 if one dies, hangs, takes more memory, ends in a traceback, accepts other
content than a digest covers or one that contradicts itself, writes outside of its
folder or prints what nobody can read; or if fewer than a fifth of the inputs reach an
interpreter or the simulator. Needs no TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from tools.fuzzing.inputs import Outcome

__all__ = ["COMMAND", "table"]

_NUM_TIMED: Final = 200  # inputs that the estimate rests on
_PATIENCE: Final = 10.0  # seconds between looks at processes that may have died
_MIN_REACHED: Final = 0.2  # of the inputs, those that reach an interpreter


def _define(values: FlagValues) -> None:
    flags.DEFINE_integer(
        "inputs", 1000, "Number of inputs.", lower_bound=1, flag_values=values
    )
    _flags.seed(values, "the inputs")
    flags.DEFINE_integer(
        "jobs",
        os.cpu_count() or 1,
        "Processes that open inputs; counts do not depend on it.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_list(
        "kinds", None, "Kinds of files; default: all.", flag_values=values
    )
    flags.DEFINE_string(
        "keep", None, "Folder for the inputs that fail.", flag_values=values
    )
    flags.DEFINE_string(
        "replay",
        None,
        "Opens one input that was kept, given its folder or its input.json.",
        flag_values=values,
    )


def _run(given: Given) -> int:
    """Opens inputs; prints a table of how they ended."""
    # Before NumPy: an input needs one thread.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if given.replay is not None:
        return _replay(Path(given.replay))
    from tqdm import tqdm

    from tools.fuzzing.inputs import FAULTS

    _kinds(given.kinds)
    outcomes: list[Outcome] = []
    start = time.perf_counter()
    for outcome in tqdm(
        _outcomes(given), total=given.inputs, unit=" inputs", mininterval=5.0
    ):
        outcomes.append(outcome)
        if len(outcomes) == _NUM_TIMED < given.inputs:
            rate = _NUM_TIMED / (time.perf_counter() - start)
            tqdm.write(f"about {given.inputs / rate / 60:.1f} min in all")
    print(table(outcomes))
    failed = [one for one in outcomes if one.verdict in FAULTS]
    for line in _examples(failed):
        print(line)
    num_reached = sum(one.reached for one in outcomes)
    enough = given.kinds is not None or num_reached >= _MIN_REACHED * len(outcomes)
    return 1 if failed or not enough else 0


def _kinds(names: Sequence[str] | None) -> list[str]:
    """Returns names of kinds, or those of all.

    Raises:
      MatarError: If there is no such kind.
    """
    from matar_tf.errors import MatarError, did_you_mean
    from tools.fuzzing.kinds import KINDS

    for name in names or ():
        if name not in KINDS:
            raise MatarError(
                f"Expected a kind of files, got {name!r}. {did_you_mean(name, KINDS)}"
            )
    return list(names or KINDS)


def _outcomes(given: Given) -> Iterator[Outcome]:
    """Yields how inputs ended, as they do.

    Raises:
      RuntimeError: If a process that starts others dies itself.
    """
    from tools.fuzzing.seeds import seeds

    seeds()  # once, for all processes
    kinds = _kinds(given.kinds)
    keep = None if given.keep is None else Path(given.keep)
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    workers = [
        context.Process(
            target=_work,
            args=(range(first, given.inputs, given.jobs), given.seed, kinds, keep),
            kwargs={"results": results},
            daemon=True,
        )
        for first in range(given.jobs)
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in range(given.inputs):
            yield _next(results, workers)
    finally:
        for worker in workers:
            worker.terminate()


def _next(results: Any, workers: Sequence[Any]) -> Outcome:
    while True:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=_PATIENCE)
        if any(worker.exitcode for worker in workers):
            raise RuntimeError("Expected processes that open inputs, but one is dead.")


def _work(
    indices: Sequence[int],
    seed: int,
    kinds: Sequence[str],
    keep: Path | None,
    *,
    results: Any,
) -> None:
    """Opens inputs one after the other; the work of a process."""
    from tools.fuzzing.children import Nursery
    from tools.fuzzing.inputs import FAULTS, Outcome, write_input
    from tools.fuzzing.kinds import kind_of, make_input

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the parent, which ends this one
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        nursery = Nursery(Path(folder))
        make = functools.partial(make_input, kinds, seed)
        for index, report in nursery.open_all(indices, make):
            words = report.words
            if report.verdict in FAULTS:
                given = make(index)
                words = f"{given.door}, {given.change}: {words}"
                if keep is not None:
                    place = keep / f"{index:06d}_{report.verdict.name.lower()}"
                    write_input(given, place, words)
            results.put(
                Outcome(
                    index=index,
                    kind=kind_of(kinds, seed, index).name,
                    verdict=report.verdict,
                    reached=report.reached,
                    words=words,
                )
            )


def _replay(path: Path) -> int:
    """Opens one input that was kept; prints what comes of it."""
    from tools.fuzzing.children import Nursery
    from tools.fuzzing.inputs import FAULTS, read_input

    given = read_input(path)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        nursery = Nursery(Path(folder))
        ((_, report),) = nursery.open_all([0], lambda _: given)
    print(f"{given.kind}, {given.door}: {given.change}")
    reached = ", an interpreter ran" if report.reached else ""
    print(f"{report.verdict.value}{reached}\n{report.words}")
    return 1 if report.verdict in FAULTS else 0


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns how many inputs of each kind ended how, as aligned text."""
    from tools.fuzzing.inputs import Verdict

    header = ["kind", "inputs", "reached", *(one.value for one in Verdict)]
    kinds = sorted({one.kind for one in outcomes})
    rows = [header]
    for name in [*kinds, "all"]:
        chosen = [one for one in outcomes if name in ("all", one.kind)]
        counts = Counter(one.verdict for one in chosen)
        reached = sum(one.reached for one in chosen)
        numbers = [len(chosen), reached, *(counts[one] for one in Verdict)]
        rows.append([name, *map(str, numbers)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _examples(failed: Sequence[Outcome]) -> Iterator[str]:
    """Yields one line for each way in which inputs failed: the first that did."""
    ways: dict[tuple[str, ...], list[Outcome]] = {}
    for one in sorted(failed, key=lambda one: one.index):
        last = one.words.strip().splitlines()[-1:]
        frames = [line for line in one.words.splitlines() if line.startswith("  File")]
        way = (one.kind, one.verdict.value, *frames[-1:], *(last if frames else ()))
        ways.setdefault(way, []).append(one)
    for way, some in sorted(ways.items(), key=lambda pair: -len(pair[1])):
        first = some[0]
        shown = " ".join(way[2:]) or first.words
        yield f"{len(some)} x {way[0]}: {way[1]}: {' '.join(shown.split())[:300]} " + (
            f"(input {first.index})"
        )


COMMAND: Final = Command(text=__doc__, define=_define, run=_run)
