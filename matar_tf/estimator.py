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
from typing import Final

import numpy as np

from matar_tf.evidence import Evidence, Pairs
from matar_tf.figures import Z95, expected_name, figure_of, is_share
from matar_tf.likeness import SELF, Array, PolicyRows, one_thread
from matar_tf.measurements import DIVERGENCE
from matar_tf.policy import Policy
from matar_tf.predictor import Guess, Predictor

__all__ = ["Estimator"]

_UNLIKELY: Final = 0.01  # chance below which samples are of another kind
_ALIKE: Final = 0.35  # correlation of the luck of policies that are alike
_SCATTER: Final = 0.25  # of a variance of misses: what a score is off the metric by
_LOOSE: Final = 2.0  # the same, of the divergence alone
_STRETCHES: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_GAIN: Final = 3.0  # of log likelihood, for which misses are taken to be larger
_CLEAR: Final = 2.0  # errors that a slope is from 0 by, to tell anything
_NUM_REWEIGHTED: Final = 3
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
        self.disagreement: str | None = None
        self._predictor = predictor
        self._widest = evidence.policies[0]
        guess = predictor.guess(evidence.policies)
        self._base = float(guess.expected[0])
        apart = guess.expected - self._base
        sensors = [evidence.metrics[name] for name in _told_by(predictor, evidence)]
        found = [_in_units(one, apart, guess) for one in sensors]
        found = [one for one in found if one is not None]
        self._rows: PolicyRows | None = None
        if found and len(apart) > 1:
            residuals = np.mean([one for one, _ in found], axis=0)
            errors = np.mean([one for _, one in found], axis=0)
            is_loose = predictor.metric not in evidence.metrics
            scatter = _LOOSE if is_loose else _SCATTER
            self._learn(
                evidence.policies[1:], guess, residuals[1:], errors[1:], scatter
            )
        self._level, self._slope = self._base, 1.0
        self._level_variance = predictor.level_deviation**2
        self._slope_variance = 0.0  # that of the prior is in the guess
        if predictor.metric in evidence.metrics:
            one = evidence.metrics[predictor.metric]
            shift, _ = self._shifts(evidence.policies, guess)
            self._scale(one, apart + shift, guess, evidence.num_samples)

    def predict(self, policies: Sequence[Policy]) -> tuple[Array, Array]:
        """Returns what is expected of policies, and its standard deviation.

        Args:
          policies: Of the network that was measured.

        Returns:
          Two arrays ``[num_policies]``, in the metric's unit.
        """
        guess = self._predictor.guess(policies)
        shift, misses = self._shifts(policies, guess)
        apart = guess.expected - self._base + shift
        expected = self._level + self._slope * apart
        variances = (misses + guess.luck + guess.line) * self._slope**2
        variances += self._level_variance + apart**2 * self._slope_variance
        if is_share(self._predictor.metric):
            expected = np.clip(expected, 0.0, 1.0)
        return expected, np.sqrt(variances)

    def with_bounds(self, policies: Sequence[Policy]) -> tuple[Array, Array, Array]:
        """Returns what is expected, and the bounds of the 95 % intervals around it."""
        expected, deviations = self.predict(policies)
        low, high = expected - Z95 * deviations, expected + Z95 * deviations
        if is_share(self._predictor.metric):
            low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
        return expected, low, high

    def _learn(
        self,
        policies: Sequence[Policy],
        guess: Guess,
        residuals: Array,
        errors: Array,
        scatter: float,
    ) -> None:
        """Learns by how much policies miss their guesses on these samples."""
        misses = np.sqrt(guess.misses[1:]) + _TINY
        with one_thread():
            rows = PolicyRows(policies)
            alike = rows.kernel(rows) / SELF
            own = np.outer(misses, misses) * alike
            luck = np.outer(errors, errors) * _ALIKE * alike
            luck[np.diag_indices_from(luck)] += (1.0 - _ALIKE) * errors**2
            luck[np.diag_indices_from(luck)] += scatter * misses**2 + _TINY
            likeliest = -math.inf
            for stretch in _STRETCHES:
                factor = np.linalg.cholesky(stretch**2 * own + luck)
                inverse = np.linalg.inv(factor)
                scaled = inverse @ residuals
                likelihood = -0.5 * float(scaled @ scaled) - float(
                    np.log(np.diag(factor)).sum()
                )
                if likelihood > likeliest + (_GAIN if stretch > 1.0 else 0.0):
                    likeliest = likelihood
                    self._stretch, self._inverse = stretch, inverse
                    self._weights = inverse.T @ scaled
        self._rows, self._own = rows, misses

    def _shifts(self, policies: Sequence[Policy], guess: Guess) -> tuple[Array, Array]:
        """Returns by how much policies miss their guesses, and the variances of it."""
        if self._rows is None:
            return np.zeros(len(policies)), guess.misses
        misses = np.sqrt(guess.misses)
        with one_thread():
            alike = PolicyRows(policies).kernel(self._rows) / SELF
            both = self._stretch**2 * alike * misses[:, None] * self._own
            shift = both @ self._weights
            explained = np.sum((both @ self._inverse.T) ** 2, axis=1)
        left = np.maximum(self._stretch**2 * guess.misses - explained, 0.0)
        is_widest = np.array([one == self._widest for one in policies])
        return np.where(is_widest, 0.0, shift), left

    def _scale(
        self, pairs: Pairs, apart: Array, guess: Guess, num_samples: int
    ) -> None:
        """Joins the level, and how far policies are apart, with what was measured."""
        weights = 1.0 / (_errors(pairs, guess) ** 2 + guess.misses + _TINY)
        weights[0] = 0.0
        # Policies' luck is alike, so that many of them tell little more than a few.
        number = len(apart) - 1
        information = float(np.sum(weights * apart**2))
        slope, own = 1.0, math.inf
        if information > 0.0:  # else nothing is known of it
            slope = float(np.sum(weights * apart * pairs.differences)) / information
            own = (1.0 + _ALIKE * max(number - 1, 0)) / information
        level_error = pairs.level_error
        if is_share(self._predictor.metric):
            share = min(max(pairs.level, 1.0 / num_samples), 1.0 - 1.0 / num_samples)
            level_error = math.sqrt(share * (1.0 - share) / num_samples)
        luck = level_error**2, own
        known = self._predictor.level_deviation**2, self._predictor.slope_deviation**2
        off = pairs.level - self._base, slope - 1.0
        squares = sum(
            one**2 / (first + second + _TINY)
            for one, first, second in zip(off, luck, known, strict=True)
        )
        chance = math.exp(-0.5 * squares)  # of chi-squared with two degrees
        if chance < _UNLIKELY:
            self.disagreement = _sentence(
                self._predictor.metric, self._base, pairs.level, num_samples, chance
            )
        step, self._level_variance = _joined(off[0], luck[0], known[0])
        self._level += step
        step, variance = _joined(off[1], luck[1], known[1])
        # That of the developer's slope is in each guess.
        self._slope, self._slope_variance = 1.0 + step, max(variance - known[1], 0.0)


def _joined(off: float, luck: float, known: float) -> tuple[float, float]:
    """Returns by how much what was known is corrected, and the variance of the result.

    Args:
      off: By how much a figure is off what was known.
      luck: Variance of the figure.
      known: Variance of what was known.
    """
    # What luck does not explain is a difference of samples (James and Stein, 1961).
    known += max(off**2 - luck - known, 0.0)
    share = known / (known + luck + _TINY)
    return off * share, share * luck


def _told_by(predictor: Predictor, evidence: Evidence) -> list[str]:
    """Returns the figures that tell policies apart: without labels the divergence."""
    names = dict.fromkeys((predictor.metric, predictor.helper))
    found = [name for name in names if name in evidence.metrics]
    return found or [name for name in (DIVERGENCE,) if name in evidence.metrics]


def _in_units(pairs: Pairs, apart: Array, guess: Guess) -> tuple[Array, Array] | None:
    """Returns by how much figures miss a guess, in its unit, and the errors of that.

    None where they tell nothing of it.
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
    return pairs.differences / slope - apart, errors / abs(slope)


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
