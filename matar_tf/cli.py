"""``matar COMMAND``: the command line of the package; see `matar_tf.commands`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from matar_tf import __version__
from matar_tf.commands import COMMANDS
from matar_tf.commands._output import to_the_end
from matar_tf.errors import did_you_mean

__all__ = ["main"]

_HELP = frozenset({"help", "-h", "-help", "--help", "--helpfull", "--helpshort"})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: Its name and what follows; None for the command line of this process.

    Returns:
      The exit status: not 0 on any failure.
    """
    return to_the_end(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    if argv is None:
        _prepare_process()
        argv = sys.argv[1:]
    name, words = (argv[0], argv[1:]) if argv else ("help", [])
    if name in _HELP and words and words[0] in COMMANDS:
        name, words = words[0], ["--help"]
    if name in _HELP:
        from matar_tf.commands._help import main_page

        print(main_page(COMMANDS))
        return 0
    if name in ("version", "--version"):
        print(f"matar_tf {__version__}")
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        print(f"MatarError: Unknown command {name!r}. {hint}", file=sys.stderr)
        return 1
    from matar_tf.commands._program import call

    module = importlib.import_module(f"matar_tf.commands.{name}")
    return call(module.COMMAND, f"matar {name}", words)


def _prepare_process() -> None:
    """Lets modules of the user be found here, and any letter be printed."""
    from matar_tf.commands._program import show_any_letter

    show_any_letter()
    # Last: nothing that is installed is hidden by a file that lies here.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
