"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from matar_tf.errors import printable

__all__ = ["markdown_row", "markdown_table", "markdown_text"]

# What ends a cell, begins HTML or code, or makes a link of what is before it.
_MARKS: Final = re.compile(r"[\\|`]|<(?=[a-z/!?])|(?<=\])\(", re.IGNORECASE)


def markdown_text(text: str) -> str:
    """Returns a text of one line that is shown as it stands."""
    return _MARKS.sub(r"\\\g<0>", printable(" ".join(text.splitlines())))


def markdown_row(cells: Iterable[str]) -> str:
    """Returns a row of a table."""
    return f"| {' | '.join(map(markdown_text, cells))} |"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: names on the left, figures on the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return [markdown_row(row) for row in (header, rule, *rows)]
