"""What the parts of an artifact must be to each other: checked whenever it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from matar_tf.errors import ArtifactError, shown
from matar_tf.packaged import Artifact
from matar_tf.space import PolicySpace
from matar_tf.template_map import TemplateMap
from matar_tf.tflite._fingerprints import check_fingerprints
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import inputs_of, outputs_of
from matar_tf.tflite.template import Template
from matar_tf.tflite.workload import read_workload
from matar_tf.workload import Workload

__all__ = [
    "check_entries",
    "check_inputs",
    "check_outputs",
    "check_places",
    "checked_workload",
]


def check_entries(artifact: Artifact, path: Path) -> None:
    """Checks that there are parameters for each entry, at each of its widths.

    Raises:
      ArtifactError: If there are not, or others.
    """
    for what, names, there in (
        ("weight", artifact.space.weights, artifact.parameters.layers),
        ("activation", artifact.space.activations, artifact.parameters.tensors),
    ):
        if set(names) != set(there):
            raise ArtifactError(
                f"Expected parameters for the {what} entries {shown(sorted(names))} "
                f"in {path}, got {shown(sorted(there))}; package the model again."
            )
        for name, widths in names.items():
            if not set(widths) <= set(there[name].bits):
                raise ArtifactError(
                    f"Expected parameters for {list(widths)} bits of the {what} entry "
                    f"{name!r} in {path}, got {list(there[name].bits)}."
                )


def check_outputs(artifact: Artifact, path: Path) -> None:
    """Checks that what is said of outputs is of those of the template.

    Raises:
      ArtifactError: If it is not.
    """
    outputs = outputs_of(artifact.template)
    said = {name: one.shape for name, one in artifact.outputs.items()}
    # The name of one alone is not in the template.
    names = [one.name for one in outputs] if len(outputs) > 1 else list(said)[:1]
    there = {name: one.shape for name, one in zip(names, outputs, strict=False)}
    _check_ends("outputs", said, there, path)


def check_inputs(artifact: Artifact, path: Path) -> None:
    """Checks that what is said of inputs is of those of the template.

    Raises:
      ArtifactError: If it is not.
    """
    there = {one.name: one.shape for one in inputs_of(artifact.template)}
    said = {name: one.shape for name, one in artifact.inputs.items()}
    _check_ends("inputs", said, there, path)


def _check_ends(
    what: str,
    said: Mapping[str, tuple[int, ...]],
    there: Mapping[str, tuple[int, ...]],
    path: Path,
) -> None:
    if said and said != there:
        raise ArtifactError(
            f"Expected in {path} {what} as those of its template, {shown(there)}, got "
            f"{shown(said)}; package the model again."
        )


def check_places(places: TemplateMap, space: PolicySpace, path: Path) -> None:
    """Checks that a template map has a place for each entry.

    Raises:
      ArtifactError: If it has not, or others.
    """
    kernels = {name for name, one in places.kernels.items() if one.weights is None}
    entries = {one.weights for one in places.kernels.values()} - {None}
    if (
        not entries <= kernels
        or {*kernels, *places.pieces} != set(space.weights)
        or (set(places.tensors.values()) != set(space.activations))
    ):
        raise ArtifactError(
            f"Expected a template_map with a place for each entry of the policy in "
            f"{path}, got {str(places)[:80]}; package the model again."
        )


def checked_workload(artifact: Artifact, template: Template, path: Path) -> Workload:
    """Returns the workload of a template, which must be as the manifest says.

    Raises:
      ArtifactError: If it is not, or template, template map and parameters do not
        belong together.
    """
    ModelBuilder(artifact, template)
    check_fingerprints(template, artifact.parameters)
    workload = read_workload(template)
    if workload != artifact.workload:
        raise ArtifactError(
            f"Expected in {path} the workload of its template, got another: "
            f"{_difference(artifact.workload, workload)}; it was altered: fetch the "
            "artifact again."
        )
    return workload


def _difference(found: Workload, expected: Workload) -> str:
    """Returns what a workload says otherwise than another."""
    pairs: list[tuple[Any, Any]] = [*zip(found.layers, expected.layers, strict=False)]
    pairs += zip(found.tensors.values(), expected.tensors.values(), strict=False)
    for one, other in pairs:
        for key in (key.name for key in fields(one)):
            here, there = getattr(one, key), getattr(other, key)
            if here != there:
                return f"{key} {here!r} for {there!r} of {other.name!r}"[:200]
    return "other layers, tensors, inputs or outputs"
