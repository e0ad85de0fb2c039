"""The errors that matar_tf raises: one base class, one child per kind of input.

Every message has three parts: what was expected, what came, what to do. What came may
be a stranger's: a message is cut and escaped where it is shown.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable
from typing import ClassVar, Final

__all__ = [
    "INSIST",
    "ArtifactError",
    "DataError",
    "ExportError",
    "MatarError",
    "MatarWarning",
    "ModelError",
    "OddDataError",
    "PolicyError",
    "SearchError",
    "StoreError",
    "TargetError",
    "did_you_mean",
    "printable",
    "readable",
    "readable_line",
    "shown",
]

# The end of what is said of odd data: how to use them nevertheless.
INSIST: Final = "pass allow_odd_data=True to go on with them as they are"
_MAX_WORD: Final = 300  # characters; paths of files are shorter
_MAX_LINE: Final = 1000
_MAX_LINES: Final = 40
_MAX_LAYERS: Final = 10_000  # with a line each
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100  # characters
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 10
_LONG_WORD: Final = re.compile(rf"\S{{{_MAX_WORD + 1},}}")


class MatarError(ValueError):
    """Base of all errors that a user of matar_tf can cause and mend."""

    max_lines: ClassVar[int] = _MAX_LINES

    def __str__(self) -> str:
        return readable(super().__str__(), max_lines=self.max_lines)


class MatarWarning(UserWarning):
    """Something is done as asked, but probably not what was meant."""


class PolicyError(MatarError):
    """A policy or a policy space is malformed, or the two do not fit."""


class ModelError(MatarError):
    """A Keras model cannot be quantized, profiled or packaged."""

    max_lines = _MAX_LAYERS


class DataError(MatarError):
    """Samples or labels are missing or have the wrong shape."""


class OddDataError(DataError):
    """Samples or labels can be used, but hardly as they are; one may insist."""


class ArtifactError(MatarError):
    """An artifact is missing, corrupt, or of another schema version."""


class TargetError(MatarError):
    """A target description is malformed, or cannot run a workload."""


class SearchError(MatarError):
    """A search was asked for something that it cannot do."""


class StoreError(SearchError):
    """The evaluation store cannot be read or written."""


class ExportError(MatarError):
    """A model file could not be written, or does not agree with its reference."""


def readable(text: str, *, max_lines: int = _MAX_LINES) -> str:
    r"""Returns a text as it is shown: without what steers a terminal, and not too long.

    Characters that cannot be printed become escapes (``\x1b``), but for the ends of
    lines. Of a long word or line the middle is left out, so that what to do, at the end
    of a message, stays; of many lines the last are.
    """
    lines = text.split("\n")
    more = [f"... and {len(lines) - max_lines} more lines."]
    lines = lines[:max_lines] + more * (len(lines) > max_lines)
    return "\n".join(map(readable_line, lines))


def shown(value: object) -> str:
    """Returns what came as messages show it: the beginning, where it is long."""
    return _SHORT.repr(value)


def printable(line: str) -> str:
    """Returns a line with escapes in the place of what cannot be printed."""
    if line.isprintable():
        return line
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in line
    )


def readable_line(line: str) -> str:
    """Returns a text as it is shown in one line; see `readable`."""
    line = _LONG_WORD.sub(lambda match: _without_middle(match[0], _MAX_WORD), line)
    return printable(_without_middle(line, _MAX_LINE))


def _without_middle(text: str, most: int) -> str:
    """Returns a text of at most so many characters: two thirds are of its beginning."""
    if len(text) <= most:
        return text
    tail = (most - 3) // 3
    return f"{text[: most - 3 - tail]}...{text[-tail:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint naming the nearest known name, or the known names.

    Upper and lower case are alike. A name of which the given one is a part between
    underscores is nearest: ``latency_ms`` for ``ms``.

    Args:
      name: The name that matched nothing.
      known: The names that would have been accepted.

    Returns:
      A sentence to put at the end of an error message.
    """
    names = sorted(known)
    nearest = _nearest(name.lower(), names)
    if nearest is not None:
        return f"Did you mean {nearest!r}?"
    shown = ", ".join(repr(known_name) for known_name in names[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"Known: {shown}{more}."


def _nearest(name: str, names: Iterable[str]) -> str | None:
    """Returns the known name that is nearest to one in lower case, if any is near."""
    lowered = {known.lower(): known for known in names}
    if name in lowered:
        return lowered[name]
    holders = [low for low in lowered if f"_{name}_" in f"_{low}_"] if name else []
    near = difflib.get_close_matches(name, holders, n=1, cutoff=0.0)
    near = near or difflib.get_close_matches(name, lowered, n=1)
    return lowered[near[0]] if near else None
