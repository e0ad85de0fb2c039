"""Retargeting from end to end: an artifact and targets in, fronts and files out.

Needs no TensorFlow. Writes, under one output folder::

    run.json  evaluations.sqlite (unless the settings name another store)
    matrix.{json,csv,md}  latency.json (of this machine)
    <target>/front.{json,csv,md}  <target>/policy_NN.{json,tflite}

Each target's folder appears under its name when it is complete.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from matar_tf.artifact import Artifact
from matar_tf.backends import COST_NAMES, PolicyCosts, check_names
from matar_tf.data import Data
from matar_tf.errors import SearchError
from matar_tf.holdout import PREFIX, report_on, split_data
from matar_tf.policy import Policy, PolicySpace
from matar_tf.results import Provenance, SearchResult, StopReason
from matar_tf.run_folder import (
    RUN_SCHEMA_VERSION,
    export_metadata,
    prepare_folder,
    write_history,
    write_overview,
    write_target,
)
from matar_tf.run_settings import RUNTIME, RunSettings, versions
from matar_tf.search import (
    EvaluationStore,
    SearchOptions,
    SearchProblem,
    check_request,
    fix_entries,
    follow_up,
    search,
    search_order,
)
from matar_tf.targets import Target, check_policy, legal_pairs, legal_space
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import (
    ParallelEvaluator,
    PolicyEvaluator,
    check_data,
    get_metrics,
    own_metric_digests,
)
from matar_tf.tflite.export import Reference
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.ray_evaluate import RayEvaluator

__all__ = ["check_settings", "prepare_output", "retarget"]

_STORE_FILE: Final = "evaluations.sqlite"


def retarget(
    artifact: Artifact,
    targets: Sequence[Target],
    data: Data,
    output: str | Path,
    settings: RunSettings,
    *,
    reference: Reference | None = None,
    on_result: Callable[[SearchResult], None] = lambda _: None,
) -> tuple[SearchResult, ...]:
    """Searches every target, exports every policy of each front, writes the tables.

    The target with the fewest policies comes first: what it measures, the later ones
    can mostly run as well, and not the other way round.

    Args:
      artifact: The packaged network.
      targets: Hardware to search for.
      data: Samples and labels to measure accuracy on.
      output: Folder that `prepare_output` has prepared.
      settings: What the run is asked for.
      reference: Outputs that exported files must agree with, or None.
      on_result: Called with each target's result when its folder is complete.

    Returns:
      The result of each target, in the order given, with file sizes and agreement
      filled in; after Ctrl-C of those that were begun.

    Raises:
      MatarError: If a target cannot run the network, or an export fails.
    """
    check_data(artifact, data)
    output = Path(output)
    searched = data
    if settings.holdout:
        searched, data = split_data(data, settings.holdout, settings.options.seed)
    # What cannot be done ends the run before anything is measured.
    problems = _problems(artifact, targets, settings, num_samples=len(data.x_test))
    provenance = _provenance(artifact, searched, settings)

    def make_evaluator(part: Data) -> Callable[[], PolicyEvaluator]:
        return functools.partial(
            PolicyEvaluator,
            artifact,
            part.x_test,
            part.y_test,
            metrics=settings.metrics,
        )

    held_out = make_evaluator(data)() if settings.holdout else None
    memory: dict[Policy, Mapping[str, float]] = {}
    results: dict[int, SearchResult] = {}
    with (
        EvaluationStore(settings.store or output / _STORE_FILE) as store,
        _executor(make_evaluator(searched), settings) as evaluate_many,
    ):
        for index in search_order([problem for problem, _ in problems]):
            target, (problem, tools) = targets[index], problems[index]
            result = search(
                problem,
                evaluate_many,
                options=_options(settings, problem.space, memory, results.values()),
                provenance=replace(
                    provenance, versions={**provenance.versions, **tools}
                ),
                store=store,
                memory=memory,
                progress=settings.progress,
            )
            result = replace(
                result,
                references=tuple(
                    one
                    for one in result.references
                    if one.name in settings.starts or _is_diagonal(one.name)
                ),
            )
            if held_out is not None:
                result = _on_held_out(
                    result, store, _provenance(artifact, data, settings), held_out
                )
            result = write_target(
                artifact, data, output, result, settings.profile, reference, target
            )
            on_result(result)
            results[index] = result
            write_history(output, results.values())
            if result.interrupted:
                break
    ordered = [results[index] for index in sorted(results)]
    write_overview(artifact, targets, ordered, output)
    return tuple(ordered)


def prepare_output(
    output: str | Path,
    artifact: Artifact,
    targets: Sequence[Target],
    data: Data,
    settings: RunSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> str:
    """Makes an output folder ready for `retarget` and records the run.

    Args:
      output: The folder.
      artifact: The packaged network.
      targets: Hardware of the run.
      data: Samples and labels of the run.
      settings: What the run is asked for.
      resume: Whether to go on with the run that is there. Its stored measurements are
        used again; its fronts are searched anew from them, to the same result.
      overwrite: Whether to remove the run that is there.

    Returns:
      A sentence that says what was found and what happens to it.

    Raises:
      MatarError: If the folder holds something else, or a run that was asked for
        something else, or neither `resume` nor `overwrite` is given for a run, or the
        holdout or the store of the settings cannot be had.
    """
    output = Path(output)
    if resume and overwrite:
        raise SearchError("Expected --resume or --overwrite, got both; choose one.")
    # Whatever is wrong is found before anything is removed.
    if settings.holdout:
        split_data(data, settings.holdout, settings.options.seed)
    if settings.store is not None:
        if overwrite and settings.store.resolve().is_relative_to(output.resolve()):
            raise SearchError(
                f"Expected a store outside of the run that is overwritten, got "
                f"{settings.store} in {output}; move it."
            )
        EvaluationStore(settings.store).close()
    document = {
        "schema_version": RUN_SCHEMA_VERSION,
        **settings.to_json(),
        "targets": {target.name: _digest(target) for target in targets},
        "artifact_digest": artifact.digest(),
        "float_metrics": artifact.accuracy.get("float"),
        "data": data.name,
        "data_digest": data.digest(),
        "versions": versions(),
    }
    return prepare_folder(output, document, resume=resume, overwrite=overwrite)


def check_settings(
    artifact: Artifact, targets: Sequence[Target], settings: RunSettings
) -> None:
    """Checks that targets can run the network and know what is asked for.

    Raises:
      MatarError: If not.
    """
    _problems(artifact, targets, settings)


def _problems(
    artifact: Artifact,
    targets: Sequence[Target],
    settings: RunSettings,
    *,
    num_samples: int = 0,
) -> list[tuple[SearchProblem, Mapping[str, str]]]:
    """Returns what is searched for each target, and the versions of its tools."""
    if not targets:
        raise SearchError(
            "Expected one or more targets, got none; name some of the catalogue, or "
            "files."
        )
    check_names(targets)
    space = fix_entries(artifact.space, settings.fixed)
    metric_names = tuple(get_metrics(settings.metrics, probabilities=False))
    problems: list[tuple[SearchProblem, Mapping[str, str]]] = []
    for target in targets:
        sizes = _file_sizes(artifact, target.name, settings, metric_names, num_samples)
        costs = PolicyCosts(artifact, target, file_size=sizes)
        legal = legal_space(space, artifact.workload, target)
        problem = SearchProblem(
            target=target.name,
            space=legal,
            costs=costs,
            violations=functools.partial(_violations, artifact, target),
            pairs=artifact.workload.entry_pairs(),
            legal_pairs=legal_pairs(legal, artifact.workload, target),
            seeds=settings.starts,
            metric_names=metric_names,
        )
        check_request(problem, settings.options)
        problems.append((problem, costs.versions))
    return problems


def _file_sizes(
    artifact: Artifact,
    target: str,
    settings: RunSettings,
    metric_names: Collection[str],
    num_samples: int,
) -> FileSizes | None:
    """Returns the sizes of the files that `write_target` will write, if asked for.

    They are if a name is no other figure's, be it ``file_bytes`` or misspelt.
    """
    options = settings.options
    names = {one.name for one in (*options.objectives, *options.limits)}
    if names <= {*metric_names, *COST_NAMES}:
        return None
    metrics = dict.fromkeys(metric_names, 0.0)
    if settings.holdout:
        searched = [one.name for one in options.objectives if one.name in metrics]
        metrics |= {PREFIX + name: 0.0 for name in searched}
    return FileSizes(
        ModelBuilder(artifact),
        profile=settings.profile,
        metadata=export_metadata(target, metrics, num_samples),
    )


def _executor(
    make_evaluator: Callable[[], PolicyEvaluator], settings: RunSettings
) -> ParallelEvaluator | RayEvaluator:
    if settings.executor == "ray":
        return RayEvaluator(make_evaluator, settings.num_jobs, settings.ray_address)
    return ParallelEvaluator(make_evaluator, settings.num_jobs)


def _on_held_out(
    result: SearchResult,
    store: EvaluationStore,
    provenance: Provenance,
    evaluator: PolicyEvaluator,
) -> SearchResult:
    """Measures the policies of a result on the samples held out."""
    digests = {
        "artifact_digest": provenance.artifact_digest,
        "data_digest": provenance.data_digest,
    }
    policies = [one.policy for one in (*result.front, *result.references)]
    measured: dict[Policy, Mapping[str, float]] = {
        **store.get(policies, metrics=evaluator.metric_names, **digests)
    }
    for policy in policies:
        if policy not in measured:
            metrics = evaluator(policy)
            store.put(policy, metrics, **digests)
            measured[policy] = metrics
    return report_on(result, measured, provenance.num_samples)


def _options(
    settings: RunSettings,
    space: PolicySpace,
    memory: Collection[Policy],
    results: Iterable[SearchResult],
) -> SearchOptions:
    """Returns the options of a search after others; a follow-up if one can teach it."""
    options = settings.options
    # A space that was enumerated is too small to teach the others.
    if all(one.stop_reason is StopReason.ENUMERATED for one in results):
        return options
    num_new = max(round(settings.follow_up_share * options.max_evaluations), 1)
    num_known = sum(space.contains(policy) for policy in memory)
    return follow_up(options, num_known=num_known, num_new=num_new)


def _digest(target: Target) -> str:
    return hashlib.sha256(target.model_dump_json().encode()).hexdigest()


def _is_diagonal(name: str) -> bool:
    """Whether a uniform policy has equal widths: reference rows are only those."""
    weights, _, activations = name.removeprefix("w").partition("a")
    return weights == activations


def _violations(artifact: Artifact, target: Target, policy: Policy) -> tuple[str, ...]:
    found = check_policy(artifact.workload, policy, target)
    return tuple(violation.message for violation in found)


def _provenance(artifact: Artifact, data: Data, settings: RunSettings) -> Provenance:
    found = versions()
    # Metrics belong to the samples, to the kernels that computed them, and, where a
    # user wrote the functions, to these.
    measured_by = " ".join(
        [data.digest(), RUNTIME, found[RUNTIME], *own_metric_digests(settings.metrics)]
    )
    return Provenance(
        seed=settings.options.seed,
        command=settings.command,
        versions=found,
        artifact_digest=artifact.digest(),
        data_digest=hashlib.sha256(measured_by.encode()).hexdigest(),
        num_samples=len(data.x_test),
        created=settings.created,
    )
