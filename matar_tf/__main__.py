"""``python -m matar_tf``: the same as ``matar``."""

from __future__ import annotations

import sys

from matar_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
