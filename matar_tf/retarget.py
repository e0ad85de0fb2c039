"""Retargeting from end to end: an artifact and targets in, fronts and files out.

Needs no TensorFlow. Writes, under one output folder::

    run.json  evaluations.sqlite (unless the settings name another store)
    <target>/front.{json,csv,md}  <target>/policy_NN.{json,tflite}

Each target's folder appears under its name when it is complete.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from matar_tf.artifact import Artifact
from matar_tf.cost import MEASURES, CostModel
from matar_tf.data import Data
from matar_tf.errors import DataError, SearchError
from matar_tf.policy import Policy
from matar_tf.report import to_csv, to_json, to_markdown
from matar_tf.results import Candidate, Provenance, SearchResult
from matar_tf.search import EvaluationStore, SearchOptions, SearchProblem, search
from matar_tf.targets import Target, check_policy, legal_space
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import ParallelEvaluator, PolicyEvaluator
from matar_tf.tflite.export import Reference, export_model, write_atomically

__all__ = ["RunSettings", "check_data", "prepare_output", "retarget"]

_RUN_FILE: Final = "run.json"
_STORE_FILE: Final = "evaluations.sqlite"
_RUN_SCHEMA_VERSION: Final = 1
_RUNTIME = "ai-edge-litert"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is asked for.

    Attributes:
      options: Settings of each search.
      profile: How exported files store kernels.
      num_jobs: Processes that measure policies; the fronts do not depend on it.
      store: Evaluation store to read and extend, shared with other runs; None for one
        of this run alone, in its output folder. The fronts do not depend on it.
      command: How the run was started, for the record.
      created: ISO time at which it was started, for the record.
      progress: Whether to show progress bars.
    """

    options: SearchOptions
    profile: str = "int8"
    num_jobs: int = 1
    store: Path | None = None
    command: str = ""
    created: str = ""
    progress: bool = True


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

    Args:
      artifact: The packaged network.
      targets: Hardware to search for.
      data: Samples and labels to measure accuracy on.
      output: Folder that `prepare_output` has prepared.
      settings: What the run is asked for.
      reference: Outputs that exported files must agree with, or None.
      on_result: Called with each target's result when its folder is complete.

    Returns:
      The result of each target, with file sizes and agreement filled in.

    Raises:
      MatarError: If a target cannot run the network, or an export fails.
    """
    check_data(artifact, data)
    output = Path(output)
    # A target that cannot run the network ends the run before anything is measured.
    spaces = [legal_space(artifact.space, artifact.workload, one) for one in targets]
    provenance = _provenance(artifact, data, settings)
    make_evaluator = functools.partial(
        PolicyEvaluator, artifact, data.x_test, data.y_test
    )
    results: list[SearchResult] = []
    with (
        EvaluationStore(settings.store or output / _STORE_FILE) as store,
        ParallelEvaluator(make_evaluator, settings.num_jobs) as evaluate_many,
    ):
        for target, space in zip(targets, spaces, strict=True):
            model = CostModel(artifact.workload, target)
            problem = SearchProblem(
                target=target.name,
                space=space,
                costs=functools.partial(_costs, model),
                violations=functools.partial(_violations, artifact, target),
            )
            result = search(
                problem,
                evaluate_many,
                options=settings.options,
                provenance=provenance,
                store=store,
                progress=settings.progress,
            )
            result = replace(
                result,
                references=tuple(
                    one for one in result.references if _is_diagonal(one.name)
                ),
            )
            result = _write_target(
                artifact, data, output, result, settings.profile, reference
            )
            on_result(result)
            results.append(result)
            if result.interrupted:
                break
    return tuple(results)


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
        "schema_version": _RUN_SCHEMA_VERSION,
        "command": settings.command,
        "created": settings.created,
        "seed": settings.options.seed,
        "max_evaluations": settings.options.max_evaluations,
        "objectives": [one.to_json() for one in settings.options.objectives],
        "limits": {one.name: one.bound for one in settings.options.limits} or None,
        "artifact_digest": artifact.digest(),
        "profile": settings.profile,
        "store": None if settings.store is None else str(settings.store),
        "float_metrics": artifact.accuracy.get("float"),
        "data": data.name,
        "data_digest": data.digest(),
        "versions": _versions(),
    }
    message = f"Writing to {output}."
    if output.exists() and any(output.iterdir()):
        earlier = _read_run(output)
        if overwrite:
            shutil.rmtree(output)
            message = f"Overwriting the run in {output}."
        elif resume:
            for key in (
                "artifact_digest",
                "data_digest",
                "seed",
                "objectives",
                "limits",
            ):
                if earlier.get(key) != document[key]:
                    raise SearchError(
                        f"Expected to resume a run with the same {key}, but {output} "
                        f"has {earlier.get(key)!r} and this run {document[key]!r}; "
                        "choose another output, or --overwrite."
                    )
            message = (
                f"Resuming the run in {output}: stored measurements are reused, fronts "
                "and files are written again."
            )
        else:
            raise SearchError(
                f"Expected an empty output, but {output} holds a run of "
                f"{earlier.get('created')}; pass --resume to go on with it, "
                "--overwrite to replace it, or choose another output."
            )
    output.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document, indent=1) + "\n"
    write_atomically(output / _RUN_FILE, content.encode())
    return message


def check_data(artifact: Artifact, data: Data) -> None:
    """Checks that samples fit the network and labels fit its outputs.

    Raises:
      DataError: If they do not.
    """
    workload = artifact.workload
    expected = workload.tensors[workload.inputs[0]].shape
    if data.x_test.shape[1:] != expected:
        raise DataError(
            f"Expected samples of shape {('n', *expected)} for this network, got "
            f"{data.x_test.shape} in {data.name!r}."
        )
    num_classes = workload.tensors[workload.outputs[0]].shape[-1]
    low, high = int(data.y_test.min()), int(data.y_test.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"Expected labels in 0..{num_classes - 1} for this network, got "
            f"{low}..{high} in {data.name!r}."
        )


def _is_diagonal(name: str) -> bool:
    """Whether a uniform policy has equal widths: reference rows are only those."""
    weights, _, activations = name.removeprefix("w").partition("a")
    return weights == activations


def _costs(model: CostModel, policy: Policy) -> Mapping[str, float | None]:
    cost = model.estimate(policy)
    return {
        **{name: measure.getter(cost) for name, measure in MEASURES.items()},
        "macs": cost.macs,
        "mean_weight_bits": cost.mean_weight_bits,
        "mean_activation_bits": cost.mean_activation_bits,
    }


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
    # Metrics belong to the samples and to the kernels that computed them.
    measured_by = f"{data.digest()} {_RUNTIME} {versions[_RUNTIME]}"
    return Provenance(
        seed=settings.options.seed,
        command=settings.command,
        versions=versions,
        artifact_digest=artifact.digest(),
        data_digest=hashlib.sha256(measured_by.encode()).hexdigest(),
        num_samples=len(data.x_test),
        created=settings.created,
    )


def _write_target(
    artifact: Artifact,
    data: Data,
    output: Path,
    result: SearchResult,
    profile: str,
    reference: Reference | None,
) -> SearchResult:
    folder = Path(tempfile.mkdtemp(dir=output, prefix=f".{result.target}."))
    try:
        builder = ModelBuilder(artifact)

        def export(candidate: Candidate) -> Candidate:
            policy_json = json.dumps(candidate.policy.to_json(), indent=1) + "\n"
            (folder / f"{candidate.name}.json").write_text(policy_json)
            exported = export_model(
                builder,
                candidate.policy,
                folder / f"{candidate.name}.tflite",
                profile=profile,
                metadata={
                    "target": result.target,
                    "metrics": dict(candidate.metrics),
                    "num_samples": result.provenance.num_samples,
                },
                samples=data.x_test,
                reference=reference,
            )
            metrics = dict(candidate.metrics)
            if exported.agreement is not None:
                metrics["argmax_agreement"] = exported.agreement
            costs = {**candidate.costs, "file_bytes": exported.num_bytes}
            return replace(candidate, metrics=metrics, costs=costs)

        def size(candidate: Candidate) -> Candidate:
            num_bytes = len(builder.build(candidate.policy, profile=profile))
            return replace(
                candidate, costs={**candidate.costs, "file_bytes": num_bytes}
            )

        result = replace(
            result,
            front=tuple(export(candidate) for candidate in result.front),
            references=tuple(size(candidate) for candidate in result.references),
        )
        float_metrics = artifact.accuracy.get("float")
        for name, content in (
            ("front.json", json.dumps(to_json(result, float_metrics), indent=1) + "\n"),
            ("front.csv", to_csv(result, float_metrics)),
            ("front.md", to_markdown(result, float_metrics)),
            ("result.json", json.dumps(result.to_json(), indent=1) + "\n"),
        ):
            (folder / name).write_text(content)
        final = output / result.target
        if final.exists():
            shutil.rmtree(final)
        folder.chmod(0o755)
        folder.replace(final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return result


def _read_run(output: Path) -> dict[str, Any]:
    try:
        return json.loads((output / _RUN_FILE).read_text())
    except (OSError, ValueError) as error:
        raise SearchError(
            f"Expected an empty output, or one with the {_RUN_FILE} of an earlier run, "
            f"but {output} holds other files; choose another output."
        ) from error
