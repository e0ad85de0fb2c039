"""Results that show themselves: printed as tables, in a notebook as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from matar_tf.cost_matrix import CostMatrix
from matar_tf.errors import SearchError
from matar_tf.io.files import check_parent, write_atomically
from matar_tf.reporting.matrix import matrix_tables, matrix_to_text
from matar_tf.reporting.plots import front_svg
from matar_tf.reporting.tables import table_of, to_text
from matar_tf.results import SearchResult

__all__ = ["Plot", "ShownMatrix", "ShownResult", "html_table"]


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
      svg: The file, as text.
    """

    svg: str

    def __repr__(self) -> str:
        return f"<a plot of {len(self.svg)} bytes of SVG; .save('front.svg') writes it>"

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Writes the file, which is SVG.

        Raises:
          SearchError: If the path ends otherwise, or its folder is not there.
        """
        if Path(path).suffix != ".svg":
            raise SearchError(
                f"Expected a path that ends in .svg for the plot, got {str(path)!r}; "
                "other programs make other pictures of it."
            )
        check_parent(Path(path), SearchError)
        write_atomically(Path(path), self.svg.encode())


@dataclass(frozen=True, kw_only=True, repr=False)
class ShownResult(SearchResult):
    """A `SearchResult` that is printed as its table.

    Attributes:
      float_metrics: What the float network reaches, for a row of its own; None if it is
        not known.
    """

    float_metrics: Mapping[str, float] | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls, result: SearchResult, float_metrics: Mapping[str, float] | None = None
    ) -> ShownResult:
        """Returns a result as one that shows itself."""
        values = {one.name: getattr(result, one.name) for one in fields(SearchResult)}
        return cls(**values, float_metrics=float_metrics)

    @classmethod
    def from_json(cls, value: object) -> ShownResult:
        """Reads what `to_json` returned; the float network is not part of that."""
        return cls.of(SearchResult.from_json(value))

    def __repr__(self) -> str:
        return to_text(self, self.float_metrics)

    def _repr_html_(self) -> str:
        table = table_of(self, self.float_metrics)
        header = ["policy", *(figure.title for figure in table.columns)]
        return _section(self.target, table.sentences, html_table(header, table.cells()))

    def plot(self) -> Plot:
        """Returns the plot of the front.

        Raises:
          SearchError: If the front is empty, or there is no metric or no cost among
            the objectives.
        """
        return Plot(front_svg(self, self.float_metrics))


@dataclass(frozen=True, kw_only=True, repr=False)
class ShownMatrix(CostMatrix):
    """A `CostMatrix` that is printed as its tables."""

    @classmethod
    def of(cls, matrix: CostMatrix) -> ShownMatrix:
        """Returns a matrix as one that shows itself."""
        return cls(**{one.name: getattr(matrix, one.name) for one in fields(matrix)})

    def __repr__(self) -> str:
        return matrix_to_text(self)

    def _repr_html_(self) -> str:
        return "".join(
            _section(table.title, (), html_table(table.header, table.rows))
            for table in matrix_tables(self)
        )


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in HTML; all texts are escaped."""
    lines = [
        f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"
        for tag, row in (("th", header), *(("td", row) for row in rows))
    ]
    return f"<table>{''.join(lines)}</table>"


def _section(title: str, sentences: Iterable[str], table: str) -> str:
    texts = "".join(f"<p>{html.escape(one)}</p>" for one in sentences)
    return f"<h3>{html.escape(title)}</h3>{texts}{table}"
