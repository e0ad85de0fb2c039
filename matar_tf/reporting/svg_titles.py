"""Titles of the elements of an SVG file, which viewers show to who points at them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

from matar_tf.errors import SearchError

__all__ = ["with_titles"]


def with_titles(svg: str, group: str, titles: Sequence[str]) -> str:
    """Returns an SVG file in which each marker of some groups has a title.

    Args:
      svg: As matplotlib writes it: groups are indented, markers are uses of a path.
      group: Id of the groups; several panels have one of the same id each.
      titles: One for each marker of all groups, in the order of the file.

    Raises:
      SearchError: If there are more markers or fewer.
    """
    left = [*reversed(titles)]

    def titled_mark(match: re.Match[str]) -> str:
        title = escape(left.pop()) if left else ""
        return f"<use{match[1]}><title>{title}</title></use>"

    def titled_group(match: re.Match[str]) -> str:
        return re.sub(r"<use([^>]*)/>", titled_mark, match[0])

    body = rf'^( *)<g id="{re.escape(group)}">$.*?^\1</g>$'
    number = sum(
        found[0].count("<use") for found in re.finditer(body, svg, re.DOTALL | re.M)
    )
    if number != len(titles):
        raise SearchError(
            f"Expected a title for each of {number} markers of {group!r}, got "
            f"{len(titles)}; give as many."
        )
    return re.sub(body, titled_group, svg, flags=re.DOTALL | re.MULTILINE)
