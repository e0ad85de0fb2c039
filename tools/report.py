"""Prints the tables, the page or a plot of a search run. Needs no TensorFlow."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from matar_tf.results import SearchResult

from tools.common import check_flags_only, reports_errors, run

_RUN = flags.DEFINE_string("run", None, "Output folder of tools/search.py.")
_FORMAT = flags.DEFINE_enum(
    "format",
    "text",
    ["text", "md", "csv", "json", "html", "svg"],
    "Form: a table for each target (text, md, csv, json), the page of the run (html), "
    "or the plot of a front (svg).",
)
_TARGET = flags.DEFINE_string("target", None, "Report on this target only.")
flags.mark_flags_as_required(["run"])

_FILES = {"md": "front.md", "csv": "front.csv", "json": "front.json"}
_PAGE = "report.html"


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Prints one table per target of the run, or its page, or a plot."""
    check_flags_only(argv)
    run_folder = Path(_RUN.value)
    folders = _folders(run_folder)
    float_metrics = _float_metrics(run_folder)
    if _FORMAT.value == "html":
        print(_page(run_folder), end="")
    elif _FORMAT.value == "svg":
        print(_plot(folders, float_metrics), end="")
    else:
        for folder in folders:
            print(_table(folder, float_metrics))
    return 0


def _folders(run_folder: Path) -> list[Path]:
    """Returns the folder of each target that is asked for."""
    from matar_tf.errors import SearchError, did_you_mean

    folders = sorted(path.parent for path in run_folder.glob("*/result.json"))
    if not folders:
        raise SearchError(
            f"Expected the output folder of a search in {run_folder}, found no "
            "results; run tools/search.py first."
        )
    if _TARGET.value is None:
        return folders
    names = [folder.name for folder in folders]
    if _TARGET.value not in names:
        raise SearchError(
            f"Expected a target of the run in {run_folder}, got {_TARGET.value!r}. "
            f"{did_you_mean(_TARGET.value, names)}"
        )
    return [run_folder / _TARGET.value]


def _page(run_folder: Path) -> str:
    from matar_tf.errors import SearchError

    if _TARGET.value is not None:
        raise SearchError(
            "Expected no --target beside --format=html, whose page is that of the "
            f"whole run, got {_TARGET.value!r}."
        )
    try:
        return (run_folder / _PAGE).read_text()
    except FileNotFoundError:
        raise SearchError(
            f"Expected the page of a finished run in {run_folder / _PAGE}, found none; "
            "run tools/search.py again with --resume."
        ) from None


def _plot(folders: Sequence[Path], float_metrics: dict[str, float] | None) -> str:
    from matar_tf.errors import SearchError
    from matar_tf.report import front_svg

    if len(folders) > 1:
        raise SearchError(
            "Expected --target beside --format=svg, one of "
            f"{', '.join(folder.name for folder in folders)}, got none."
        )
    return front_svg(_result(folders[0]), float_metrics)


def _table(folder: Path, float_metrics: dict[str, float] | None) -> str:
    from matar_tf.report import to_text

    if _FORMAT.value == "text":
        return to_text(_result(folder), float_metrics)
    return (folder / _FILES[_FORMAT.value]).read_text()


def _float_metrics(run_folder: Path) -> dict[str, float] | None:
    """Returns what the developer measured of the float network, if it is on record."""
    try:
        return json.loads((run_folder / "run.json").read_text()).get("float_metrics")
    except (OSError, ValueError):
        return None


def _result(folder: Path) -> SearchResult:
    from matar_tf.errors import SearchError
    from matar_tf.results import SearchResult

    try:
        document = json.loads((folder / "result.json").read_text())
    except ValueError as error:
        raise SearchError(f"{folder / 'result.json'} is damaged: {error}.") from error
    return SearchResult.from_json(document)


if __name__ == "__main__":
    run(main)
