"""Predicting in the place of measuring: what a run does without samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import DataError, SearchError
from matar_tf.evolution import Surrogate
from matar_tf.figures import bound_names
from matar_tf.likeness import Array
from matar_tf.measurements import DIVERGENCE, Measurements
from matar_tf.packaged import Artifact
from matar_tf.policy import Policy
from matar_tf.predictor import Predictor
from matar_tf.results import Objective
from matar_tf.run.settings import RunSettings
from matar_tf.tflite.fitting_data import metrics_for
from matar_tf.tflite.metrics import AGREEMENT, METRIC_NAMES, figure_names, is_mean

__all__ = [
    "Forecast",
    "Predicting",
    "aimed",
    "check_settings",
    "make_predictors",
    "measurements_digest",
    "metrics_of_run",
    "predicted_names",
    "stand_ins",
]

_AIM: Final = "accuracy"  # of those who have no labels
_CERTAIN: Final = 1e-6  # deviation of a guess that is what a search will be told


def make_predictors(
    artifact: Artifact, settings: RunSettings, data: Data | None
) -> tuple[Predictor, ...]:
    """Returns what predicts each metric that a run asks for.

    With samples each that it searches by, and none if one of these cannot be predicted.

    Raises:
      DataError: If nothing was measured, and there are no samples.
      ArtifactError: If a metric that is asked for was not, and there are no samples.
    """
    measured = artifact.measurements
    names = figure_names(settings.metrics)
    if data is not None:
        standing = stand_ins(data, names)
        known = {*names, *standing} - {*standing.values()}
        return _beside_samples(measured, settings, known)
    if measured is None:
        raise DataError(
            f"Expected samples to measure on, got none, and {artifact.name!r} holds no "
            "measurements of its developer to predict from; give some by data=..."
        )
    return tuple(Predictor(measured, name) for name in names)


def _beside_samples(
    measured: Measurements | None, settings: RunSettings, names: Collection[str]
) -> tuple[Predictor, ...]:
    if measured is None or any(one.is_wide for one in settings.starts.values()):
        return ()
    options = settings.options
    asked = [one.name for one in (*options.objectives, *options.limits)]
    searched = [*dict.fromkeys(name for name in asked if name in names)]
    levels = measured.levels or measured
    if not all(
        is_mean(name) and name in measured.metrics and name in levels.metrics
        for name in searched
    ):
        return ()
    return tuple(Predictor(measured, name) for name in searched)


def metrics_of_run(artifact: Artifact, data: Data | None) -> list[str]:
    """Returns the metrics of a run that names none.

    Without data those that can be predicted.
    """
    if data is not None:
        return metrics_for(artifact, data)
    measured = artifact.measurements
    if measured is None:
        return [*METRIC_NAMES]  # the run will be refused
    levels = measured.levels or measured
    return [
        name
        for name in measured.metrics
        if name != DIVERGENCE and name in levels.metrics
    ]


def aimed(settings: RunSettings, artifact: Artifact, data: Data | None) -> RunSettings:
    """Returns settings that improve what is asked for where nobody said what.

    Of samples without labels that is the accuracy, if the developer measured it: how
    policies answer tells of it.
    """
    measured = artifact.measurements
    if data is None or data.is_labelled or measured is None:
        return settings
    levels = measured.levels or measured
    if not (_AIM in measured.metrics and _AIM in levels.metrics):
        return settings
    objectives = tuple(
        Objective(name=_AIM, maximize=True) if one.name == AGREEMENT else one
        for one in settings.options.objectives
    )
    return replace(settings, options=replace(settings.options, objectives=objectives))


def stand_ins(data: Data, metrics: Collection[str]) -> dict[str, str]:
    """Returns the metrics that are not measured of samples, and what is instead."""
    if data.is_labelled or AGREEMENT not in metrics:
        return {}
    return {_AIM: AGREEMENT}


def check_settings(settings: RunSettings) -> None:
    """Checks that a run without samples is not asked for what needs some.

    Raises:
      SearchError: If it is.
    """
    for what, is_asked in (
        ("a holdout", settings.holdout > 0),
        ("a store", settings.store is not None),
        ("the executor 'ray'", settings.executor != "local"),
        ("16-bit activations", any(x.is_wide for x in settings.starts.values())),
    ):
        if is_asked:
            raise SearchError(
                f"Expected samples beside {what}, got none; give some by data=..., or "
                f"leave {what} out."
            )


def predicted_names(predictors: Sequence[Forecast]) -> tuple[str, ...]:
    """Returns the names of what is predicted: metrics, and bounds of each."""
    return tuple(
        name for one in predictors for name in (one.metric, *bound_names(one.metric))
    )


def measurements_digest(artifact: Artifact) -> str:
    """Returns the SHA-256 of what predictions depend on, in hex."""
    measured = artifact.measurements
    document = None if measured is None else measured.to_json(artifact.space)
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


class Forecast(Protocol):
    """What is expected of one metric of policies."""

    metric: str

    def with_bounds(self, policies: Sequence[Policy]) -> tuple[Array, Array, Array]:
        """Returns what is expected, and the bounds of the 95 % intervals around it."""
        ...


class Predicting:
    """Predicts metrics and their bounds, as an executor measures them.

    Args:
      predictors: One for each metric.
      objectives: Of the search.

    Attributes:
      names: Of what is predicted.
    """

    def __init__(
        self,
        predictors: Sequence[Forecast],
        objectives: Sequence[Objective],
    ) -> None:
        self._predictors = tuple(predictors)
        self.names = predicted_names(predictors)
        self._objectives = [one for one in objectives if one.name in self.names]

    def __call__(
        self, policies: Sequence[Policy]
    ) -> Iterator[tuple[Policy, Mapping[str, float]]]:
        """Yields each policy with its metrics."""
        policies = list(policies)
        found = self._predicted(policies)
        for index, policy in enumerate(policies):
            yield policy, {name: float(one[index]) for name, one in found.items()}

    def surrogate(self, policies: Sequence[Policy], values: Array) -> Surrogate:
        """Returns a surrogate that knows what will be predicted."""
        return _Knowing(self, policies, values)

    def objectives_of(self, policies: Sequence[Policy]) -> Array:
        """Returns minimised objectives, ``[num_policies, num_objectives]``."""
        found = self._predicted(policies)
        columns = [
            -found[one.name] if one.maximize else found[one.name]
            for one in self._objectives
        ]
        return np.stack(columns, axis=1)

    def __enter__(self) -> Predicting:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _predicted(self, policies: Sequence[Policy]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for one in self._predictors:
            names = one.metric, *bound_names(one.metric)
            found |= dict(zip(names, one.with_bounds(policies), strict=True))
        return found


class _Knowing(Surrogate):
    def __init__(
        self, predicting: Predicting, policies: Sequence[Policy], values: Array
    ) -> None:
        del policies, values  # nothing is learned of what is known
        self._predicting = predicting

    def predict(self, policies: Sequence[Policy]) -> Array:
        return self._predicting.objectives_of(policies)

    def deviations(self, policies: Sequence[Policy]) -> Array:
        return np.full((len(policies), 1), _CERTAIN)
