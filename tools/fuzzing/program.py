"""Opens changed files of all kinds that the product reads; counts how it ends.

Each input is made from a good file by a seeded generator, so that a seed gives the
same inputs for any number of processes. Each is opened in a process of its own, which
may take 5 s of processor time and 1 GB of memory. Exit status 1 if one of them dies,
hangs, takes more memory, ends in a traceback, is accepted with other content than a
digest covers or with one that contradicts itself, writes outside of its folder or
prints what nobody can read. Needs no TensorFlow.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
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

    from tools.fuzzing.inputs import Input, Kind, Outcome

__all__ = ["COMMAND", "make_input", "table"]

_NUM_TIMED: Final = 200  # inputs that the estimate rests on
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

    kinds = _kinds(given.kinds)
    keep = None if given.keep is None else Path(given.keep)
    outcomes: list[Outcome] = []
    start = time.perf_counter()
    found = _outcomes(given.inputs, given.seed, given.jobs, kinds, keep)
    for outcome in tqdm(found, total=given.inputs, unit=" inputs", mininterval=2.0):
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


def _kinds(names: Sequence[str] | None) -> dict[str, Kind]:
    """Returns the kinds of some names, or all.

    Raises:
      MatarError: If there is no such kind.
    """
    from matar_tf.errors import MatarError, did_you_mean
    from tools.fuzzing import artifacts, hardware, runs, samples, tflite_files

    known = {
        kind.name: kind
        for kind in (
            tflite_files.TFLITE,
            artifacts.ARCHIVE,
            artifacts.FOLDER,
            artifacts.SIGNED,
            hardware.TARGET,
            hardware.TABLE,
            hardware.POLICY,
            runs.RUN,
            runs.STORE,
            samples.DATA,
        )
    }
    for name in names or ():
        if name not in known:
            raise MatarError(
                f"Expected a kind of files, got {name!r}. {did_you_mean(name, known)}"
            )
    return {name: known[name] for name in names or known}


def make_input(kinds: dict[str, Kind], seed: int, index: int) -> Input:
    """Returns the input of a number; it depends on seed, number and kinds alone."""
    rng = random.Random(f"{seed}/{index}")
    (kind,) = rng.choices(list(kinds.values()), [one.share for one in kinds.values()])
    return kind.make(rng)


def _outcomes(
    num_inputs: int, seed: int, num_jobs: int, kinds: dict[str, Kind], keep: Path | None
) -> Iterator[Outcome]:
    """Yields how inputs ended, as they do."""
    from tools.fuzzing.seeds import seeds

    seeds()  # once, for all processes
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    workers = [
        context.Process(
            target=_work,
            args=(range(first, num_inputs, num_jobs), seed, kinds, keep, results),
            daemon=True,
        )
        for first in range(num_jobs)
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in range(num_inputs):
            yield results.get()
    finally:
        for worker in workers:
            worker.terminate()


def _work(
    indices: Sequence[int],
    seed: int,
    kinds: dict[str, Kind],
    keep: Path | None,
    results: Any,
) -> None:
    """Opens inputs one after the other; the work of a process."""
    from tools.fuzzing.children import Nursery
    from tools.fuzzing.inputs import FAULTS, Outcome, write_input

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the parent, which ends this one
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    try:
        nursery = Nursery(folder)
        for index in indices:
            rng = random.Random(f"{seed}/{index}")
            shares = [one.share for one in kinds.values()]
            (kind,) = rng.choices(list(kinds.values()), shares)
            verdict, reached, words = nursery.open(
                kinds.__getitem__, lambda index=index: make_input(kinds, seed, index)
            )
            if verdict in FAULTS:
                given = make_input(kinds, seed, index)
                words = f"{given.door}, {given.change}: {words}"
                if keep is not None:
                    place = keep / f"{index:06d}_{verdict.name.lower()}"
                    place.mkdir(parents=True)
                    write_input(given, place, words)
            results.put(
                Outcome(
                    index=index,
                    kind=kind.name,
                    verdict=verdict,
                    reached=reached,
                    words=words,
                )
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replay(path: Path) -> int:
    """Opens one input that was kept; prints what comes of it."""
    from tools.fuzzing.children import Nursery
    from tools.fuzzing.inputs import FAULTS, read_input

    given = read_input(path)
    kinds = _kinds(None)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        nursery = Nursery(Path(folder))
        verdict, reached, words = nursery.open(kinds.__getitem__, lambda: given)
    print(f"{given.kind}, {given.door}: {given.change}")
    print(f"{verdict.value}{', an interpreter ran' if reached else ''}\n{words}")
    return 1 if verdict in FAULTS else 0


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns how many inputs of each kind ended how, as aligned text."""
    from tools.fuzzing.inputs import Verdict

    header = ["kind", "inputs", "reached", *(one.value for one in Verdict)]
    kinds = list(dict.fromkeys(sorted(one.kind for one in outcomes)))
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
        shown = " ".join([*way[2:]]) or first.words
        yield f"{len(some)} x {way[0]}: {way[1]}: {' '.join(shown.split())[:300]} " + (
            f"(input {first.index})"
        )


COMMAND: Final = Command(text=__doc__, define=_define, run=_run)
