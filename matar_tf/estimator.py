"""What to expect of policies, of a developer's measurements and one's own samples.

The measurements are the prior, a guess of every policy. What few samples say of a
policy is mostly luck, and moves the guess little; what many say moves it to where they
are. Both are weighed as a Gaussian process does: what the guess may miss by, which is
alike for policies that are alike, against the errors that parts of the samples show.
How much larger the misses are on these samples than the developer saw is a size that
makes the figures likeliest: on samples of another kind they overrule the guess.

Where the metric itself is measured, its level and how far policies lie apart are joined
with what the developer found, too. What both differ by beyond luck is a difference of
the samples, for which the guess is trusted less; if luck alone can hardly be the cause,
`Estimator.disagreement` says so.

Reference:
  Kennedy and O'Hagan, Predicting the output from a complex computer code when fast
  approximations are available, 2000: a process for what a first one misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from matar_tf.evidence import Evidence, Pairs
from matar_tf.figures import expected_name, figure_of, is_share
from matar_tf.likeness import SELF, Array, PolicyRows, one_thread
from matar_tf.measurements import DIVERGENCE
from matar_tf.policy import Policy
from matar_tf.predictor import Guess, Predictor, bounded

__all__ = ["Estimator"]

_UNLIKELY: Final = 0.01  # chance below which samples are of another kind
_ALIKE: Final = 0.35  # correlation of the luck of policies that are alike
_SCATTER: Final = 0.25  # of a variance of misses: what a score is off the metric by
_LOOSE: Final = 2.0  # the same, of the divergence alone
_STRETCHES: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_GAIN: Final = 3.0  # of log likelihood, for which misses are taken to be larger
_LUCKY: Final = 0.25  # of the luck that is known: least squared error of a pair
_SURE: Final = 0.01  # the same of divergences, which hits and misses do not blur
_HARDLY: Final = 4.0  # variances: two deviations
_CLEAR: Final = 2.0  # errors that a slope is from 0 by, to tell anything
_NUM_REWEIGHTED: Final = 3
_UNKNOWN: Final = 1e6  # variance of a slope of which nothing is known
_TINY: Final = 1e-12


class Estimator:
    """Estimates one metric of policies.

    Args:
      predictor: What the developer's measurements tell.
      evidence: What samples of one's own say.

    Attributes:
      metric: Name of the estimate.
      disagreement: One sentence on why both cannot be of one kind of samples, or None.
    """

    def __init__(self, predictor: Predictor, evidence: Evidence) -> None:
        self.metric = expected_name(predictor.metric)
        self._predictor = predictor
        policies = predictor.in_order(evidence.policies)
        guess = predictor.guess(policies)
        self._base = float(guess.expected[0])
        apart = guess.expected - self._base
        # Of few samples, or copies of one, parts may be alike by luck.
        luck = guess.luck * predictor.num_samples / evidence.num_samples
        told = [
            _in_units(
                evidence.metrics[name],
                apart,
                guess,
                (_SURE if name == DIVERGENCE else _LUCKY) * luck,
            )
            for name in _told_by(predictor, evidence)
        ]
        found = [one for one in told if one is not None]
        self._misses = None
        if found:
            is_loose = predictor.metric not in evidence.metrics
            self._misses = _Misses(
                policies,
                guess.misses,
                residuals=np.mean([one for one, _ in found], axis=0),
                errors=np.mean([one for _, one in found], axis=0),
                scatter=_LOOSE if is_loose else _SCATTER,
            )
        self._scale = _Scale(
            level=self._base,
            level_variance=predictor.level_deviation**2,
            slope_variance=predictor.slope_deviation**2,
        )
        known = self._scale
        pairs = evidence.metrics.get(predictor.metric)
        if pairs is not None:
            apart = apart + self._shifts(policies, guess)[0]
            self._scale = _measured_scale(
                known,
                pairs,
                apart,
                guess,
                luck,
                evidence.num_samples,
                predictor.metric,
            )
        # What the developer's slope is not known by is in each guess.
        self._slope_variance = max(
            self._scale.slope_variance - known.slope_variance, 0.0
        )
        self.disagreement = self._scale.disagreement

    def predict(self, policies: Sequence[Policy]) -> tuple[Array, Array]:
        """Returns what is expected of policies, and its standard deviation.

        Args:
          policies: Of the network that was measured.

        Returns:
          Two arrays ``[num_policies]``, in the metric's unit.
        """
        policies = self._predictor.in_order(policies)
        guess, scale = self._predictor.guess(policies), self._scale
        shift, misses = self._shifts(policies, guess)
        apart = guess.expected - self._base + shift
        variances = (misses + guess.luck + guess.line) * scale.slope**2
        variances += scale.level_variance + apart**2 * self._slope_variance
        return scale.level + scale.slope * apart, np.sqrt(variances)

    def with_bounds(self, policies: Sequence[Policy]) -> tuple[Array, Array, Array]:
        """Returns what is expected, and the bounds of the 95 % intervals around it."""
        return bounded(self._predictor.metric, *self.predict(policies))

    def _shifts(self, policies: Sequence[Policy], guess: Guess) -> tuple[Array, Array]:
        """Returns by how much policies miss their guesses, and the variances of it."""
        if self._misses is None:
            return np.zeros(len(policies)), guess.misses
        return self._misses.shifts(policies, guess.misses)


class _Misses:
    """By how much policies miss their guesses on samples, as a Gaussian process.

    Args:
      policies: Measured ones, the widest first, which others are measured beside.
      variances: Of what guesses may miss by, ``[num_policies]``.
      residuals: What they do miss by.
      errors: Of these, which have luck in common.
      scatter: What residuals are off by beside errors, as a share of the variances.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        variances: Array,
        *,
        residuals: Array,
        errors: Array,
        scatter: float,
    ) -> None:
        self._widest = policies[0]
        self._deviations = np.sqrt(variances[1:]) + _TINY
        errors, residuals = errors[1:], residuals[1:]
        with one_thread():
            self._rows = PolicyRows(policies[1:])
            alike = self._rows.kernel(self._rows) / SELF
            own = np.outer(self._deviations, self._deviations) * alike
            luck = _ALIKE * np.outer(errors, errors) * alike
            luck[np.diag_indices_from(luck)] += (
                (1.0 - _ALIKE) * errors**2 + scatter * self._deviations**2 + _TINY
            )
            likeliest = -math.inf
            for stretch in _STRETCHES:
                inverse = np.linalg.inv(np.linalg.cholesky(stretch**2 * own + luck))
                scaled = inverse @ residuals
                likelihood = float(np.log(np.diag(inverse)).sum() - scaled @ scaled / 2)
                if likelihood > likeliest + (_GAIN if stretch > 1.0 else 0.0):
                    likeliest = likelihood
                    self._stretch, self._inverse = stretch, inverse
                    self._weights = inverse.T @ scaled

    def shifts(
        self, policies: Sequence[Policy], variances: Array
    ) -> tuple[Array, Array]:
        """Returns by how much policies miss their guesses, and the variances of it.

        Args:
          policies: Any, their entries in the order of the measured ones.
          variances: Of what their guesses may miss by.
        """
        deviations = np.sqrt(variances)
        with one_thread():
            alike = PolicyRows(policies).kernel(self._rows) / SELF
            both = self._stretch**2 * alike * deviations[:, None] * self._deviations
            shift = both @ self._weights
            explained = np.sum((both @ self._inverse.T) ** 2, axis=1)
        left = np.maximum(self._stretch**2 * variances - explained, 0.0)
        is_widest = np.array([one == self._widest for one in policies])
        return np.where(is_widest, 0.0, shift), left


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """The metric of the widest policy, and how far from it others lie.

    Attributes:
      level: That metric.
      level_variance: Variance of what is not known of it.
      slope: How far apart policies are, over what was guessed.
      slope_variance: The same of this.
      disagreement: See `Estimator`.
    """

    level: float
    level_variance: float
    slope: float = 1.0
    slope_variance: float
    disagreement: str | None = None


