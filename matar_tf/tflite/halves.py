"""Measuring policies for a predictor: each half of the samples for itself.

Beside the metrics stands how far the outputs are from those of the widest policy, which
tells more of few samples than hits and misses do, and needs no labels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

import numpy as np

from matar_tf.measurements import DIVERGENCE, NUM_HALVES
from matar_tf.named_arrays import Arrays, by_name, rows
from matar_tf.packaged import Artifact
from matar_tf.policy import Policy
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.evaluate import PolicyEvaluator
from matar_tf.tflite.heads import are_classes
from matar_tf.tflite.metrics import compute_metrics
from matar_tf.tflite.runtime import Runner

__all__ = ["HalvesEvaluator", "divergence", "half_name"]

_SMALLEST_PROBABILITY: Final = 1e-7  # as keras.backend.epsilon


def half_name(metric: str, half: int) -> str:
    """Returns what the figure of a half is called: ``loss/1``."""
    return f"{metric}/{half}"


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
        _log_probabilities(values, probabilities) for values in (outputs, reference)
    )
    return float(np.mean(np.sum(np.exp(other) * (other - one), axis=-1)))


def _log_probabilities(outputs: np.ndarray, probabilities: bool) -> np.ndarray:
    if outputs.shape[-1] == 1:
        first = 1.0 - outputs if probabilities else np.zeros_like(outputs)
        outputs = np.concatenate([first, outputs], axis=-1)
    outputs = outputs.astype(np.float64)
    if probabilities:
        outputs = np.log(np.maximum(outputs, _SMALLEST_PROBABILITY))
    shifted = outputs - outputs.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class HalvesEvaluator(PolicyEvaluator):
    """Measures policies on every other sample, and on those between them.

    Figures are called as by `half_name`; `DIVERGENCE` is among them, of several outputs
    the mean over those that have labels.

    Args:
      artifact: The packaged network.
      samples: As those of `PolicyEvaluator`.
      labels: As those of `PolicyEvaluator`.
      metrics: Names of metrics, as those of `PolicyEvaluator`.
    """

    def __init__(
        self,
        artifact: Artifact,
        samples: Arrays,
        labels: Arrays,
        *,
        metrics: Iterable[str] | None = None,
    ) -> None:
        super().__init__(artifact, samples, labels, metrics=metrics)
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
        """Returns the metrics of a policy on each half."""
        outputs = self._outputs(policy)
        found: dict[str, float] = {}
        for half in range(NUM_HALVES):
            part = slice(half, None, NUM_HALVES)
            figures = compute_metrics(
                self._metrics, rows(outputs, part), rows(self._labels, part)
            )
            figures[DIVERGENCE] = self._divergence(
                rows(outputs, part), rows(self._reference, part)
            )
            found |= {half_name(name, half): one for name, one in figures.items()}
        return found

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the figures that are measured."""
        return tuple(
            half_name(name, half)
            for half in range(NUM_HALVES)
            for name in (*self._metrics, DIVERGENCE)
        )

    @functools.cached_property
    def _reference(self) -> Arrays:
        return self._outputs(self._widest)

    def _outputs(self, policy: Policy) -> Arrays:
        return Runner(self._builder.build(policy)).predict(self._samples)

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
