"""Search results as tables: for people (text, Markdown) and programs (CSV, JSON).

Each row is a policy of the front or a reference; a figure that is missing is a dash, an
empty cell or null, never zero.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matar_tf.policy import Policy
from matar_tf.report.columns import COLUMNS, Column, column_of, wilson_half_width
from matar_tf.results import SearchResult

__all__ = ["SCHEMA_VERSION", "to_csv", "to_json", "to_markdown", "to_text"]

SCHEMA_VERSION: Final = 1
_DASH: Final = "-"
_LEFT_OUT_OF_TEXT: Final = {"loss", "macs", "bops", "cycles"}
_MAX_ENTRIES: Final = 24  # of a table with one column per policy entry
_FloatMetrics = Mapping[str, float] | None


@dataclass(frozen=True, kw_only=True)
class _Row:
    name: str
    role: str
    figures: Mapping[str, float | None]
    policy: Policy | None


def to_json(result: SearchResult, float_metrics: _FloatMetrics = None) -> Any:
    """Returns the table as a JSON object: columns with units, rows with policies."""
    rows = _rows(result, float_metrics)
    columns = _columns(rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "target": result.target,
        "num_samples": result.provenance.num_samples,
        "seed": result.provenance.seed,
        "num_evaluated": result.num_evaluated,
        "num_reused": result.num_reused,
        "stop_reason": result.stop_reason.value,
        "columns": [{"name": one.name, "kind": one.kind} for one in columns],
        "rows": [
            {
                "name": row.name,
                "role": row.role,
                **{one.name: row.figures.get(one.name) for one in columns},
                "policy": None if row.policy is None else row.policy.to_json(),
            }
            for row in rows
        ],
    }


def to_csv(result: SearchResult, float_metrics: _FloatMetrics = None) -> str:
    """Returns the table as CSV; units are part of the column names."""
    rows = _rows(result, float_metrics)
    columns = _columns(rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["name", "role", *(one.name for one in columns)])
    for row in rows:
        cells = (row.figures.get(one.name) for one in columns)
        writer.writerow([row.name, row.role, *("" if c is None else c for c in cells)])
    return buffer.getvalue()


def to_markdown(result: SearchResult, float_metrics: _FloatMetrics = None) -> str:
    """Returns the table as Markdown, and the bits of every policy of the front."""
    rows = _rows(result, float_metrics)
    columns = _columns(rows)
    header = ["policy", *(one.title for one in columns)]
    lines = [f"# {result.target}", "", *_preamble(result, columns), ""]
    lines += _markdown(header, _cells(rows, columns, result.provenance.num_samples))
    lines += ["", "## Bits", "", *_bits(result)]
    return "\n".join(lines) + "\n"


def to_text(result: SearchResult, float_metrics: _FloatMetrics = None) -> str:
    """Returns the main columns, aligned for a terminal."""
    rows = _rows(result, float_metrics)
    columns = [one for one in _columns(rows) if one.name not in _LEFT_OUT_OF_TEXT]
    cells = _cells(rows, columns, result.provenance.num_samples)
    headers = ["", *(one.header for one in columns)]
    units = ["", *(one.unit for one in columns)]
    table = [headers, units, *cells]
    widths = [max(len(row[index]) for row in table) for index in range(len(headers))]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    num_front = len(result.front)
    rule = "-" * max(map(len, lines))
    lines = [*lines[:2], rule, *lines[2 : 2 + num_front], rule, *lines[2 + num_front :]]
    return "\n".join([result.target, *_preamble(result, columns), "", *lines])


def _rows(result: SearchResult, float_metrics: _FloatMetrics) -> list[_Row]:
    rows = [
        _Row(
            name=candidate.name,
            role=role,
            figures={**candidate.metrics, **candidate.costs},
            policy=candidate.policy,
        )
        for role, candidates in (
            ("front", result.front),
            ("reference", result.references),
        )
        for candidate in candidates
    ]
    if float_metrics is not None:
        # As the developer measured it, when the network was packaged.
        figures: Mapping[str, float | None] = {**float_metrics}
        row = _Row(name="float", role="reference", figures=figures, policy=None)
        rows.insert(len(result.front), row)
    return rows


def _columns(rows: Sequence[_Row]) -> list[Column]:
    names = dict.fromkeys(name for row in rows for name in row.figures)
    known = [column for column in COLUMNS if column.name in names]
    others = [name for name in names if name not in {one.name for one in COLUMNS}]
    return [*known, *map(column_of, others)]


def _cells(
    rows: Sequence[_Row], columns: Sequence[Column], num_samples: int
) -> list[list[str]]:
    return [
        [row.name, *(_cell(row, column, num_samples) for column in columns)]
        for row in rows
    ]


def _cell(row: _Row, column: Column, num_samples: int) -> str:
    value = row.figures.get(column.name)
    if value is None:
        return _DASH
    if column.name == "accuracy":
        half_width = wilson_half_width(value, num_samples)
        return f"{column.text(value)} ±{100.0 * half_width:.1f}"
    return column.text(value)


def _preamble(result: SearchResult, columns: Sequence[Column]) -> list[str]:
    provenance = result.provenance
    kinds = dict.fromkeys(column.kind for column in columns)
    sources = [
        f"{kind}: {', '.join(one.header for one in columns if one.kind == kind)}"
        for kind in kinds
    ]
    return [
        f"{len(result.front)} policies; evaluated {result.num_evaluated}, reused "
        f"{result.num_reused}; stopped: {result.stop_reason.value}; seed "
        f"{provenance.seed}.",
        f"Accuracy on {provenance.num_samples} samples, with its 95 % interval.",
        f"Sources: {'; '.join(sources)}.",
    ]


def _markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *cells)]


def _bits(result: SearchResult) -> list[str]:
    """Returns the widths of each policy: W for weights, A for activations."""
    if not result.front:
        return []
    first = result.front[0].policy
    names = [f"W {name}" for name in first.weights]
    names += [f"A {name}" for name in first.activations]
    rows = [
        [
            candidate.name,
            *map(str, candidate.policy.weights.values()),
            *map(str, candidate.policy.activations.values()),
        ]
        for candidate in result.front
    ]
    if len(names) <= _MAX_ENTRIES:
        return _markdown(["policy", *names], rows)
    return [
        f"- {row[0]}: " + ", ".join(map(":".join, zip(names, row[1:], strict=True)))
        for row in rows
    ]
