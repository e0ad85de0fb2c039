"""Prints what is in an exported ``.tflite`` file. Needs no TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import reports_errors, run

_HEADER = ("output", "operator", "weights", "W bits", "stored as", "A bits", "scale")


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Prints the metadata and one row per operator of the file that is named."""
    from matar_tf.errors import ExportError
    from matar_tf.tflite.inspect import inspect_model

    if len(argv) != 2 or not Path(argv[1]).is_file():
        raise ExportError(
            f"Expected the path of one .tflite file, got {list(argv[1:])}."
        )
    content = Path(argv[1]).read_bytes()
    metadata, operators = inspect_model(content)
    print(f"{argv[1]}: {len(content)} bytes")
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
    table = [(*_HEADER, "bytes"), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    run(main)
