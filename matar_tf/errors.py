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
    "MatarWarning",
    "ModelError",
    "PolicyError",
    "SearchError",
    "StoreError",
    "TargetError",
    "did_you_mean",
]


class MatarError(ValueError):
    """Base of all errors that a user of matar_tf can cause and mend."""


class MatarWarning(UserWarning):
    """Something is done as asked, but probably not what was meant."""


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

    Upper and lower case are alike. A name of which the given one is a part between
    underscores is nearest: ``latency_ms`` for ``ms``.

    Args:
      name: The name that matched nothing.
      known: The names that would have been accepted.

    Returns:
      A sentence to put at the end of an error message.
    """
    names = sorted(known)
    nearest = _nearest(name.lower(), names)
    if nearest is not None:
        return f"Did you mean {nearest!r}?"
    shown = ", ".join(repr(known_name) for known_name in names[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"Known: {shown}{more}."


def _nearest(name: str, names: Iterable[str]) -> str | None:
    """Returns the known name that is nearest to one in lower case, if any is near."""
    lowered = {known.lower(): known for known in names}
    if name in lowered:
        return lowered[name]
    holders = [low for low in lowered if f"_{name}_" in f"_{low}_"] if name else []
    near = difflib.get_close_matches(name, holders, n=1, cutoff=0.0)
    near = near or difflib.get_close_matches(name, lowered, n=1)
    return lowered[near[0]] if near else None
