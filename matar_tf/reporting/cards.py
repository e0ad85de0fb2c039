"""The verdict on a target as cards: which policy, what it reaches, what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from matar_tf.figures import Figure, figure_of
from matar_tf.reporting.readable import term_of
from matar_tf.reporting.tables import Table
from matar_tf.results import Candidate, Objective, SearchResult
from matar_tf.verdict import CHEAPEST, Pick, verdict_of

__all__ = ["Card", "Fact", "cards_of", "savings"]

_SMALLEST: Final = "weight_bytes"
_SHOWN: Final = ("latency_ms", "measured_latency_ms", _SMALLEST, "file_bytes")
_SAVED: Final = ("latency_ms", "energy_pj", _SMALLEST, "file_bytes")
_EIGHT_BITS: Final = "w8a8"
_WHOLE: Final = 10.0  # percent, from which on no tenths are told
_NONE: Final = "None is "  # how a verdict begins that no policy likely meets
# Of less, of more and of as much: costs whose names do not take "less" and "more".
_WORDS: Final = {
    _SMALLEST: ("smaller weights", "larger weights", "weights of the same size"),
    "file_bytes": ("smaller file", "larger file", "a file of the same size"),
}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A figure of a policy as it is printed: ``latency``, ``4.15 µs``, ``modelled``.

    Attributes:
      header: What it is.
      text: Value, interval and unit.
      kind: Where it comes from.
      term: What it means, in words.
    """

    header: str
    text: str
    kind: str
    term: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A policy that stands for an answer.

    Attributes:
      title: The question: ``Fastest within 1 point of w8a8``.
      policy: Name of the policy.
      facts: What it reaches and costs.
      saving: What it saves against 8 bits, in words; empty if nothing is known of them.
      words: The answer, in words.
    """

    title: str
    policy: str
    facts: tuple[Fact, ...]
    saving: str
    words: str


def cards_of(result: SearchResult, table: Table) -> tuple[Card, ...]:
    """Returns a card for each answer of the verdict, and for the smallest policy.

    Args:
      result: The result.
      table: Its table, whose units they have.
    """
    picks = _picks(result)
    beside = _beside(result, picks)
    return tuple(
        Card(
            title=pick.sentence.partition(": ")[0],
            policy=pick.policy.name,
            facts=_facts(pick.policy.name, result, table),
            saving="" if beside is None else savings(pick.policy, beside, result),
            words=pick.sentence.partition(": ")[2],
        )
        for pick in picks
    )


def _picks(result: SearchResult) -> list[Pick]:
    """Returns the verdict, with the smallest policy after the cheapest one.

    Of a search that made sizes small, the cheapest is that already. One that is both
    stands once.
    """
    picks = list(verdict_of(result))
    kinds = [pick.kind for pick in picks]
    priced = all(one.costs.get(_SMALLEST) is not None for one in result.front)
    by_size = any(one.name.endswith("_bytes") for one in result.objectives)
    if CHEAPEST not in kinds or by_size or not priced:
        return picks
    metrics = [one for one in result.objectives if one.name in result.front[0].metrics]
    objectives = (metrics[0], Objective(name=_SMALLEST))
    by_weights = verdict_of(replace(result, objectives=objectives))
    (smallest,) = [pick for pick in by_weights if pick.kind == CHEAPEST]
    place = kinds.index(CHEAPEST)
    cheapest = picks[place]
    if cheapest.policy.name != smallest.policy.name:
        return [*picks[: place + 1], smallest, *picks[place + 1 :]]
    words = cheapest.sentence
    if not words.startswith(_NONE):
        words = words.replace(" within ", " and smallest within ", 1)
    picks[place] = replace(cheapest, sentence=words)
    return picks


def _beside(result: SearchResult, picks: Sequence[Pick]) -> Candidate | None:
    """Returns the reference of 8 bits, or else that which losses are measured from."""
    named = {one.name: one for one in result.references}
    others = [pick.beside for pick in picks if pick.beside in named]
    names = [name for name in (_EIGHT_BITS, *others) if name in named]
    return named[str(names[0])] if names else None


def _facts(name: str, result: SearchResult, table: Table) -> tuple[Fact, ...]:
    shown = {*_SHOWN, *(one.name for one in result.objectives)}
    (cells,) = [
        cells[1:]
        for row, cells in zip(table.rows, table.cells(), strict=True)
        if row.name == name and row.role == "front"
    ]
    return tuple(
        Fact(
            header=column.header.removeprefix(f"{column.kind} "),
            text=_with_unit(cell, column),
            kind=column.kind,
            term=term_of(column),
        )
        for cell, column in zip(cells, table.columns, strict=True)
        if column.name in shown
    )


def _with_unit(cell: str, column: Figure) -> str:
    """Returns a cell with its unit: after the value, before the interval."""
    value, bracket, interval = cell.partition(" (")
    unit = f" {column.unit}" if column.unit else ""
    return f"{value}{unit}{bracket}{interval}"


def savings(one: Candidate, beside: Candidate, result: SearchResult) -> str:
    """Returns what a policy saves against another, in words and percent.

    ``Against w8a8: 22 % less latency, 54 % smaller weights, a file of the same size;
    0.70 points less accuracy.`` A cost that one of them lacks is left out.
    """
    if one.policy == beside.policy:
        return f"The same policy as {beside.name}."
    names = dict.fromkeys(
        name
        for name in (*_SAVED, *(objective.name for objective in result.objectives))
        if name not in one.metrics
    )
    parts = [
        _change(name, value, other)
        for name in names
        if (value := one.costs.get(name)) is not None
        and (other := beside.costs.get(name))
    ]
    points = [
        _points(figure_of(objective.name, result.heads), one, beside)
        for objective in result.objectives
        if {objective.name} <= one.metrics.keys() & beside.metrics.keys()
        and figure_of(objective.name, result.heads).is_share
    ]
    texts = [text for text in (", ".join(parts), ", ".join(points)) if text]
    return f"Against {beside.name}: {'; '.join(texts)}." if texts else ""


def _change(name: str, value: float, other: float) -> str:
    header = figure_of(name).header
    less, more, same = _WORDS.get(
        name, (f"less {header}", f"more {header}", f"the same {header}")
    )
    percent = 100.0 * (value / other - 1.0)
    text = f"{abs(percent):.1f}"
    if float(text) >= _WHOLE:
        text = f"{abs(percent):.0f}"
    if float(text) == 0.0:
        return same
    return f"{text} % {less if percent < 0 else more}"


def _points(figure: Figure, one: Candidate, beside: Candidate) -> str:
    points = 100.0 * (one.metrics[figure.name] - beside.metrics[figure.name])
    text = f"{abs(points):.2f}"
    if float(text) == 0.0:
        return f"the same {figure.header}"
    return f"{text} points {'less' if points < 0 else 'more'} {figure.header}"
