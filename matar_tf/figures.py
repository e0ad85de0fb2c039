"""Figures: what is measured of a policy and what it costs, by name.

One row for each says its unit, where it comes from, which way is better and how it is
printed; search flags, limits, tables, plots and files read it here.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, cast

from matar_tf.errors import SearchError

__all__ = [
    "COST_NAMES",
    "DISAGREEMENT",
    "FIGURES",
    "JOINED",
    "PREDICTED",
    "REMARKS",
    "SCALES",
    "UNCHECKED",
    "Z95",
    "CostKind",
    "Figure",
    "Kind",
    "bound_names",
    "expected_name",
    "figure_of",
    "figure_texts",
    "is_expected",
    "is_metric_value",
    "is_of_part",
    "is_share",
    "is_taken",
    "larger_is_better",
    "measured_name",
    "top_k_of",
    "units_of",
    "wilson_interval",
]

CostKind: TypeAlias = Literal[
    "modelled", "modelled, not validated", "compiler estimate", "latency table"
]
Kind: TypeAlias = (
    CostKind
    | Literal[
        "measured", "predicted", "estimated", "stored bytes", "counted", "unknown"
    ]
)
# Among the versions of a result whose metrics nobody measured: what they follow from.
PREDICTED: Final = "predicted from"
# Likewise, where figures join what was measured with what a developer had measured.
JOINED: Final = "joined with"
# Likewise, that the costs of a target were compared with nothing.
UNCHECKED: Final = "not validated"
# Likewise, what a target does to scales that accuracies were measured with.
SCALES: Final = "scales"
DISAGREEMENT: Final = "disagreement"  # how samples differ from a developer's
REMARKS: Final = (UNCHECKED, SCALES, DISAGREEMENT)  # which are said elsewhere
_EXPECTED: Final = "expected_"
_TOP_K: Final = re.compile(r"top_([1-9][0-9]*)_accuracy")
Z95: Final = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a policy.

    Attributes:
      name: Name in files, unit included.
      header: Title in printed tables.
      unit: Unit in printed tables, empty for a pure number.
      kind: Where the figure comes from.
      scale: What a value is multiplied by to be in that unit.
      form: How it is printed then, as `format` takes it.
      maximize: Whether larger is better.
      is_share: Whether it is the share of samples that were classified rightly.
    """

    name: str
    header: str
    unit: str
    kind: Kind
    scale: float
    form: str
    maximize: bool = False
    is_share: bool = False

    @property
    def title(self) -> str:
        """The header with its unit."""
        return f"{self.header} [{self.unit}]" if self.unit else self.header

    def priced_by(self, source: CostKind) -> Figure:
        """Returns the figure, of kind `source` if that is what gives it."""
        return replace(self, kind=source) if self.name in _GIVEN[source] else self

    def predicted(self) -> Figure:
        """Returns the figure as one that nobody has measured."""
        return replace(self, kind="predicted", header=f"predicted {self.header}")

    def text(self, value: float) -> str:
        """Returns a value in the unit of the figure, as printed."""
        return format(value * self.scale, self.form)

    def interval(self, value: float, num_samples: int) -> tuple[float, float] | None:
        """Returns the bounds of a value's 95 % interval, in the unit of the value.

        None without one: for a figure that is no share of samples, or of none.
        """
        if not self.is_share or num_samples < 1 or not 0.0 <= value <= 1.0:
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
    square = Z95**2 / num_samples
    spread = share * (1.0 - share) / num_samples + square / (4.0 * num_samples)
    centre = (share + square / 2.0) / (1.0 + square)
    half_width = Z95 / (1.0 + square) * math.sqrt(spread)
    # The share itself is within, which rounding might deny of 0 and 1.
    return (
        min(max(centre - half_width, 0.0), share),
        max(min(centre + half_width, 1.0), share),
    )


