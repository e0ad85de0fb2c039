"""Prints the tables, the page or a plot of a search run. Needs no TensorFlow."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    "Form: a table for each target (text, md; of several targets as json an array, as "
    "csv one table whose first column is the target), the page of the run (html), or "
    "the plot of a front (svg).",
)
_TARGET = flags.DEFINE_string("target", None, "Report on this target only.")
flags.mark_flags_as_required(["run"])

_PAGE = "report.html"
_RUN_FILE = "run.json"
_LARGEST = 1e300  # of a metric


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Prints the tables of a run, or its page, or a plot."""
    check_flags_only(argv)
    run_folder = Path(_RUN.value)
    failures = _failures(run_folder)
    folders = _folders(run_folder, failures)
    float_metrics = _float_metrics(run_folder)
    if _FORMAT.value == "html":
        print(_page(run_folder), end="")
    elif _FORMAT.value == "svg":
        print(_plot(folders, float_metrics), end="")
    else:
        print(_tables(folders, float_metrics), end="")
        if _FORMAT.value in ("text", "md") and _TARGET.value is None:
            for target, reason in failures.items():
                print(f"No front for {target}: {reason}")
    return 0


def _folders(run_folder: Path, failures: Mapping[str, str]) -> list[Path]:
    """Returns the folder of each target that is asked for."""
    from matar_tf.errors import SearchError, did_you_mean

    found = sorted(path.parent for path in run_folder.glob("*/result.json"))
    # A hidden one is what a process that was killed had begun to write.
    folders = [folder for folder in found if not folder.name.startswith(".")]
    names = [folder.name for folder in folders]
    for target, reason in failures.items():
        if not names or (target == _TARGET.value and target not in names):
            raise SearchError(f"No front for {target}: {reason}")
    if not folders:
        raise SearchError(
            f"Expected the output folder of a search in {run_folder}, found no "
            "results; run tools/search.py first."
        )
    if _TARGET.value is None:
        return folders
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
        return (run_folder / _PAGE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SearchError(
            f"Expected the page of a finished run in {run_folder / _PAGE}, found none; "
            "run tools/search.py again with --resume."
        ) from None


def _plot(folders: Sequence[Path], float_metrics: dict[str, float] | None) -> str:
    from matar_tf.errors import SearchError
    from matar_tf.reporting import front_svg

    if len(folders) > 1:
        raise SearchError(
            "Expected --target beside --format=svg, one of "
            f"{', '.join(folder.name for folder in folders)}, got none."
        )
    return front_svg(_result(folders[0]), float_metrics)


def _tables(folders: Sequence[Path], float_metrics: dict[str, float] | None) -> str:
    """Returns a table for each target; of many as JSON an array, as CSV one table."""
    from matar_tf.io.json_reader import json_text
    from matar_tf.reporting import to_csv, to_json, to_markdown, to_text

    results = [_result(folder) for folder in folders]
    if _FORMAT.value == "json":
        documents = [to_json(result, float_metrics) for result in results]
        whole = documents if len(documents) > 1 else documents[0]
        return json_text(whole)
    if _FORMAT.value == "csv":
        texts = {result.target: to_csv(result, float_metrics) for result in results}
        return _joined(texts) if len(results) > 1 else next(iter(texts.values()))
    to_table = to_text if _FORMAT.value == "text" else to_markdown
    return "".join(f"{to_table(result, float_metrics)}\n" for result in results)


def _joined(texts: Mapping[str, str]) -> str:
    """Returns one CSV table of many, the target in its first column."""
    rows = [
        {"target": target, **row}
        for target, text in texts.items()
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]
    header = dict.fromkeys(name for row in rows for name in row)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(header), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _failures(run_folder: Path) -> dict[str, str]:
    """Returns why targets of the run have no front, by name."""
    try:
        document = _parsed(run_folder / _RUN_FILE)
    except FileNotFoundError:
        return {}
    found: Any = {}
    if isinstance(document, dict):
        found = cast("dict[str, Any]", document).get("failures")
    return cast("dict[str, str]", found) if isinstance(found, dict) else {}


def _float_metrics(run_folder: Path) -> dict[str, float] | None:
    """Returns what the developer measured of the float network, if it is on record."""
    from matar_tf.errors import SearchError

    path = run_folder / _RUN_FILE
    try:
        document = _parsed(path)
    except FileNotFoundError:
        return None
    metrics: Any = document
    if isinstance(document, dict):
        metrics = cast("dict[str, Any]", document).get("float_metrics")
        if metrics is None:
            return None
    if not isinstance(metrics, dict) or not all(
        type(value) in (int, float) and abs(value) <= _LARGEST
        for value in cast("dict[str, Any]", metrics).values()
    ):
        raise SearchError(
            f"Expected a JSON object with numbers under 'float_metrics' in {path}, got "
            f"{_excerpt(metrics)}; run tools/search.py again."
        )
    return cast("dict[str, float]", metrics)


def _result(folder: Path) -> SearchResult:
    from matar_tf.errors import MatarError, SearchError
    from matar_tf.results import SearchResult

    path = folder / "result.json"
    document = _parsed(path)
    try:
        return SearchResult.from_json(document)
    except (MatarError, OverflowError) as error:
        raise SearchError(f"{path} is damaged: {error}") from error


def _parsed(path: Path) -> Any:
    from matar_tf.errors import SearchError
    from matar_tf.io.json_reader import JsonReader

    return JsonReader(SearchError).parse(path.read_bytes(), str(path))


def _excerpt(value: object) -> str:
    """Returns the start of what came, for an error."""
    return repr(value)[:80]


if __name__ == "__main__":
    run(main)
