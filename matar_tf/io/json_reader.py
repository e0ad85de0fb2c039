"""Strict JSON: what would not be read is not written.

A key that is missing, unknown or mistyped is an error, and so is NaN or infinity. Size,
depth, keys and whole numbers have limits, since a file may be a stranger's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from matar_tf.errors import MatarError, did_you_mean, shown
from matar_tf.io.files import read_at_most
from matar_tf.io.names import is_name

__all__ = ["MAX_JSON_BYTES", "JsonReader", "json_text"]

MAX_JSON_BYTES: Final = 1 << 24  # in memory up to 22 times as many: "[],[],..."
_MAX_DIGITS: Final = 20  # those of 2**64; what is longer may be no float
_MAX_DEPTH: Final = 64  # networks of Keras have some 20 levels
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
        if len(content) > MAX_JSON_BYTES:
            raise self.error(
                f"Expected at most {MAX_JSON_BYTES} bytes of JSON in {what}, got "
                f"{len(content)}; check that it is the right file."
            )
        try:
            value = json.loads(
                content,
                object_pairs_hook=_unique,
                parse_constant=_refuse_constant,
                parse_float=_finite,
                parse_int=_short,
            )
            _check_levels(value)
        except RecursionError as error:
            raise self.error(
                f"Expected JSON in {what}, got one that is nested too deeply."
            ) from error
        except ValueError as error:
            sentence = str(error).rstrip(".")
            raise self.error(f"Expected JSON in {what}, got: {sentence}.") from error
        return value

    def read(self, path: Path, what: str | None = None) -> Any:
        """Returns the value that a file stands for; `what` is its path if not given."""
        content = read_at_most(path, MAX_JSON_BYTES, self.error)
        return self.parse(content, what or str(path))

    def object(
        self, value: Any, what: str, keys: Iterable[str], more: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Returns an object that has these keys and no other.

        Args:
          value: What should be such an object.
          what: Its name in errors.
          keys: The keys.
          more: Keys that it may have.
        """
        if not isinstance(value, dict):
            raise self.error(
                f"Expected a JSON object for a {what}, got {shown(value)}; give one."
            )
        document = cast("dict[str, Any]", value)
        expected = set(keys)
        known = expected.union(more)
        for key in document:
            if key not in known:
                raise self.error(
                    f"Unknown key {shown(key)} in the {what}. "
                    f"{did_you_mean(key, known)}"
                )
        for key in sorted(expected - set(document)):
            raise self.error(f"The {what} has no key {key!r}; add it.")
        return document

    def field(self, document: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
        """Returns the value under a key, which must be of a type."""
        value: Any = document[key]
        # A bool is an int to Python, but not in a file.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(
                f"Expected {kind.__name__} under {key!r}, got {shown(value)}; give one."
            )
        return value

    def check_version(
        self, document: Mapping[str, Any], what: str, expected: int
    ) -> None:
        """Checks the ``schema_version`` of an object.

        Args:
          document: The object.
          what: Its name in errors.
          expected: The version.
        """
        version = self.field(document, "schema_version", int)
        if version != expected:
            raise self.error(
                f"Expected a {what} of schema_version {expected}, got {version}; write "
                "it with this version of matar_tf."
            )


def json_text(document: Any) -> str:
    """Returns the text of a file with a JSON document.

    Raises:
      ValueError: If a number is not finite.
    """
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _check_levels(value: Any) -> None:
    """Checks how deep a value is, and that all its texts can be written.

    Raises:
      RecursionError: If it has too many levels.
      ValueError: If a text holds half of a character, as JSON's escapes can.
    """
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH + 1):
        "".join(one for one in level if isinstance(one, str)).encode()
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    raise RecursionError


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    for key in document:
        if not is_name(key):
            raise ValueError(f"the key {shown(key)} is too long, or cannot be printed")
    if len(document) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} is there twice")
    return document


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is beyond all numbers")
    return number


def _short(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a whole number has {len(text)} digits")
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")
