"""A cheap guess of what a policy's metrics are, learned from those measured so far.

Rounding to ``n`` bits adds noise of a power in proportion to ``4**-n``; a Gaussian
process over these powers, one for each entry, guesses what unmeasured policies reach.
Between wide widths the powers hardly differ, and what is left is particular to each
choice: a second, smaller term makes policies alike that share many widths. The process
decides only which policies are worth measuring, never what is in the front.

Reference:
  Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: algorithm 2.1,
  and section 5.4.2 for predictions of what is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]
import threadpoolctl  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.policy import ALL_BITS, MAX_BITS, Policy

__all__ = ["MIN_SAMPLES", "Array", "Surrogate", "SurrogateFactory"]

MIN_SAMPLES: Final = 12
# Chosen once, on 10,431 policies of a ResNet-8, see BUILD_NOTES.md.
_RIDGE: Final = 0.05
_INVERSE_WIDTH: Final = 1.0  # of the first term, for the sum over all entries
_SHARE: Final = 0.05  # of the second term, beside 1 of the first
_DIFFERING: Final = 0.25  # of the entries: the second term falls to 1/e
_SMALLEST_DEVIATION: Final = 1e-9  # of a guess, in those of the values
# Of the noise of each width, 1 at two bits.
_POWERS: Final = 16.0 * 4.0 ** -np.arange(MAX_BITS + 1.0)
_WIDTHS: Final = np.asarray(ALL_BITS, np.uint8)
_lapack: Any = cast("Any", scipy.linalg).lapack

Array = npt.NDArray[np.float64]


def _bits(policies: Sequence[Policy]) -> npt.NDArray[np.uint8]:
    """Returns ``[num_policies, num_entries]``, weights first, in a policy's order."""
    # As bytes: a search turns tens of thousands of policies into rows.
    bits = b"".join(
        bytes(entries.values())
        for policy in policies
        for entries in (policy.weights, policy.activations)
    )
    return np.frombuffer(bits, np.uint8).reshape(len(policies), -1)


@functools.cache
def _threads() -> Any:
    # Looks for all loaded libraries, which takes as long as a prediction.
    return cast("Any", threadpoolctl).ThreadpoolController()


def _one_thread() -> Any:
    # The measuring processes have the cores, and sums keep their order.
    return _threads().limit(limits=1, user_api="blas")


class Surrogate:
    """Predicts figures of policies.

    Args:
      policies: Measured policies of one network, at least one.
      values: Their figures, ``[num_policies, num_figures]``.
    """

    def __init__(self, policies: Sequence[Policy], values: Array) -> None:
        self._known = _Rows(policies)
        self._mean = values.mean(axis=0)
        self._deviation = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
        scaled = (values - self._mean) / self._deviation
        with _one_thread():
            covariance = self._known.kernel(self._known)
            covariance[np.diag_indices_from(covariance)] += _RIDGE
            factor = _lapack.dpotrf(covariance, lower=1)[0]
            self._inverse: Array = _lapack.dtrtri(factor, lower=1)[0]
            self._weights: Array = self._inverse.T @ (self._inverse @ scaled)
        self._scale = self._deviation * self._left_out_scale(scaled)

    def predict(self, policies: Sequence[Policy]) -> Array:
        """Returns predicted figures, ``[num_policies, num_figures]``."""
        with _one_thread():
            predicted = _Rows(policies).kernel(self._known) @ self._weights
        return predicted * self._deviation + self._mean

    def deviations(self, policies: Sequence[Policy]) -> Array:
        """Returns the standard deviations of measured figures from predicted ones.

        What is not known of the network, and the luck of a measurement; of the size
        that the better half of the measured policies misses its predictions from all
        the others by. Bad policies miss them by more, and are in no front.
        """
        with _one_thread():
            explained = _Rows(policies).kernel(self._known) @ self._inverse.T
        variances = 1.0 + _SHARE + _RIDGE - np.sum(explained**2, axis=1, keepdims=True)
        return np.sqrt(np.maximum(variances, _RIDGE)) * np.maximum(
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


class _Rows:
    """Policies as the kernel sees them."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        bits = _bits(policies)
        self._num_entries = bits.shape[1]
        self._powers = _POWERS[bits]
        self._squares = np.sum(self._powers**2, axis=1)
        # Small integers: exact in float32, whose products take half of the time.
        choices = (bits[:, :, None] == _WIDTHS).reshape(len(bits), -1)
        self._choices = choices.astype(np.float32)

    def kernel(self, others: _Rows) -> Array:
        """Returns the covariances with others, without noise: ``[num, num_others]``."""
        # In place: new matrices of this size take longer than what is computed.
        found: Array = self._powers @ others._powers.T
        found *= 2.0
        found -= self._squares[:, None]
        found -= others._squares
        found *= _INVERSE_WIDTH / self._num_entries
        np.exp(found, out=found)
        particular: Array = (self._choices @ others._choices.T).astype(np.float64)
        particular -= self._num_entries
        particular /= _DIFFERING * self._num_entries
        np.exp(particular, out=particular)
        particular *= _SHARE
        found += particular
        return found


SurrogateFactory = Callable[[Sequence[Policy], Array], Surrogate]
