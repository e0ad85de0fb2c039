"""The folder of a run: what `matar_tf.retarget` writes, and where.

A target's folder appears under its name when it is complete; other files are written
to a temporary name and renamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matar_tf.artifact import Artifact
from matar_tf.data import Data
from matar_tf.errors import MatarError, SearchError
from matar_tf.io.files import new_folder, write_atomically
from matar_tf.io.json_reader import JsonReader, json_text
from matar_tf.reporting import (
    matrix_to_csv,
    matrix_to_json,
    matrix_to_markdown,
    to_csv,
    to_html,
    to_json,
    to_markdown,
)
from matar_tf.results import Candidate, SearchResult
from matar_tf.run._record import (
    FILE_SIZE,
    LATENCY_FILE,
    MATRIX_FILES,
    PAGE_FILE,
    RESULT_FILE,
    read_failures,
)
from matar_tf.run.costs import cost_matrix
from matar_tf.targets import LitertBackend, Target
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.export import Reference, export_model
from matar_tf.tflite.latency import LatencyCache

__all__ = ["export_metadata", "write_overview", "write_target"]


def write_target(
    artifact: Artifact,
    data: Data,
    output: Path,
    result: SearchResult,
    profile: str,
    reference: Reference | None,
    target: Target,
) -> SearchResult:
    """Exports every policy of a front and writes the tables of a target.

    Returns:
      The result with file sizes, agreement and measured latency filled in.

    Raises:
      MatarError: If an export fails; nothing is left of the target's folder then.
    """
    with new_folder(output / result.target) as folder:
        builder = ModelBuilder(artifact)

        def about(candidate: Candidate) -> dict[str, Any]:
            number = result.provenance.num_samples
            return export_metadata(result.target, candidate.metrics, number)

        def export(candidate: Candidate) -> Candidate:
            policy_json = json_text(candidate.policy.to_json())
            path = folder / f"{candidate.name}.json"
            path.write_text(policy_json, encoding="utf-8")
            exported = export_model(
                builder,
                candidate.policy,
                folder / f"{candidate.name}.tflite",
                profile=profile,
                metadata=about(candidate),
                samples=data.x_test,
                reference=reference,
            )
            metrics = dict(candidate.metrics)
            if exported.agreement is not None:
                metrics["argmax_agreement"] = exported.agreement
            costs = {**candidate.costs, FILE_SIZE: exported.num_bytes}
            return replace(candidate, metrics=metrics, costs=costs)

        def size(candidate: Candidate) -> Candidate:
            metadata = about(candidate)
            content = builder.build(candidate.policy, metadata, profile=profile)
            costs = {**candidate.costs, FILE_SIZE: len(content)}
            return replace(candidate, costs=costs)

        result = replace(
            result,
            front=_with_measured_latency(
                [export(candidate) for candidate in result.front],
                folder,
                target,
                output / LATENCY_FILE,
            ),
            references=tuple(size(candidate) for candidate in result.references),
        )
        float_metrics = artifact.accuracy.get("float")
        for name, content in (
            ("front.json", json_text(to_json(result, float_metrics))),
            ("front.csv", to_csv(result, float_metrics)),
            ("front.md", to_markdown(result, float_metrics)),
            (RESULT_FILE, json_text(result.to_json())),
        ):
            (folder / name).write_text(content, encoding="utf-8")
    return result


def export_metadata(
    target: str, metrics: Mapping[str, float], num_samples: int
) -> dict[str, Any]:
    """Returns what the file of a policy says of the search that found it."""
    return {"target": target, "metrics": dict(metrics), "num_samples": num_samples}


def write_overview(
    artifact: Artifact,
    targets: Sequence[Target],
    results: Sequence[SearchResult],
    output: Path,
) -> None:
    """Writes what every policy costs on every target, and the page of the run.

    Both say which targets have no result, and why, as it is on record. Those without
    one in this call keep the one that an earlier call has left in the folder.
    """
    new = {result.target: result for result in results}
    found = (new.get(one.name) or _read_result(output, one.name) for one in targets)
    results = [result for result in found if result is not None]
    policies = {
        f"{result.target}/{candidate.name}": candidate.policy
        for result in results
        for candidate in result.front
    }
    failures = read_failures(output)
    matrix = cost_matrix(artifact, policies, targets)
    contents = (
        json_text(matrix_to_json(matrix)),
        matrix_to_csv(matrix),
        matrix_to_markdown(matrix, failures),
        to_html(results, matrix, artifact.accuracy.get("float"), failures),
    )
    for name, content in zip((*MATRIX_FILES, PAGE_FILE), contents, strict=True):
        write_atomically(output / name, content.encode())


def _with_measured_latency(
    candidates: Sequence[Candidate], folder: Path, target: Target, cache: Path
) -> tuple[Candidate, ...]:
    """Adds the latency of the exported files, if the target is this machine."""
    if not isinstance(target.backend, LitertBackend):
        return tuple(candidates)
    found = LatencyCache(cache).measure(
        {one.name: (folder / f"{one.name}.tflite").read_bytes() for one in candidates},
        num_threads=target.backend.num_threads,
        num_repeats=target.backend.num_repeats,
    )
    return tuple(
        replace(
            one,
            costs={
                **one.costs,
                "measured_latency_ms": found[one.name].median_ms,
                "measured_spread_ms": found[one.name].high_ms - found[one.name].low_ms,
            },
        )
        for one in candidates
    )


def _read_result(output: Path, target: str) -> SearchResult | None:
    """Returns what an earlier call has left of a target, if it can be read."""
    try:
        content = (output / target / RESULT_FILE).read_bytes()
        document = JsonReader(SearchError).parse(content, RESULT_FILE)
        return SearchResult.from_json(document)
    except (OSError, MatarError, OverflowError):
        return None
