"""Prints the tables, the page or a plot of a search run. Needs no TensorFlow."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._common import check_names
from matar_tf.commands._program import Command, Given

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.results import SearchResult

__all__ = ["COMMAND"]

_PAGE: Final = "report.html"
_RUN_FILE: Final = "run.json"
_LARGEST: Final = 1e300  # of a metric


def _define(values: FlagValues) -> None:
    flags.DEFINE_string(
        "run", None, "Output folder of `matar search`.", flag_values=values
    )
    _flags.form(
        values,
        ["text", "md", "csv", "json", "html", "svg"],
        "Form: a table for each target (text, md; of several targets as json an array, "
        "as csv one table whose first column is the target), the page of the run "
        "(html), or the plot of a front (svg)",
    )
    _flags.targets(values, "Report on these targets only.")


def _run(given: Given) -> int:
    """Prints the tables of a run, or its page, or a plot."""
    check_names(given, "targets")
    run_folder, form = Path(given.run), given.format
    failures = _failures(run_folder)
    folders = _folders(run_folder, failures, given.targets)
    float_metrics = _float_metrics(run_folder)
    if form == "html":
        print(_page(run_folder, given.targets), end="")
    elif form == "svg":
        print(_plot(folders, float_metrics), end="")
    else:
        print(_tables(folders, float_metrics, form), end="")
        if form in ("text", "md") and given.targets is None:
            for target, reason in failures.items():
                print(f"No front for {target}: {reason}")
    return 0


def _folders(
    run_folder: Path, failures: Mapping[str, str], asked: Sequence[str] | None
) -> list[Path]:
    """Returns the folder of each target that is asked for."""
    from matar_tf.errors import SearchError, did_you_mean

    found = sorted(path.parent for path in run_folder.glob("*/result.json"))
    # A hidden one is what a process that was killed had begun to write.
    folders = [folder for folder in found if not folder.name.startswith(".")]
    names = [folder.name for folder in folders]
    for target, reason in failures.items():
        if not names or (target in (asked or ()) and target not in names):
            raise SearchError(f"No front for {target}: {reason}")
    if not folders:
        raise SearchError(
            f"Expected the output folder of a search in {run_folder}, found no "
            "results; run `matar search` first."
        )
    for target in asked or ():
        if target not in names:
            raise SearchError(
                f"Expected a target of the run in {run_folder}, got {target!r}. "
                f"{did_you_mean(target, names)}"
            )
    return folders if asked is None else [run_folder / target for target in asked]


def _page(run_folder: Path, asked: Sequence[str] | None) -> str:
    from matar_tf.errors import SearchError

    if asked is not None:
        raise SearchError(
            "Expected no --targets beside --format=html, whose page is that of the "
            f"whole run, got {','.join(asked)}."
        )
    try:
        return (run_folder / _PAGE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SearchError(
            f"Expected the page of a finished run in {run_folder / _PAGE}, found none; "
            "run `matar search` again with --resume."
        ) from None


def _plot(folders: Sequence[Path], float_metrics: dict[str, float] | None) -> str:
    from matar_tf.errors import SearchError
    from matar_tf.reporting import front_svg

    if len(folders) > 1:
        raise SearchError(
            "Expected one target in --targets beside --format=svg, of "
            f"{', '.join(folder.name for folder in folders)}."
        )
    return front_svg(_result(folders[0]), float_metrics)


def _tables(
    folders: Sequence[Path], float_metrics: dict[str, float] | None, form: str
) -> str:
    """Returns a table for each target; of many as JSON an array, as CSV one table."""
    from matar_tf.io.json_reader import json_text
    from matar_tf.reporting import to_csv, to_json, to_markdown, to_text

    results = [_result(folder) for folder in folders]
    if form == "json":
        documents = [to_json(result, float_metrics) for result in results]
        whole = documents if len(documents) > 1 else documents[0]
        return json_text(whole)
    if form == "csv":
        texts = {result.target: to_csv(result, float_metrics) for result in results}
        return _joined(texts) if len(results) > 1 else next(iter(texts.values()))
    to_table = to_text if form == "text" else to_markdown
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
            f"{_excerpt(metrics)}; run `matar search` again."
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


COMMAND: Final = Command(
    text=__doc__, define=_define, run=_run, subject="run", required=("run",)
)
