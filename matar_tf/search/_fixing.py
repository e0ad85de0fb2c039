"""Entries that a search is to leave alone: ``weights:stem=8``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Final

from matar_tf.errors import PolicyError, did_you_mean
from matar_tf.policy import PolicySpace

__all__ = ["fix_entries"]

_TEXT: Final = re.compile(
    r"(?P<kind>weights|activations):(?P<names>[^=]+)=(?P<bits>\d+(,\d+)*)"
)


def fix_entries(space: PolicySpace, texts: Iterable[str]) -> PolicySpace:
    """Returns a space in which some entries have fewer widths.

    Args:
      space: The space.
      texts: Such as ``weights:stem=8``, ``activations:stack1_*=4`` or
        ``weights:*=4,8``: the kind, a name or a pattern of names (as of files), and
        the widths that stay. Later ones narrow further.

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
        names = fnmatch.filter(entries, match["names"])
        if not names:
            raise PolicyError(
                f"Expected {text!r} to name {match['kind']} of the network, got none "
                f"that match {match['names']!r}. "
                f"{did_you_mean(match['names'], entries)}"
            )
        for name in names:
            if not set(bits) <= set(entries[name]):
                raise PolicyError(
                    f"Expected widths out of {list(entries[name])} for the "
                    f"{match['kind']} entry {name!r}, got {bits} in {text!r}."
                )
        space = space.with_choices(**{match["kind"]: dict.fromkeys(names, bits)})
    return space
