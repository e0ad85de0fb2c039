"""Strict JSON: what would not be read is not written.

A key that is missing, unknown or mistyped is an error, and so is NaN or infinity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from matar_tf.errors import MatarError, did_you_mean

__all__ = ["JsonReader", "json_text"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class JsonReader:
    """Reads parsed JSON.

    Attributes:
      error: What is raised, with one sentence.
    """

    error: type[MatarError]

    def parse(self, content: str | bytes, what: str) -> Any:
        """Returns the value that a JSON text stands for.

        Args:
          content: The text, or its bytes in UTF-8.
          what: Where it is from, in errors.
        """
        try:
            return json.loads(
                content, object_pairs_hook=_unique, parse_constant=_refuse_constant
            )
        except RecursionError as error:
            raise self.error(
                f"Expected JSON in {what}, got one that is nested too deeply."
            ) from error
        except ValueError as error:
            raise self.error(f"Expected JSON in {what}, got: {error}.") from error

    def object(self, value: Any, what: str, keys: Iterable[str]) -> dict[str, Any]:
        """Returns an object that has these keys and no other.

        Args:
          value: What should be such an object.
          what: Its name in errors.
          keys: The keys.
        """
        if not isinstance(value, dict):
            raise self.error(f"Expected a JSON object for a {what}, got {value!r}.")
        document = cast("dict[str, Any]", value)
        expected = set(keys)
        for key in document:
            if key not in expected:
                raise self.error(
                    f"Unknown key {key!r} in the {what}. {did_you_mean(key, expected)}"
                )
        for key in sorted(expected - set(document)):
            raise self.error(f"The {what} has no key {key!r}; add it.")
        return document

    def field(self, document: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
        """Returns the value under a key, which must be of a type."""
        value: Any = document[key]
        # A bool is an int to Python, but not in a file.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"Expected {kind.__name__} under {key!r}, got {value!r}.")
        return value


def json_text(document: Any) -> str:
    """Returns the text of a file with a JSON document.

    Raises:
      ValueError: If a number is not finite.
    """
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} is there twice")
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")
