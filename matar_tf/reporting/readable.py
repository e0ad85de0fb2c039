"""Figures for people who read a page: units that suit the values, and what words mean.

Files and the terminal keep the units of `matar_tf.figures`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from matar_tf.figures import Figure, is_expected, measured_name, top_k_of, units_of

__all__ = ["readable_column", "term_of"]

# Of those that a figure may be given in, the ones that a page has; smallest first.
_UNITS: Final = ("B", "KiB", "MiB", "ns", "µs", "ms", "s", "pJ", "nJ", "µJ", "mJ", "J")
_FORMS: Final[Mapping[str, str]] = {"B": ",.0f", "KiB": ",.1f", "MiB": ",.2f"}
_MILLIONS: Final = "1e6"
_MOST: Final = 9999.5  # what four digits show without an exponent
_TERMS: Final[Mapping[str, str]] = {
    "accuracy": "share of samples that the network classifies rightly",
    "search_accuracy": "accuracy on the samples that the search was led by",
    "loss": "what training makes small; less is better",
    "agreement": "share of samples with the class that the widest policy gives",
    "argmax_agreement": "share of samples on which file and Keras network agree",
    "mean_iou": "mean overlap of regions found and regions meant",
    "auc": "area under the curve of hits against false alarms",
    "mean_weight_bits": "bits of a weight, on average over all weights",
    "mean_activation_bits": "bits of an activation, on average over all activations",
    "macs": "multiplications with addition for one sample",
    "bops": "MACs times the widths of both factors",
    "cycles": "clock cycles for one sample",
    "latency_ms": "time for one sample",
    "float_share": "share of the cycles in layers that stay in float",
    "measured_latency_ms": "time for one sample on the machine that ran the search",
    "measured_spread_ms": "how far repeated measurements of that time lie apart",
    "energy_pj": "energy for one sample",
    "luts": "look-up tables of an FPGA",
    "weight_bytes": "all weights, packed at their widths",
    "file_bytes": "the .tflite file",
    "arena_bytes": "working memory of LiteRT for Microcontrollers",
    "peak_activation_bytes": "most memory that activations take at one time",
}


def readable_column(column: Figure, values: Iterable[float | None]) -> Figure:
    """Returns a figure in the largest unit that half of the values have one of or more.

    Args:
      column: The figure.
      values: All that are shown of it, in its own unit; None for one that is missing.
    """
    if column.unit == _MILLIONS:
        return replace(column, unit="million")
    sizes = units_of(column.name) or {}
    known = [abs(value) for value in values if value]
    if column.unit not in sizes or not known:
        return column
    names = [unit for unit in _UNITS if unit in sizes]
    middle = statistics.median_low(known)
    unit = [one for one in names if middle >= sizes[one] or one == names[0]][-1]
    form = column.form if unit == column.unit else _FORMS.get(unit, ".4g")
    if form == ".4g" and max(known) / sizes[unit] >= _MOST:
        form = ",.1f"
    return replace(column, unit=unit, scale=1.0 / sizes[unit], form=form)


def term_of(column: Figure) -> str:
    """Returns what a column shows and where it comes from, for who points at it."""
    name = measured_name(column.name)
    k = top_k_of(name)
    meaning = _TERMS.get(name, "")
    if k is not None:
        meaning = f"share of samples whose class is among the {k} likeliest"
    if meaning and is_expected(column.name):
        meaning = f"{meaning}, as it is expected elsewhere"
    return f"{column.header}: {f'{meaning}; ' if meaning else ''}{column.kind}"
