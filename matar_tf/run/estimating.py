"""Estimating between measurements: what a run with samples knows from both sides."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from matar_tf.estimator import Estimator
from matar_tf.evidence import Evidence
from matar_tf.evolution import Objective
from matar_tf.figures import bound_names
from matar_tf.measurements import DIVERGENCE
from matar_tf.policy import Policy
from matar_tf.predictor import Predictor
from matar_tf.run.predicting import Predicting
from matar_tf.run.settings import RunSettings
from matar_tf.smoothed import Smoothed
from matar_tf.tflite.metrics import is_mean
from matar_tf.tflite.parts import part_name, part_names

__all__ = [
    "LEAST_SAMPLES",
    "Estimating",
    "Smoothing",
    "absent_classes",
    "measured_names",
    "metrics_of_parts",
    "number_of_parts",
    "shown_names",
    "smoothed_metrics",
]

_MOST_PARTS: Final = 8
LEAST_SAMPLES: Final = 2
_UNLIKELY: Final = 0.01  # chance that a class of a balanced set is absent
_MOST_NAMED: Final = 10


def number_of_parts(num_samples: int) -> int:
    """Returns into how many parts samples are cut, to see how sure figures are."""
    return max(min(_MOST_PARTS, num_samples), LEAST_SAMPLES)


def metrics_of_parts(
    predictors: Sequence[Predictor], metric_names: Collection[str]
) -> tuple[str, ...]:
    """Returns the metrics that are measured on parts, too: those that tell policies.

    Args:
      predictors: What predicts each metric of a search.
      metric_names: Names of the metrics of a run.
    """
    wanted = (name for one in predictors for name in (one.metric, one.helper))
    return tuple(dict.fromkeys(name for name in wanted if name in metric_names))


def measured_names(
    metric_names: Iterable[str], of_parts: Iterable[str], num_samples: int
) -> tuple[str, ...]:
    """Returns the names of all that is measured: metrics, and figures of parts."""
    parts = part_names((*of_parts, DIVERGENCE), number_of_parts(num_samples))
    return (*metric_names, *parts)


def smoothed_metrics(
    settings: RunSettings, metric_names: Collection[str], num_samples: int
) -> tuple[str, ...]:
    """Returns the metrics that are searched by what is expected of what was measured.

    Where no developer measured any: all that are searched, if parts of the samples tell
    how sure each is, and else none.

    Args:
      settings: Of the run.
      metric_names: Names of its metrics.
      num_samples: Number of samples.
    """
    if num_samples < LEAST_SAMPLES or any(x.is_wide for x in settings.starts.values()):
        return ()
    options = settings.options
    asked = dict.fromkeys(x.name for x in (*options.objectives, *options.limits))
    found = tuple(name for name in asked if name in metric_names)
    return found if all(is_mean(name) for name in found) else ()


def shown_names(
    metric_names: Iterable[str], expected: Iterable[str]
) -> tuple[str, ...]:
    """Returns the names of what results show: metrics, and what is expected of some."""
    return (
        *metric_names,
        *(name for one in expected for name in (one, *bound_names(one))),
    )


def absent_classes(labels: Any, num_classes: int) -> str | None:
    """Returns that classes have no sample, if so many are hardly absent by chance.

    Args:
      labels: Of samples, a class each.
      num_classes: That the network tells apart.
    """
    number = len(labels)
    if number < num_classes * math.log(num_classes / _UNLIKELY):
        return None
    present = set(np.unique(labels).tolist())
    absent = [str(one) for one in range(num_classes) if one not in present]
    if not absent:
        return None
    few = ", ".join(absent[:_MOST_NAMED]) + ", ..." * (len(absent) > _MOST_NAMED)
    return (
        f"None of these {number:,} samples is of the classes {few}: what is expected "
        "is of samples like these."
    )


class Estimating:
    """Returns what to expect of policies after some were measured.

    Args:
      predictors: What the developer's measurements tell of each metric.
      metrics: Those that were measured on parts.
      objectives: Of the search.
      expected: What is expected in the place of each metric of these.
      widest: The policy that the others are measured beside.
      num_samples: Number of samples.

    Attributes:
      disagreement: How the samples differ from the developer's, as far as is known.
    """

    def __init__(
        self,
        predictors: Sequence[Predictor],
        metrics: Iterable[str],
        objectives: Iterable[Objective],
        expected: Mapping[str, str],
        widest: Policy,
        num_samples: int,
    ) -> None:
        self.disagreement: str | None = None
        self._predictors = tuple(predictors)
        self._metrics = (*metrics, DIVERGENCE)
        self._objectives = _expected_objectives(objectives, expected)
        self._widest = widest
        self._num_samples = num_samples

    def __call__(self, known: Mapping[Policy, Mapping[str, float]]) -> Predicting:
        """Returns what predicts from both.

        Args:
          known: Figures of policies by name, of the widest one among them.
        """
        evidence = _evidence(known, self._widest, self._metrics, self._num_samples)
        estimators = [Estimator(one, evidence) for one in self._predictors]
        self.disagreement = next(
            (one.disagreement for one in estimators if one.disagreement), None
        )
        return Predicting(estimators, self._objectives)


class Smoothing:
    """Returns what to expect of measured policies where no developer measured any.

    Args:
      metrics: Those of the search, which were measured on parts.
      objectives: As those of `Estimating`.
      expected: As that of `Estimating`.
      widest: As that of `Estimating`.
      num_samples: Number of samples.
    """

    def __init__(
        self,
        metrics: Iterable[str],
        objectives: Iterable[Objective],
        expected: Mapping[str, str],
        widest: Policy,
        num_samples: int,
    ) -> None:
        self._metrics = tuple(metrics)
        self._objectives = _expected_objectives(objectives, expected)
        self._widest = widest
        self._num_samples = num_samples

    def __call__(self, known: Mapping[Policy, Mapping[str, float]]) -> Predicting:
        """Returns what estimates the policies that are known.

        Args:
          known: As that of `Estimating`.
        """
        measured = (*self._metrics, DIVERGENCE)
        evidence = _evidence(known, self._widest, measured, self._num_samples)
        smoothed = [Smoothed(evidence, one) for one in self._metrics]
        return Predicting(smoothed, self._objectives)


def _evidence(
    known: Mapping[Policy, Mapping[str, float]],
    widest: Policy,
    metrics: Iterable[str],
    num_samples: int,
) -> Evidence:
    """Returns what parts of the samples say of policies, but for those of 16 bits."""
    others = [one for one in known if one != widest and not one.is_wide]
    policies, parts = [widest, *others], range(number_of_parts(num_samples))
    figures = {
        name: np.array(
            [[known[one][part_name(name, part)] for one in policies] for part in parts]
        )
        for name in metrics
    }
    return Evidence.of_parts(policies, figures, num_samples)


def _expected_objectives(
    objectives: Iterable[Objective], expected: Mapping[str, str]
) -> list[Objective]:
    return [replace(one, name=expected.get(one.name, one.name)) for one in objectives]
