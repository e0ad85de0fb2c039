"""The errors that matar_tf raises: one base class, one child per kind of input.

Every message has three parts: what was expected, what came, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "DataError",
    "ExportError",
    "MatarError",
    "ModelError",
    "PolicyError",
    "SearchError",
    "StoreError",
    "TargetError",
    "did_you_mean",
]


class MatarError(ValueError):
    """Base of all errors that a user of matar_tf can cause and mend."""


class PolicyError(MatarError):
    """A policy or a policy space is malformed, or the two do not fit."""


class ModelError(MatarError):
    """A Keras model cannot be quantized, profiled or packaged."""


class DataError(MatarError):
    """Samples or labels are missing or have the wrong shape."""


class ArtifactError(MatarError):
    """An artifact is missing, corrupt, or of another schema version."""


class TargetError(MatarError):
    """A target description is malformed, or cannot run a workload."""


class SearchError(MatarError):
    """A search was asked for something that it cannot do."""


class StoreError(SearchError):
    """The evaluation store cannot be read or written."""


class ExportError(MatarError):
    """A model file could not be written, or does not agree with its reference."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint naming the nearest known name, or the known names.

    Args:
      name: The name that matched nothing.
      known: The names that would have been accepted.

    Returns:
      A sentence to put at the end of an error message.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    if nearest:
        return f"Did you mean {nearest[0]!r}?"
    shown = ", ".join(repr(known_name) for known_name in names[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"Known: {shown}{more}."
