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
import importlib.metadata
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from matar_tf.artifact import Artifact
from matar_tf.backends import PolicyCosts, check_names
from matar_tf.data import Data
from matar_tf.errors import SearchError, did_you_mean
from matar_tf.holdout import report_on, split_data
from matar_tf.policy import Policy, PolicySpace
from matar_tf.results import Provenance, SearchResult, StopReason
from matar_tf.run_folder import (
    RUN_SCHEMA_VERSION,
    prepare_folder,
    write_history,
    write_overview,
    write_target,
)
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
from matar_tf.targets import Target, check_policy, legal_space
from matar_tf.tflite.evaluate import (
    METRIC_NAMES,
    ParallelEvaluator,
    PolicyEvaluator,
    check_data,
    get_metrics,
)
from matar_tf.tflite.export import Reference
from matar_tf.tflite.ray_evaluate import RayEvaluator

__all__ = [
    "EXECUTORS",
    "RunSettings",
    "check_settings",
    "prepare_output",
    "retarget",
]

EXECUTORS: Final = ("local", "ray")

_STORE_FILE: Final = "evaluations.sqlite"
_RUNTIME = "ai-edge-litert"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is asked for.

    Attributes:
      options: Settings of each search.
      metrics: What is measured of each policy; see `matar_tf.tflite.evaluate`.
      follow_up_share: Share of the largest number of evaluations that each target
        after the first that is searched in full may measure anew, beside what the
        others know.
      fixed: Entries that every search leaves alone; see `fix_entries`.
      starts: Policies to start from, by name; they stand in the tables, too.
      holdout: Share of the samples that the searches do not see, and that all tables
        report on; 0 to search and report on all.
      profile: How exported files store kernels.
      num_jobs: Processes that measure policies; the fronts do not depend on it.
      executor: Where these are: ``local``, on this machine, or ``ray``, on a cluster;
        the fronts do not depend on it.
      ray_address: Address of the cluster; see `matar_tf.tflite.ray_evaluate`.
      store: Evaluation store to read and extend, shared with other runs; None for one
        of this run alone, in its output folder. The fronts do not depend on it.
      command: How the run was started, for the record.
      created: ISO time at which it was started, for the record; now by default.
      progress: Whether to show progress bars.
    """

    options: SearchOptions
    metrics: tuple[str, ...] = METRIC_NAMES
    follow_up_share: float = 1.0
    fixed: tuple[str, ...] = ()
    starts: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    holdout: float = 0.0
    profile: str = "int8"
    num_jobs: int = 1
    executor: str = "local"
    ray_address: str | None = None
    store: Path | None = None
    command: str = ""
    created: str = field(default_factory=_now)
    progress: bool = True

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise SearchError(
                f"Unknown executor {self.executor!r}. "
                f"{did_you_mean(self.executor, EXECUTORS)}"
            )
        if self.ray_address is not None and self.executor != "ray":
            raise SearchError(
                f"Expected the executor 'ray' for the cluster at {self.ray_address}, "
                f"got {self.executor!r}; choose ray, or leave the address out."
            )


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
    # What cannot be done ends the run before anything is measured.
    problems = _problems(artifact, targets, settings)
    searched = data
    if settings.holdout:
        searched, data = split_data(data, settings.holdout, settings.options.seed)
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
            target, (problem, versions) = targets[index], problems[index]
            result = search(
                problem,
                evaluate_many,
                options=_options(settings, problem.space, memory, results.values()),
                provenance=replace(
                    provenance, versions={**provenance.versions, **versions}
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
      data: Samples and labels of the run.
      settings: What the run is asked for.
      resume: Whether to go on with the run that is there. Its stored measurements are
        used again; its fronts are searched anew from them, to the same result.
      overwrite: Whether to remove the run that is there.

    Returns:
      A sentence that says what was found and what happens to it.

    Raises:
      SearchError: If the folder holds something else, or a run of another network,
        data set or seed, or neither `resume` nor `overwrite` is given for a run.
    """
    output = Path(output)
    document = {
        "schema_version": RUN_SCHEMA_VERSION,
        "command": settings.command,
        "created": settings.created,
        "seed": settings.options.seed,
        "max_evaluations": settings.options.max_evaluations,
        "metrics": list(settings.metrics),
        "objectives": [one.to_json() for one in settings.options.objectives],
        "limits": [
            f"{one.name} {'>=' if one.is_minimum else '<='} {one.bound!r}"
            for one in settings.options.limits
        ],
        "fixed": list(settings.fixed),
        "starts": {name: one.to_json() for name, one in settings.starts.items()},
        "holdout": settings.holdout,
        "artifact_digest": artifact.digest(),
        "profile": settings.profile,
        "store": None if settings.store is None else str(settings.store),
        "float_metrics": artifact.accuracy.get("float"),
        "data": data.name,
        "data_digest": data.digest(),
        "versions": _versions(),
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
    artifact: Artifact, targets: Sequence[Target], settings: RunSettings
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
        costs = PolicyCosts(artifact, target)
        problem = SearchProblem(
            target=target.name,
            space=legal_space(space, artifact.workload, target),
            costs=costs,
            violations=functools.partial(_violations, artifact, target),
            pairs=artifact.workload.entry_pairs(),
            seeds=settings.starts,
            metric_names=metric_names,
        )
        check_request(problem, settings.options)
        problems.append((problem, costs.versions))
    return problems


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
    measured: dict[Policy, Mapping[str, float]] = {**store.get(policies, **digests)}
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


def _is_diagonal(name: str) -> bool:
    """Whether a uniform policy has equal widths: reference rows are only those."""
    weights, _, activations = name.removeprefix("w").partition("a")
    return weights == activations


def _violations(artifact: Artifact, target: Target, policy: Policy) -> tuple[str, ...]:
    found = check_policy(artifact.workload, policy, target)
    return tuple(violation.message for violation in found)


def _versions() -> dict[str, str]:
    names = ("matar_tf", "numpy", "deap", _RUNTIME)
    versions = {"python": sys.version.split()[0]}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _provenance(artifact: Artifact, data: Data, settings: RunSettings) -> Provenance:
    versions = _versions()
    # Metrics belong to the samples, to the kernels that computed them, and to the
    # functions, of which a user's own may bear any name. All of a run count: a search
    # goes by the loss where there is one, so that a store must not leave it out.
    names = sorted(settings.metrics)
    measured_by = " ".join([data.digest(), _RUNTIME, versions[_RUNTIME], *names])
    return Provenance(
        seed=settings.options.seed,
        command=settings.command,
        versions=versions,
        artifact_digest=artifact.digest(),
        data_digest=hashlib.sha256(measured_by.encode()).hexdigest(),
        num_samples=len(data.x_test),
        created=settings.created,
    )
