"""Patterns of names, as of files; one that matches nothing is an error."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from matar_tf.errors import PolicyError, did_you_mean

__all__ = ["matching"]


def matching(names: Iterable[str], pattern: str, kind: str) -> list[str]:
    """Returns the names of policy entries that match a pattern, in their order.

    A name that is the pattern, letter by letter, is the only one.

    Args:
      names: The names that there are.
      pattern: A name, or a pattern such as ``stack1_*`` (``fnmatch``, case counts).
      kind: ``weights`` or ``activations``, for the error.

    Raises:
      PolicyError: If none matches.
    """
    known = list(names)
    if pattern in known:
        return [pattern]
    found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise PolicyError(
            f"Expected the name of {kind} of the network, or a pattern that matches "
            f"some, got {pattern!r}. {did_you_mean(pattern, known)}"
        )
    return found
