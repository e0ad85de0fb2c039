"""Figures of outputs: metrics, those of a user included, and what they must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from matar_tf.errors import DataError
from matar_tf.metric_names import is_share

__all__ = ["Metric", "compute_metrics"]

Metric = Callable[[np.ndarray, np.ndarray], float]


def compute_metrics(
    metrics: Mapping[str, Metric], outputs: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Returns the figure of each metric, by name.

    Each metric sees the same arrays, which it cannot change.

    Raises:
      DataError: If a metric of the user's own writes into an array, does not return a
        finite number, or not a share though its name says so.
    """
    figures: dict[str, float] = {}
    for name, metric in metrics.items():
        try:
            value: Any = metric(_read_only(outputs), _read_only(labels))
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise DataError(
                f"Expected a metric {name!r} that leaves its arrays as they are, but: "
                f"{error}; let it change copies."
            ) from error
        figures[name] = _figure(name, value)
    return figures


def _read_only(array: np.ndarray) -> np.ndarray:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _figure(name: str, value: Any) -> float:
    """Returns what a metric returned as a float."""
    try:
        figure = float(value)
    except OverflowError:
        figure = math.inf  # an integer of hundreds of digits
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Expected a number from the metric {name!r}, got {value!r}."
        ) from error
    if not math.isfinite(figure):
        raise DataError(
            f"Expected a finite number from the metric {name!r}, got {figure}."
        )
    if is_share(name) and not 0.0 <= figure <= 1.0:
        raise DataError(
            f"Expected a share in 0..1 from the metric {name!r}, got {figure}; return "
            "one, or rename the function."
        )
    return figure
