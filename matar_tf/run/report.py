"""What a finished run has left in its folder, read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matar_tf.cost_matrix import CostMatrix
from matar_tf.errors import MatarError, SearchError, did_you_mean, printable, readable
from matar_tf.io.files import as_path
from matar_tf.io.json_reader import JsonReader
from matar_tf.packaged import UNVERIFIED
from matar_tf.reporting import (
    Asked,
    matrix_from_json,
    to_csv,
    to_html,
    to_json,
    to_markdown,
)
from matar_tf.reporting.csv_table import csv_table
from matar_tf.reporting.shown import ShownResult
from matar_tf.reporting.tables import FLOAT_NAME
from matar_tf.results import SearchResult
from matar_tf.run.folder import MATRIX_FILES, RESULT_FILE
from matar_tf.run.record import RUN_FILE, read_record

__all__ = ["RunReport", "read_report"]


@dataclass(frozen=True, kw_only=True, repr=False)
class RunReport:
    """The results of a run, by target; printed as their tables.

    Attributes:
      folder: Of the run.
      results: One for each target that has a front, by name in order.
      failures: Why others have none, by name.
      float_verified: Whether a digest covers what the float network is said to reach.
      asked: What the run was asked, as far as results do not say it.
    """

    folder: Path
    results: tuple[ShownResult, ...]
    failures: Mapping[str, str]
    float_verified: bool = True
    asked: Asked = field(default_factory=Asked)

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in self.results)

    def __getitem__(self, target: str) -> ShownResult:
        for one in self.results:
            if one.target == target:
                return one
        if target in self.failures:
            raise SearchError(_no_front(target, self.failures[target]))
        names = [one.target for one in self.results]
        raise SearchError(
            f"Expected a target of the run in {self.folder}, got {target!r}. "
            f"{did_you_mean(target, names)}"
        )

    def to_text(self) -> str:
        """Returns a table for each target, aligned, and the targets without one."""
        return self._joined([repr(one) for one in self.results])

    def to_markdown(self) -> str:
        """Returns the same in Markdown, with the bits of every policy."""
        return self._joined(
            [to_markdown(one, one.float_metrics) for one in self.results]
        )

    def to_json(self) -> Any:
        """Returns a JSON object for a single target, an array for several."""
        documents = [to_json(one, one.float_metrics) for one in self.results]
        return documents if len(documents) > 1 else documents[0]

    def to_csv(self) -> str:
        """Returns one table; of several targets, with them in its first column."""
        texts = {one.target: to_csv(one, one.float_metrics) for one in self.results}
        if len(texts) == 1:
            return next(iter(texts.values()))
        rows = [
            {"target": target, **row}
            for target, text in texts.items()
            for row in csv.DictReader(io.StringIO(text, newline=""))
        ]
        header = dict.fromkeys(name for row in rows for name in row)
        return csv_table(
            list(header), [[row.get(name) for name in header] for row in rows]
        )

    def page(self) -> str:
        """Returns the page of the run, HTML; made anew, whatever page is there.

        Raises:
          SearchError: If what policies cost on all targets is not there or damaged.
        """
        matrix = _read_matrix(self.folder / MATRIX_FILES[0])
        places = {target: place for place, target in enumerate(matrix.targets)}
        for one in self.results:
            if one.target not in places:
                raise SearchError(
                    f"Expected costs on {one.target} in {MATRIX_FILES[0]} of "
                    f"{self.folder}, which has a result, found none; search again with "
                    "resume=True."
                )
        results = sorted(self.results, key=lambda one: places[one.target])
        page = to_html(
            results,
            matrix,
            results[0].float_metrics,
            self.failures,
            self._notes(),
            self.asked,
        )
        return "\n".join(map(printable, page.split("\n")))

    def _notes(self) -> list[str]:
        return [] if self.float_verified else [f"{FLOAT_NAME}: {UNVERIFIED}."]

    def _joined(self, tables: Sequence[str]) -> str:
        notes = [_no_front(*one) for one in self.failures.items()]
        return "".join(f"{one}\n" for one in (*tables, *notes, *self._notes()))


def read_report(folder: str | Path) -> RunReport:
    """Reads what a run has left in its folder.

    Raises:
      SearchError: If there is no result, or a file is damaged.
    """
    folder = as_path(folder, "the run", SearchError)
    float_metrics: Mapping[str, float] | None = None
    failures: Mapping[str, str] = {}
    is_verified, asked = True, Asked()
    if (folder / RUN_FILE).exists():
        record = read_record(folder)
        float_metrics, failures = record.float_metrics, record.failures
        is_verified = float_metrics is None or record.float_verified
        asked = record.asked
    # A hidden one is what a process that was killed had begun to write.
    paths = sorted(
        path
        for path in folder.glob(f"*/{RESULT_FILE}")
        if not path.parent.name.startswith(".")
    )
    results = tuple(ShownResult.of(_read_result(one), float_metrics) for one in paths)
    if not results:
        for one in failures.items():
            raise SearchError(_no_front(*one))
        raise SearchError(
            f"Expected the output folder of a search in {folder}, found no results; "
            "search first."
        )
    return RunReport(
        folder=folder,
        results=results,
        failures=failures,
        float_verified=is_verified,
        asked=asked,
    )


def _no_front(target: str, reason: str) -> str:
    return readable(f"No front for {target}: {reason}")


def _read_result(path: Path) -> SearchResult:
    try:
        result = SearchResult.from_json(JsonReader(SearchError).read(path, "it"))
    except (MatarError, OverflowError) as error:
        raise SearchError(f"{path} is damaged: {error}") from error
    if result.target != path.parent.name:
        raise SearchError(
            f"Expected the result of {path.parent.name!r} in {path}, got that of "
            f"{result.target!r}; search again, or name its folder so."
        )
    return result


def _read_matrix(path: Path) -> CostMatrix:
    if not path.exists():
        raise SearchError(
            f"Expected the costs of a finished run in {path}, found none; search again "
            "with resume=True."
        )
    try:
        return matrix_from_json(JsonReader(SearchError).read(path, "it"))
    except (MatarError, OverflowError) as error:
        raise SearchError(f"{path} is damaged: {error}") from error
