"""Programs of tools/, called in this process as their command lines would."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from absl import flags
from absl.testing import flagsaver

from tools.common import command_line

# absl's own flags come with tools.common, before those of any program.
assert command_line()

_FLAGS_OF: dict[str, dict[str, Any]] = {}
_LOADED: list[str] = []


def load(tool: str) -> Any:
    """Imports a program with its flags; those of the one before step aside.

    Programs define flags of the same names, and absl has one registry a process.
    """
    for name in _LOADED:
        for flag in _FLAGS_OF[name]:
            delattr(flags.FLAGS, flag)
    _LOADED.clear()
    before = set(flags.FLAGS)
    module = importlib.import_module(f"tools.{tool}")
    if tool in _FLAGS_OF:
        for flag, value in _FLAGS_OF[tool].items():
            flags.FLAGS[flag] = value
    else:
        _FLAGS_OF[tool] = {
            name: flags.FLAGS[name] for name in set(flags.FLAGS) - before
        }
    _LOADED.append(tool)
    return module


def call(tool: str, *words: str, **values: Any) -> int:
    module = load(tool)
    with flagsaver.flagsaver(**values):
        return module.main(["program", *words])


def fails(
    capsys: pytest.CaptureFixture[str], tool: str, *words: str, **values: Any
) -> str:
    """Checks that a program fails with one line; returns the line."""
    assert call(tool, *words, **values) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if "Error: " in line]
    assert len(errors) == 1
    return errors[0]


def flags_of(tool: str) -> dict[str, Any]:
    """Returns the flags that a program defines, by name."""
    load(tool)
    return _FLAGS_OF[tool]
