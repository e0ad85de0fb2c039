"""Times of many files, kept as they come: by a command of the user's, or by LiteRT."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from tqdm import tqdm

from matar_tf.errors import TargetError, printable, shown
from matar_tf.io.files import read_at_most, write_atomically
from matar_tf.tflite._schema import CheckedModel
from matar_tf.tflite.latency import measure_latencies

__all__ = [
    "CommandTimer",
    "TimedFile",
    "Timer",
    "Times",
    "time_by_litert",
    "time_files",
]

_COLUMNS: Final = ("file", "round", "milliseconds", "by")
_PLACE: Final = "{file}"
_MAX_BYTES: Final = 1 << 22
_MILLISECONDS: Final = (1e-7, 1e9)  # of one inference
_NUM_HEX: Final = 12
_NUM_REPEATS: Final = 20  # of LiteRT in each round


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedFile:
    """A file to be timed.

    Attributes:
      name: A name for people.
      content: What is in it.
    """

    name: str
    content: CheckedModel

    @property
    def key(self) -> str:
        """Name that no file of other content has; without the ending."""
        digest = hashlib.sha256(self.content).hexdigest()
        return f"{self.name}-{digest[:_NUM_HEX]}"


Timer: TypeAlias = Callable[[TimedFile], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandTimer:
    """Times a file by a command that is given its path and prints milliseconds.

    The command is run without a shell. What it prints last on standard output is the
    time of one inference.

    Attributes:
      command: Words as a shell has them; ``{file}`` stands for the path, which comes
        last where no word has it.
      timeout_s: Seconds after which it is ended.
      folder: Where a file is written for it.
    """

    command: str
    timeout_s: float
    folder: Path

    def __post_init__(self) -> None:
        self._words()

    def __call__(self, file: TimedFile) -> float:
        """Returns the milliseconds of one inference.

        Raises:
          TargetError: If the command cannot be run, fails, does not end, or prints no
            number last.
        """
        words = self._words()
        if not any(_PLACE in one for one in words):
            words.append(_PLACE)
        path = self.folder / f"{file.key}.tflite"
        path.write_bytes(file.content)
        try:
            output, errors, status = self._run(
                [one.replace(_PLACE, str(path)) for one in words]
            )
        finally:
            path.unlink(missing_ok=True)
        if status != 0:
            lines = [*errors.split("\n"), *output.split("\n")]
            last = next((one for one in reversed(lines) if one.strip()), "nothing")
            raise TargetError(
                f"Expected {self.command!r} to end well for {path.name}, got status "
                f"{status} after it printed {printable(last[:200])!r}; mend the "
                "command, then go on with resume=True."
            )
        try:
            milliseconds = float(output.split()[-1])
        except (IndexError, ValueError):
            milliseconds = math.nan
        least, most = _MILLISECONDS
        if not least <= milliseconds <= most:
            raise TargetError(
                f"Expected {self.command!r} to print the milliseconds of one inference "
                f"last, {least:g} to {most:g}, got {shown(output[-200:])} for "
                f"{path.name}; mend the command, then go on with resume=True."
            )
        return milliseconds

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise TargetError(
                f"Expected a command as a shell has it, got {self.command!r}: {error}; "
                "close its quotes."
            ) from error
        if not words:
            raise TargetError(
                "Expected a command that is given a file and prints milliseconds, got "
                "none; name one, or no command at all to time files on this machine."
            )
        return words

    def _run(self, words: Sequence[str]) -> tuple[str, str, int]:
        """Returns what a program prints on both streams, and its status."""
        try:
            with subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # so that its children end with it
            ) as process:
                try:
                    output, errors = process.communicate(timeout=self.timeout_s)
                except BaseException:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    raise
        except subprocess.TimeoutExpired as error:
            raise TargetError(
                f"Expected {self.command!r} to end within {self.timeout_s:g} s, got no "
                "end; mend it or give it longer (timeout_s), then go on with "
                "resume=True."
            ) from error
        except OSError as error:
            raise TargetError(
                f"Expected a program that can be run, got {words[0]!r}: "
                f"{error.strerror}; mend the command, then go on with resume=True."
            ) from error
        return output, errors, process.returncode


def time_by_litert(file: TimedFile) -> float:
    """Returns the median milliseconds of one inference on this machine, one thread."""
    (found,) = measure_latencies([file.content], num_repeats=_NUM_REPEATS)
    return found.median_ms


class Times:
    """Milliseconds by file and round, in a CSV file that grows row by row.

    Args:
      path: The file.
      by: What measures: the command, or this machine.
      keys: Keys of the files that are timed.

    Raises:
      TargetError: If the file holds anything else, or times by something else.
    """

    def __init__(self, path: Path, *, by: str, keys: Sequence[str]) -> None:
        self._path, self._by = path, by
        self._found: dict[tuple[str, int], float] = {}
        if path.exists():
            rows = self._read(set(keys))
            # Anew: the last row may have been cut.
            write_atomically(path, _text([_COLUMNS, *rows]).encode())

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._found

    def add(self, name: str, number: int, milliseconds: float) -> None:
        """Keeps the time of a file in a round."""
        row = (name, str(number), repr(milliseconds), self._by)
        rows = [row] if self._path.exists() else [_COLUMNS, row]
        with self._path.open("a", newline="", encoding="utf-8") as file:
            file.write(_text(rows))
        self._found[name, number] = milliseconds

    def least(self) -> dict[str, float]:
        """Returns the least time of each file: what else runs only adds to it."""
        found: dict[str, float] = {}
        for (name, _), milliseconds in self._found.items():
            found[name] = min(milliseconds, found.get(name, math.inf))
        return found

    def _read(self, keys: set[str]) -> list[list[str]]:
        text = read_at_most(self._path, _MAX_BYTES, TargetError).decode(
            "utf-8", errors="replace"
        )
        whole = text[: text.rfind("\n") + 1]
        rows = [*csv.reader(io.StringIO(whole, newline=""))]
        if rows and tuple(rows[0]) != _COLUMNS:
            raise TargetError(
                f"Expected times of files at {self._path}, with the columns "
                f"{', '.join(_COLUMNS)}, got {shown(rows[0])}; choose another path, or "
                "pass overwrite=True to begin anew."
            )
        for row in rows[1:]:
            self._take(row, keys)
        return rows[1:]

    def _take(self, row: list[str], keys: set[str]) -> None:
        try:
            name, number, milliseconds, by = row
            key, value = (name, int(number)), float(milliseconds)
        except ValueError:
            raise TargetError(
                f"Expected a file, a round, milliseconds and what measured them in "
                f"each row of {self._path}, got {shown(row)}; mend the row, or pass "
                "overwrite=True to begin anew."
            ) from None
        if by != self._by or name not in keys:
            expected = f"times by {self._by!r}" if by != self._by else "the same files"
            raise TargetError(
                f"Expected {expected} in {self._path}, got a row of {name!r} by "
                f"{by!r}; go on with the same options as before, or pass "
                "overwrite=True to begin anew."
            )
        least, most = _MILLISECONDS
        if not least <= value <= most:
            raise TargetError(
                f"Expected milliseconds of {least:g} to {most:g} in {self._path}, got "
                f"{milliseconds!r}; mend the row, or pass overwrite=True to begin anew."
            )
        self._found[key] = value


def _text(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def time_files(
    files: Sequence[TimedFile],
    times: Times,
    timer: Timer,
    *,
    num_rounds: int,
    progress: bool = True,
) -> list[float]:
    """Returns the least milliseconds of each file.

    All files are timed in each round, so that all see the same machine; what `times`
    knows is not measured again.

    Args:
      files: The files.
      times: What is known; each time is added as soon as it is measured.
      timer: What times a file.
      num_rounds: How often each is timed.
      progress: Whether to show a bar.

    Raises:
      TargetError: If a file cannot be timed.
    """
    missing = [
        (one, number)
        for number in range(num_rounds)
        for one in files
        if (one.key, number) not in times
    ]
    # The parts of tqdm that are typed are not the ones used here.
    for one, number in cast("Any", tqdm)(missing, unit="file", disable=not progress):
        times.add(one.key, number, timer(one))
    least = times.least()
    return [least[one.key] for one in files]
