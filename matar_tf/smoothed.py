"""What to expect of measured policies, by how far outputs are from the widest one's.

Of hundreds of policies on a few samples the best are the luckiest. How far a policy's
outputs are from those of the widest one says more: it blurs no sample to a hit or a
miss. The metric is taken to fall in proportion to that divergence. By how much policies
miss the line beyond their luck, and whether those that are alike miss it alike, is seen
in the measurements; so is how much each one's own figure counts: on many samples that
is nearly all.

Nobody's measurements but one's own are needed; `matar_tf.estimator` joins both.

Reference:
  Efron and Morris, Data Analysis Using Stein's Estimator and its Generalizations, 1975:
  section 3 for figures that are drawn towards a line.
  Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: section 2.7 for
  a line with a process beside it, section 5.4.1 for sizes by likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]
import scipy.special  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.evidence import Evidence
from matar_tf.figures import expected_name, is_share, larger_is_better
from matar_tf.likeness import SELF, Array, PolicyRows, one_thread
from matar_tf.measurements import DIVERGENCE
from matar_tf.policy import Policy
from matar_tf.predictor import bounded

__all__ = ["Smoothed"]

_NEAR: Final = 0.5  # of the policies: luck is seen in those that are near the widest
_LEAST_POLICIES: Final = 8  # a line of fewer tells nothing
_ALIKE: Final = 0.5  # correlation of policies' luck on the same samples
_OWN: Final = (0.0, 0.5, 1.0)  # of misses: share that a policy has for itself
_SIZES: Final = (0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0)  # of misses, over those from a line
_SUREST: Final = 1e3  # deviations that a slope is on the wrong side by, at most
_TINY: Final = 1e-12


class Smoothed:
    """Estimates one metric of policies that were measured on the same samples.

    Args:
      evidence: The metric and the divergence of all policies, the widest one first.
      metric: Name of the metric, a mean over samples.

    Attributes:
      metric: Name of the estimate.
    """

    def __init__(self, evidence: Evidence, metric: str) -> None:
        self.metric = expected_name(metric)
        self._measured = metric
        self._places = {one: index for index, one in enumerate(evidence.policies)}
        pairs = evidence.metrics[metric]
        distances = np.maximum(evidence.metrics[DIVERGENCE].differences, 0.0)
        apart, variances = pairs.differences, pairs.errors**2
        differ = distances > 0.0
        if differ.sum() >= _LEAST_POLICIES:
            sign = 1.0 if larger_is_better(metric) else -1.0
            others = [evidence.policies[place] for place in np.flatnonzero(differ)]
            luck = _luck(variances[differ], distances[differ])
            drawn = _drawn(others, sign * apart[differ], luck, distances[differ])
            apart, variances = np.zeros_like(apart), np.zeros_like(apart)
            apart[differ], variances[differ] = sign * drawn[0], drawn[1]
        level_variance = pairs.level_error**2
        if is_share(metric):
            number = evidence.num_samples
            share = min(max(pairs.level, 1.0 / number), 1.0 - 1.0 / number)
            level_variance = share * (1.0 - share) / number
        self._expected = pairs.level + apart
        self._deviations = np.sqrt(level_variance + variances)

    def with_bounds(self, policies: Sequence[Policy]) -> tuple[Array, Array, Array]:
        """Returns what is expected of policies, and the bounds of 95 % intervals.

        Args:
          policies: Measured ones.

        Returns:
          Three arrays ``[num_policies]``, in the metric's unit.
        """
        places = [self._places[one] for one in policies]
        return bounded(
            self._measured,
            np.take(self._expected, places),
            np.take(self._deviations, places),
        )


def _luck(squares: Array, distances: Array) -> Array:
    """Returns variances of the luck of policies, which parts of samples show roughly.

    The share of samples with another outcome grows with the root of a divergence
    (Pinsker's inequality), which few parts show of one policy, but of all together.

    Args:
      squares: Of the errors that parts show, ``[num_policies]``.
      distances: Divergences, all above 0.
    """
    roots = np.sqrt(distances)
    near = distances <= np.quantile(distances, _NEAR)
    return roots * float(squares[near].sum() / roots[near].sum()) + _TINY


def _drawn(
    policies: Sequence[Policy],
    apart: Array,
    luck: Array,
    distances: Array,
) -> tuple[Array, Array]:
    """Returns figures that are drawn towards a line, and variances of their errors.

    Args:
      policies: Those that were measured, all unlike the widest.
      apart: By how much figures are above the widest policy's, ``[num_policies]``;
        larger ones are better.
      luck: Variances of the errors of these.
      distances: Divergences from the widest policy's outputs.
    """
    slope = float(np.sum(apart * distances / luck) / np.sum(distances**2 / luck))
    off = apart - min(slope, 0.0) * distances
    unit = float(np.mean((off / distances) ** 2)) + _TINY
    with one_thread():
        rows = PolicyRows(policies)
        alike = rows.kernel(rows) / SELF
        own = np.eye(len(apart))
        misses = np.outer(distances, distances) * unit
        found = _Process(0.0 * misses, luck, distances, apart)
        for share in _OWN:
            shape = misses * (share * own + (1.0 - share) * alike)
            for size in _SIZES:
                one = _Process(size * shape, luck, distances, apart)
                found = max(found, one, key=lambda each: each.likelihood)
        return found.posterior()


class _Process:
    """What policies are above the widest one: a line, and misses that are alike.

    Args:
      misses: Covariance of the misses, ``[num_policies, num_policies]``.
      luck: Variances of the errors of what was measured.
      distances: Divergences, which the line is of.
      apart: What was measured.

    Attributes:
      likelihood: Logarithm of that of what was measured, but for a constant.
    """

    def __init__(
        self, misses: Array, luck: Array, distances: Array, apart: Array
    ) -> None:
        self._misses, self._distances = misses, distances
        self._factor = np.linalg.cholesky(misses + np.diag(luck))
        both = _solved(self._factor, np.stack([distances, apart], axis=1))
        self._x, self._y = both.T
        self._information = float(self._x @ self._x)
        self._slope = float(self._x @ self._y) / self._information
        left = self._y - min(self._slope, 0.0) * self._x
        logarithms = np.log(np.diag(self._factor))
        self.likelihood = float(-logarithms.sum() - left @ left / 2.0)

    def posterior(self) -> tuple[Array, Array]:
        """Returns what policies are above the widest one, and variances of that."""
        number = len(self._distances)
        # Policies' luck is alike, so that many of them tell little more than a few.
        deviation = math.sqrt((1.0 + _ALIKE * (number - 1)) / self._information)
        slope, slope_variance = _below_zero(self._slope, deviation)
        weights = _solved(self._factor, self._misses)
        expected = slope * self._distances + weights.T @ (self._y - slope * self._x)
        rest = self._distances - weights.T @ self._x
        variances = np.diag(self._misses) - np.sum(weights**2, axis=0)
        return expected, np.maximum(variances, 0.0) + slope_variance * rest**2


def _solved(factor: Array, values: Array) -> Array:
    """Returns what a lower triangular matrix makes these values of."""
    return cast("Any", scipy.linalg).solve_triangular(factor, values, lower=True)


def _below_zero(mean: float, deviation: float) -> tuple[float, float]:
    """Returns mean and variance of a normal variable that is known to be negative.

    Outputs that are farther from the widest policy's are not better.
    """
    deviation = max(deviation, mean / _SUREST, _TINY)
    above = mean / deviation
    density = -0.5 * (above**2 + math.log(2.0 * math.pi))
    ratio = math.exp(density - cast("Any", scipy.special).log_ndtr(-above))
    return (
        mean - deviation * ratio,
        deviation**2 * max(1.0 + above * ratio - ratio**2, _TINY),
    )
