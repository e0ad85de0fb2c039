"""Search results as tables: for people (text, Markdown) and programs (CSV, JSON).

Each row is a policy of the front or a reference; a figure that is missing is a dash, an
empty cell or null, never zero.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from matar_tf.figures import (
    FIGURES,
    SCALES,
    UNCHECKED,
    CostKind,
    Figure,
    bound_names,
    expected_name,
    figure_of,
)
from matar_tf.policy import Policy
from matar_tf.reporting.csv_table import csv_table
from matar_tf.reporting.intervals import interval_of, is_predicted, origin_of
from matar_tf.reporting.markdown import markdown_table, markdown_text
from matar_tf.reporting.text import aligned
from matar_tf.results import SearchResult
from matar_tf.verdict import verdict_of

__all__ = [
    "FLOAT_NAME",
    "SCHEMA_VERSION",
    "FloatMetrics",
    "Row",
    "Table",
    "bits_table",
    "table_of",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_text",
]

SCHEMA_VERSION: Final = 1
FLOAT_NAME: Final = "float"  # of the row of the float network
_DASH: Final = "-"
_TEXT_WIDTH: Final = 120  # columns of a terminal
_LEFT_OUT_OF_TEXT: Final = {
    *("loss", "argmax_agreement", "macs", "bops", "cycles", "measured_spread_ms"),
    *("float_share", "luts", "arena_bytes"),
}
_MAX_ENTRIES: Final = 24  # of a table with one column per policy entry
# What priced a result stands among its versions.
_SOURCES: Final[Mapping[str, CostKind]] = {
    "ethos-u-vela": "compiler estimate",
    "latency table": "latency table",
    UNCHECKED: "modelled, not validated",
}
FloatMetrics = Mapping[str, float] | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A policy, or the float network.

    Attributes:
      name: Of the policy.
      role: ``front`` or ``reference``.
      figures: By name; None where there is none.
      policy: None for the float network.
    """

    name: str
    role: str
    figures: Mapping[str, float | None]
    policy: Policy | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """What every form of a report says about a result.

    Attributes:
      sentences: What stands before the table.
      columns: One for each figure that some row has.
      rows: The front, cheapest first, then the references.
      num_samples: That accuracies were measured on.
    """

    sentences: tuple[str, ...]
    columns: tuple[Figure, ...]
    rows: tuple[Row, ...]
    num_samples: int

    def cells(self) -> list[list[str]]:
        """Returns a list for each row: its name, and each figure as printed."""
        return [
            [row.name, *(_cell(row, one, self.num_samples) for one in self.columns)]
            for row in self.rows
        ]


def table_of(result: SearchResult, float_metrics: FloatMetrics = None) -> Table:
    """Returns the table of a result, a row for the float network if it is known."""
    rows = _rows(result, float_metrics)
    columns = _columns(rows, result)
    return Table(
        sentences=tuple(_sentences(result, rows, columns)),
        columns=tuple(columns),
        rows=tuple(rows),
        num_samples=result.provenance.num_samples,
    )


def bits_table(result: SearchResult) -> tuple[list[str], list[list[str]]]:
    """Returns names of policy entries, and each front policy's name and widths.

    Entries are ``W name`` for weights and ``A name`` for activations. Widths are found
    by name: equal policies may list their entries in other orders.
    """
    widths = [_widths(candidate.policy) for candidate in result.front]
    names = list(dict.fromkeys(name for entries in widths for name in entries))
    return names, [
        [candidate.name, *(entries.get(name, _DASH) for name in names)]
        for candidate, entries in zip(result.front, widths, strict=True)
    ]


def to_json(result: SearchResult, float_metrics: FloatMetrics = None) -> Any:
    """Returns the table as a JSON object: columns with units, rows with policies."""
    table = table_of(result, float_metrics)
    return {
        "schema_version": SCHEMA_VERSION,
        "target": result.target,
        "num_samples": result.provenance.num_samples,
        "seed": result.provenance.seed,
        "num_evaluated": result.num_evaluated,
        "num_reused": result.num_reused,
        "stop_reason": result.stop_reason.value,
        "verdict": [
            {
                "kind": pick.kind,
                "policy": pick.policy.name,
                "beside": pick.beside,
                "loss": pick.loss,
                "chance": pick.chance,
            }
            for pick in verdict_of(result)
        ],
        "columns": [{"name": one.name, "kind": one.kind} for one in table.columns],
        "rows": [
            {
                "name": row.name,
                "role": row.role,
                "figures": {
                    **{one.name: row.figures.get(one.name) for one in table.columns},
                    **_given_bounds(row, table.columns),
                },
                "policy": None if row.policy is None else row.policy.to_json(),
            }
            for row in table.rows
        ],
    }


