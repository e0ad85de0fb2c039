"""Prints what is in an exported ``.tflite`` file, or the card of an artifact.

Of a file the metadata, one row per operator, and code that feeds it; of an artifact, in
Markdown, what its maker says of it, and its figures. Needs no TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["COMMAND"]


def _define(values: FlagValues) -> None:
    _flags.model(values, "Path of the .tflite file, or of the artifact.")


def _run(given: Given) -> int:
    """Prints what is there."""
    from matar_tf.members import SUFFIX

    path = Path(given.model)
    if path.is_dir() or path.suffix == SUFFIX:
        from matar_tf.api import model_card

        print(model_card(path), end="")
        return 0
    from matar_tf.tflite.export import read_model
    from matar_tf.tflite.feeding import feeding
    from matar_tf.tflite.inspect import inspect_model

    content = read_model(given.model)
    print(f"{given.model}: {inspect_model(content)!r}")
    print(f"\nHow to feed it:\n\n{feeding(content, given.model)}")
    return 0


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="model",
    required=("model",),
)
