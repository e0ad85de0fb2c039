"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["markdown_row", "markdown_table"]

_ESCAPED_PIPE: Final = r"\|"


def markdown_row(cells: Iterable[str]) -> str:
    """Returns a row of a table."""
    return f"| {' | '.join(cell.replace('|', _ESCAPED_PIPE) for cell in cells)} |"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: names on the left, figures on the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return [markdown_row(row) for row in (header, rule, *rows)]
