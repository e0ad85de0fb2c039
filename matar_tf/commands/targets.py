"""Prints what targets take, their figures and sources; checks descriptions of targets.

``list`` prints the catalogue, ``show NAME`` the page of a target of it or of a .toml
file, ``check FILE`` the mistakes of a file, ``schema`` the JSON Schema of such files. A
name by itself is shown.

``calibrate`` times some files of small networks, by a command of yours on your board or
else by LiteRT on this machine, and writes a target with rates that are fitted to them.
``template`` writes the table of an artifact's layers, in which you fill in what you
measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from absl import flags

from matar_tf.commands._command import Command, Given
from matar_tf.commands._making import MAKING, check_making, define_making

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["COMMAND"]

# Words they take.
_ACTIONS: Final = {
    "list": 0,
    "show": 1,
    "check": 1,
    "schema": 0,
    "calibrate": 0,
    "template": 0,
}


def _define(values: FlagValues) -> None:
    flags.DEFINE_bool("list", False, "The same as `list`.", flag_values=values)
    flags.DEFINE_string("check", None, "The same as `check FILE`.", flag_values=values)
    flags.DEFINE_bool("schema", False, "The same as `schema`.", flag_values=values)
    define_making(values)


def _run(given: Given) -> int:
    """Does the one thing that is asked for."""
    from matar_tf.reporting.target_page import describe_catalogue, describe_target
    from matar_tf.targets import load_target, target_json_schema

    action, *names = _asked(given)
    check_making(action, given)
    if action in MAKING:
        return MAKING[action](given)
    if action == "list":
        print(describe_catalogue())
    elif action == "schema":
        print(json.dumps(target_json_schema(), indent=1))
    elif action == "check":
        target = load_target(Path(names[0]))
        print(f"{names[0]}: no mistakes; {target.name}, {target.target_class}.")
    else:
        print(describe_target(load_target(names[0])))
    return 0


def _asked(given: Given) -> tuple[str, ...]:
    """Returns what is asked for, as words.

    Raises:
      TargetError: If that is nothing, or more than one thing.
    """
    from matar_tf.errors import TargetError

    asked = [
        (name, given.check) if name == "check" else (name,)
        for name in ("list", "check", "schema")
        if getattr(given, name) not in (None, False)
    ]
    if len(asked) > 1:
        names = " and ".join(f"--{name}" for name, *_ in asked)
        raise TargetError(
            f"Expected one of --list, --check and --schema, got {names}; leave the "
            "others out."
        )
    if asked and given.words:
        raise TargetError(
            f"Expected flags only beside --{asked[0][0]}, got "
            f"{' '.join(given.words)!r}; leave the one or the other out."
        )
    words = asked[0] if asked else given.words or ("list",)
    if len(words) == 1 and words[0] not in _ACTIONS:
        return ("show", *words)
    if not words or _ACTIONS.get(words[0]) != len(words) - 1:
        raise TargetError(
            "Expected the name of a target or the path of a .toml file, or one of "
            "list, show NAME, check FILE, schema, calibrate and template, got "
            f"{list(words)}; "
            "`matar targets list` and --list show the catalogue."
        )
    return words


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    words="list|show NAME|check FILE|schema|calibrate|template",
)