def _measured_scale(
    known: _Scale,
    pairs: Pairs,
    apart: Array,
    guess: Guess,
    least: Array,
    num_samples: int,
    metric: str,
) -> _Scale:
    """Joins what was known of level and slope with what was measured."""
    squares = np.maximum(_errors(pairs, guess) ** 2, least)
    weights = 1.0 / (squares + guess.misses + _TINY)
    weights[0] = 0.0
    information = float(np.sum(weights * apart**2))
    slope, slope_luck = known.slope, _UNKNOWN
    if information > 0.0:
        slope = float(np.sum(weights * apart * pairs.differences)) / information
        # Policies' luck is alike, so that many of them tell little more than a few.
        slope_luck = (1.0 + _ALIKE * (len(apart) - 2)) / information
    level_luck = pairs.level_error**2
    if is_share(metric):
        share = min(max(pairs.level, 1.0 / num_samples), 1.0 - 1.0 / num_samples)
        level_luck = share * (1.0 - share) / num_samples
    off = pairs.level - known.level, slope - known.slope
    total = off[0] ** 2 / (level_luck + known.level_variance + _TINY)
    total += off[1] ** 2 / (slope_luck + known.slope_variance + _TINY)
    chance = math.exp(-0.5 * total)  # of chi-squared with two degrees of freedom
    level_step, level_variance = _joined(off[0], level_luck, known.level_variance)
    slope_step, slope_variance = _joined(off[1], slope_luck, known.slope_variance)
    return _Scale(
        level=known.level + level_step,
        level_variance=level_variance,
        slope=known.slope + slope_step,
        slope_variance=slope_variance,
        disagreement=_sentence(metric, known.level, pairs.level, num_samples, chance)
        # Figures other than shares have heavy tails.
        if chance < (_UNLIKELY if is_share(metric) else _UNLIKELY**2)
        else None,
    )


