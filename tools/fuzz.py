"""Opens changed files of all kinds; see `tools/fuzzing/program.py`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from matar_tf.commands._program import main_of
    from tools.fuzzing.program import COMMAND

    main_of(COMMAND, "tools/fuzz.py")
