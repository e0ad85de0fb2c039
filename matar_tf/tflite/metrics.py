"""Metrics of a network's outputs.

Some compare outputs with classes, numbered from 0, of each sample or of each place of
it (`CLASS_METRICS`), some with values of the outputs' own shape (`VALUE_METRICS`).

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
from matar_tf.named_arrays import Arrays, each

__all__ = [
    "AGREEMENT",
    "CLASS_METRICS",
    "METRIC_NAMES",
    "VALUE_METRICS",
    "Metric",
    "accuracy",
    "area_under_curve",
    "argmax_agreement",
    "compute_metrics",
    "cross_entropy",
    "figure_names",
    "get_metrics",
    "is_mean",
    "listed",
    "log_probabilities",
    "mean_absolute_error",
    "mean_iou",
    "mean_squared_error",
    "negative_log_likelihood",
    "own_metric_digests",
    "smooth_l1",
    "takes_classes",
    "takes_values",
    "top_k_accuracy",
]

METRIC_NAMES: Final = ("accuracy", "loss")  # that are measured if nobody says
AGREEMENT: Final = "agreement"  # accuracy where labels are a network's answers
# and top_K_accuracy
CLASS_METRICS: Final = (*METRIC_NAMES, "mean_iou", "auc", AGREEMENT)
VALUE_METRICS: Final = (
    *("mean_squared_error", "mean_absolute_error", "smooth_l1", "binary_accuracy"),
)
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
    return float(np.mean(log_sum - _of_labels(shifted, labels)))


def negative_log_likelihood(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of ``-log outputs[label]``; outputs are probabilities.

    A probability counts as at least 1e-7, as in Keras.
    """
    chosen = _of_labels(outputs, labels).astype(np.float64)
    return float(-np.mean(np.log(np.maximum(chosen, _SMALLEST_PROBABILITY))))


