"""Tables for a terminal, and sentences that several reports have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from matar_tf.errors import readable_line

__all__ = ["aligned", "float_sentences"]


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


def float_sentences(layers: Mapping[str, str]) -> list[str]:
    """Returns what is said of each layer that stays in float.

    Args:
      layers: Why each does, by its name; "" if it is not known.
    """
    return [
        readable_line(" ".join(f"{name}: {reason}".split()).rstrip(":"))
        for name, reason in layers.items()
    ]
