"""Holdout: a search sees one part of the samples, the report is of the other.

The best of many policies measured on few samples was lucky, too; on samples that the
search did not see it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from matar_tf.data import Data
from matar_tf.errors import DataError
from matar_tf.figures import is_expected, measured_name
from matar_tf.named_arrays import items
from matar_tf.policy import Policy
from matar_tf.results import Candidate, SearchResult

__all__ = ["PREFIX", "report_on", "split_data"]

PREFIX = "search_"
_NUM_SEEDS = 2**32  # that scikit-learn takes


def split_data(data: Data, share: float, seed: int) -> tuple[Data, Data]:
    """Returns the samples to search on and those to report on.

    Where labels are one class a sample, both parts have the classes in the same
    proportions; of several outputs, those of the first with such labels.

    Args:
      data: The evaluation samples are split; both parts lose the training samples.
      share: Of the samples to report on, between 0 and 1.
      seed: Of the split.

    Raises:
      DataError: If the share is out of range, or there are too few samples to split.
    """
    from sklearn.model_selection import (  # pyright: ignore[reportMissingTypeStubs]
        train_test_split,
    )

    if not 0.0 < share < 1.0:
        raise DataError(
            f"Expected a share of samples to hold out between 0 and 1, got {share}."
        )
    labels = data.y_test
    # Of several heads the first whose labels are one class a sample.
    classes = [
        one for _, one in items(labels) if one.ndim == 1 and one.dtype.kind == "i"
    ]
    try:
        first, second = train_test_split(
            range(data.num_samples),
            test_size=share,
            random_state=seed % _NUM_SEEDS,
            stratify=classes[0] if classes else None,
        )
    except ValueError as error:
        raise DataError(
            f"Expected samples of {data.name!r} to split with {share:g} of every class "
            f"held out, got too few: {error} Use more samples, or no holdout."
        ) from error
    search, report = (
        replace(data.part(sorted(part)), x_train=None, y_train=None)
        for part in (first, second)
    )
    return search, report


def report_on(
    result: SearchResult,
    measured: Mapping[Policy, Mapping[str, float]],
    num_samples: int,
) -> SearchResult:
    """Returns a result whose metrics are those of the samples held out.

    The metrics that the search saw stay beside them, named ``search_accuracy`` and so
    on for its objectives. Which policies are in the front does not change.

    Args:
      result: What the search found.
      measured: Metrics on the samples held out, of all its policies.
      num_samples: How many were held out.
    """
    names = {measured_name(objective.name) for objective in result.objectives}

    def changed(one: Candidate) -> Candidate:
        seen = {
            PREFIX + name: value for name, value in one.metrics.items() if name in names
        }
        expected = {
            name: value for name, value in one.metrics.items() if is_expected(name)
        }
        return replace(one, metrics={**measured[one.policy], **seen, **expected})

    return replace(
        result,
        front=tuple(map(changed, result.front)),
        references=tuple(map(changed, result.references)),
        provenance=replace(result.provenance, num_samples=num_samples),
    )
