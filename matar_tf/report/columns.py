"""The figures that a table can show: header, unit, source, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from matar_tf.errors import SearchError

__all__ = ["COLUMNS", "Column", "Kind", "column_of", "wilson_half_width"]

Kind = Literal[
    "measured",
    "modelled",
    "compiler estimate",
    "latency table",
    "stored bytes",
    "counted",
    "unknown",
]
_Z95: Final = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure.

    Attributes:
      name: Name in files, unit included.
      header: Title in printed tables.
      unit: Unit in printed tables, empty for a pure number.
      kind: Where the figure comes from.
      text: Prints a value in that unit.
    """

    name: str
    header: str
    unit: str
    kind: Kind
    text: Callable[[float], str]

    @property
    def title(self) -> str:
        """The header with its unit."""
        return f"{self.header} [{self.unit}]" if self.unit else self.header


def wilson_half_width(share: float, num_samples: int) -> float:
    """Returns half the width of the 95 % Wilson score interval of a share.

    ``z / (1 + z^2/n) * sqrt(p (1 - p) / n + z^2 / (4 n^2))`` (Wilson, 1927).

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
    return _Z95 / (1.0 + square) * math.sqrt(spread)


def _scaled(factor: float, digits: int) -> Callable[[float], str]:
    return lambda value: f"{value * factor:,.{digits}f}"


def _microjoules(value: float) -> str:
    return _significant(value * 1e-6)


def _significant(value: float) -> str:
    return f"{value:.4g}"


_FIGURES: Final[tuple[tuple[str, str, str, Kind, Callable[[float], str]], ...]] = (
    ("accuracy", "accuracy", "%", "measured", _scaled(100.0, 2)),
    ("search_accuracy", "searched", "%", "measured", _scaled(100.0, 2)),
    ("loss", "loss", "", "measured", _significant),
    ("argmax_agreement", "agreement", "%", "measured", _scaled(100.0, 2)),
    ("mean_weight_bits", "W bits", "", "counted", _scaled(1.0, 2)),
    ("mean_activation_bits", "A bits", "", "counted", _scaled(1.0, 2)),
    ("macs", "MACs", "1e6", "counted", _scaled(1e-6, 3)),
    ("bops", "BOPs", "1e6", "counted", _scaled(1e-6, 1)),
    ("cycles", "cycles", "", "modelled", _scaled(1.0, 0)),
    ("latency_ms", "latency", "ms", "modelled", _significant),
    ("measured_latency_ms", "measured", "ms", "measured", _significant),
    ("measured_spread_ms", "spread", "ms", "measured", _significant),
    ("energy_pj", "energy", "µJ", "modelled", _microjoules),
    ("weight_bytes", "weights", "KiB", "stored bytes", _scaled(2.0**-10, 1)),
    ("file_bytes", "file", "KiB", "stored bytes", _scaled(2.0**-10, 1)),
    (
        "peak_activation_bytes",
        "peak activations",
        "KiB",
        "modelled",
        _scaled(2.0**-10, 2),
    ),
)
COLUMNS: Final = tuple(
    Column(name=name, header=header, unit=unit, kind=kind, text=text)
    for name, header, unit, kind, text in _FIGURES
)
_BY_NAME: Final = {column.name: column for column in COLUMNS}


def column_of(name: str) -> Column:
    """Returns the column of a figure; an unknown one is shown under its raw name."""
    return _BY_NAME.get(name) or Column(
        name=name, header=name, unit="", kind="unknown", text=_significant
    )