def _joined(off: float, luck: float, known: float) -> tuple[float, float]:
    """Returns by how much what was known is corrected, and the variance of the result.

    Args:
      off: By how much a figure is off what was known.
      luck: Variance of the figure.
      known: Variance of what was known.
    """
    # What luck can hardly explain is a difference of samples, as in the estimate of
    # James and Stein (1961), which takes all that is more than its variance.
    known += max(off**2 - _HARDLY * (luck + known), 0.0)
    share = known / (known + luck + _TINY)
    return off * share, share * luck


def _told_by(predictor: Predictor, evidence: Evidence) -> list[str]:
    """Returns the figures that tell policies apart: without labels the divergence."""
    names = dict.fromkeys((predictor.metric, predictor.helper))
    found = [name for name in names if name in evidence.metrics]
    return found or [name for name in (DIVERGENCE,) if name in evidence.metrics]


def _in_units(
    pairs: Pairs, apart: Array, guess: Guess, least: Array
) -> tuple[Array, Array] | None:
    """Returns by how much figures miss a guess, in its unit, and the errors of that.

    None where they tell nothing of it.

    Args:
      pairs: The figures.
      apart: What is expected of policies, less that of the widest.
      guess: Of these policies.
      least: Least variances of the errors, in the guess's unit.
    """
    slope = 0.0
    errors = _errors(pairs, guess)
    information = 0.0
    for _ in range(_NUM_REWEIGHTED):
        weights = 1.0 / (errors**2 + slope**2 * guess.misses + _TINY)
        weights[0] = 0.0
        information = float(np.sum(weights * apart**2))
        if information <= 0.0:
            return None
        slope = float(np.sum(weights * apart * pairs.differences)) / information
    if abs(slope) * math.sqrt(information / (1.0 + _ALIKE * (len(apart) - 2))) < _CLEAR:
        return None
    errors = np.sqrt(np.maximum((errors / slope) ** 2, least))
    return pairs.differences / slope - apart, errors


def _errors(pairs: Pairs, guess: Guess) -> Array:
    """Returns the errors of differences.

    Those of few parts are too rough to tell policies apart by; how they are spread over
    policies is known of the developer's samples.
    """
    luck = guess.luck / max(float(guess.luck[1:].sum()), _TINY**2)
    return np.sqrt(float((pairs.errors[1:] ** 2).sum()) * luck)


def _sentence(
    metric: str, expected: float, found: float, num_samples: int, chance: float
) -> str:
    figure = figure_of(metric)
    unit = f" {figure.unit}" if figure.unit else ""
    return (
        f"These {num_samples:,} samples are of another kind than the developer's: "
        f"{figure.header} {figure.text(found)}{unit} of the widest policy on them "
        f"beside {figure.text(expected)}{unit} expected, or policies lie apart "
        f"otherwise (by chance once in {1.0 / max(chance, _TINY):,.0f} times); what "
        "was measured on these counts more."
    )
