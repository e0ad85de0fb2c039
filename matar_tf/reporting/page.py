"""The report of a run as one page that needs no network and no server.

Its one script sorts and filters tables; without it the page is whole. Browsers are told
to run that one, by its digest, and to load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import jinja2

from matar_tf.cost_matrix import CostMatrix
from matar_tf.errors import SearchError
from matar_tf.figures import REMARKS, figure_of
from matar_tf.reporting.cards import cards_of
from matar_tf.reporting.matrix import matrix_tables
from matar_tf.reporting.plots import COLORS, front_svg, history_svg
from matar_tf.reporting.readable import readable_column, term_of
from matar_tf.reporting.tables import Table, bits_table, table_of
from matar_tf.reporting.text import float_sentences
from matar_tf.results import Provenance, SearchResult
from matar_tf.verdict import CHEAPEST, verdict_of

__all__ = ["Asked", "to_html"]

_TEMPLATE: Final = "page.html"
_MAX_ENTRIES: Final = 40  # of a table with one column per policy entry
# The colours of plots by their names in the page's style, which has two sets of them.
_VARIABLES: Final[Mapping[str, str]] = {
    colour: f"var(--{name})"
    for name, colour in {
        **{f"plot-{name}": colour for name, colour in COLORS.items()},
        **{"ink": "#000000", "paper": "#ffffff", "line": "#b0b0b0"},  # matplotlib's
    }.items()
}
_SCRIPT: Final = "page.js"
_STYLE: Final = "page.css"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run was asked, as far as results do not say it.

    Attributes:
      network: Name of the network; "" if it is not known.
      data: Name of the data; "" likewise.
      limits: Bounds of metrics and costs, each as text.
    """

    network: str = ""
    data: str = ""
    limits: tuple[str, ...] = ()


def to_html(
    results: Sequence[SearchResult],
    matrix: CostMatrix,
    float_metrics: Mapping[str, float] | None = None,
    failures: Mapping[str, str] = MappingProxyType({}),
    notes: Sequence[str] = (),
    asked: Asked = Asked(),
) -> str:
    """Returns the page of a run; equal results give equal pages.

    First what was asked and the verdict for each target, then plots and tables, digests
    last. Plots are SVG within the page. Names link to the files of policies beside it,
    in the folder of each target.

    Args:
      results: One for each target, of one network and one data set.
      matrix: What each policy costs on each target.
      float_metrics: What the float network reaches, if it is known.
      failures: Why targets have no result, by name.
      notes: Sentences on what the figures are worth.
      asked: What the run was asked.

    Raises:
      SearchError: If there are no results.
    """
    if not results:
        raise SearchError("Expected at least one result to report, got none.")
    # The page escapes all that it is given but the plots: their writer did.
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _member(_SCRIPT)
    digest = hashlib.sha256(script.encode()).digest()
    return environment.from_string(_member(_TEMPLATE)).render(
        style=_member(_STYLE),
        script=script,
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
        network=asked.network,
        asked=_asked(results, asked),
        facts=_facts(results[0].provenance),
        in_float=float_sentences(matrix.float_layers),
        sections=[_section(result, float_metrics) for result in results],
        matrix=matrix_tables(matrix, readable_column),
        failures=failures,
        notes=notes,
    )


def _member(name: str) -> str:
    source = importlib.resources.files("matar_tf.reporting").joinpath(name)
    return source.read_text(encoding="utf-8")


def _asked(results: Sequence[SearchResult], asked: Asked) -> dict[str, str]:
    first = results[0]
    headers = [figure_of(one.name, first.heads).header for one in first.objectives]
    wishes = [
        f"{'more' if one.maximize else 'less'} {header}"
        for one, header in zip(first.objectives, headers, strict=True)
    ]
    found = {"asked for": ", ".join(wishes)}
    if any(pick.kind == CHEAPEST for pick in verdict_of(first)):
        points = f"{first.within:g} point{'' if first.within == 1 else 's'}"
        found["may be lost"] = f"{points} of accuracy"
    if asked.limits:
        found["limits"] = "; ".join(asked.limits)
    found["targets"] = ", ".join(one.target for one in results)
    number = first.provenance.num_samples
    samples = [f"{number:,} samples"] if number else []
    data = ", ".join([*([asked.data] if asked.data else []), *samples])
    return {**found, **({"data": data} if data else {})}


def _facts(provenance: Provenance) -> dict[str, str]:
    return {
        "network": provenance.artifact_digest,
        "data": provenance.data_digest,
        "samples": str(provenance.num_samples),
        "seed": str(provenance.seed),
        "created": provenance.created,
        "command": provenance.command,
        "versions": ", ".join(
            f"{name} {version}"
            for name, version in provenance.versions.items()
            if name not in REMARKS
        ),
    }


def _section(
    result: SearchResult, float_metrics: Mapping[str, float] | None
) -> dict[str, Any]:
    table = _readable(table_of(result, float_metrics))
    told = [pick.sentence for pick in verdict_of(result)]  # which cards say
    return {
        "target": result.target,
        "cards": cards_of(result, table),
        "sentences": [one for one in table.sentences if one not in told],
        "columns": [(column, term_of(column)) for column in table.columns],
        "rows": list(zip(table.rows, table.cells(), strict=True)),
        "bits": _blocks(*bits_table(result)),
        "front": _inline(front_svg(result, float_metrics)),
        "history": _inline(history_svg(result)) if len(result.history) > 1 else None,
    }


def _blocks(entries: list[str], rows: list[list[str]]) -> list[dict[str, Any]]:
    """Returns the bits as tables that are no wider than a page."""
    starts = range(0, len(entries), _MAX_ENTRIES)
    ends = [(start, start + _MAX_ENTRIES) for start in starts]
    return [
        {
            "entries": entries[start:end],
            "rows": [[row[0], *row[1 + start : 1 + end]] for row in rows],
        }
        for start, end in ends
    ]


def _readable(table: Table) -> Table:
    """Returns a table whose columns have units that suit the front."""
    front = [row for row in table.rows if row.role == "front"] or table.rows
    columns = [
        readable_column(column, [row.figures.get(column.name) for row in front])
        for column in table.columns
    ]
    return replace(table, columns=tuple(columns))


def _inline(svg: str) -> str:
    """Returns an SVG file as a part of a page, in whose colours it is.

    Without the declarations that a page has no place for. Texts, in which no tag can
    be, keep what they say.
    """

    def themed(tag: re.Match[str]) -> str:
        return re.sub(
            "#[0-9a-f]{6}", lambda one: _VARIABLES.get(one[0], one[0]), tag[0]
        )

    return re.sub("<[^>]*>", themed, svg[svg.index("<svg") :])