def to_csv(result: SearchResult, float_metrics: FloatMetrics = None) -> str:
    """Returns the table as CSV; units are part of the column names.

    Beside a share stand the bounds of its 95 % interval, ``accuracy_low`` and
    ``accuracy_high``, and ``num_samples`` that it was measured on. Where nobody
    measured metrics, a column ``predicted`` says of which rows.
    """
    table = table_of(result, float_metrics)
    rows = [_csv_row(row, table) for row in table.rows]
    names = dict.fromkeys(
        name
        for column in table.columns
        for name in (column.name, *bound_names(column.name))
        if name == column.name or any(name in row for row in rows)
    )
    if is_predicted(result):
        rows = [
            {**row, "predicted": "yes" if "num_samples" in row else "no"}
            for row in rows
        ]
        names = {"predicted": None, **names}
    header = ["name", "role", "num_samples", *names]
    return csv_table(header, [[row.get(name) for name in header] for row in rows])


def _csv_row(row: Row, table: Table) -> dict[str, Any]:
    cells: dict[str, Any] = {"name": row.name, "role": row.role}
    if row.policy is not None:
        cells["num_samples"] = table.num_samples
    for column in table.columns:
        cells[column.name] = row.figures.get(column.name)
        bounds = _interval(row, column, table.num_samples)
        if bounds is not None:
            cells |= dict(zip(bound_names(column.name), bounds, strict=True))
    return cells


def to_markdown(result: SearchResult, float_metrics: FloatMetrics = None) -> str:
    """Returns the table as Markdown, and the bits of every policy of the front."""
    table = table_of(result, float_metrics)
    header = ["policy", *(one.title for one in table.columns)]
    lines = [f"# {result.target}", "", *table.sentences]
    lines = [*map(markdown_text, lines), ""]
    lines += markdown_table(header, table.cells())
    if result.front:
        lines += ["", "## Bits per layer", "", *_bits(result)]
    return "\n".join(lines) + "\n"


def to_text(result: SearchResult, float_metrics: FloatMetrics = None) -> str:
    """Returns the main columns, aligned for a terminal."""
    whole = table_of(result, float_metrics)
    left_out = _LEFT_OUT_OF_TEXT - {one.name for one in result.objectives}
    columns = [one for one in whole.columns if one.name not in left_out]
    headers = ["", *(one.header for one in columns)]
    units = ["", *(one.unit for one in columns)]
    table = [headers, units, *replace(whole, columns=tuple(columns)).cells()]
    lines = aligned(table)
    num_front = len(result.front)
    rule = "-" * max(map(len, lines))
    lines = [*lines[:2], rule, *lines[2 : 2 + num_front], rule, *lines[2 + num_front :]]
    preamble = [
        line
        for sentence in (
            *whole.sentences,
            *_agreement(whole.rows),
            *_floats(whole.rows),
        )
        for line in textwrap.wrap(sentence, _TEXT_WIDTH)
    ]
    return "\n".join([result.target, *preamble, "", *lines])


def _agreement(rows: Sequence[Row]) -> list[str]:
    """Returns what the text says in the place of the column.

    The share of samples with the same largest output; of a network of one output, with
    one that is at most a step of its grid off (`matar_tf.tflite.metrics`).
    """
    column = figure_of("argmax_agreement")
    known = [row.figures.get(column.name) for row in rows]
    values = [value for value in known if value is not None]
    if not values:
        return []
    least = min(values)
    more = "" if least == max(values) else " or more"
    return [f"Agreement with the Keras network: {column.text(least)} %{more}."]


def _floats(rows: Sequence[Row]) -> list[str]:
    """Returns what the text says of layers in float in the place of the column."""
    column = figure_of("float_share")
    known = [row.figures.get(column.name) for row in rows]
    values = [value for value in known if value is not None]
    if not values:
        return []
    low, high = column.text(min(values)), column.text(max(values))
    share = low if low == high else f"{low} to {high}"
    return [f"Layers that stay in float take {share} % of the cycles."]


