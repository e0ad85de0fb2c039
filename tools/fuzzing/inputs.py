"""What is opened and how it ends: inputs, kinds of them, outcomes."""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

__all__ = [
    "FAULTS",
    "OUTPUT",
    "ContradictionError",
    "Door",
    "Input",
    "Kind",
    "Outcome",
    "RefusedError",
    "Verdict",
    "read_input",
    "write_input",
]

OUTPUT: Final = "out"  # the folder that doors may write to
_RECORD: Final = "input.json"
_FILES: Final = "files"


class Verdict(enum.Enum):
    """How the opening of an input ended; the value is the heading of its column."""

    REFUSED = "refused"
    ACCEPTED = "accepted"
    DEATH = "deaths"
    HANG = "hangs"
    MEMORY = "over 1 GB"
    TRACEBACK = "tracebacks"
    OTHER = "other content"
    OUTSIDE = "outside"
    UNREADABLE = "unreadable"


FAULTS: Final = tuple(
    one for one in Verdict if one not in (Verdict.REFUSED, Verdict.ACCEPTED)
)


class RefusedError(Exception):
    """A program ended with a sentence and a status that is not 0."""


class ContradictionError(Exception):
    """What was accepted is not what a reader may return."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """Files to be opened.

    Attributes:
      kind: Name of the kind.
      door: What opens them, of the kind's doors.
      change: What was done to a good one, in words.
      files: Contents by relative path.
      links: Targets of symbolic links by relative path.
      expected: What the door returns if it accepts them, where a digest covers them;
        None if it may return anything.
      must_be_refused: Whether the content contradicts itself.
    """

    kind: str
    door: str
    change: str
    files: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict)
    expected: str | None = None
    must_be_refused: bool = False

    def place(self, folder: Path) -> None:
        """Writes the files and links into a folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name, target in self.links.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)


Door: TypeAlias = Callable[[Path], "str | None"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of files.

    Attributes:
      name: What it is called in the table.
      share: How many of 100 inputs are of it.
      make: Returns an input, of the choices of a generator alone.
      doors: What opens such files, by name, given the folder that holds them; each
        returns its content as text, or None.
      runs: The doors that have run an interpreter where they accept, perhaps in a
        process of its own.
    """

    name: str
    share: int
    make: Callable[[random.Random], Input]
    doors: Mapping[str, Door]
    runs: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the opening of an input ended.

    Attributes:
      index: Of the input.
      kind: Its kind.
      verdict: How it ended.
      reached: Whether an interpreter or the simulator ran.
      words: What was changed, and what came of it.
    """

    index: int
    kind: str
    verdict: Verdict
    reached: bool
    words: str


def write_input(given: Input, folder: Path, words: str) -> None:
    """Writes an input so that `read_input` returns it, and people can use its files."""
    record: dict[str, Any] = {
        "kind": given.kind,
        "door": given.door,
        "change": given.change,
        "words": words,
        "files": list(given.files),
        "links": dict(given.links),
        "expected": given.expected,
        "must_be_refused": given.must_be_refused,
    }
    (folder / _FILES).mkdir(parents=True)
    given.place(folder / _FILES)
    (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def read_input(path: Path) -> Input:
    """Returns the input that lies in a folder, given it or its ``input.json``."""
    folder = path if path.is_dir() else path.parent
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    del record["words"]
    names = record.pop("files")
    return Input(
        files={name: (folder / _FILES / name).read_bytes() for name in names}, **record
    )
