"""What a policy's metric will be, from what a developer measured of others.

Three steps. A Gaussian process (`matar_tf.likeness`) learns a *score* of policies: the
accuracy together with the loss, or with the divergence from the widest policy's
outputs, which tell policies apart that the accuracy of a few thousand samples does not;
of other metrics the metric itself. The metric is a straight line of the score, fitted
to what was measured on held-out samples. An interval holds what is not
known: the score of a policy that was not measured, the line, and the luck of samples.

How far a policy's score is from the best one says how large these are: guesses miss by
a variance in proportion to that distance, and the share of samples whose outcome is
another, which luck is made of, grows with its root. Both sizes are seen in the
measurements: by leaving out each policy, and by comparing the halves of the samples.

Reference:
  Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: section 5.4.2
  for predictions of what is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from matar_tf.errors import ArtifactError
from matar_tf.figures import Z95, is_share, larger_is_better
from matar_tf.likeness import RIDGE, SELF, Array, PolicyRows, one_thread
from matar_tf.measurements import DIVERGENCE, NUM_HALVES, Levels, Measurements
from matar_tf.policy import Policy

__all__ = [
    "Guess",
    "Predictor",
    "bounded",
    "cross_validation",
    "rank_correlation",
]

_LOSS: Final = "loss"
_BEST_SHARE: Final = 0.2  # of policies, whose ranks count most
_NUM_FOLDS: Final = 10
_WEIGHT: Final = 4.0  # of what is expected of the luck of levels, in levels
_NUM_REWEIGHTED: Final = 4  # times that a line is fitted, with weights of the last fit
_TINY: Final = 1e-12  # of a distance or a deviation, beside others


@dataclass(frozen=True, kw_only=True, eq=False)
class Guess:
    """What is expected of policies, and the variances of what is not known.

    Attributes:
      expected: The metric, ``[num_policies]``, in its unit.
      misses: Variances of what is particular to a policy that was not measured.
      luck: Those of the luck of as many samples as levels were measured on.
      line: Those of the scale.
    """

    expected: Array
    misses: Array
    luck: Array
    line: Array


class Predictor:
    """Predicts one metric of policies.

    Args:
      measurements: What was measured.
      metric: Name of the metric.

    Attributes:
      metric: Its name.
      helper: Name of the metric that tells policies apart beside it, perhaps the same.
      level_deviation: Standard deviation of what is expected of the best policies: the
        luck that all have in common.
      slope_deviation: That of how far apart policies are, as a share.
      num_samples: Number of samples that the luck of a `Guess` is of.

    Raises:
      ArtifactError: If it was not measured, or there are no levels of it.
    """

    def __init__(self, measurements: Measurements, metric: str) -> None:
        levels = measurements.levels or Levels(
            policies=measurements.policies,
            metrics={k: one.mean(axis=0) for k, one in measurements.metrics.items()},
            num_samples=measurements.num_samples,
        )
        if metric not in measurements.metrics or metric not in levels.metrics:
            known = [one for one in measurements.metrics if one in levels.metrics]
            raise ArtifactError(
                f"Expected a metric that the developer measured, of {known}, got "
                f"{metric!r}; choose one, or measure on data of your own."
            )
        self.metric = metric
        self.helper = _helper(measurements, metric)
        self._process = _Process(measurements, metric)
        guessed, missed = self._process.guessed, self._process.missed
        self._best = float(guessed.min())
        self._least = float(np.median(np.abs(missed))) + _TINY
        distances = self._distances(guessed)
        self._miss = float((missed**2 / self._process.left).mean() / distances.mean())
        self._fit_line(measurements, levels)
        self.num_samples = levels.num_samples or measurements.num_samples
        self.level_deviation = _common_luck(
            measurements, levels, metric, self.num_samples
        )
        slope = float(self._fit[1])
        self.slope_deviation = float(np.sqrt(self._covariance[1, 1]) / abs(slope or 1))

    def predict(self, policies: Sequence[Policy]) -> tuple[Array, Array]:
        """Returns what is expected of policies, and its standard deviation.

        The deviation is that from what would be measured on as many samples as levels
        were measured on.

        Args:
          policies: Of the network that was measured.

        Returns:
          Two arrays ``[num_policies]``, in the metric's unit.
        """
        guess = self.guess(policies)
        return guess.expected, np.sqrt(guess.misses + guess.luck + guess.line)

    def guess(self, policies: Sequence[Policy]) -> Guess:
        """Returns what `predict` does, and what its deviations are made of."""
        scores, variances = self._process.predict(policies)
        rows = _line(scores - self._best)
        expected = rows @ self._fit
        misses, luck = self._spread(scores, variances, self._fit[1], self._luck)
        return Guess(
            expected=np.clip(expected, 0.0, 1.0) if is_share(self.metric) else expected,
            misses=self._scale * misses,
            luck=self._scale * luck,
            line=np.sum(rows @ self._covariance * rows, axis=1),
        )

    def with_bounds(self, policies: Sequence[Policy]) -> tuple[Array, Array, Array]:
        """Returns what is expected, and the bounds of the 95 % intervals around it."""
        return bounded(self.metric, *self.predict(policies))

    def in_order(self, policies: Sequence[Policy]) -> list[Policy]:
        """Returns policies with entries in the order of those that were measured."""
        return self._process.in_order(policies)

    def _distances(self, scores: Array) -> Array:
        """Returns how far scores are from the best; no less than can be told."""
        return np.maximum(scores - self._best, self._least)

    def _spread(
        self, scores: Array, variances: Array, slope: float, luck: float
    ) -> tuple[Array, Array]:
        """Returns variances of metrics beside a line: of misses, and of luck."""
        distances = self._distances(scores)
        missed = slope**2 * self._miss * variances * distances
        return missed, luck * np.sqrt(distances) + _TINY**2

    def _fit_line(self, measurements: Measurements, levels: Levels) -> None:
        """Fits the metric as a line of the score, by weighted least squares."""
        halves = measurements.metrics[self.metric]
        rows, roots = _line(self._process.guessed - self._best), self._roots()
        slope = _fitted(rows, halves.mean(axis=0), 1.0 / roots)[0][1]
        # What no line of the score explains of the halves' difference is luck.
        apart = halves[0] - halves[1]
        apart = apart - rows @ _fitted(rows, apart, 1.0 / roots)[0]
        luck = float((apart**2).mean() / roots.mean()) / NUM_HALVES
        number = levels.num_samples or measurements.num_samples
        luck *= measurements.num_samples / NUM_HALVES / number

        if measurements.levels is None:  # the same policies: as they are from others
            scores, variances = self._process.guessed, self._process.left
        else:
            scores, variances = self._process.predict(levels.policies)
        rows, values = _line(scores - self._best), levels.metrics[self.metric]
        fit, covariance = _fitted(rows, values, np.ones(len(values)))
        stretched, scale = luck, 1.0
        for _ in range(_NUM_REWEIGHTED):
            # Where policies lie farther apart than on samples that were trained on, so
            # many more samples have another outcome.
            stretched = abs(float(fit[1] / slope)) * luck if slope else luck
            missed, lucky = self._spread(scores, variances, float(fit[1]), stretched)
            spread = missed + lucky
            fit, covariance = _fitted(rows, values, 1.0 / (scale * spread))
            # Held-out samples may have more luck in them than those trained on: what
            # levels miss the line by counts beside what was expected of them.
            squares = float(np.sum((values - rows @ fit) ** 2 / spread))
            scale = (_WEIGHT + squares) / (_WEIGHT + max(len(values) - len(fit), 0))
        self._fit, self._covariance = fit, covariance
        self._luck, self._scale = stretched, scale

    def _roots(self) -> Array:
        return np.sqrt(self._distances(self._process.guessed))


class _Process:
    """A Gaussian process of the score of policies, smaller for better ones.

    Attributes:
      guessed: Scores of the measured policies, each from all the others.
      missed: By how much they were guessed too low.
      left: Variances of these guesses, in those of the process.
    """

    def __init__(self, measurements: Measurements, metric: str) -> None:
        values = _scores(measurements, metric)
        self._mean, self._deviation = float(values.mean()), float(values.std()) or 1.0
        first = measurements.policies[0]
        self._names = (*first.weights,), (*first.activations,)
        scaled = (values - self._mean) / self._deviation
        with one_thread():
            self._known = PolicyRows(self.in_order(measurements.policies))
            covariance = self._known.kernel(self._known)
            covariance[np.diag_indices_from(covariance)] += RIDGE
            self._inverse = np.linalg.inv(np.linalg.cholesky(covariance))
            self._weights = self._inverse.T @ (self._inverse @ scaled)
        self.left = 1.0 / np.sum(self._inverse**2, axis=0)
        self.missed = self._deviation * self._weights * self.left
        self.guessed = values - self.missed

    def predict(self, policies: Sequence[Policy]) -> tuple[Array, Array]:
        """Returns scores, and their variances in those of the process."""
        with one_thread():
            likeness = PolicyRows(self.in_order(policies)).kernel(self._known)
            scores = likeness @ self._weights
            explained = np.sum((likeness @ self._inverse.T) ** 2, axis=1)
        variances = np.maximum(SELF + RIDGE - explained, RIDGE)
        return scores * self._deviation + self._mean, variances

    def in_order(self, policies: Sequence[Policy]) -> list[Policy]:
        """Returns policies with entries in the order of those that were measured."""
        weights, activations = self._names
        return [
            policy
            if (*policy.weights,) == weights and (*policy.activations,) == activations
            else Policy(
                weights={name: policy.weights[name] for name in weights},
                activations={name: policy.activations[name] for name in activations},
            )
            for policy in policies
        ]


def bounded(
    metric: str, expected: Array, deviations: Array
) -> tuple[Array, Array, Array]:
    """Returns what is expected, and the bounds of the 95 % intervals around it.

    Args:
      metric: Its name; a share of samples is within 0..1.
      expected: ``[num_policies]``.
      deviations: Standard deviations.
    """
    found = expected, expected - Z95 * deviations, expected + Z95 * deviations
    if not is_share(metric):
        return found
    value, low, high = (np.clip(one, 0.0, 1.0) for one in found)
    return value, low, high


def cross_validation(measurements: Measurements) -> dict[str, float]:
    """Returns how far the first metric is from what is predicted without a policy.

    A tenth of the policies at a time is predicted from all the others, on the samples
    that they were measured on.

    Returns:
      ``spearman`` and ``spearman_best_fifth``, rank correlations of what is predicted
      and what was measured, over all policies and the fifth that measured best;
      ``spearman_halves``, of the two halves of the samples;
      ``mean_absolute_error`` and ``largest_absolute_error``; and ``coverage``, the
      share of policies within their 95 % intervals.
    """
    metric = next(iter(measurements.metrics))
    halves = measurements.metrics[metric]
    values = halves.mean(axis=0)
    expected, low, high = np.zeros((3, len(values)))
    for fold in range(_NUM_FOLDS):
        left = np.arange(fold, len(values), _NUM_FOLDS)
        kept = np.setdiff1d(np.arange(len(values)), left)
        others = replace(
            measurements,
            policies=tuple(measurements.policies[index] for index in kept),
            metrics={k: one[:, kept] for k, one in measurements.metrics.items()},
            trained_on=False,
            levels=None,
        )
        predictor = Predictor(others, metric)
        policies = [measurements.policies[index] for index in left]
        expected[left], low[left], high[left] = predictor.with_bounds(policies)
    order = np.argsort(-values if larger_is_better(metric) else values, kind="stable")
    best = order[: max(2, round(_BEST_SHARE * len(order)))]
    errors = np.abs(expected - values)
    return {
        "spearman": rank_correlation(expected, values),
        "spearman_best_fifth": rank_correlation(expected[best], values[best]),
        "spearman_halves": rank_correlation(*halves),
        "mean_absolute_error": float(errors.mean()),
        "largest_absolute_error": float(errors.max()),
        "coverage": float(np.mean((low <= values) & (values <= high))),
    }


def rank_correlation(one: Array, other: Array) -> float:
    """Returns Spearman's rank correlation; ties share the mean of their ranks.

    0 where all values of one are equal.
    """
    ranks = [_ranks(values) for values in (one, other)]
    first, second = (values - values.mean() for values in ranks)
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size else 0.0


def _ranks(values: Array) -> Array:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[places]


def _scores(measurements: Measurements, metric: str) -> Array:
    """Returns what is learned of policies to tell a metric; less is better.

    The metric, and beside it the loss or else the divergence, in their deviations.
    """
    total = np.zeros(len(measurements.policies))
    for name in {metric: None, _helper(measurements, metric): None}:
        values = measurements.metrics[name].mean(axis=0)
        values = (values - values.mean()) / (float(values.std()) or 1.0)
        total += -values if larger_is_better(name) else values
    return total


def _helper(measurements: Measurements, metric: str) -> str:
    """Returns what tells policies apart beside a metric; itself if it does so alone."""
    if not larger_is_better(metric):
        return metric
    return next((x for x in (_LOSS, DIVERGENCE) if x in measurements.metrics), metric)


def _common_luck(
    measurements: Measurements, levels: Levels, metric: str, num_samples: int
) -> float:
    """Returns the deviation that a few samples give to the metric of all policies."""
    if is_share(metric):
        best = float(levels.metrics[metric].max())
        return float(np.sqrt(best * (1.0 - best) / num_samples))
    halves = measurements.metrics[metric].mean(axis=1)
    return float(abs(halves[0] - halves[1]))


def _line(values: Array) -> Array:
    return np.stack([np.ones(len(values)), values], axis=1)


def _fitted(rows: Array, values: Array, weights: Array) -> tuple[Array, Array]:
    """Returns coefficients of least squares, and their covariance.

    Args:
      rows: ``[num_values, num_coefficients]``.
      values: What rows are to give.
      weights: Inverse variances of the values.
    """
    scale = float(weights.max())  # so that no sum is too small to be inverted
    inverse = np.linalg.pinv(rows.T * (weights / scale) @ rows)
    return inverse @ (rows.T @ (weights / scale * values)), inverse / scale
