"""Batch norms whose statistics follow the policy, as an artifact holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.errors import ArtifactError, shown
from matar_tf.io.json_reader import JsonReader
from matar_tf.policy import ALL_BITS, MAX_BITS, MIN_BITS, Policy, row_of

__all__ = [
    "NORM_ARRAYS",
    "NormParameters",
    "norm_places",
    "num_norm_rows",
    "read_bits",
    "read_norm",
]

NORM_ARRAYS: Final = ("gamma", "beta", "mean", "variance")
_READER: Final = JsonReader(ArtifactError)


@dataclass(frozen=True, kw_only=True, eq=False)
class NormParameters:
    """A batch norm whose statistics follow the policy.

    A layer's output has other statistics when the layer, or one before it, has other
    widths. They are added up from terms, each a bank of rows that the widths of one or
    two policy entries choose from: ``mean = sum(means)``,
    ``variance = product(variances)``, and then

        ``scale = abs(gamma) / sqrt(variance + epsilon)``,
        ``offset = beta - mean * scale``.

    Attributes:
      entries: Kind (``weights`` or ``activations``), name and widths, ascending, of
        the entries that the statistics depend on: the layer's own weights, then what
        is before it, the nearest first. The first two choose the row of the first
        term together, each further one that of a term of its own.
      gamma: ``[channels]``, for all widths.
      beta: ``[channels]``.
      mean: Rows of all terms, one term after the other, ``[num_rows, channels]``.
      variance: In the shape of `mean`.
      epsilon: Added to the variance.
    """

    entries: tuple[tuple[str, str, tuple[int, ...]], ...]
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float

    def folded(self, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
        """Returns scale and offset under a policy, float32, ``[channels]`` each.

        Computed in float64, as in training, so that both round to the same numbers
        whatever the order of the terms.
        """
        rows = [
            row_of(bits, getattr(policy, kind)[one]) for kind, one, bits in self.entries
        ]
        places = norm_places([len(bits) for _, _, bits in self.entries], rows)
        mean = self.mean[places].astype(np.float64).sum(axis=0)
        variance = self.variance[places].astype(np.float64).prod(axis=0)
        gamma, beta = (one.astype(np.float64) for one in (self.gamma, self.beta))
        scale = np.abs(gamma) / np.sqrt(variance + self.epsilon)
        offset = beta - mean * scale
        return scale.astype(np.float32), offset.astype(np.float32)


def norm_places(sizes: Sequence[int], rows: Sequence[Any]) -> list[Any]:
    """Returns the row of each term in the statistics of a `NormParameters`.

    Args:
      sizes: Number of widths of each entry.
      rows: Row of the width in force of each entry: numbers, or anything to reckon
        with.
    """
    paired = len(sizes) > 1
    places = [rows[0] * sizes[1] + rows[1] if paired else rows[0]]
    start = sizes[0] * (sizes[1] if paired else 1)
    for size, row in zip(sizes[2:], rows[2:], strict=True):
        places.append(row + start)
        start += size
    return places


def num_norm_rows(sizes: Sequence[int]) -> int:
    """Returns the number of rows of the statistics of a `NormParameters`."""
    return sizes[0] * (sizes[1] if len(sizes) > 1 else 1) + sum(sizes[2:])


def read_norm(
    entry: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray], prefix: str
) -> NormParameters | None:
    """Returns a batch norm of an index, with its arrays; None for none.

    Args:
      entry: What the index says of it.
      arrays: All arrays.
      prefix: Beginning of the names of its own.

    Raises:
      ArtifactError: If keys are missing, or others are there.
      ValueError: If a value is malformed.
    """
    if entry is None:
        return None
    _READER.object(entry, "norm", ("entries", "epsilon"))
    epsilon = entry["epsilon"]
    if type(epsilon) not in (int, float) or not 0 < epsilon < math.inf:
        raise ValueError(f"an epsilon must be a finite number above 0, not {epsilon!r}")
    entries = tuple(
        (str(kind), str(name), read_bits(bits)) for kind, name, bits in entry["entries"]
    )
    if not entries:
        raise ValueError("a norm must depend on the weights before it")
    found = {name: arrays[f"{prefix}{name}"] for name in NORM_ARRAYS}
    return NormParameters(entries=entries, epsilon=float(epsilon), **found)


def read_bits(value: Any) -> tuple[int, ...]:
    """Returns widths of an index.

    Raises:
      ValueError: If they are none.
    """
    is_list = isinstance(value, list) and all(type(bits) is int for bits in value)
    if not is_list or not value or value != sorted(set(value) & set(ALL_BITS)):
        raise ValueError(
            f"widths must be ascending integers in {MIN_BITS}..{MAX_BITS}, not "
            f"{shown(value)}"
        )
    return tuple(value)
