"""How alike policies are: the covariance of what they do to a network.

Rounding to ``n`` bits adds noise of a power in proportion to ``4**-n``: policies are
alike as far as these powers are, entry by entry. Between wide widths the powers hardly
differ, and what is left is particular to each choice: a second, smaller term makes
policies alike that share many widths.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import threadpoolctl  # pyright: ignore[reportMissingTypeStubs]

from matar_tf.policy import ALL_BITS, MAX_BITS, Policy

__all__ = ["RIDGE", "SELF", "Array", "PolicyRows", "one_thread"]

# Chosen once, on 10,431 policies of a ResNet-8, see BUILD_NOTES.md.
RIDGE: Final = 0.05  # variance of what is measured beside the covariance
_INVERSE_WIDTH: Final = 1.0  # of the first term, for the sum over all entries
_SHARE: Final = 0.05  # of the second term, beside 1 of the first
_DIFFERING: Final = 0.25  # of the entries: the second term falls to 1/e
SELF: Final = 1.0 + _SHARE  # covariance of a policy with itself
# Of the noise of each width, 1 at two bits.
_POWERS: Final = 16.0 * 4.0 ** -np.arange(MAX_BITS + 1.0)
_WIDTHS: Final = np.asarray(ALL_BITS, np.uint8)

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


def one_thread() -> Any:
    """Returns a context in which products and factors take one thread.

    The measuring processes have the cores, and sums keep their order.
    """
    return _threads().limit(limits=1, user_api="blas")


class PolicyRows:
    """Policies as the covariance sees them.

    Args:
      policies: Policies of one network, their entries in one order.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        bits = _bits(policies)
        self._num_entries = bits.shape[1]
        self._powers = _POWERS[bits]
        self._squares = np.sum(self._powers**2, axis=1)
        # Small integers: exact in float32, whose products take half of the time.
        choices = (bits[:, :, None] == _WIDTHS).reshape(len(bits), -1)
        self._choices = choices.astype(np.float32)

    def kernel(self, others: PolicyRows) -> Array:
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
