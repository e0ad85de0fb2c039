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
from matar_tf.figures import bound_names, expected_name
from matar_tf.measurements import DIVERGENCE
from matar_tf.policy import Policy
from matar_tf.predictor import Predictor
from matar_tf.run.predicting import Predicting
from matar_tf.tflite.parts import part_name, part_names

__all__ = [
    "LEAST_SAMPLES",
    "Estimating",
    "absent_classes",
    "measured_names",
    "metrics_of_parts",
    "number_of_parts",
    "shown_names",
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


def shown_names(
    metric_names: Iterable[str], predictors: Iterable[Predictor]
) -> tuple[str, ...]:
    """Returns the names of what results show: metrics, and what is expected of some."""
    expected = (expected_name(one.metric) for one in predictors)
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
        self._objectives = [
            replace(one, name=expected.get(one.name, one.name)) for one in objectives
        ]
        self._widest = widest
        self._num_samples = num_samples

    def __call__(self, known: Mapping[Policy, Mapping[str, float]]) -> Predicting:
        """Returns what predicts from both.

        Args:
          known: Figures of policies by name, of the widest one among them.
        """
        others = [one for one in known if one != self._widest and not one.is_wide]
        policies = [self._widest, *others]
        num_parts = number_of_parts(self._num_samples)
        evidence = Evidence.of_parts(
            policies,
            {
                name: np.array(
                    [
                        [known[one][part_name(name, part)] for one in policies]
                        for part in range(num_parts)
                    ]
                )
                for name in self._metrics
            },
            self._num_samples,
        )
        estimators = [Estimator(one, evidence) for one in self._predictors]
        self.disagreement = next(
            (one.disagreement for one in estimators if one.disagreement), None
        )
        return Predicting(estimators, self._objectives)
