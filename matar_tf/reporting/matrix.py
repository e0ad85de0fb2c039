"""Policies by targets: what each policy costs on each target, and where it may not run.

A figure that is missing is a dash, an empty cell or null, never zero; a policy that a
target does not allow has no figures but the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast, get_args

from matar_tf.cost_matrix import CostMatrix, MatrixEntry
from matar_tf.errors import SearchError, did_you_mean
from matar_tf.figures import CostKind, Figure, figure_of
from matar_tf.io.json_reader import JsonReader
from matar_tf.numbers import as_number
from matar_tf.reporting.csv_table import csv_table
from matar_tf.reporting.markdown import markdown_table, markdown_text
from matar_tf.reporting.text import aligned, float_sentences

__all__ = [
    "MatrixTable",
    "matrix_from_json",
    "matrix_tables",
    "matrix_to_csv",
    "matrix_to_json",
    "matrix_to_markdown",
    "matrix_to_text",
]

_SCHEMA_VERSION: Final = 1
_READER: Final = JsonReader(SearchError)
_SHOWN: Final = ("latency_ms", "energy_pj", "weight_bytes", "peak_activation_bytes")
_FLOAT_SHARE: Final = "float_share"
_LUTS: Final = "luts"  # on targets that have logic for each layer
_FLOAT_KEY: Final = "float_layers"  # in files of networks that have some
_ILLEGAL: Final = "not allowed"
_DASH: Final = "-"


@dataclass(frozen=True, kw_only=True)
class MatrixTable:
    """One cost of every policy on every target, as printed.

    Attributes:
      title: The cost and its unit.
      header: "policy", then each target and where its figures come from.
      rows: Name and figures of each policy.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


def _as_it_is(column: Figure, values: Iterable[float | None]) -> Figure:
    del values
    return column


def matrix_tables(
    matrix: CostMatrix,
    in_units: Callable[[Figure, Iterable[float | None]], Figure] = _as_it_is,
) -> list[MatrixTable]:
    """Returns a table for each cost that is printed.

    Args:
      matrix: What each policy costs on each target.
      in_units: Gives a figure in the unit that suits its values.
    """
    sources: dict[str, CostKind] = {one.target: one.kind for one in matrix.entries}

    def table(name: str) -> MatrixTable:
        values = [one.figures.get(name) for one in matrix.entries]
        column = in_units(figure_of(name), values)
        kinds = (column.priced_by(sources[one]).kind for one in matrix.targets)
        targets = zip(matrix.targets, kinds, strict=True)
        return MatrixTable(
            title=column.title,
            header=["policy", *(f"{target} ({kind})" for target, kind in targets)],
            rows=[
                [
                    policy,
                    *(
                        _cell(matrix.entry(policy, one), column)
                        for one in matrix.targets
                    ),
                ]
                for policy in matrix.policies
            ],
        )

    shown = [*_SHOWN, *([_FLOAT_SHARE] if matrix.float_layers else [])]
    if any(_LUTS in one.figures for one in matrix.entries):
        shown.append(_LUTS)
    return [table(name) for name in shown]


def matrix_to_json(matrix: CostMatrix) -> dict[str, Any]:
    """Returns the matrix as a JSON object, one entry for each pair."""
    return {
        "schema_version": _SCHEMA_VERSION,
        "policies": list(matrix.policies),
        "targets": list(matrix.targets),
        "entries": [
            {
                "policy": one.policy,
                "target": one.target,
                "kind": one.kind,
                "legal": one.legal,
                "figures": dict(one.figures),
                "violations": list(one.violations),
            }
            for one in matrix.entries
        ],
        **({_FLOAT_KEY: dict(matrix.float_layers)} if matrix.float_layers else {}),
    }


def matrix_from_json(value: object) -> CostMatrix:
    """Reads what `matrix_to_json` returned.

    Raises:
      SearchError: If a key is missing or unknown, a value has another type, or an entry
        of a pair is not there.
    """
    keys = ("schema_version", "policies", "targets", "entries")
    document = _READER.object(value, "cost matrix", keys, (_FLOAT_KEY,))
    _READER.check_version(document, "cost matrix", _SCHEMA_VERSION)
    rows = cast("list[object]", _READER.field(document, "entries", list))
    return CostMatrix(
        policies=_texts(document, "policies"),
        targets=_texts(document, "targets"),
        entries=tuple(map(_entry, rows)),
        float_layers=_float_layers(document),
    )


