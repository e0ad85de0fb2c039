"""The terms that a batch norm's statistics are added up from, fitted to batches.

NumPy alone. `matar_tf.norms.NormParameters` says what the terms are: the rows of
all terms lie one after the other, and each policy takes one row of each. Those of the
widest policy are the last of each term.
"""

from __future__ import annotations

import numpy as np

__all__ = ["fit_terms", "flat", "missed_by_terms"]

_SHRINKAGE = 0.01  # of a batch: what the present terms weigh against new ones
_TINY = 1e-20  # keeps a variance of 0 out of the logarithm


def fit_terms(
    places: np.ndarray,
    means: np.ndarray,
    variances: np.ndarray,
    mean_terms: np.ndarray,
    variance_terms: np.ndarray,
    *,
    kept: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits the terms of a batch norm's statistics to batches, by least squares.

    Ridge regression of what the present terms miss, of the logarithm for the variance:
    rows that no batch used stay as they are.

    Args:
      places: Row of each term under each batch's policy, ``[num_batches, num_terms]``.
      means: Mean of each batch, ``[num_batches, channels]``.
      variances: Variance of each batch, ``[num_batches, channels]``.
      mean_terms: Present terms of the mean, ``[num_rows, channels]``.
      variance_terms: Present terms of the variance, ``[num_rows, channels]``.
      kept: Which rows are to stay as they are, ``[num_rows]``; None for none.
      weights: Of the batches, ``[num_batches]``; None for 1 each.

    Returns:
      New terms of the mean and of the variance, float32.
    """
    design = np.zeros((len(places), len(mean_terms)))
    np.put_along_axis(design, places, 1.0, axis=1)
    free = design if kept is None else np.where(kept, 0.0, design)
    weighted = free.T if weights is None else free.T * weights
    gram = weighted @ free + _SHRINKAGE * np.eye(design.shape[1])

    def fitted(seen: np.ndarray, terms: np.ndarray) -> np.ndarray:
        return terms + np.linalg.solve(gram, weighted @ (seen - design @ terms))

    logs = np.log(variances.astype(np.float64) + _TINY)
    log_terms = np.log(variance_terms.astype(np.float64) + _TINY)
    return (
        fitted(means.astype(np.float64), mean_terms).astype(np.float32),
        np.exp(fitted(logs, log_terms)).astype(np.float32),
    )


def missed_by_terms(
    places: np.ndarray,
    means: np.ndarray,
    variances: np.ndarray,
    mean_terms: np.ndarray,
    variance_terms: np.ndarray,
) -> float:
    """Returns how far batches are from what terms say, in the manner of a likelihood.

    Mean over channels and batches of ``log(v) + (variance + (mean - m)**2) / v`` with
    ``m`` and ``v`` of the terms: twice the negative log-likelihood of normal values.
    The arguments are those of `fit_terms`.
    """
    expected = mean_terms.astype(np.float64)[places].sum(axis=1)
    spread = variance_terms.astype(np.float64)[places].prod(axis=1) + _TINY
    squares = variances + (means - expected) ** 2
    return float(np.mean(np.log(spread) + squares / spread))


def flat(terms: np.ndarray, widest: np.ndarray, neutral: float) -> np.ndarray:
    """Returns terms under which all policies have the widest one's statistics.

    Args:
      terms: Terms, ``[num_rows, channels]``, all but the first neutral under the
        widest policy.
      widest: Row of each term under the widest policy: the term's last.
      neutral: What has no effect: 0 for the mean, 1 for the variance.
    """
    found = np.full_like(terms, neutral)
    found[: widest[0] + 1] = terms[widest[0]]
    return found
