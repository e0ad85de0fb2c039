"""How a run measures policies: what measures them, and the key of the store."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

from matar_tf.data import Data
from matar_tf.evolution import EvaluationStore
from matar_tf.figures import JOINED, PREDICTED
from matar_tf.policy import Policy
from matar_tf.results import Provenance, SearchResult
from matar_tf.run.estimating import number_of_parts
from matar_tf.run.holdout import report_on
from matar_tf.run.plan import Run
from matar_tf.run.predicting import Predicting, measurements_digest
from matar_tf.run.settings import versions
from matar_tf.tflite.evaluate import (
    ParallelEvaluator,
    PolicyEvaluator,
    evaluator_without_notes,
)
from matar_tf.tflite.metrics import own_metric_digests
from matar_tf.tflite.parts import parts_without_notes
from matar_tf.tflite.profiles import DEFAULT_PROFILE, MEASURING
from matar_tf.tflite.ray_evaluate import RayEvaluator

__all__ = [
    "Executor",
    "evaluator_maker",
    "make_executor",
    "on_held_out",
    "provenance_of",
]

Executor: TypeAlias = ParallelEvaluator | RayEvaluator | Predicting


def evaluator_maker(
    run: Run, data: Data, *, on_parts: bool = False
) -> Callable[[], PolicyEvaluator]:
    """Returns what makes the evaluator of policies on some samples; it pickles.

    Args:
      run: The run.
      data: The samples.
      on_parts: Whether to measure on parts of them, too.
    """
    make: Callable[..., PolicyEvaluator] = evaluator_without_notes
    if on_parts:
        make = functools.partial(
            parts_without_notes,
            num_parts=number_of_parts(data.num_samples),
            of_parts=run.metrics_of_parts,
            whole=True,
        )
    return functools.partial(
        make,
        run.artifact,
        data.x_test,
        data.y_test,
        metrics=run.settings.metrics,
        profile=run.settings.inexact_profile or DEFAULT_PROFILE,
        runtime=run.settings.measured_in,
    )


def make_executor(run: Run) -> Executor:
    """Returns what measures many policies, in processes or on a cluster.

    Without samples it predicts.
    """
    if run.searched is None:
        return Predicting(run.predictors, run.settings.options.objectives)
    make = evaluator_maker(run, run.searched, on_parts=bool(run.expected))
    settings = run.settings
    if settings.executor == "ray":
        return RayEvaluator(make, settings.num_jobs, settings.ray_address)
    return ParallelEvaluator(make, settings.num_jobs)


def provenance_of(run: Run, data: Data | None) -> Provenance:
    """Returns where results come from that were measured on samples, or predicted."""
    settings = run.settings
    found, package = versions(settings.measured_in), MEASURING[settings.measured_in]
    if data is None:
        return Provenance(
            seed=settings.options.seed,
            command=settings.command,
            versions={**found, PREDICTED: str(run.artifact.measurements)},
            artifact_digest=run.artifact.digest(),
            data_digest=measurements_digest(run.artifact),
            num_samples=0,
            created=settings.created,
        )
    # Metrics belong to the samples, to the kernels that computed them, where a user
    # wrote the functions, to these, and where not all profiles agree, to that one.
    measured_by = [data.digest(), package, found[package]]
    measured_by += own_metric_digests(settings.metrics)
    if settings.inexact_profile is not None:
        measured_by.append(settings.inexact_profile)
    if run.predictors:
        found = {**found, JOINED: str(run.artifact.measurements)}
    return Provenance(
        seed=settings.options.seed,
        command=settings.command,
        versions=found,
        artifact_digest=run.artifact.digest(),
        data_digest=hashlib.sha256(" ".join(measured_by).encode()).hexdigest(),
        num_samples=data.num_samples,
        created=settings.created,
    )


def on_held_out(
    result: SearchResult,
    store: EvaluationStore | None,
    provenance: Provenance,
    evaluator: PolicyEvaluator,
) -> SearchResult:
    """Measures the policies of a result on the samples held out."""
    digests = {
        "artifact_digest": provenance.artifact_digest,
        "data_digest": provenance.data_digest,
    }
    policies = [one.policy for one in (*result.front, *result.references)]
    measured: dict[Policy, Mapping[str, float]] = {}
    if store is not None:
        measured |= store.get(policies, metrics=evaluator.metric_names, **digests)
    for policy in policies:
        if policy not in measured:
            measured[policy] = evaluator(policy)
            if store is not None:
                store.put(policy, measured[policy], **digests)
    return report_on(result, measured, provenance.num_samples)