# The figures that a source gives in the place of the model.
_GIVEN: Final[Mapping[CostKind, frozenset[str]]] = {
    "modelled": frozenset(),
    # All that is modelled, on a target that was compared with nothing.
    "modelled, not validated": frozenset(
        {
            *("latency_ms", "cycles", "float_share", "energy_pj", "luts"),
            "peak_activation_bytes",
        }
    ),
    "compiler estimate": frozenset(
        {"latency_ms", "cycles", "weight_bytes", "peak_activation_bytes"}
    ),
    "latency table": frozenset({"latency_ms", "cycles"}),
}
_KIB: Final = 2.0**-10
_BETTER_IF_LARGER: Final = (  # ends of names
    *("accuracy", "agreement", "mean_iou", "auc"),
)
_SHARES: Final = ("accuracy", "agreement")  # and top_K_accuracy
_FIGURES: Final[tuple[tuple[str, str, str, Kind, float, str], ...]] = (
    ("accuracy", "accuracy", "%", "measured", 100.0, ",.2f"),
    ("search_accuracy", "searched", "%", "measured", 100.0, ",.2f"),
    ("loss", "loss", "", "measured", 1.0, ".4g"),
    ("mean_iou", "mean IoU", "%", "measured", 100.0, ",.2f"),
    ("auc", "AUC", "%", "measured", 100.0, ",.2f"),
    ("binary_accuracy", "binary accuracy", "%", "measured", 100.0, ",.2f"),
    ("mean_squared_error", "squared error", "", "measured", 1.0, ".4g"),
    ("mean_absolute_error", "absolute error", "", "measured", 1.0, ".4g"),
    ("smooth_l1", "smooth L1", "", "measured", 1.0, ".4g"),
    ("agreement", "same class", "%", "measured", 100.0, ",.2f"),
    ("argmax_agreement", "agreement", "%", "measured", 100.0, ",.2f"),
    ("mean_weight_bits", "W bits", "", "counted", 1.0, ",.2f"),
    ("mean_activation_bits", "A bits", "", "counted", 1.0, ",.2f"),
    ("macs", "MACs", "1e6", "counted", 1e-6, ",.3f"),
    ("bops", "BOPs", "1e6", "counted", 1e-6, ",.1f"),
    ("cycles", "cycles", "", "modelled", 1.0, ",.0f"),
    ("latency_ms", "latency", "ms", "modelled", 1.0, ".4g"),
    ("float_share", "in float", "%", "modelled", 100.0, ",.1f"),
    ("measured_latency_ms", "on host", "ms", "measured", 1.0, ".4g"),
    ("measured_spread_ms", "host spread", "ms", "measured", 1.0, ".4g"),
    ("energy_pj", "energy", "µJ", "modelled", 1e-6, ".4g"),
    ("luts", "LUTs", "", "modelled", 1.0, ",.0f"),
    ("weight_bytes", "weights", "KiB", "stored bytes", _KIB, ",.1f"),
    ("file_bytes", "file", "KiB", "stored bytes", _KIB, ",.1f"),
    ("arena_bytes", "arena", "KiB", "counted", _KIB, ",.1f"),
    ("peak_activation_bytes", "peak activations", "KiB", "modelled", _KIB, ",.2f"),
)
FIGURES: Final = tuple(
    Figure(
        name=name,
        header=header,
        unit=unit,
        kind=kind,
        scale=scale,
        form=form,
        maximize=name.endswith(_BETTER_IF_LARGER),
        is_share=name in _SHARES,
    )
    for name, header, unit, kind, scale, form in _FIGURES
)
_BY_NAME: Final = {figure.name: figure for figure in FIGURES}
_METRICS: Final = frozenset(
    {
        *("accuracy", "agreement", "loss", "mean_iou", "auc", "binary_accuracy"),
        *("mean_squared_error", "mean_absolute_error", "smooth_l1"),
    }
)
# What `matar_tf.run.costs.PolicyCosts` gives of every policy.
COST_NAMES: Final = (
    *("latency_ms", "cycles", "energy_pj", "weight_bytes", "peak_activation_bytes"),
    *("bops", "macs", "mean_weight_bits", "mean_activation_bits"),
)
# Units that a figure may be given in, by the end of its name, which says its own.
_UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "_bytes": {"B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2},
    "_ms": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3},
    "_pj": {"pJ": 1, "nJ": 1e3, "uJ": 1e6, "µJ": 1e6, "mJ": 1e9, "J": 1e12},
}
# Of CSV files.
_ROW_KEYS: Final = frozenset({"target", "name", "role", "num_samples", "predicted"})


