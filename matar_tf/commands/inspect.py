"""Prints what is in an exported ``.tflite`` file. Needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from matar_tf.commands import _flags
from matar_tf.commands._program import Command, Given

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["COMMAND"]

_HEADER: Final = (
    *("output", "operator", "weights", "W bits", "stored as", "A bits"),
    *("scale", "bytes"),
)


def _define(values: FlagValues) -> None:
    _flags.model(values, "Path of the .tflite file.")


def _run(given: Given) -> int:
    """Prints the metadata and one row per operator."""
    from matar_tf.errors import ExportError
    from matar_tf.tflite.inspect import inspect_model

    path = Path(given.model)
    if not path.is_file():
        raise ExportError(
            f"Expected the path of one .tflite file, got {given.model!r}, where there "
            "is none."
        )
    content = path.read_bytes()
    metadata, operators = inspect_model(content)
    print(f"{given.model}: {len(content)} bytes")
    for key in ("profile", "target", "artifact_digest", "metrics", "num_samples"):
        if key in metadata:
            print(f"  {key}: {metadata[key]}")
    for entry, note in metadata.get("notes", {}).items():
        print(f"  {entry}: stored wider than its width: {note}")
    rows = [
        (
            one.output,
            one.op,
            one.entry or "",
            _text(one.weight_bits),
            one.storage or "",
            _text(one.activation_bits),
            "" if one.scale is None else f"{one.scale:.6g}",
            str(one.num_bytes) if one.num_bytes else "",
        )
        for one in operators
    ]
    table = [_HEADER, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEADER))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="model",
    required=("model",),
)
