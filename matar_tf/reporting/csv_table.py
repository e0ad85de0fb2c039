"""Tables in CSV, which programs read and people open as a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["csv_table"]

_FORMULA: Final = re.compile(r"[=+\-@\t\r]")  # how one begins
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def csv_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table of cells: None is an empty one.

    Text that a spreadsheet would take as a formula gets an apostrophe before it, as
    OWASP's page on CSV injection has it; numbers stay, also as text.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([_cell(one) for one in row])
    return buffer.getvalue()


def _cell(value: object) -> object:
    is_formula = (
        isinstance(value, str)
        and _FORMULA.match(value) is not None
        and _NUMBER.fullmatch(value) is None
    )
    return f"'{value}" if is_formula else value
