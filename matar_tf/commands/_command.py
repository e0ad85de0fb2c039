"""How a command is declared, and what its command line asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags

__all__ = ["Command", "Given"]


class Given:
    """What a command line asks for: the values of its flags, as attributes.

    Attributes:
      words: What stands there beside flags, but for the subject.
      command: The command line, for the record.
    """

    def __init__(
        self, values: flags.FlagValues, words: Sequence[str], command: str
    ) -> None:
        self._values = values
        self.words = tuple(words)
        self.command = command

    def __getattr__(self, name: str) -> Any:
        return self._values[name].value

    def value(self, name: str) -> Any:
        """Returns the value of a flag, also of one that an attribute here hides."""
        return self._values[name].value

    def is_given(self, name: str) -> bool:
        """Returns whether a flag stands in the command line."""
        return not self._values[name].using_default_value


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program of `matar`, or one of ``tools/``.

    Attributes:
      text: What it does: the docstring of its module.
      define: Defines its flags.
      run: Does it; returns the exit status.
      subject: The flag that a word by itself stands for, if any.
      required: The flags that must have a value.
      words: How other words that it takes are shown in its help; empty for none.
    """

    text: str | None
    define: Callable[[flags.FlagValues], None]
    run: Callable[[Given], int]
    subject: str | None = None
    required: tuple[str, ...] = ()
    words: str = ""

    def flags(self) -> flags.FlagValues:
        """Returns its flags with their defaults, in the order of their definition."""
        values = flags.FlagValues()
        self.define(values)
        return values