def figure_of(name: str, heads: Iterable[str] = ()) -> Figure:
    """Returns the figure of a name; an unknown one is shown under its raw name.

    Args:
      name: Of a metric or a cost.
      heads: Outputs of a network of several: a metric of one has its name before it.
    """
    for head in sorted(heads, key=len, reverse=True):
        metric = name.removeprefix(f"{head}_")
        if metric != name and (metric in _METRICS or top_k_of(metric) is not None):
            figure = figure_of(metric)
            return replace(figure, name=name, header=f"{head} {figure.header}")
    if name in _BY_NAME:
        return _BY_NAME[name]
    measured = measured_name(name)
    if measured != name:
        figure = figure_of(measured, heads)
        header = f"expected {figure.header}"
        return replace(figure, name=name, header=header, kind="estimated")
    k = top_k_of(name)
    if k is not None:
        return replace(_BY_NAME["accuracy"], name=name, header=f"top-{k}")
    return Figure(
        name=name,
        header=name,
        unit="",
        kind="unknown",
        scale=1.0,
        form=".4g",
        maximize=larger_is_better(name),
    )


def expected_name(name: str) -> str:
    """Returns the name of what is expected of a metric elsewhere than measured."""
    return f"{_EXPECTED}{name}"


def measured_name(name: str) -> str:
    """Returns the name of the metric that a figure is expected of, or the figure's."""
    return name.removeprefix(_EXPECTED)


def is_expected(name: str) -> bool:
    """Returns whether a figure is what is expected of a metric, or a bound of it."""
    return name.startswith(_EXPECTED)


def is_of_part(name: str) -> bool:
    """Returns whether a figure is of a part of the samples, such as ``loss/1``."""
    return name.rpartition("/")[2].isdigit()


def bound_names(name: str) -> tuple[str, str]:
    """Returns the names of the bounds of a figure's 95 % interval."""
    return f"{name}_low", f"{name}_high"


def figure_texts(figures: Mapping[str, float | None]) -> list[str]:
    """Returns names and values, in one text with its bounds one that was guessed."""
    texts: list[str] = []
    bounds = {bound for name in figures for bound in bound_names(name)}
    for name, value in figures.items():
        low, high = (figures.get(end) for end in bound_names(name))
        if value is None or name in bounds:
            continue
        if low is None or high is None:
            texts.append(f"{name} {value:.4g}")
        else:
            word = "" if is_expected(name) else "predicted "
            texts.append(f"{word}{name} {value:.4g} ({low:.4g}..{high:.4g})")
    return texts


def larger_is_better(name: str) -> bool:
    """Returns whether more of a figure is better, as its name says."""
    return name.endswith(_BETTER_IF_LARGER)


def top_k_of(name: str) -> int | None:
    """Returns the K of ``top_K_accuracy``, None for any other name."""
    match = _TOP_K.fullmatch(name)
    return int(match[1]) if match else None


def is_share(name: str) -> bool:
    """Returns whether a metric is the share of samples that were classified rightly."""
    return name in _SHARES or top_k_of(name) is not None


def is_metric_value(name: str, value: object) -> bool:
    """Returns whether something can be a metric's value.

    That is a finite number; within 0..1 for a share of samples.
    """
    if type(value) not in (int, float):
        return False
    number = cast("float", value)
    return 0 <= number <= 1 if is_share(name) else abs(number) <= sys.float_info.max


def units_of(name: str) -> Mapping[str, float] | None:
    """Returns how many of a figure's own unit are in each that it may be given in.

    Bytes, times and energies have several; None for a figure without a unit.
    """
    return next((_UNITS[end] for end in _UNITS if name.endswith(end)), None)


def is_taken(name: str) -> bool:
    """Returns whether a metric of this name would have the name of another figure."""
    is_bound = any(
        name.endswith(end) and is_share(name.removesuffix(end))
        for end in ("_low", "_high")
    )
    is_bound = is_bound or is_expected(name)
    return is_bound or name in _ROW_KEYS or name in _BY_NAME.keys() - _METRICS
