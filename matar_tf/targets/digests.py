"""What names a target in records of runs: a digest of all that it says."""

from __future__ import annotations

import hashlib
from typing import Any, Final, cast

from pydantic import BaseModel

from matar_tf.targets.target import Target

__all__ = ["target_digest"]

# Keys that earlier versions did not have.
_ADDED: Final = frozenset(
    {
        *("limits", "network", "kernel_taps", "kernel_capacity_bytes", "decoding"),
        *("cycles_per_input", "cycles_per_output", "cycles_per_weight"),
        *("input_step", "output_step"),
    }
)


def target_digest(target: Target) -> str:
    """Returns a SHA-256 of all that a target says.

    Keys that earlier versions did not know are left out where nothing is said under
    them, so that records of earlier runs name the same target.
    """
    text = target.model_dump_json(exclude=_unsaid(target))
    return hashlib.sha256(text.encode()).hexdigest()


def _unsaid(model: BaseModel) -> dict[Any, Any]:
    """Returns the added keys under which nothing is said, as pydantic excludes them."""
    found: dict[Any, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        parts = (
            enumerate(cast("tuple[object, ...]", value))
            if isinstance(value, tuple)
            else ()
        )
        if name in _ADDED and value == field.default:
            found[name] = True
        elif isinstance(value, BaseModel):
            found[name] = _unsaid(value)
        else:
            found[name] = {
                index: _unsaid(one)
                for index, one in parts
                if isinstance(one, BaseModel)
            }
    return {name: one for name, one in found.items() if one}
