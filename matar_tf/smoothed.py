"""What to expect of measured policies, by how far outputs are from the widest one's.

Of hundreds of policies on a few samples the best are the luckiest. How far a policy's
outputs are from those of the widest one says more: it blurs no sample to a hit or a
miss. The metric is taken to fall in proportion to that divergence. How far policies
miss the line beyond their luck is seen in the measurements, and by how much each one's
own figure counts against it: on many samples that is nearly all.

Nobody's measurements but one's own are needed; `matar_tf.estimator` joins both.

Reference:
  Efron and Morris, Data Analysis Using Stein's Estimator and its Generalizations, 1975:
  section 3 for figures that are drawn towards a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import scipy.special  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.evidence import Evidence
from matar_tf.figures import expected_name, is_share, larger_is_better
from matar_tf.likeness import Array
from matar_tf.measurements import DIVERGENCE
from matar_tf.policy import Policy
from matar_tf.predictor import bounded

__all__ = ["Smoothed"]

_NEAR: Final = 0.5  # of the policies: the line is of those that are near the widest
_LEAST_POLICIES: Final = 8  # a line of fewer tells nothing
_ALIKE: Final = 0.5  # correlation of policies' luck on the same samples
_NUM_REWEIGHTED: Final = 8
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
        near = _near(distances)
        if near.any():
            sign = 1.0 if larger_is_better(metric) else -1.0
            apart, variances = _drawn(sign * apart, variances, distances, near)
            apart = sign * apart
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


def _near(distances: Array) -> npt.NDArray[np.bool_]:
    """Returns which policies a line is fitted to; none of too few."""
    differ = np.asarray(distances > 0.0)
    if differ.sum() < _LEAST_POLICIES:
        return np.zeros_like(differ)
    return differ & (distances <= np.quantile(distances[differ], _NEAR))


def _drawn(
    apart: Array, squares: Array, distances: Array, near: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Returns figures that are drawn towards a line, and variances of their errors.

    Args:
      apart: By how much figures are above the widest policy's, ``[num_policies]``;
        larger ones are better.
      squares: Of the errors of these, as parts of the samples show them.
      distances: Divergences from the widest policy's outputs.
      near: Which policies the line is fitted to.
    """
    # The share of samples with another outcome grows with the root of a divergence
    # (Pinsker's inequality), which few parts show of one policy, but of all together.
    roots = np.sqrt(distances)
    luck = roots * float(squares[near].sum() / roots[near].sum()) + _TINY
    x, y, spread = distances[near], apart[near], 0.0
    slope, information = 0.0, 1.0
    for _ in range(_NUM_REWEIGHTED):
        weights = 1.0 / (luck[near] + spread * x**2)
        information = float(np.sum(weights * x**2))
        slope = float(np.sum(weights * x * y)) / information
        left = (y - slope * x) ** 2 - luck[near]
        spread = max(float(left.sum() / (x**2).sum()), 0.0)
    deviation = math.sqrt((1.0 + _ALIKE * (len(x) - 1)) / information)
    slope, slope_variance = _below_zero(slope, deviation)
    misses = spread * distances**2
    share = misses / (misses + luck)
    line = slope * distances
    variances = share * luck + slope_variance * ((1.0 - share) * distances) ** 2
    return np.where(distances > 0.0, line + share * (apart - line), 0.0), variances


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
