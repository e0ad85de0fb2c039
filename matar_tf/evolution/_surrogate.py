"""A cheap guess of what a policy's metrics are, learned from those measured so far.

A Gaussian process guesses what unmeasured policies reach, from how alike they are to
measured ones (`matar_tf.likeness`). It decides only which policies are worth measuring,
never what is in the front.

Reference:
  Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: algorithm 2.1,
  and section 5.4.2 for predictions of what is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.likeness import RIDGE, SELF, Array, PolicyRows, one_thread
from matar_tf.policy import Policy

__all__ = ["MIN_SAMPLES", "Array", "Surrogate", "SurrogateFactory"]

MIN_SAMPLES: Final = 12
_SMALLEST_DEVIATION: Final = 1e-9  # of a guess, in those of the values
_lapack: Any = cast("Any", scipy.linalg).lapack


class Surrogate:
    """Predicts figures of policies.

    Args:
      policies: Measured policies of one network, at least one.
      values: Their figures, ``[num_policies, num_figures]``.
    """

    def __init__(self, policies: Sequence[Policy], values: Array) -> None:
        self._known = PolicyRows(policies)
        self._mean = values.mean(axis=0)
        self._deviation = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
        scaled = (values - self._mean) / self._deviation
        with one_thread():
            covariance = self._known.kernel(self._known)
            covariance[np.diag_indices_from(covariance)] += RIDGE
            factor = _lapack.dpotrf(covariance, lower=1)[0]
            self._inverse: Array = _lapack.dtrtri(factor, lower=1)[0]
            self._weights: Array = self._inverse.T @ (self._inverse @ scaled)
        self._scale = self._deviation * self._left_out_scale(scaled)

    def predict(self, policies: Sequence[Policy]) -> Array:
        """Returns predicted figures, ``[num_policies, num_figures]``."""
        with one_thread():
            predicted = PolicyRows(policies).kernel(self._known) @ self._weights
        return predicted * self._deviation + self._mean

    def deviations(self, policies: Sequence[Policy]) -> Array:
        """Returns the standard deviations of measured figures from predicted ones.

        What is not known of the network, and the luck of a measurement; of the size
        that the better half of the measured policies misses its predictions from all
        the others by. Bad policies miss them by more, and are in no front.
        """
        with one_thread():
            explained = PolicyRows(policies).kernel(self._known) @ self._inverse.T
        variances = SELF + RIDGE - np.sum(explained**2, axis=1, keepdims=True)
        return np.sqrt(np.maximum(variances, RIDGE)) * np.maximum(
            self._scale, _SMALLEST_DEVIATION * self._deviation
        )

    def _left_out_scale(self, scaled: Array) -> Array:
        """Returns the deviation of left-out residuals, in those of the process.

        Of the better half of the measured policies.
        """
        precision = np.sum(self._inverse**2, axis=0)  # diagonal of the inverse
        is_better = scaled <= np.median(scaled, axis=0)
        squares = np.where(is_better, self._weights**2 / precision[:, None], 0.0)
        means: Array = squares.sum(axis=0) / is_better.sum(axis=0)
        return np.sqrt(means)


SurrogateFactory = Callable[[Sequence[Policy], Array], Surrogate]
