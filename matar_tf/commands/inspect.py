"""Prints what is in an exported ``.tflite`` file. Needs no TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["COMMAND"]


def _define(values: FlagValues) -> None:
    _flags.model(values, "Path of the .tflite file.")


def _run(given: Given) -> int:
    """Prints the metadata and one row per operator."""
    from matar_tf.tflite.export import read_model
    from matar_tf.tflite.inspect import inspect_model

    print(f"{given.model}: {inspect_model(read_model(given.model))!r}")
    return 0


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="model",
    required=("model",),
)
