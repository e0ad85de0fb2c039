"""Names that files give to things: short, and printed as they stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from matar_tf.errors import MatarError, shown

__all__ = ["MAX_NAME_CHARS", "check_names", "is_name"]

MAX_NAME_CHARS: Final = 500  # layers within layers have the longest names


def is_name(value: object) -> bool:
    """Returns whether a value is a short text without line ends and control codes."""
    return (
        isinstance(value, str) and len(value) <= MAX_NAME_CHARS and value.isprintable()
    )


def check_names(names: Iterable[object], what: str, error: type[MatarError]) -> None:
    """Checks that all of some values are names; see `is_name`.

    Args:
      names: The values.
      what: What they are names of, in errors.
      error: What is raised if one is none.
    """
    given = tuple(names)
    # A search names many thousands of entries: the usual case is checked as a whole.
    if set(map(type, given)) <= {str}:
        texts = cast("tuple[str, ...]", given)
        longest = max(map(len, texts), default=0)
        if longest <= MAX_NAME_CHARS and "".join(texts).isprintable():
            return
    for name in given:
        if not is_name(name):
            raise error(
                f"Expected names of at most {MAX_NAME_CHARS} printable characters for "
                f"{what}, got {shown(name)}; rename it."
            )
