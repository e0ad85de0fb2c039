"""Commands as doors: what they print must be readable, and nothing else."""

from __future__ import annotations

import contextlib
import io
import unicodedata
from pathlib import Path
from typing import Final

from matar_tf import cli
from tools.fuzzing.inputs import RefusedError

__all__ = ["is_readable", "run"]

_MAX_CHARS: Final = 20_000
_BREAKS: Final = "\n\t"


class UnreadableError(Exception):
    """A command printed control characters, or more than anybody reads."""


def run(*words: str | Path) -> str:
    """Runs a command of `matar`; returns what it printed.

    Raises:
      RefusedError: If it ended with a sentence.
      UnreadableError: See there.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(list(map(str, words)))
    printed = out.getvalue()
    if status != 0:
        raise RefusedError(err.getvalue())
    if not is_readable(printed):
        raise UnreadableError(printed[:200])
    return printed


def is_readable(text: str) -> bool:
    """Whether a text is short, and holds no character that moves a cursor."""
    return len(text) <= _MAX_CHARS and not any(
        unicodedata.category(one) in ("Cc", "Cs") and one not in _BREAKS for one in text
    )
