"""Prints what a target takes, its figures and their sources; lists and checks targets.

``show_target.py NAME_OR_FILE`` prints one as a page, ``--list`` the catalogue,
``--check=FILE`` the mistakes of a file, ``--schema`` the JSON Schema of target files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import check_flags_only, reports_errors, run

_LIST = flags.DEFINE_bool("list", False, "List the catalogue.")
_CHECK = flags.DEFINE_string("check", None, "Check the target file at this path.")
_SCHEMA = flags.DEFINE_bool("schema", False, "Print the JSON Schema of target files.")


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Prints the target whose name or path is the only argument."""
    from matar_tf.errors import TargetError
    from matar_tf.reporting.target_page import describe_catalogue, describe_target
    from matar_tf.targets import load_target, target_json_schema

    asked = [
        f"--{one.name}" for one in (_LIST, _CHECK, _SCHEMA) if _is_given(one.value)
    ]
    if len(asked) > 1:
        raise TargetError(
            f"Expected one of --list, --check and --schema, got {' and '.join(asked)}; "
            "leave the others out."
        )
    if asked:
        check_flags_only(argv)
    if _LIST.value:
        print(describe_catalogue())
        return 0
    if _SCHEMA.value:
        print(json.dumps(target_json_schema(), indent=1))
        return 0
    if _CHECK.value is not None:
        target = load_target(Path(_CHECK.value))
        print(f"{_CHECK.value}: no mistakes; {target.name}, {target.target_class}.")
        return 0
    if len(argv) != 2:
        raise TargetError(
            "Expected the name of a target or the path of a .toml file, got "
            f"{list(argv[1:])}; --list shows the catalogue."
        )
    print(describe_target(load_target(argv[1])))
    return 0


def _is_given(value: bool | str | None) -> bool:
    return value is not None and value is not False


if __name__ == "__main__":
    run(main)
