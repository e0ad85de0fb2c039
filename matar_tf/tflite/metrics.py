"""Metrics of a network's outputs.

A network of one output tells two classes apart: ``[0, z]`` are the logits of the
labels 0 and 1 where the output ``z`` is a logit, ``[1 - p, p]`` their probabilities
where it is one (a sigmoid). So the label is 1 above a threshold of 0 or of 0.5, and the
loss is the binary cross-entropy.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from matar_tf.data import import_function
from matar_tf.errors import DataError, did_you_mean
from matar_tf.figures import is_share, top_k_of

__all__ = [
    "METRIC_NAMES",
    "Metric",
    "accuracy",
    "argmax_agreement",
    "compute_metrics",
    "cross_entropy",
    "get_metrics",
    "negative_log_likelihood",
    "own_metric_digests",
    "top_k_accuracy",
]

METRIC_NAMES: Final = ("accuracy", "loss")
_ONE_STEP, _FLOAT32 = 1.001, 1e-6
_SMALLEST_PROBABILITY = 1e-7  # as keras.backend.epsilon

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of samples whose largest output is the label."""
    return float(np.mean(outputs.argmax(axis=-1) == labels))


def cross_entropy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of ``-log softmax(outputs)[label]``; outputs are logits."""
    shifted = outputs.astype(np.float64) - outputs.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))


def negative_log_likelihood(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of ``-log outputs[label]``; outputs are probabilities.

    A probability counts as at least 1e-7, as in Keras.
    """
    chosen = outputs[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.mean(np.log(np.maximum(chosen, _SMALLEST_PROBABILITY))))


def top_k_accuracy(outputs: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """Returns the share of samples whose label is among the `k` largest outputs.

    Of equal outputs the one with the lower index counts as larger, as for `accuracy`.
    """
    chosen = outputs[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(outputs.shape[-1]) < np.asarray(labels)[:, None]
    before = (outputs > chosen) | ((outputs == chosen) & earlier)
    return float(np.mean(before.sum(axis=-1) < k))


def _of_classes(metric: Metric, probabilities: bool) -> Metric:
    """Returns a metric that takes a single output for two classes."""

    def measure(outputs: np.ndarray, labels: np.ndarray) -> float:
        if outputs.shape[-1] == 1:
            other = 1.0 - outputs if probabilities else np.zeros_like(outputs)
            outputs = np.concatenate([other, outputs], axis=-1)
        return metric(outputs, labels)

    return measure


def get_metrics(names: Iterable[str], *, probabilities: bool) -> dict[str, Metric]:
    """Returns functions of ``(outputs, labels)``, by the name of their figure.

    Args:
      names: ``accuracy``, ``loss``, ``top_5_accuracy`` (any number), or
        ``package.module:function``, a function of the user's own that returns a float;
        its figure is called as the function.
      probabilities: Whether outputs are probabilities, as of a network that ends in a
        softmax; otherwise they are logits. A single output stands for two classes.

    Raises:
      DataError: If there is no such metric, or two would have the same name.
    """
    if isinstance(names, str):
        raise DataError(
            f"Expected a list of metrics, got {names!r}; write metrics=[{names!r}]."
        )
    metrics: dict[str, Metric] = {}
    for name in names:
        k = top_k_of(name)
        if name == "accuracy":
            metric: Metric = _of_classes(accuracy, probabilities)
        elif name == "loss":
            loss = negative_log_likelihood if probabilities else cross_entropy
            metric = _of_classes(loss, probabilities)
        elif k is not None:
            top = functools.partial(top_k_accuracy, k=k)
            metric = _of_classes(top, probabilities)
        elif ":" in name:
            metric = import_function(name)
        else:
            raise DataError(
                f"Expected a metric among {', '.join(METRIC_NAMES)}, top_K_accuracy "
                f"and package.module:function, got {name!r}. "
                f"{did_you_mean(name, METRIC_NAMES)}"
            )
        figure = name.rpartition(":")[2]
        if figure in metrics:
            raise DataError(f"Expected metrics of different names, got {figure} twice.")
        metrics[figure] = metric
    return metrics


def own_metric_digests(names: Iterable[str]) -> list[str]:
    """Returns what tells metrics of a user's own apart: name and code of the module.

    Args:
      names: Names of metrics; see `get_metrics`. Those that are built in have none.
    """
    found: list[str] = []
    for name in sorted(name for name in names if ":" in name):
        # A module may have the function from another one.
        function = import_function(name)
        homes = name.partition(":")[0], getattr(function, "__module__", None)
        files = [getattr(sys.modules.get(home or ""), "__file__", "") for home in homes]
        code = [Path(file).read_bytes() for file in dict.fromkeys(files) if file]
        found.append(f"{name} {hashlib.sha256(b''.join(code)).hexdigest()}")
    return found


def argmax_agreement(
    outputs: np.ndarray, reference: np.ndarray, *, step: float = 0.0
) -> float:
    """Returns the share of samples with the same largest output in both.

    Where there is one output and no largest among several, the share of outputs that
    are at most one step of their grid apart.

    Args:
      outputs: Shape ``[..., num_outputs]``.
      reference: The same.
      step: Step of the grid of `outputs`; 0 for outputs that lie on none.
    """
    if outputs.shape[-1] == 1:
        # Multiples of a step carry float32 rounding.
        bound = _ONE_STEP * step + _FLOAT32 * np.abs(reference)
        return float(np.mean(np.abs(outputs - reference) <= bound))
    return float(np.mean(outputs.argmax(axis=-1) == reference.argmax(axis=-1)))


def compute_metrics(
    metrics: Mapping[str, Metric], outputs: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Returns the figure of each metric, by name.

    Each metric sees the same arrays, which it cannot change.

    Raises:
      DataError: If a metric of the user's own fails, writes into an array, does not
        return a finite number, or not a share though its name says so.
    """
    figures: dict[str, float] = {}
    for name, metric in metrics.items():
        try:
            value: Any = metric(_read_only(outputs), _read_only(labels))
        except Exception as error:
            if isinstance(error, ValueError) and "read-only" in str(error):
                raise DataError(
                    f"Expected a metric {name!r} that leaves its arrays as they are, "
                    f"but: {error}; let it change copies."
                ) from error
            raise DataError(
                f"Expected a number from the metric {name!r} for outputs and labels, "
                f"but it failed: {error!r}; mend the function."
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
