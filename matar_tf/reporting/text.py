"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["aligned"]


def aligned(
    rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)
) -> list[str]:
    """Returns the lines of a table, its columns two spaces apart.

    Args:
      rows: Cells, as many in each row; the header is one of them.
      left: Columns of names, which begin at one place; those of figures end at one.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
