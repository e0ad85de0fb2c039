"""Arrays of a network's inputs or outputs: one alone, or several by name.

A network of one input takes an array, one of several a mapping of arrays by the names
of its inputs; so it is with outputs and labels. All arrays of a mapping have as many
rows, one for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from matar_tf.errors import DataError, did_you_mean

__all__ = ["Arrays", "alone", "by_ends", "by_name", "each", "items", "num_rows", "rows"]

Arrays: TypeAlias = "np.ndarray | Mapping[str, np.ndarray]"


def items(values: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yields names and arrays; the name of one alone is empty."""
    if isinstance(values, Mapping):
        yield from values.items()
    else:
        yield "", values


def each(function: Callable[..., Any], values: Arrays) -> Any:
    """Returns what a function makes of each array."""
    if isinstance(values, Mapping):
        return {name: function(one) for name, one in values.items()}
    return function(values)


def num_rows(values: Arrays) -> int:
    """Returns the number of samples."""
    return next(len(one) for _, one in items(values))


def rows(values: Arrays, index: slice | Sequence[int] | np.ndarray) -> Arrays:
    """Returns some samples, of all arrays alike."""
    return each(lambda one: one[index], values)


def alone(values: Mapping[str, np.ndarray]) -> Arrays:
    """Returns the only array of a mapping, or the mapping of several."""
    return next(iter(values.values())) if len(values) == 1 else values


def by_ends(path: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arrays by key, those of names under a key as a mapping by these.

    Args:
      path: Where they are from, for errors.
      arrays: By keys such as ``x_test`` and ``x_test/NAME``.
    """
    found: dict[str, Any] = {}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        there = found.get(part)
        if there is not None and not (name and isinstance(there, dict)):
            raise DataError(
                f"Expected either {part} or arrays {part}/NAME in {path}, got both; "
                "leave one out."
            )
        found[part] = {**(there or {}), name: array} if name else array
    return found


def by_name(
    values: Arrays, names: Sequence[str], what: str, *, partly: bool = False
) -> dict[str, np.ndarray]:
    """Returns arrays by the names of a network's inputs or outputs, in their order.

    Args:
      values: One array alone is that of an only name, whatever it is called.
      names: Of all inputs, or of all outputs.
      what: What the arrays are, for errors: ``samples for each input``.
      partly: Whether some may be missing, but not all.

    Raises:
      DataError: If an array is missing or is of no name.
    """
    given = dict(items(values))
    if len(names) == 1 and len(given) == 1:
        return {names[0]: next(iter(given.values()))}
    listed = ", ".join(map(repr, names))
    if not isinstance(values, Mapping):
        raise DataError(
            f"Expected {what}, as a mapping by the names {listed}, got one array of "
            f"shape {values.shape}; give {{{names[0]!r}: ..., ...}}, in an .npz file "
            "arrays named such as "
            f"{'y_test' if 'label' in what else 'x_test'}/{names[0]}."
        )
    unknown = [name for name in given if name not in names]
    missing = [name for name in names if name not in given]
    if unknown or (missing and not partly) or len(missing) == len(names):
        hint = f" {did_you_mean(unknown[0], names)}" if unknown else ""
        raise DataError(
            f"Expected {what}, as a mapping by the names {listed}, got arrays for "
            f"{', '.join(map(repr, given)) or 'none'}; give one for each.{hint}"
        )
    return {name: given[name] for name in names if name in given}
