"""Latency of ``.tflite`` files on this machine: end to end, and operator by operator.

Files that are compared are run in turns, so that all see the same machine, and a few
times in each turn, so that each finds its own data in the caches, as it does in use. A
figure is the median of the runs, with its quartiles; it holds for this machine, this
runtime and this number of threads only.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError, printable
from matar_tf.io.files import write_atomically
from matar_tf.io.json_reader import JsonReader, json_text
from matar_tf.tflite._memory import bytes_of_sample
from matar_tf.tflite._sandbox import Sandbox
from matar_tf.tflite._schema import (
    CheckedModel,
    compact,
    op_name,
    parse_model,
    text_of,
    write_model,
)
from matar_tf.tflite.runtime import (
    LITERT_PACKAGE,
    Runner,
    foreign_reason,
    make_interpreter,
)

__all__ = [
    "Latency",
    "LatencyCache",
    "OperatorLatency",
    "measure_latencies",
    "measure_latency_ms",
    "profile_operators",
]

_SCHEMA_VERSION: Final = 1
_NUM_WARM_UPS: Final = 2  # in each turn: the first fill caches
_RUNS_OF_TURN: Final = 5
_MAX_OPERATORS: Final = 1000
_GROUP_BYTES: Final = 1 << 28  # of the interpreters that are timed side by side
_COPIES: Final = 3  # of a file: itself, what an interpreter reads, and packed kernels
_PROCESS_BYTES: Final = 1 << 26  # of an interpreter in a process of its own
_READER: Final = JsonReader(ExportError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Time of one inference of one sample.

    Attributes:
      median_ms: Median of the runs.
      low_ms: Their lower quartile.
      high_ms: Their upper quartile.
      num_repeats: Timed runs.
      num_threads: Threads of the interpreter.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    num_repeats: int
    num_threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorLatency:
    """An operator's share of the latency of a file.

    Attributes:
      name: Name of the tensor that it makes.
      operator: Its TFLite name.
      own_ms: Latency up to it less the latency up to the one before; its error is that
        of both, so that a fast operator may come out below zero.
      total_ms: Latency of the file cut off after it.
    """

    name: str
    operator: str
    own_ms: float
    total_ms: float


class LatencyCache:
    """Latencies by file, threads, repeats, runtime and machine, in a JSON file.

    Args:
      path: The file; it is made by the first measurement.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._machine = [
            platform.node(),
            platform.machine(),
            f"{LITERT_PACKAGE} {importlib.metadata.version(LITERT_PACKAGE)}",
        ]

    def measure(
        self, contents: Mapping[str, bytes], *, num_threads: int, num_repeats: int
    ) -> dict[str, Latency]:
        """Returns the latency of each file; those that are not known are measured.

        Raises:
          ExportError: If the cache is damaged, or see `measure_latencies`.
        """
        known = self._read()
        keys = {
            name: self._key(content, num_threads, num_repeats)
            for name, content in contents.items()
        }
        missing = [name for name, key in keys.items() if key not in known]
        if missing:
            found = measure_latencies(
                [contents[name] for name in missing],
                num_threads=num_threads,
                num_repeats=num_repeats,
            )
            for name, latency in zip(missing, found, strict=True):
                known[keys[name]] = latency
            document = {
                "schema_version": _SCHEMA_VERSION,
                "latencies": {key: asdict(one) for key, one in known.items()},
            }
            text = json_text(document)
            write_atomically(self._path, text.encode())
        return {name: known[key] for name, key in keys.items()}

    def _key(self, content: bytes, num_threads: int, num_repeats: int) -> str:
        way = f"turns of {_RUNS_OF_TURN}"
        parts = [*self._machine, way, str(num_threads), str(num_repeats)]
        digest = hashlib.sha256(content)
        digest.update("\n".join(parts).encode())
        return digest.hexdigest()

    def _read(self) -> dict[str, Latency]:
        if not self._path.exists():
            return {}
        try:
            document = _READER.object(
                _READER.read(self._path), "file", ("schema_version", "latencies")
            )
            version = _READER.field(document, "schema_version", int)
            if version != _SCHEMA_VERSION:
                raise ExportError(
                    f"Expected schema_version {_SCHEMA_VERSION}, got {version}."
                )
            rows = _READER.field(document, "latencies", dict)
            return {key: _read_latency(row) for key, row in rows.items()}
        except (OSError, ExportError) as error:
            raise ExportError(
                f"Expected measured latencies in {str(self._path)!r}, but: {error} "
                "Remove the file to measure anew."
            ) from error


def _read_latency(value: Any) -> Latency:
    row = _READER.object(value, "latency", [field.name for field in fields(Latency)])
    times = [row[key] for key in ("low_ms", "median_ms", "high_ms")]
    counts = [_READER.field(row, key, int) for key in ("num_repeats", "num_threads")]
    are_times = all(type(one) in (int, float) for one in times)
    if not are_times or times != sorted(times) or times[0] < 0 or min(counts) < 1:
        raise ExportError(
            "Expected ascending quartiles of at least 0 ms, and at least 1 repeat and "
            f"thread, got {row}."
        )
    return Latency(**row)


