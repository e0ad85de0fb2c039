"""The report of a run as one page that needs no network, no server and no scripts."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import jinja2

from matar_tf.cost_matrix import CostMatrix
from matar_tf.errors import SearchError
from matar_tf.figures import REMARKS
from matar_tf.reporting.matrix import matrix_tables
from matar_tf.reporting.plots import front_svg, history_svg
from matar_tf.reporting.tables import bits_table, table_of
from matar_tf.reporting.text import float_sentences
from matar_tf.results import Provenance, SearchResult

__all__ = ["to_html"]

_TEMPLATE: Final = "page.html"


def to_html(
    results: Sequence[SearchResult],
    matrix: CostMatrix,
    float_metrics: Mapping[str, float] | None = None,
    failures: Mapping[str, str] = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> str:
    """Returns the page of a run; equal results give equal pages.

    Plots are SVG within the page. Names link to the files of policies beside it, in the
    folder of each target.

    Args:
      results: One for each target, of one network and one data set.
      matrix: What each policy costs on each target.
      float_metrics: What the float network reaches, if it is known.
      failures: Why targets have no result, by name.
      notes: Sentences on what the figures are worth.

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
    source = importlib.resources.files("matar_tf.reporting").joinpath(_TEMPLATE)
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        facts=_facts(results[0].provenance),
        in_float=float_sentences(matrix.float_layers),
        sections=[_section(result, float_metrics) for result in results],
        matrix=matrix_tables(matrix),
        failures=failures,
        notes=notes,
    )


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
    table = table_of(result, float_metrics)
    entries, bits = bits_table(result)
    return {
        "target": result.target,
        "sentences": table.sentences,
        "columns": table.columns,
        "rows": list(zip(table.rows, table.cells(), strict=True)),
        "entries": entries,
        "bits": bits,
        "front": _inline(front_svg(result, float_metrics)),
        "history": _inline(history_svg(result)) if len(result.history) > 1 else None,
    }


def _inline(svg: str) -> str:
    """Returns an SVG file without the declarations that a page has no place for."""
    return svg[svg.index("<svg") :]