def _rows(result: SearchResult, float_metrics: FloatMetrics) -> list[Row]:
    rows = [
        Row(
            name=candidate.name,
            role=role,
            # Metrics stand first; as in `Candidate.value`, they also win.
            figures={**candidate.metrics, **candidate.costs, **candidate.metrics},
            policy=candidate.policy,
        )
        for role, candidates in (
            ("front", result.front),
            ("reference", result.references),
        )
        for candidate in candidates
    ]
    # As the developer measured it, when the network was packaged.
    figures = _beside(
        float_metrics or {}, {name for row in rows for name in row.figures}
    )
    if figures:
        row = Row(name=FLOAT_NAME, role="reference", figures=figures, policy=None)
        rows.insert(len(result.front), row)
    return rows


def _beside(
    float_metrics: Mapping[str, float], names: Collection[str]
) -> dict[str, float | None]:
    """Returns metrics of the float network that have a column, measured or expected."""
    found: dict[str, float | None] = {}
    for name, value in float_metrics.items():
        other = name if name in names else expected_name(name)
        if other in names:
            found[other] = value
    return found


def _columns(rows: Sequence[Row], result: SearchResult) -> list[Figure]:
    names = dict.fromkeys(name for row in rows for name in row.figures)
    bounds = {bound for name in names for bound in bound_names(name)}
    names = [name for name in names if name not in bounds]
    known = [column for column in FIGURES if column.name in names]
    others = [name for name in names if name not in {one.name for one in FIGURES}]
    measured = {name for one in result.front for name in one.metrics}
    columns: list[Figure] = [*known, *(figure_of(one, result.heads) for one in others)]
    # What is expected of a metric stands before what was measured.
    columns.sort(key=lambda one: one.kind != "estimated")
    columns = [
        replace(one, kind="measured")
        if one.name in measured and one.kind == "unknown"
        else one
        for one in columns
    ]
    for tool, source in _SOURCES.items():
        if tool in result.provenance.versions:
            columns = [one.priced_by(source) for one in columns]
    if is_predicted(result):
        columns = [one.predicted() if one.name in measured else one for one in columns]
    return columns


def _cell(row: Row, column: Figure, num_samples: int) -> str:
    value = row.figures.get(column.name)
    if value is None:
        return _DASH
    bounds = _interval(row, column, num_samples)
    if bounds is None:
        return column.text(value)
    return f"{column.text(value)} ({'..'.join(map(column.text, bounds))})"


def _interval(row: Row, column: Figure, num_samples: int) -> tuple[float, float] | None:
    # The float row was measured elsewhere, on a number of samples not known here.
    return None if row.policy is None else interval_of(row.figures, column, num_samples)


def _given_bounds(row: Row, columns: Sequence[Figure]) -> dict[str, float | None]:
    """Returns the bounds of a row that no number of samples gives."""
    names = [name for column in columns for name in bound_names(column.name)]
    return {name: row.figures[name] for name in names if name in row.figures}


def _sentences(
    result: SearchResult, rows: Sequence[Row], columns: Sequence[Figure]
) -> list[str]:
    provenance = result.provenance
    with_float = any(row.policy is None for row in rows)
    packaged = "; float as packaged, without one" if with_float else ""
    kinds = dict.fromkeys(column.kind for column in columns)
    sources = [
        f"{kind}: {', '.join(one.header for one in columns if one.kind == kind)}"
        for kind in kinds
    ]
    noun = "policy" if len(result.front) == 1 else "policies"
    number = f"evaluated {result.num_evaluated}, reused {result.num_reused}"
    if is_predicted(result):
        number = f"predicted {result.num_evaluated}"
    source = origin_of(result, packaged, has_share=any(x.is_share for x in columns))
    return [
        f"{len(result.front)} {noun}; {number}; stopped: {result.stop_reason.value}; "
        f"seed {provenance.seed}.",
        source,
        *(text for name, text in provenance.versions.items() if name == SCALES),
        *(pick.sentence for pick in verdict_of(result)),
        f"Sources: {'; '.join(sources)}.",
    ]


def _bits(result: SearchResult) -> list[str]:
    """Returns the widths of each policy: W for weights, A for activations."""
    names, rows = bits_table(result)
    if len(names) <= _MAX_ENTRIES:
        return markdown_table(["policy", *names], rows)
    lines = [
        f"- {policy}: "
        + ", ".join(
            f"{name}:{bits}"
            for name, bits in zip(names, widths, strict=True)
            if bits != _DASH
        )
        for policy, *widths in rows
    ]
    return [*map(markdown_text, lines)]


def _widths(policy: Policy) -> dict[str, str]:
    widths = {f"W {name}": str(bits) for name, bits in policy.weights.items()}
    return widths | {
        f"A {name}": str(bits) for name, bits in policy.activations.items()
    }
