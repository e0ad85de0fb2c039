"""Measures what the project claims; see `tools/benchmarks/suites.py`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from matar_tf.commands._program import main_of
    from tools.benchmarks.suites import COMMAND

    main_of(COMMAND, "tools/benchmark.py")
