"""Entries that a search is to leave alone: ``weights:stem=8``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from matar_tf.errors import PolicyError
from matar_tf.patterns import matching
from matar_tf.space import PolicySpace

__all__ = ["fix_entries"]

_TEXT: Final = re.compile(
    r"(?P<kind>weights|activations):(?P<names>[^=]+)=(?P<bits>\d+(,\d+)*)"
)


def fix_entries(space: PolicySpace, texts: Iterable[str]) -> PolicySpace:
    """Returns a space in which some entries have fewer widths.

    Args:
      space: The space.
      texts: Such as ``weights:stem=8``, ``activations:stack1_*=4`` or
        ``weights:stack1_*=4,8``: the kind, a name or a pattern of names (as of files),
        and the widths that stay. Later ones narrow further.

    Raises:
      PolicyError: If a text has another form, its pattern matches no name, or an entry
        does not have the widths.
    """
    for text in texts:
        match = _TEXT.fullmatch(text.replace(" ", ""))
        if match is None:
            raise PolicyError(
                "Expected what to fix such as 'weights:stem=8' or "
                f"'activations:stack1_*=4,8', got {text!r}."
            )
        bits = sorted({int(one) for one in match["bits"].split(",")})
        entries: Mapping[str, tuple[int, ...]] = getattr(space, match["kind"])
        names = matching(entries, match["names"], match["kind"])
        without = [name for name in names if not set(bits) <= set(entries[name])]
        if without:
            raise PolicyError(
                f"Expected widths out of {list(entries[without[0]])} for the "
                f"{match['kind']} entry {without[0]!r}, got {bits} in {text!r}"
                f"{_remedy(without, names)}."
            )
        space = space.with_choices(**{match["kind"]: dict.fromkeys(names, bits)})
    return space


def _remedy(without: Sequence[str], names: Sequence[str]) -> str:
    """Returns the end of a sentence: what to name instead of all that matched."""
    if len(without) == len(names):
        return ""
    listed = ", ".join(map(repr, without))
    return (
        f"; of the {len(names)} entries that match, name those only that have these "
        f"widths: all but {listed}"
    )
