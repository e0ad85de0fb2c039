"""The terms that a batch norm's statistics are added up from, fitted to batches.

NumPy alone. `matar_tf.parameters.NormParameters` says what the terms are: the rows of
all terms lie one after the other, and each policy takes one row of each. Those of the
widest policy are the last of each term.
"""

from __future__ import annotations

import numpy as np

__all__ = ["centred", "fit_terms", "flat"]

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


def centred(
    mean_terms: np.ndarray, variance_terms: np.ndarray, widest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns terms of equal sums in which the first has all of the widest policy's.

    So a row of any other term is what its width changes. A bank that only holds the
    float network's statistics is so already.

    Args:
      mean_terms: Terms of the mean, ``[num_rows, channels]``.
      variance_terms: Terms of the variance, ``[num_rows, channels]``.
      widest: Row of each term under the widest policy: the term's last.
    """
    means, variances = mean_terms.copy(), variance_terms.copy()
    first = slice(0, widest[0] + 1)
    for start, last in zip(widest[:-1] + 1, widest[1:], strict=True):
        rows = slice(start, last + 1)
        means[first] += mean_terms[last]
        means[rows] -= mean_terms[last]
        variances[first] *= variance_terms[last]
        variances[rows] /= variance_terms[last]
    return means, variances


def flat(terms: np.ndarray, widest: np.ndarray, neutral: float) -> np.ndarray:
    """Returns centred terms under which all policies have the widest one's statistics.

    Args:
      terms: Centred terms, ``[num_rows, channels]``.
      widest: Row of each term under the widest policy: the term's last.
      neutral: What has no effect: 0 for the mean, 1 for the variance.
    """
    found = np.full_like(terms, neutral)
    found[: widest[0] + 1] = terms[widest[0]]
    return found
