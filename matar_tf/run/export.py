"""What a run writes of its results: files of policies, tables, the page.

A target's folder appears under its name when it is complete; other files are written
to a temporary name and renamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matar_tf.errors import MatarError, SearchError
from matar_tf.io.files import new_folder, write_atomically
from matar_tf.io.json_reader import JsonReader, json_text
from matar_tf.packaged import UNVERIFIED
from matar_tf.reporting import (
    matrix_to_csv,
    matrix_to_json,
    matrix_to_markdown,
    to_csv,
    to_html,
    to_json,
    to_markdown,
)
from matar_tf.reporting.tables import FLOAT_NAME
from matar_tf.results import Candidate, SearchResult
from matar_tf.run.costs import cost_matrix
from matar_tf.run.folder import LATENCY_FILE, MATRIX_FILES, PAGE_FILE, RESULT_FILE
from matar_tf.run.plan import Run, export_metadata
from matar_tf.run.record import asked_of
from matar_tf.targets import LitertBackend, Target
from matar_tf.tflite.export import Reference, export_model, read_model
from matar_tf.tflite.latency import LatencyCache

__all__ = ["with_file_sizes", "write_overview", "write_target"]

_FILE_SIZE = "file_bytes"


def write_target(
    run: Run,
    index: int,
    result: SearchResult,
    output: Path,
    reference: Reference | None = None,
) -> SearchResult:
    """Exports every policy of a front and writes the tables of a target.

    Args:
      run: The run.
      index: Of the target among those of the run.
      result: What its search found, on the samples that tables report on.
      output: Folder of the run.
      reference: Outputs that files must agree with, or None.

    Returns:
      The result with file sizes, agreement and measured latency filled in.

    Raises:
      MatarError: If an export fails; nothing is left of the target's folder then.
    """
    with new_folder(output / result.target) as folder:
        # The sizes of the front are those of its files.
        sized = with_file_sizes(run, replace(result, front=()))
        result = replace(sized, front=result.front)
        front = [_exported(run, result, one, folder, reference) for one in result.front]
        target = run.targets[index]
        cache = output / LATENCY_FILE
        front = _with_measured_latency(front, folder, target, cache)
        result = replace(result, front=tuple(front))
        float_metrics = run.artifact.accuracy.get("float")
        for name, content in (
            ("front.json", json_text(to_json(result, float_metrics))),
            ("front.csv", to_csv(result, float_metrics)),
            ("front.md", to_markdown(result, float_metrics)),
            (RESULT_FILE, json_text(result.to_json())),
        ):
            (folder / name).write_text(content, encoding="utf-8")
    return result


def with_file_sizes(run: Run, result: SearchResult) -> SearchResult:
    """Returns a result with the size of the file that each policy is exported to."""

    def sized(candidate: Candidate) -> Candidate:
        metadata = _metadata(run, result, candidate)
        content = run.builder.build(
            candidate.policy, metadata, profile=run.settings.profile
        )
        costs = {**candidate.costs, _FILE_SIZE: len(content)}
        return replace(candidate, costs=costs)

    return replace(
        result,
        front=tuple(map(sized, result.front)),
        references=tuple(map(sized, result.references)),
    )


def _exported(
    run: Run,
    result: SearchResult,
    candidate: Candidate,
    folder: Path,
    reference: Reference | None,
) -> Candidate:
    """Writes the files of a policy; returns it with its agreement."""
    policy_json = json_text(candidate.policy.to_json())
    path = folder / f"{candidate.name}.json"
    path.write_text(policy_json, encoding="utf-8")
    exported = export_model(
        run.builder,
        candidate.policy,
        path.with_suffix(".tflite"),
        profile=run.settings.profile,
        metadata=_metadata(run, result, candidate),
        samples=None if run.reported is None else run.reported.x_test,
        reference=reference,
    )
    costs = {**candidate.costs, _FILE_SIZE: exported.num_bytes}
    metrics = candidate.metrics
    if exported.agreement is not None:
        metrics = {**metrics, "argmax_agreement": exported.agreement}
    return replace(candidate, metrics=metrics, costs=costs)


def _metadata(run: Run, result: SearchResult, candidate: Candidate) -> dict[str, Any]:
    number = result.provenance.num_samples
    found = export_metadata(result.target, candidate.metrics, number)
    return {**run.builder.about(run.settings.profile), **found}


def write_overview(
    run: Run,
    results: Sequence[SearchResult],
    output: Path,
    failures: Mapping[str, str],
) -> None:
    """Writes what every policy costs on every target, and the page of the run.

    Both say which targets have no result, and why. Those without one in this call keep
    the one that an earlier call has left in the folder.

    Args:
      run: The run.
      results: What its searches found.
      output: Folder of the run.
      failures: Why targets have no result, as it is on record.
    """
    new = {result.target: result for result in results}
    found = (new.get(one.name) or _read_result(output, one.name) for one in run.targets)
    results = [result for result in found if result is not None]
    policies = {
        f"{result.target}/{candidate.name}": candidate.policy
        for result in results
        for candidate in result.front
    }
    matrix = cost_matrix(run.artifact, policies, run.targets, run.builder)
    float_metrics = run.artifact.accuracy.get("float")
    is_shown = float_metrics is not None and not run.artifact.is_verified
    notes = [f"{FLOAT_NAME}: {UNVERIFIED}."] if is_shown else []
    contents = (
        json_text(matrix_to_json(matrix)),
        matrix_to_csv(matrix),
        matrix_to_markdown(matrix, failures),
        to_html(results, matrix, float_metrics, failures, notes, asked_of(run)),
    )
    for name, content in zip((*MATRIX_FILES, PAGE_FILE), contents, strict=True):
        write_atomically(output / name, content.encode())


def _with_measured_latency(
    candidates: Sequence[Candidate], folder: Path, target: Target, cache: Path
) -> list[Candidate]:
    """Adds the latency of the exported files, if the target is this machine."""
    if not isinstance(target.backend, LitertBackend):
        return list(candidates)
    found = LatencyCache(cache).measure(
        {one.name: read_model(folder / f"{one.name}.tflite") for one in candidates},
        num_threads=target.backend.num_threads,
        num_repeats=target.backend.num_repeats,
    )
    return [
        replace(
            one,
            costs={
                **one.costs,
                "measured_latency_ms": found[one.name].median_ms,
                "measured_spread_ms": found[one.name].high_ms - found[one.name].low_ms,
            },
        )
        for one in candidates
    ]


def _read_result(output: Path, target: str) -> SearchResult | None:
    """Returns what an earlier call has left of a target, if it can be read."""
    try:
        document = JsonReader(SearchError).read(output / target / RESULT_FILE)
        return SearchResult.from_json(document)
    except (MatarError, OverflowError):
        return None
