"""The figures that a table can show: header, unit, source, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from matar_tf.errors import SearchError
from matar_tf.metric_names import is_share, top_k_of

__all__ = [
    "COLUMNS",
    "Column",
    "CostKind",
    "Kind",
    "column_of",
    "is_taken",
    "markdown_row",
    "wilson_interval",
]

CostKind: TypeAlias = Literal["modelled", "compiler estimate", "latency table"]
Kind: TypeAlias = CostKind | Literal["measured", "stored bytes", "counted", "unknown"]
_ESCAPED_PIPE: Final = r"\|"
_Z95: Final = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure.

    Attributes:
      name: Name in files, unit included.
      header: Title in printed tables.
      unit: Unit in printed tables, empty for a pure number.
      kind: Where the figure comes from.
      scale: What a value is multiplied by to be in that unit.
      form: How it is printed then, as `format` takes it.
    """

    name: str
    header: str
    unit: str
    kind: Kind
    scale: float
    form: str

    @property
    def title(self) -> str:
        """The header with its unit."""
        return f"{self.header} [{self.unit}]" if self.unit else self.header

    def priced_by(self, source: CostKind) -> Column:
        """Returns the column, of kind `source` if that is what gives the figure."""
        return replace(self, kind=source) if self.name in _GIVEN[source] else self

    def text(self, value: float) -> str:
        """Returns a value in the unit of the column."""
        return format(value * self.scale, self.form)

    def interval(self, value: float, num_samples: int) -> tuple[float, float] | None:
        """Returns the bounds of a value's 95 % interval, in the unit of the value.

        None without one: for a figure that is no share of samples, or of none.
        """
        if not is_share(self.name) or num_samples < 1 or not 0.0 <= value <= 1.0:
            return None
        return wilson_interval(value, num_samples)


def wilson_interval(share: float, num_samples: int) -> tuple[float, float]:
    """Returns the bounds of the 95 % Wilson score interval of a share.

    ``(p + z^2/2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2/n)`` (Wilson, 1927).
    It is not centred on the share, least of all near 0 and 1.

    Args:
      share: A share in [0, 1].
      num_samples: Number of samples that the share was measured on.

    Raises:
      SearchError: If there are no samples, or the share is not within [0, 1].
    """
    if num_samples < 1 or not 0.0 <= share <= 1.0:
        raise SearchError(
            f"Expected a share in [0, 1] of at least 1 sample, got {share} of "
            f"{num_samples}; print it without an interval."
        )
    square = _Z95**2 / num_samples
    spread = share * (1.0 - share) / num_samples + square / (4.0 * num_samples)
    centre = (share + square / 2.0) / (1.0 + square)
    half_width = _Z95 / (1.0 + square) * math.sqrt(spread)
    # The share itself is within, which rounding might deny of 0 and 1.
    return (
        min(max(centre - half_width, 0.0), share),
        max(min(centre + half_width, 1.0), share),
    )


# The figures that a source gives in the place of the model.
_GIVEN: Final[Mapping[CostKind, frozenset[str]]] = {
    "modelled": frozenset(),
    "compiler estimate": frozenset(
        {"latency_ms", "cycles", "weight_bytes", "peak_activation_bytes"}
    ),
    "latency table": frozenset({"latency_ms", "cycles"}),
}
_KIB: Final = 2.0**-10
_FIGURES: Final[tuple[tuple[str, str, str, Kind, float, str], ...]] = (
    ("accuracy", "accuracy", "%", "measured", 100.0, ",.2f"),
    ("search_accuracy", "searched", "%", "measured", 100.0, ",.2f"),
    ("loss", "loss", "", "measured", 1.0, ".4g"),
    ("argmax_agreement", "agreement", "%", "measured", 100.0, ",.2f"),
    ("mean_weight_bits", "W bits", "", "counted", 1.0, ",.2f"),
    ("mean_activation_bits", "A bits", "", "counted", 1.0, ",.2f"),
    ("macs", "MACs", "1e6", "counted", 1e-6, ",.3f"),
    ("bops", "BOPs", "1e6", "counted", 1e-6, ",.1f"),
    ("cycles", "cycles", "", "modelled", 1.0, ",.0f"),
    ("latency_ms", "latency", "ms", "modelled", 1.0, ".4g"),
    ("measured_latency_ms", "measured", "ms", "measured", 1.0, ".4g"),
    ("measured_spread_ms", "spread", "ms", "measured", 1.0, ".4g"),
    ("energy_pj", "energy", "µJ", "modelled", 1e-6, ".4g"),
    ("weight_bytes", "weights", "KiB", "stored bytes", _KIB, ",.1f"),
    ("file_bytes", "file", "KiB", "stored bytes", _KIB, ",.1f"),
    ("peak_activation_bytes", "peak activations", "KiB", "modelled", _KIB, ",.2f"),
)
COLUMNS: Final = tuple(
    Column(name=name, header=header, unit=unit, kind=kind, scale=scale, form=form)
    for name, header, unit, kind, scale, form in _FIGURES
)
_BY_NAME: Final = {column.name: column for column in COLUMNS}
_METRICS: Final = frozenset({"accuracy", "loss"})
_ROW_KEYS: Final = frozenset({"target", "name", "role", "num_samples"})  # of CSV files


def column_of(name: str) -> Column:
    """Returns the column of a figure; an unknown one is shown under its raw name."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    k = top_k_of(name)
    if k is not None:
        return replace(_BY_NAME["accuracy"], name=name, header=f"top-{k}")
    return Column(
        name=name, header=name, unit="", kind="unknown", scale=1.0, form=".4g"
    )


def markdown_row(cells: Sequence[str]) -> str:
    """Returns a row of a table in Markdown."""
    return f"| {' | '.join(cell.replace('|', _ESCAPED_PIPE) for cell in cells)} |"


def is_taken(name: str) -> bool:
    """Returns whether a metric of this name would stand in another figure's column."""
    is_bound = any(
        name.endswith(end) and is_share(name.removesuffix(end))
        for end in ("_low", "_high")
    )
    return is_bound or name in _ROW_KEYS or name in _BY_NAME.keys() - _METRICS