def measure_latencies(
    contents: Sequence[bytes], *, num_threads: int = 1, num_repeats: int = 50
) -> list[Latency]:
    """Returns the latency of each file for one sample, run in turns.

    Args:
      contents: The ``.tflite`` files.
      num_threads: Threads of each interpreter.
      num_repeats: Timed runs of each, after some that are not.

    Raises:
      ExportError: If LiteRT refuses a file, or a number is below 1.
    """
    if num_threads < 1 or num_repeats < 1:
        raise ExportError(
            f"Expected at least 1 thread and 1 repeat, got {num_threads} and "
            f"{num_repeats}."
        )
    runs = [_Run(content, num_threads) for content in contents]
    times: list[list[float]] = [[] for _ in runs]
    for done in range(0, num_repeats, _RUNS_OF_TURN):
        num_runs = min(_RUNS_OF_TURN, num_repeats - done)
        for run, spent in zip(runs, times, strict=True):
            turn = [run.time_ms() for _ in range(_NUM_WARM_UPS + num_runs)]
            spent += turn[_NUM_WARM_UPS:]
    return [
        Latency(
            median_ms=statistics.median(spent),
            low_ms=float(np.quantile(spent, 0.25)),
            high_ms=float(np.quantile(spent, 0.75)),
            num_repeats=num_repeats,
            num_threads=num_threads,
        )
        for spent in times
    ]


def measure_latency_ms(runner: Runner, *, num_runs: int = 50) -> float:
    """Returns the median milliseconds of one inference of one sample.

    Args:
      runner: A model in its runtime; the first inference does not count.
      num_runs: Number of inferences, at least 1.
    """
    sample = runner.zeros()
    runner.predict(sample)
    times: list[float] = []
    for _ in range(num_runs):
        start = time.perf_counter()
        runner.predict(sample)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def profile_operators(
    content: bytes, *, num_threads: int = 1, num_repeats: int = 50
) -> list[OperatorLatency]:
    """Returns each operator's share, from files that are cut off after it.

    LiteRT's Python interface has no profiler. So the file is cut off after each of its
    operators, and the cut files are timed side by side, as many as fit into memory.

    Args:
      content: The ``.tflite`` file.
      num_threads: Threads of the interpreter.
      num_repeats: Timed runs of each cut file.

    Raises:
      ExportError: If the file is damaged, or has more than 1000 operators, or see
        `measure_latencies`.
    """
    model = parse_model(content)
    graph = model.subgraphs[0]
    if len(graph.operators) > _MAX_OPERATORS:
        raise ExportError(
            f"Expected at most {_MAX_OPERATORS} operators to time one by one, got "
            f"{len(graph.operators)}; measure the file as a whole."
        )
    titles = [
        (printable(text_of(graph.tensors[one.outputs[0]].name)), op_name(model, one))
        for one in graph.operators
    ]
    found: list[Latency] = []
    for group in _groups_of_cut(model, isinstance(content, CheckedModel)):
        found += measure_latencies(
            group, num_threads=num_threads, num_repeats=num_repeats
        )
    profile: list[OperatorLatency] = []
    before_ms = 0.0
    for (name, operator), latency in zip(titles, reversed(found), strict=True):
        profile.append(
            OperatorLatency(
                name=name,
                operator=operator,
                own_ms=latency.median_ms - before_ms,
                total_ms=latency.median_ms,
            )
        )
        before_ms = latency.median_ms
    return profile


def _groups_of_cut(model: Any, is_checked: bool) -> Iterator[list[bytes]]:
    """Yields files cut off after each operator, the last first, in groups.

    The model is cut itself.
    """
    is_checked = is_checked or foreign_reason(model) is None
    group: list[bytes] = []
    num_bytes = 0
    for count in range(len(model.subgraphs[0].operators), 0, -1):
        _cut_after(model, count)
        content = write_model(model)
        size = _COPIES * len(content) + bytes_of_sample(model)
        size += 0 if is_checked else _PROCESS_BYTES
        if group and num_bytes + size > _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append(CheckedModel(content) if is_checked else content)
        num_bytes += size
    yield group


def _cut_after(model: Any, count: int) -> None:
    """Leaves a model its first operators and what they read; loose ends are outputs."""
    graph = model.subgraphs[0]
    model.signatureDefs = model.metadata = None
    graph.operators = list(graph.operators[:count])
    read = {int(one) for operator in graph.operators for one in operator.inputs}
    made = [int(one) for operator in graph.operators for one in operator.outputs]
    graph.outputs = np.array([one for one in made if one not in read], dtype=np.int32)
    for index, tensor in enumerate(graph.tensors):
        if index not in read:
            tensor.buffer = 0
    compact(model)


class _Run:
    """One file, ready to be timed on a fixed random sample."""

    def __init__(self, content: bytes, num_threads: int) -> None:
        self._interpreter = make_interpreter(content, "litert", num_threads)
        rng = np.random.default_rng(0)
        for one in self._interpreter.get_input_details():
            # Between 0 and 1, which is the first row where it is an index.
            sample = rng.random(one["shape"]).astype(one["dtype"])
            self._interpreter.set_tensor(one["index"], sample)

    def time_ms(self) -> float:
        start = time.perf_counter()
        self._interpreter.invoke()
        seconds = time.perf_counter() - start
        if isinstance(self._interpreter, Sandbox):
            # A cut file may run here and the next one there: the way is not its time.
            seconds = self._interpreter.invoke_seconds
        return seconds * 1e3
