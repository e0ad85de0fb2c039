"""Pages of help: of all commands, and of one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from matar_tf.commands._flags import ALIASES

if TYPE_CHECKING:
    from absl import flags

    from matar_tf.commands._command import Command

__all__ = ["command_page", "main_page"]

_WIDTH: Final = 80
_AGAIN: Final = "; repeat this option to specify a list of values"  # by absl


def main_page(commands: Mapping[str, str]) -> str:
    """Returns the page that lists the commands with a line each."""
    width = max(map(len, commands))
    lines = [f"  {name:{width}s}  {text}" for name, text in commands.items()]
    return "\n".join(
        [
            "usage: matar COMMAND [FLAGS]",
            "",
            "Retargets a Keras network that was trained once for many bit-widths.",
            "",
            *lines,
            "",
            "`matar COMMAND --help` prints the flags of one; `matar --version` says "
            "which this is.",
        ]
    )


def command_page(command: Command, name: str, values: flags.FlagValues) -> str:
    """Returns the page of a command: what it does, and its flags."""
    return "\n".join(
        [
            _usage(command, name),
            "",
            (command.text or "").strip().replace("``", "`"),
            "",
            *_flag_lines(command, values),
        ]
    )


def _usage(command: Command, name: str) -> str:
    parts = [name]
    if command.words:
        parts.append(command.words)
    elif command.subject is not None:
        parts.append(command.subject.upper())
    required = [one for one in command.required if one != command.subject]
    return f"usage: {' '.join([*parts, *(f'--{one}=...' for one in required)])} [FLAGS]"


def _flag_lines(command: Command, values: flags.FlagValues) -> Iterator[str]:
    for flag in (values[name] for name in values):
        name = f"[no]{flag.name}" if flag.boolean else flag.name
        others = [other for other, first in ALIASES.items() if first == flag.name]
        also = "".join(f" (or --{other})" for other in others)
        text = f"--{name}:{also} {' '.join(str(flag.help).split())}"
        text = text.replace(_AGAIN, " Again for more.")
        notes = "; ".join(_notes(command, flag))
        yield textwrap.fill(
            f"{text} ({notes})" if notes else text,
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
        )


def _notes(command: Command, flag: Any) -> Iterator[str]:
    """Yields what else is to say of a flag."""
    if flag.name in command.required:
        yield "required"
    if flag.name == command.subject:
        yield "or a word by itself"
    if flag.default not in (None, []) and not flag.boolean:
        default = flag.default
        yield f"default: {','.join(default) if isinstance(default, list) else default}"
    elif flag.boolean and flag.default:
        yield "default: true"
