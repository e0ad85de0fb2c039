"""Metrics of a file's outputs: of the only one, or of several, the network's heads.

A metric of one head of several has its name before it, as in Keras:
``boxes_mean_absolute_error`` is that of the output ``boxes``. A name alone is the mean
over all heads that have labels, but for ``loss``, which is their sum, as that of Keras;
there a head whose labels are values, no classes, counts with its mean squared error. A
function of the user's own gets all outputs and all labels, two mappings by names.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from matar_tf.errors import DataError, did_you_mean
from matar_tf.figures import top_k_of
from matar_tf.named_arrays import Arrays
from matar_tf.tflite.ends import Output
from matar_tf.tflite.metrics import (
    CLASS_METRICS,
    METRIC_NAMES,
    VALUE_METRICS,
    Metric,
    argmax_agreement,
    figure_names,
    get_metrics,
    listed,
    mean_squared_error,
)

__all__ = [
    "are_classes",
    "default_metrics",
    "least_agreement",
    "metrics_of",
    "names_by_head",
]

_LOSS: Final = "loss"
_OF_VALUES: Final = "mean_absolute_error"  # that is measured if nobody says


def metrics_of(outputs: Sequence[Output], names: Iterable[str]) -> dict[str, Metric]:
    """Returns the metrics of a file's outputs, by the names of their figures.

    Args:
      outputs: What `outputs_of` returned; of one alone see `get_metrics`.
      names: Names of metrics, those of heads too.

    Raises:
      DataError: If there is no such metric or head, or two would have the same name.
    """
    if len(outputs) == 1:
        return get_metrics(
            names,
            probabilities=outputs[0].gives_probabilities,
            is_sigmoid=outputs[0].is_sigmoid,
        )
    given = listed(names)
    own = [name for name in given if ":" in name]
    metrics = get_metrics(own, probabilities=False)
    by_name = {one.name: one for one in outputs}
    for name in given:
        if name in own:
            continue
        if name in metrics:
            raise DataError(f"Expected metrics of different names, got {name} twice.")
        head, metric = _split(name, list(by_name))
        if head is None:
            parts = {key: _of_head(one, metric) for key, one in by_name.items()}
            metrics[name] = functools.partial(
                _of_all, parts=parts, is_sum=metric == _LOSS
            )
        else:
            metrics[name] = functools.partial(
                _of_one, head=head, metric=_of_head(by_name[head], metric)
            )
    return {name: metrics[name] for name in figure_names(given)}


def default_metrics(labels: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns what is measured if nobody says; the first is what a search improves.

    Of one output accuracy and loss. Of several heads the mean accuracy and the loss if
    the labels of all are classes, else the loss; then the accuracy of each head with
    classes, and the mean absolute error of each other.

    Args:
      labels: As `Data` has them.
      shapes: Shape of each output for one sample, by name.
    """
    if len(shapes) == 1 or not isinstance(labels, Mapping):
        return list(METRIC_NAMES)
    heads = {
        name: "accuracy" if are_classes(labels[name], shape) else _OF_VALUES
        for name, shape in shapes.items()
        if name in labels
    }
    whole = METRIC_NAMES if set(heads.values()) == {"accuracy"} else (_LOSS,)
    return [*whole, *(f"{name}_{metric}" for name, metric in heads.items())]


def are_classes(labels: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Returns whether labels are classes of each place, not values.

    Args:
      labels: With an axis of samples.
      shape: Shape of the output for one sample.
    """
    return labels.dtype.kind == "i" and labels.shape[1:] == shape[:-1]


def names_by_head(
    names: Iterable[str], labels: Mapping[str, np.ndarray], outputs: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Returns what is measured of each head, as of an output alone.

    Args:
      names: Names of metrics; functions of the user's own take what there is.
      labels: Those of heads that have some.
      outputs: Shape of each output for one sample, by name.

    Raises:
      DataError: If there is no such metric or head, or a head has no labels.
    """
    found: dict[str, list[str]] = {name: [] for name in labels}
    for name in names:
        if ":" in name:
            continue
        head, metric = _split(name, list(outputs))
        if head is not None and head not in labels:
            raise DataError(
                f"Expected labels for the output {head!r}, to measure {name}, got some "
                f"for {', '.join(map(repr, labels))}; give y_test[{head!r}], in an "
                f".npz file y_test/{head}."
            )
        for one in labels if head is None else [head]:
            is_loss = metric == _LOSS and not are_classes(labels[one], outputs[one])
            found[one].append("mean_squared_error" if is_loss else metric)
    return found


def least_agreement(
    outputs: Sequence[Output],
    found: Mapping[int, np.ndarray],
    reference: Mapping[int, np.ndarray],
) -> float:
    """Returns the agreement of the output that agrees least; see `argmax_agreement`.

    Args:
      outputs: Of the file.
      found: Its values, by number of the tensor.
      reference: Others.
    """
    return min(
        argmax_agreement(
            found[one.index],
            reference[one.index],
            step=one.step,
            is_sigmoid=one.is_sigmoid,
        )
        for one in outputs
    )


def _split(name: str, heads: Sequence[str]) -> tuple[str | None, str]:
    """Returns the head that a metric is of, or None, and its name without that."""
    if _is_known(name):
        return None, name
    for head in sorted(heads, key=len, reverse=True):
        rest = name.removeprefix(f"{head}_")
        if rest != name and _is_known(rest):
            return head, rest
    known = (*CLASS_METRICS, *VALUE_METRICS)
    of_heads = [f"{head}_{metric}" for head in heads for metric in known]
    raise DataError(
        f"Expected a metric among {', '.join(known)}, top_K_accuracy, one of these "
        f"after the name of an output ({of_heads[0]}), and package.module:function, "
        f"got {name!r}. {did_you_mean(name, [*known, *of_heads])}"
    )


def _is_known(name: str) -> bool:
    return name in (*CLASS_METRICS, *VALUE_METRICS) or top_k_of(name) is not None


def _of_head(output: Output, name: str) -> Metric:
    (metric,) = metrics_of([output], [name]).values()
    if name != _LOSS:
        return metric

    def loss(outputs: np.ndarray, labels: np.ndarray) -> float:
        values = not are_classes(labels, outputs.shape[1:])
        return (mean_squared_error if values else metric)(outputs, labels)

    return loss


def _of_one(outputs: Any, labels: Any, *, head: str, metric: Metric) -> float:
    return metric(outputs[head], labels[head])


def _of_all(
    outputs: Any, labels: Any, *, parts: Mapping[str, Metric], is_sum: bool
) -> float:
    found = [
        parts[head](outputs[head], labels[head]) for head in parts if head in labels
    ]
    return sum(found) if is_sum else float(np.mean(found))
