"""Numbers as users give them: of Python, of NumPy, or none at all."""

from __future__ import annotations

import operator
from typing import cast

from matar_tf.errors import SearchError

__all__ = ["as_integer", "as_number"]


def as_number(value: object, place: str) -> float:
    """Returns a number of any kind as one of Python's; an integer stays one.

    Args:
      value: What should be a number; a bool and a text are none.
      place: Where it stands, in errors: ``as holdout``, ``for metric 'loss'``.

    Raises:
      SearchError: If it is none.
    """
    try:
        if isinstance(value, (str, bytes, bool)):
            raise TypeError
        number = float(cast("float", value))
    except (TypeError, ValueError, OverflowError) as error:
        raise SearchError(f"Expected a number {place}, got {value!r}.") from error
    return value if type(value) is int else number


def as_integer(value: object, place: str) -> int:
    """Returns an integer of any kind as one of Python's; see `as_number`.

    Raises:
      SearchError: If it is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(cast("int", value))
    except TypeError as error:
        raise SearchError(f"Expected an integer {place}, got {value!r}.") from error
