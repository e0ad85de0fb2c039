"""Prints what is in an exported ``.tflite`` file. Needs no TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import reports_errors, run


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Prints the metadata and one row per operator of the file that is named."""
    from matar_tf.errors import ExportError
    from matar_tf.tflite.inspect import inspect_model

    if len(argv) != 2 or not Path(argv[1]).is_file():
        raise ExportError(
            f"Expected the path of one .tflite file, got {list(argv[1:])}."
        )
    print(f"{argv[1]}: {inspect_model(Path(argv[1]).read_bytes())!r}")
    return 0


if __name__ == "__main__":
    run(main)
