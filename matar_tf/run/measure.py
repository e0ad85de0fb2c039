"""Measuring what lets others search without data: many policies of an artifact."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from tqdm import tqdm

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import Data, DataLike, as_data
from matar_tf.errors import ArtifactError, DataError, PolicyError
from matar_tf.evolution import EvaluationStore
from matar_tf.measurements import (
    DIVERGENCE,
    MAX_POLICIES,
    MIN_LEVELS,
    NUM_HALVES,
    Levels,
    Measurements,
)
from matar_tf.policy import Policy
from matar_tf.predictor import cross_validation
from matar_tf.run.settings import versions
from matar_tf.samplers import spread_policies
from matar_tf.space import PolicySpace
from matar_tf.tflite.evaluate import ParallelEvaluator
from matar_tf.tflite.fitting_data import (
    check_answers,
    check_data,
    for_inputs,
    input_infos,
    metrics_for,
)
from matar_tf.tflite.metrics import figure_names, own_metric_digests
from matar_tf.tflite.odd_data import check_plausible
from matar_tf.tflite.parts import (
    PartsEvaluator,
    part_name,
    part_names,
    parts_without_notes,
)
from matar_tf.tflite.runtime import LITERT_PACKAGE

__all__ = [
    "DEFAULT_NUM_POLICIES",
    "LEAST_POLICIES",
    "check_num_policies",
    "measure",
]

DEFAULT_NUM_POLICIES: Final = 400
LEAST_POLICIES: Final = 12  # so that nine tenths of them tell something of the rest
_DIGITS: Final = 6  # of what is kept of a figure
_MOST_ROUNDS: Final = 100  # of drawing policies, of which some come twice


# Each is a keyword by itself.
def measure(  # noqa: PLR0913
    network: Artifact | str | Path,
    data: DataLike,
    *,
    num_policies: int = DEFAULT_NUM_POLICIES,
    num_samples: int | None = None,
    trained_on: bool = False,
    metrics: Iterable[str] | None = None,
    seed: int = 0,
    jobs: int = 1,
    store: str | Path | None = None,
    allow_odd_data: bool = False,
    progress: bool = True,
) -> Artifact:
    """Returns a network with what was measured of many policies: others need no data.

    What samples are, range, mean and deviation, is put on record if it is not known.

    Args:
      network: The packaged network, or its path.
      data: Samples and labels, as for `matar_tf.evaluate`, that the network was not
        trained on; or training samples, if it was.
      num_policies: How many policies to measure; all, if there are no more.
      num_samples: On how many of them, the first ones; None for all.
      trained_on: Whether the network was trained on the samples. Then uniform policies
        of the accuracy table, measured on others, set the scale.
      metrics: What is measured, as for `matar_tf.evaluate`.
      seed: Of the choice of policies.
      jobs: Processes that measure.
      store: Evaluation store to read and extend, so that what was interrupted is gone
        on with; None to keep nothing.
      allow_odd_data: Whether to go on, with a warning, where samples or labels can
        hardly be meant so; as for `matar_tf.search`.
      progress: Whether to show a progress bar.

    Returns:
      The network with `measurements`; `matar_tf.write_artifact` writes it.

    Raises:
      ArtifactError: If there are too few policies or too many, or no levels where
        samples were trained on.
      DataError: If the data do not fit the network, or there are fewer than two
        samples.
    """
    artifact = network if isinstance(network, Artifact) else read_artifact(network)
    data = for_inputs(as_data(data, training=trained_on), artifact.template)
    metrics = metrics_for(artifact, data) if metrics is None else tuple(metrics)
    if artifact.source is not None and not artifact.is_verified:
        raise ArtifactError(
            f"Expected an artifact whose accuracy table is covered by its digest, got "
            f"{artifact.name!r} of an earlier version; package the model again."
        )
    check_answers(data, metrics)
    levels = _levels(artifact, figure_names(metrics)) if trained_on else None
    if trained_on:
        samples, labels = data.training()
        data = replace(data, x_test=samples, y_test=labels, x_train=None, y_train=None)
    if num_samples is not None:
        data = data.head(num_samples)
    check_data(artifact, data, metrics=metrics, allow_odd_data=allow_odd_data)
    check_plausible(artifact, data, allow_odd_data=allow_odd_data)
    if data.num_samples < NUM_HALVES:
        raise DataError(
            f"Expected at least {NUM_HALVES} samples in {data.name!r} to measure on, "
            f"got {data.num_samples}; add some."
        )
    needed = () if levels is None else levels.policies
    policies = _chosen(artifact.space, num_policies, seed, needed)
    make = functools.partial(
        parts_without_notes, artifact, data.x_test, data.y_test, metrics=metrics
    )
    names = (*figure_names(metrics), DIVERGENCE)
    key = {
        "artifact_digest": artifact.digest(),
        "data_digest": _data_digest(data, metrics),
    }
    found = _measured(policies, make, names, key, jobs, store, progress=progress)
    measurements = Measurements(
        policies=policies,
        metrics={
            name: np.array(
                [
                    [_rounded(found[one][part_name(name, half)]) for one in policies]
                    for half in range(NUM_HALVES)
                ]
            )
            for name in names
        },
        num_samples=data.num_samples,
        trained_on=trained_on,
        levels=levels,
    )
    measurements = replace(
        measurements, cross_validation=cross_validation(measurements)
    )
    return replace(
        artifact,
        measurements=measurements,
        inputs=artifact.inputs or input_infos(artifact.template, data.x_test),
        source=None,
    )


def _levels(artifact: Artifact, names: Iterable[str]) -> Levels:
    """Returns what the accuracy table says of uniform policies.

    Raises:
      ArtifactError: If it says nothing of two.
    """
    rows: dict[Policy, Mapping[str, float]] = {}
    for name, row in artifact.accuracy.items():
        try:
            policy = artifact.space.named(name)
        except PolicyError:
            continue  # the float network, or a policy of a file
        if not policy.is_wide:
            rows[policy] = row
    common = [name for name in names if all(name in row for row in rows.values())]
    if len(rows) < MIN_LEVELS or not common:
        raise ArtifactError(
            "Expected an accuracy table of two or more uniform policies on samples "
            "held out, to set the scale of those that were trained on, got "
            f"{', '.join(artifact.accuracy) or 'none'}; package with accuracy= of "
            "w8a8, w4a4 and w2a2, or measure samples held out."
        )
    number = artifact.provenance.get("num_samples")
    return Levels(
        policies=tuple(rows),
        metrics={
            name: np.array([row[name] for row in rows.values()]) for name in common
        },
        num_samples=number if type(number) is int and number > 0 else 0,
    )


def check_num_policies(number: int) -> None:
    """Checks how many policies are to be measured.

    Raises:
      ArtifactError: If too few or too many are.
    """
    if not LEAST_POLICIES <= number <= MAX_POLICIES:
        raise ArtifactError(
            f"Expected {LEAST_POLICIES} to {MAX_POLICIES} policies to measure, got "
            f"{number}; a few hundred are enough."
        )


def _chosen(
    space: PolicySpace, number: int, seed: int, needed: Iterable[Policy] = ()
) -> tuple[Policy, ...]:
    """Returns different policies, spread over a space, those needed among them."""
    check_num_policies(number)
    if space.num_policies < LEAST_POLICIES:
        raise ArtifactError(
            f"Expected a space of at least {LEAST_POLICIES} policies, got "
            f"{space.size_text()}; let each search measure them all."
        )
    found = dict.fromkeys((space.widest(), *needed))
    for round_number in range(_MOST_ROUNDS):
        for policy in spread_policies(space, number, [seed, round_number]):
            if len(found) >= number:
                return tuple(found)
            found.setdefault(policy)
    return tuple(found)


def _measured(
    policies: tuple[Policy, ...],
    make: Callable[[], PartsEvaluator],
    names: tuple[str, ...],
    key: Mapping[str, str],
    jobs: int,
    store: str | Path | None,
    *,
    progress: bool,
) -> dict[Policy, Mapping[str, float]]:
    """Returns the figures of policies, from a store as far as it has them."""
    with contextlib.ExitStack() as stack:
        kept = None
        found: dict[Policy, Mapping[str, float]] = {}
        if store is not None:
            kept = stack.enter_context(EvaluationStore(store))
            figures = part_names(names, NUM_HALVES)
            found.update(kept.get(policies, metrics=figures, **key))
        # The parts of tqdm that are typed are not the ones used here.
        bar = stack.enter_context(
            cast("Any", tqdm)(total=len(policies), unit="policy", disable=not progress)
        )
        bar.update(len(found))
        waiting = [one for one in policies if one not in found]
        if waiting:
            evaluate = stack.enter_context(ParallelEvaluator(make, jobs))
            for policy, figures in evaluate(waiting):
                found[policy] = figures
                if kept is not None:
                    kept.put(policy, figures, **key)
                bar.update()
    return found


def _data_digest(data: Data, metrics: Iterable[str]) -> str:
    """Returns what tells these measurements from others in a store."""
    parts = ["halves", data.digest(), LITERT_PACKAGE, versions()[LITERT_PACKAGE]]
    parts += own_metric_digests(metrics)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
