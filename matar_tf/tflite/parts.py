"""Measuring policies for those that learn from it: parts of the samples by themselves.

Beside the metrics stands how far the outputs are from those of the widest policy, which
tells more of few samples than hits and misses do, and needs no labels.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from matar_tf.errors import MatarWarning
from matar_tf.measurements import DIVERGENCE, NUM_HALVES
from matar_tf.named_arrays import Arrays, by_name, rows
from matar_tf.packaged import Artifact
from matar_tf.policy import Policy
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.evaluate import PolicyEvaluator
from matar_tf.tflite.heads import are_classes
from matar_tf.tflite.metrics import compute_metrics, log_probabilities

__all__ = [
    "PartsEvaluator",
    "divergence",
    "part_name",
    "part_names",
    "parts_without_notes",
]


def part_name(metric: str, part: int) -> str:
    """Returns what the figure of a part of the samples is called: ``loss/1``."""
    return f"{metric}/{part}"


def part_names(metrics: Iterable[str], num_parts: int) -> list[str]:
    """Returns what the figures of all parts are called, one part after the other."""
    return [part_name(one, part) for part in range(num_parts) for one in metrics]


def divergence(
    outputs: np.ndarray,
    reference: np.ndarray,
    *,
    of_classes: bool,
    probabilities: bool,
) -> float:
    """Returns how far outputs are from others, in nats or squares of the outputs.

    Of classes the mean of ``sum(p log(p / q))`` (Kullback and Leibler, 1951) of the
    distributions q from p of `reference`; of values the mean square of the difference.

    Args:
      outputs: ``[num_samples, ..., num_outputs]``.
      reference: The same.
      of_classes: Whether a row of outputs is for classes; one output is for two.
      probabilities: Whether outputs are these, else they are logits.
    """
    if not of_classes:
        return float(np.mean(np.square(outputs.astype(np.float64) - reference)))
    one, other = (
        log_probabilities(values, probabilities) for values in (outputs, reference)
    )
    return float(np.mean(np.sum(np.exp(other) * (other - one), axis=-1)))


class PartsEvaluator(PolicyEvaluator):
    """Measures policies on parts of the samples, every so-manieth of these.

    Figures are called as by `part_name`; `DIVERGENCE` is among them, of several outputs
    the mean over those that have labels.

    Args:
      artifact: The packaged network.
      samples: As those of `PolicyEvaluator`.
      labels: As those of `PolicyEvaluator`.
      metrics: Names of metrics, as those of `PolicyEvaluator`.
      num_parts: Number of parts; no more than there are samples.
      of_parts: Figures of metrics that are measured on parts; None for all.
      whole: Whether to measure on all samples, too: figures without a part's number.
      **options: Profile, runtime and `allow_odd_data`, as those of `PolicyEvaluator`.
    """

    def __init__(
        self,
        artifact: Artifact,
        samples: Arrays,
        labels: Arrays,
        *,
        metrics: Iterable[str] | None = None,
        num_parts: int = NUM_HALVES,
        of_parts: Collection[str] | None = None,
        whole: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(artifact, samples, labels, metrics=metrics, **options)
        self._num_parts = num_parts
        self._of_parts = {
            name: metric
            for name, metric in self._metrics.items()
            if of_parts is None or name in of_parts
        }
        self._whole = whole
        self._widest = artifact.space.widest()
        ends = outputs_of(artifact.template)
        names = [one.name for one in ends]
        given = by_name(self._labels, names, "labels", partly=True)
        self._names = names
        self._kinds = {
            one.name: {
                "of_classes": are_classes(given[one.name], one.shape),
                "probabilities": one.gives_probabilities,
            }
            for one in ends
            if one.name in given
        }

    def __call__(self, policy: Policy) -> dict[str, float]:
        """Returns the metrics of a policy, of all samples and of each part."""
        outputs = self._outputs(policy)
        found: dict[str, float] = {}
        if self._whole:
            found |= compute_metrics(self._metrics, outputs, self._labels)
        for part in range(self._num_parts):
            index = slice(part, None, self._num_parts)
            figures = compute_metrics(
                self._of_parts, rows(outputs, index), rows(self._labels, index)
            )
            figures[DIVERGENCE] = self._divergence(
                rows(outputs, index), rows(self._reference, index)
            )
            found |= {part_name(name, part): one for name, one in figures.items()}
        return found

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the figures that are measured."""
        parts = part_names((*self._of_parts, DIVERGENCE), self._num_parts)
        return (*(self._metrics if self._whole else ()), *parts)

    @functools.cached_property
    def _reference(self) -> Arrays:
        return self._outputs(self._widest)

    def _divergence(self, outputs: Arrays, reference: Arrays) -> float:
        found, expected = (
            by_name(one, self._names, "outputs") for one in (outputs, reference)
        )
        return float(
            np.mean(
                [
                    divergence(found[name], expected[name], **kind)
                    for name, kind in self._kinds.items()
                ]
            )
        )


def parts_without_notes(*args: Any, **options: Any) -> PartsEvaluator:
    """Returns a `PartsEvaluator` of samples that `check_data` has spoken of before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatarWarning)
        return PartsEvaluator(*args, allow_odd_data=True, **options)