def log_probabilities(outputs: np.ndarray, probabilities: bool) -> np.ndarray:
    """Returns the logarithms of the probabilities of classes; one output is for two.

    Args:
      outputs: ``[..., num_outputs]``.
      probabilities: Whether they are these, else they are logits.
    """
    if outputs.shape[-1] == 1:
        first = 1.0 - outputs if probabilities else np.zeros_like(outputs)
        outputs = np.concatenate([first, outputs], axis=-1)
    outputs = outputs.astype(np.float64)
    if probabilities:
        outputs = np.log(np.maximum(outputs, _SMALLEST_PROBABILITY))
    shifted = outputs - outputs.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def top_k_accuracy(outputs: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """Returns the share of samples whose label is among the `k` largest outputs.

    Of equal outputs the one with the lower index counts as larger, as for `accuracy`.
    """
    chosen = _of_labels(outputs, labels)[..., None]
    earlier = np.arange(outputs.shape[-1]) < np.asarray(labels)[..., None]
    before = (outputs > chosen) | ((outputs == chosen) & earlier)
    return float(np.mean(before.sum(axis=-1) < k))


def mean_iou(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over classes of intersection over union.

    Of all places of all samples together; classes that are in neither are left out, as
    in Keras' ``MeanIoU``.
    """
    num_classes = outputs.shape[-1]
    pairs = outputs.argmax(axis=-1).ravel() * num_classes + np.ravel(labels)
    confusion = np.bincount(pairs, minlength=num_classes**2)
    confusion = confusion.reshape(num_classes, num_classes)
    both = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return float(np.mean(both[either > 0] / either[either > 0]))


def area_under_curve(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the area under the ROC curve of the second of two classes.

    The share of pairs of a sample of each class that the outputs rank rightly; ties
    count half (scikit-learn's ``roc_auc_score``).

    Raises:
      ValueError: If there are not two outputs, or not labels of both classes.
    """
    from sklearn.metrics import (  # pyright: ignore[reportMissingTypeStubs]
        roc_auc_score,
    )

    if outputs.shape[-1] != 2 or len(np.unique(labels)) != 2:
        raise ValueError(
            f"expected outputs of two classes and labels of both, got outputs of "
            f"{outputs.shape[-1]} and labels {np.unique(labels)[:5]}"
        )
    scores = outputs[..., 1].astype(np.float64) - outputs[..., 0]
    return float(roc_auc_score(np.ravel(labels), scores.ravel()))


def mean_squared_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of the squares of ``outputs - labels``."""
    return float(np.mean(np.square(_difference(outputs, labels))))


def mean_absolute_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of the magnitudes of ``outputs - labels``."""
    return float(np.mean(np.abs(_difference(outputs, labels))))


def smooth_l1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of ``d**2 / 2`` where ``|d| < 1``, else of ``|d| - 1 / 2``.

    Of the differences d of outputs and labels (Girshick, Fast R-CNN, ICCV 2015).
    """
    off = np.abs(_difference(outputs, labels))
    return float(np.mean(np.where(off < 1.0, np.square(off) / 2.0, off - 0.5)))


def _binary_accuracy(
    outputs: np.ndarray, labels: np.ndarray, *, threshold: float
) -> float:
    """Returns the share of labels 0 and 1 on whose side of a threshold outputs are."""
    return float(np.mean((outputs > threshold) == labels.reshape(outputs.shape)))


def _difference(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return outputs.astype(np.float64) - labels.reshape(outputs.shape)


def _of_labels(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the output of each label's class, in the shape of the labels."""
    index = np.asarray(labels)[..., None]
    return np.take_along_axis(outputs, index, axis=-1)[..., 0]


def figure_names(names: Iterable[str]) -> list[str]:
    """Returns how the figures of metrics are called: a function without its module."""
    return [name.rpartition(":")[2] for name in names]


def is_mean(name: str) -> bool:
    """Returns whether a metric, by the name of its figure, is a mean over samples.

    Then parts of the samples tell how sure it is.
    """
    means = (*METRIC_NAMES, *VALUE_METRICS, AGREEMENT)
    return name in means or top_k_of(name) is not None


def takes_classes(name: str) -> bool:
    """Returns whether a metric, by the name of its figure, takes labels of classes."""
    return name in CLASS_METRICS or top_k_of(name) is not None


def takes_values(name: str) -> bool:
    """Returns whether a metric takes labels of the shape of the outputs."""
    return name in VALUE_METRICS


def _of_classes(metric: Metric, probabilities: bool) -> Metric:
    """Returns a metric that takes a single output for two classes."""

    def measure(outputs: np.ndarray, labels: np.ndarray) -> float:
        if outputs.shape[-1] == 1:
            other = 1.0 - outputs if probabilities else np.zeros_like(outputs)
            outputs = np.concatenate([other, outputs], axis=-1)
        return metric(outputs, labels)

    return measure


def get_metrics(
    names: Iterable[str], *, probabilities: bool, is_sigmoid: bool = False
) -> dict[str, Metric]:
    """Returns functions of ``(outputs, labels)``, by the name of their figure.

    Args:
      names: Of `CLASS_METRICS` or `VALUE_METRICS`, ``top_5_accuracy`` (any number), or
        ``package.module:function``, a function of the user's own that returns a float;
        its figure is called as the function.
      probabilities: Whether outputs are probabilities, as of a network that ends in a
        softmax; otherwise they are logits. A single output stands for two classes.
      is_sigmoid: Whether each output is a probability by itself.

    Raises:
      DataError: If there is no such metric, or two would have the same name.
    """
    metrics: dict[str, Metric] = {}
    for name in listed(names):
        metric = _known(name, probabilities, is_sigmoid)
        if metric is None:
            if ":" not in name:
                known = (*CLASS_METRICS, *VALUE_METRICS)
                raise DataError(
                    f"Expected a metric among {', '.join(known)}, top_K_accuracy "
                    f"and package.module:function, got {name!r}. "
                    f"{did_you_mean(name, known)}"
                )
            metric = import_function(name)
        figure = name.rpartition(":")[2]
        if figure in metrics:
            raise DataError(f"Expected metrics of different names, got {figure} twice.")
        metrics[figure] = metric
    return metrics


def listed(names: Iterable[str]) -> list[str]:
    """Returns names of metrics as a list.

    Raises:
      DataError: If there is one text alone.
    """
    if isinstance(names, str):
        raise DataError(
            f"Expected a list of metrics, got {names!r}; write metrics=[{names!r}]."
        )
    return list(names)


def _known(name: str, probabilities: bool, is_sigmoid: bool) -> Metric | None:
    """Returns a metric of ours, or None."""
    k = top_k_of(name)
    if k is not None:
        return _of_classes(functools.partial(top_k_accuracy, k=k), probabilities)
    of_classes = {
        "accuracy": accuracy,
        "loss": negative_log_likelihood if probabilities else cross_entropy,
        "mean_iou": mean_iou,
        "auc": area_under_curve,
        AGREEMENT: accuracy,
    }
    threshold = 0.5 if probabilities or is_sigmoid else 0.0
    of_values = {
        "mean_squared_error": mean_squared_error,
        "mean_absolute_error": mean_absolute_error,
        "smooth_l1": smooth_l1,
        "binary_accuracy": functools.partial(_binary_accuracy, threshold=threshold),
    }
    if name in of_classes:
        return _of_classes(of_classes[name], probabilities)
    return of_values.get(name)


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
    outputs: np.ndarray,
    reference: np.ndarray,
    *,
    step: float = 0.0,
    is_sigmoid: bool = False,
) -> float:
    """Returns the share of samples with the same largest output in both.

    Where no largest among several outputs counts, the share of outputs that are at most
    one step of their grid apart: where there is one, or more than a row of them for a
    sample, or each is a probability by itself.

    Args:
      outputs: Shape ``[num_samples, ..., num_outputs]``.
      reference: The same.
      step: Step of the grid of `outputs`; 0 for outputs that lie on none.
      is_sigmoid: Whether each output is a probability by itself.
    """
    if outputs.ndim > 2 or outputs.shape[-1] == 1 or is_sigmoid:
        # Multiples of a step carry float32 rounding.
        bound = _ONE_STEP * step + _FLOAT32 * np.abs(reference)
        return float(np.mean(np.abs(outputs - reference) <= bound))
    return float(np.mean(outputs.argmax(axis=-1) == reference.argmax(axis=-1)))


def compute_metrics(
    metrics: Mapping[str, Metric], outputs: Arrays, labels: Arrays
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
            given: Any = each(_read_only, outputs), each(_read_only, labels)
            value: Any = metric(*given)
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
