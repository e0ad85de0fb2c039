"""Prints what a target takes, its figures and their sources."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import reports_errors, run

_LIST = flags.DEFINE_bool("list", False, "List the catalogue.")


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Prints the target whose name or path is the only argument."""
    from matar_tf.errors import TargetError
    from matar_tf.targets import describe_target, list_targets, load_target

    if _LIST.value:
        for name in list_targets():
            target = load_target(name)
            print(f"{name:24s} {target.target_class:12s} {target.description}")
        return 0
    if len(argv) != 2:
        raise TargetError(
            "Expected the name of a target or the path of a .toml file, got "
            f"{list(argv[1:])}; --list shows the catalogue."
        )
    print(describe_target(load_target(argv[1])))
    return 0


if __name__ == "__main__":
    run(main)
