"""The same program as ``matar inspect``, from a copy of the source."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from matar_tf.cli import main

    sys.argv.insert(1, "inspect")
    sys.exit(main())