def _float_layers(document: dict[str, Any]) -> dict[str, str]:
    if _FLOAT_KEY not in document:
        return {}
    found = cast("dict[str, object]", _READER.field(document, _FLOAT_KEY, dict))
    return {name: _READER.field(found, name, str) for name in found}


def _entry(value: object) -> MatrixEntry:
    keys = ("policy", "target", "kind", "legal", "figures", "violations")
    document = _READER.object(value, "entry of a cost matrix", keys)
    kind = _READER.field(document, "kind", str)
    if kind not in get_args(CostKind):
        raise SearchError(
            f"Unknown kind {kind!r}. {did_you_mean(kind, get_args(CostKind))}"
        )
    figures = cast("dict[str, object]", _READER.field(document, "figures", dict))
    entry = MatrixEntry(
        policy=_READER.field(document, "policy", str),
        target=_READER.field(document, "target", str),
        kind=cast("CostKind", kind),
        figures={
            name: None if figure is None else as_number(figure, f"for {name!r}")
            for name, figure in figures.items()
        },
        violations=_texts(document, "violations"),
    )
    if _READER.field(document, "legal", bool) is not entry.legal:
        raise SearchError(
            f"Expected legal to be {entry.legal} of {entry.policy!r} on "
            f"{entry.target!r}, which has {len(entry.violations)} violations."
        )
    return entry


def _texts(document: dict[str, Any], key: str) -> tuple[str, ...]:
    values = cast("list[object]", _READER.field(document, key, list))
    for one in values:
        if not isinstance(one, str):
            raise SearchError(f"Expected texts under {key!r}, got {one!r}.")
    return tuple(cast("list[str]", values))


def matrix_to_csv(matrix: CostMatrix) -> str:
    """Returns the matrix as CSV, one line for each pair; units are in the names."""
    names = list(dict.fromkeys(name for one in matrix.entries for name in one.figures))
    rows = [
        [
            one.policy,
            one.target,
            one.kind,
            "yes" if one.legal else "no",
            *(one.figures.get(name) for name in names),
            one.violations[0] if one.violations else None,
        ]
        for one in matrix.entries
    ]
    header = ["policy", "target", "kind", "legal", *names, "violation"]
    return csv_table(header, rows)


def matrix_to_markdown(
    matrix: CostMatrix, failures: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Returns a table for each cost, policies down and targets across, and reasons.

    Args:
      matrix: What each policy costs on each target.
      failures: Why targets have no policies of their own, by name.
    """
    lines = ["# Policies by targets", ""]
    for table in matrix_tables(matrix):
        rows = markdown_table(table.header, table.rows)
        lines += [f"## {table.title}", "", *rows, ""]
    in_float = float_sentences(matrix.float_layers)
    if in_float:
        named = [f"- {markdown_text(one)}" for one in in_float]
        lines += ["## Stays in float", "", *named, ""]
    reasons = _reasons(matrix)
    if reasons:
        lines += ["## Not allowed", "", *map(markdown_text, reasons), ""]
    if failures:
        named = [
            f"- {target}: {markdown_text(why)}" for target, why in failures.items()
        ]
        lines += ["## Targets without a front", "", *named, ""]
    return "\n".join(lines)


def matrix_to_text(matrix: CostMatrix) -> str:
    """Returns the same, aligned for a terminal: policies across, targets down."""
    lines: list[str] = []
    for table in matrix_tables(matrix):
        turned = [list(row) for row in zip(table.header, *table.rows, strict=True)]
        turned[0][0] = table.title
        lines += [*aligned(turned), ""]
    in_float = [f"- {one}" for one in float_sentences(matrix.float_layers)]
    if in_float:
        lines += ["Stays in float:", *in_float, ""]
    return "\n".join([*lines, *_reasons(matrix)]).rstrip() + "\n"


def _reasons(matrix: CostMatrix) -> list[str]:
    """Returns a line for each policy that a target does not allow."""
    return [
        f"- {one.policy} on {one.target}: {one.violations[0]}"
        + (f" And {len(one.violations) - 1} more." if len(one.violations) > 1 else "")
        for one in matrix.entries
        if one.violations
    ]


def _cell(entry: MatrixEntry, column: Figure) -> str:
    if not entry.legal:
        return _ILLEGAL
    value = entry.figures.get(column.name)
    return _DASH if value is None else column.text(value)
