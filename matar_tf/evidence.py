"""What samples of one's own say of policies: figures beside the widest policy's.

All policies are measured on the same samples, and so are compared in pairs: a figure's
error is that of its difference from the widest policy's, which is far smaller than its
own. Errors are seen by cutting the samples into parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matar_tf.errors import DataError
from matar_tf.likeness import Array
from matar_tf.policy import Policy

__all__ = ["Evidence", "Pairs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """One metric of policies beside the widest one's.

    Attributes:
      differences: From the widest policy's figure, ``[num_policies]``, 0 for itself.
      errors: Standard errors of these.
      level: The widest policy's figure.
      level_error: Its standard error.
    """

    differences: Array
    errors: Array
    level: float
    level_error: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Figures of policies on samples of one's own.

    Attributes:
      policies: The widest one first.
      metrics: Figures by metric.
      num_samples: Number of samples.
    """

    policies: tuple[Policy, ...]
    metrics: Mapping[str, Pairs]
    num_samples: int

    @classmethod
    def of_parts(
        cls, policies: Sequence[Policy], metrics: Mapping[str, Array], num_samples: int
    ) -> Evidence:
        """Returns the evidence of policies that were measured on parts of samples.

        Args:
          policies: The widest one first.
          metrics: Figures by metric, ``[num_parts, num_policies]``. Parts have equally
            many samples, or the first ones one more.
          num_samples: Number of samples in all.

        Raises:
          DataError: If there are fewer than two parts.
        """
        return cls(
            policies=tuple(policies),
            metrics={
                name: _pairs(name, one, num_samples) for name, one in metrics.items()
            },
            num_samples=num_samples,
        )


def _pairs(name: str, parts: Array, num_samples: int) -> Pairs:
    num_parts = len(parts)
    if num_parts < 2:
        raise DataError(
            f"Expected two or more parts of samples to see the errors of {name!r} in, "
            f"got {num_parts}; add samples."
        )
    sizes = [max((num_samples + part) // num_parts, 1) for part in range(num_parts)]
    apart = parts - parts[:, :1]
    squares = apart.var(axis=0, ddof=1) / num_parts
    return Pairs(
        differences=np.average(apart, axis=0, weights=sizes[::-1]),
        errors=np.sqrt(squares),
        level=float(np.average(parts[:, 0], weights=sizes[::-1])),
        level_error=float(parts[:, 0].std(ddof=1) / np.sqrt(num_parts)),
    )
