"""A cheap guess of what a policy's metrics are, learned from those measured so far.

Rounding to ``n`` bits adds noise of a power in proportion to ``4**-n``; a Gaussian
process over these powers, one for each entry, guesses what unmeasured policies reach.
It decides only which policies are worth measuring, never what is in the front.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]
import threadpoolctl  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.policy import MAX_BITS, Policy

__all__ = ["MIN_SAMPLES", "Array", "Surrogate", "noise_powers"]

MIN_SAMPLES: Final = 12
# Chosen once, on 1,579 policies of a ResNet-8: fitted to those of 2..8 bits,
# checked on those of 8/4/2 bits (rank correlation 0.97).
_RIDGE: Final = 0.1
_INVERSE_WIDTH: Final = 1.0  # of the kernel, for the sum over all entries
_SMALLEST_DEVIATION: Final = 1e-9  # of a guess, in those of the values
_POWERS: Final = 16.0 * 4.0 ** -np.arange(MAX_BITS + 1.0)  # of a width's noise

Array = npt.NDArray[np.float64]


def noise_powers(policies: Sequence[Policy]) -> Array:
    """Returns ``16 * 4**-bits`` of each entry, ``[num_policies, num_entries]``.

    1 at two bits; weights come first, each in the order of the policy.
    """
    # As bytes: a search turns tens of thousands of policies into rows.
    bits = b"".join(
        bytes(entries.values())
        for policy in policies
        for entries in (policy.weights, policy.activations)
    )
    return _POWERS[np.frombuffer(bits, np.uint8)].reshape(len(policies), -1)


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
        # Imported here: a search without a surrogate need not wait for it.
        from sklearn.gaussian_process import (  # pyright: ignore[reportMissingTypeStubs]
            GaussianProcessRegressor,
            kernels,
        )

        features = noise_powers(policies)
        self._mean = values.mean(axis=0)
        self._deviation = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
        kernel = cast("Any", kernels).RBF(
            length_scale=float(np.sqrt(features.shape[1] / (2.0 * _INVERSE_WIDTH)))
        )
        model = cast("Any", GaussianProcessRegressor)(
            kernel=kernel, alpha=_RIDGE, optimizer=None
        )
        with _one_thread():
            self._model = model.fit(features, (values - self._mean) / self._deviation)
            self._scale = self._deviation * self._left_out_scale()

    def predict(self, policies: Sequence[Policy]) -> Array:
        """Returns predicted figures, ``[num_policies, num_figures]``."""
        with _one_thread():
            predicted = self._model.predict(noise_powers(policies))
        return predicted.reshape(len(policies), -1) * self._deviation + self._mean

    def deviations(self, policies: Sequence[Policy]) -> Array:
        """Returns the standard deviations of measured figures from predicted ones.

        What is not known of the network, and the luck of a measurement; of the size
        that the better half of the measured policies misses its predictions from all
        the others by. Bad policies miss them by more, and are in no front.
        """
        with _one_thread():
            _, found = self._model.predict(noise_powers(policies), return_std=True)
        variances = found.reshape(len(policies), -1)[:, :1] ** 2 + _RIDGE
        return np.sqrt(variances) * np.maximum(
            self._scale, _SMALLEST_DEVIATION * self._deviation
        )

    def _left_out_scale(self) -> Array:
        """Returns the deviation of left-out residuals, in those of the process.

        Of the better half of the measured policies.
        """
        factor: Array = self._model.L_  # of the covariance
        inverse: Array = cast("Any", scipy.linalg).lapack.dtrtri(factor, lower=1)[0]
        precision = np.sum(inverse**2, axis=0)  # diagonal of the inverse covariance
        weights: Array = self._model.alpha_.reshape(len(factor), -1)
        values: Array = self._model.y_train_.reshape(len(factor), -1)
        is_better = values <= np.median(values, axis=0)
        squares: Array = np.where(is_better, weights**2 / precision[:, None], 0.0)
        means: Array = squares.sum(axis=0) / is_better.sum(axis=0)
        return np.sqrt(means)
