"""How a command is called, and how it fails."""

from __future__ import annotations

import functools
import io
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from absl import flags

from matar_tf.commands._command import Command, Given
from matar_tf.commands._flags import ALIASES
from matar_tf.commands._help import command_page
from matar_tf.commands._output import to_the_end
from matar_tf.errors import MatarError, MatarWarning, readable

__all__ = ["call", "in_flags", "main_of"]

_HELP: Final = frozenset({"help", "helpfull", "helpshort", "h"})
# Errors of other commands may send the user to a search.
_OF_SEARCHES: Final = frozenset({"resume", "overwrite"})
# What steers a terminal or turns the direction of writing: names of files are printed.
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def call(command: Command, name: str, words: Sequence[str]) -> int:
    """Runs a command as its command line says.

    Args:
      command: The command.
      name: What it is called by, such as ``matar search``.
      words: The rest of the command line.

    Returns:
      The exit status. What the user can mend is printed as one line, with status 1.
    """
    values = command.flags()
    if any(one.startswith("-") and one.lstrip("-") in _HELP for one in words):
        print(command_page(command, name, values))
        return 0
    known = {*values, *ALIASES, *_OF_SEARCHES}
    try:
        with warnings.catch_warnings():
            others, said = warnings.showwarning, set[str]()
            shown = functools.partial(_show_warning, others, known, said)
            warnings.showwarning = shown
            warnings.simplefilter("always", MatarWarning)
            return command.run(_parsed(command, name, words, values))
    except BrokenPipeError:
        raise  # nobody reads what is printed
    except (MatarError, ModuleNotFoundError, OSError) as error:
        _print_line(error, _sentence(error), known)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _print_line(one: Exception, sentence: str, names: Collection[str]) -> None:
    text = in_flags(sentence, names)
    print(f"{type(one).__name__}: {text}", file=sys.stderr)


def _show_warning(
    others: Callable[..., None],
    names: Collection[str],
    said: set[str],
    message: Warning | str,
    *place: Any,
    **more: Any,
) -> None:
    """Prints a warning of ours as one line, equal ones once, and others as they were.

    Python's own memory of them ends whenever a library changes a filter.
    """
    if isinstance(message, MatarWarning):
        if str(message) not in said:
            said.add(str(message))
            _print_line(message, readable(str(message)), names)
    else:
        others(message, *place, **more)


def main_of(command: Command, path: str) -> None:
    """Runs a program of ``tools/`` as this process; ends it with the exit status."""
    show_any_letter()
    sys.exit(to_the_end(lambda: call(command, f"python {path}", sys.argv[1:])))


def show_any_letter() -> None:
    """Lets what the terminal or the file has no letter for be printed as '?'."""
    # The other stream writes an escape there, whatever its encoding.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def in_flags(sentence: str, names: Collection[str]) -> str:
    """Returns a sentence that speaks of arguments in the words of a command line.

    ``resume=True`` becomes ``--resume``, ``resume=False`` ``--noresume``, ``seed=``
    ``--seed=`` and ``input_shape=(96, 96, 3)`` ``--input_shape=96x96x3``, for the names
    that are given; all else stays.
    """
    return re.sub(
        r"(?<![\w.:'\"/=-])([a-z]\w*)=(?![=\s])(True\b|False\b|\(\d+(?:, \d+)+\))?",
        functools.partial(_in_flag, names),
        sentence,
    )


def _in_flag(names: Collection[str], match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    if name not in names:
        return match[0]
    if value is None:
        return f"--{name}="
    if value.startswith("("):
        return f"--{name}={value.strip('()').replace(', ', 'x')}"
    return f"--{'no' if value == 'False' else ''}{name}"


def _sentence(error: Exception) -> str:
    """Returns what an error says; of a file, which one, and what to do."""
    if not isinstance(error, OSError):
        return str(error) if isinstance(error, MatarError) else readable(str(error))
    if error.filename is None:
        return readable(
            f"Expected to print or write, got: {error.strerror or error}; check where "
            "standard output leads to, and the space on the disk."
        )
    return readable(
        f"Expected to read or write {error.filename}, got: {error.strerror}; check the "
        "path, its permissions and the space on the disk."
    )


def _parsed(
    command: Command, name: str, words: Sequence[str], values: flags.FlagValues
) -> Given:
    """Returns what a command line asks for.

    Raises:
      MatarError: If there is no such flag, one cannot have its value, one that is
        required has none, or there are words that the command does not take.
    """
    for word in words:
        if _UNSEEN.search(word):
            raise MatarError(
                f"Expected a command line that can be printed, got {word!r}; rename "
                "what it names."
            )
    try:
        rest = values([name, *_without_aliases(words, values)])[1:]
    except flags.Error as error:
        sentence = " ".join(str(error).split()).rstrip(".").replace(" ?", "?")
        dot = "" if sentence.endswith("?") else "."
        raise MatarError(f"{sentence}{dot} See `{name} --help`.") from error
    if command.subject is not None and rest:
        _take_subject(command.subject, rest, values)
        rest = []
    if rest and not command.words:
        raise MatarError(
            f"Expected flags only, got {shlex.join(rest)!r}; see `{name} --help`."
        )
    missing = [one for one in command.required if values[one].value is None]
    if missing:
        itself = {command.subject: " (or a word by itself)"}
        names = [f"--{one}{itself.get(one, '')}" for one in missing]
        raise MatarError(
            f"Expected {' and '.join(names)}, got none; see `{name} --help`."
        )
    return Given(values, rest, shlex.join([*name.split(" "), *words]))


def _without_aliases(words: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Returns a command line with the first name of each flag.

    Raises:
      MatarError: If a flag is given by both its names.
    """
    found: list[str] = []
    used: dict[str, str] = {}
    for number, word in enumerate(words):
        if word == "--":
            return [*found, *words[number:]]
        name, equals, value = word.lstrip("-").partition("=")
        flag = ALIASES.get(name, name)
        if not word.startswith("-") or flag not in values:
            found.append(word)
            continue
        if used.setdefault(flag, name) != name:
            raise MatarError(
                f"Expected --{used[flag]} or --{name}, which mean the same, got both; "
                "leave one out."
            )
        found.append(f"--{flag}{equals}{value}")
    return found


def _take_subject(subject: str, words: Sequence[str], values: flags.FlagValues) -> None:
    """Makes the only word the value of a flag.

    Raises:
      MatarError: If there are more words, or the flag has a value.
    """
    if len(words) > 1:
        raise MatarError(
            f"Expected one word beside flags, the --{subject}, got "
            f"{shlex.join(words)!r}; leave the others out."
        )
    if not values[subject].using_default_value:
        raise MatarError(
            f"Expected --{subject} or a word by itself, which mean the same, got both: "
            f"{values[subject].value!r} and {words[0]!r}; leave one out."
        )
    values[subject].value = words[0]
    values[subject].using_default_value = False
