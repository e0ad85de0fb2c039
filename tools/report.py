"""Prints the tables of a search run. Needs no TensorFlow."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import check_flags_only, reports_errors, run

_RUN = flags.DEFINE_string("run", None, "Output folder of tools/search.py.")
_FORMAT = flags.DEFINE_enum("format", "text", ["text", "md", "csv", "json"], "Form.")
flags.mark_flags_as_required(["run"])

_FILES = {"md": "front.md", "csv": "front.csv", "json": "front.json"}


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Prints one table per target of the run."""
    check_flags_only(argv)
    from matar_tf.errors import SearchError

    run_folder = Path(_RUN.value)
    folders = sorted(path.parent for path in run_folder.glob("*/result.json"))
    if not folders:
        raise SearchError(
            f"Expected the output folder of a search in {run_folder}, found no "
            "results; run tools/search.py first."
        )
    for folder in folders:
        if _FORMAT.value == "text":
            print(_text(folder, _float_metrics(run_folder)))
        else:
            print((folder / _FILES[_FORMAT.value]).read_text())
    return 0


def _float_metrics(run_folder: Path) -> dict[str, float] | None:
    """Returns what the developer measured of the float network, if it is on record."""
    try:
        return json.loads((run_folder / "run.json").read_text()).get("float_metrics")
    except (OSError, ValueError):
        return None


def _text(folder: Path, float_metrics: dict[str, float] | None) -> str:
    from matar_tf.errors import SearchError
    from matar_tf.report import to_text
    from matar_tf.results import SearchResult

    try:
        document = json.loads((folder / "result.json").read_text())
    except ValueError as error:
        raise SearchError(f"{folder / 'result.json'} is damaged: {error}.") from error
    return to_text(SearchResult.from_json(document), float_metrics)


if __name__ == "__main__":
    run(main)
