"""The artifact: all that an integrator needs to retarget a network.

A directory, or the same as one ``.matar`` zip file: ``manifest.json``,
``template.tflite``, ``parameters.npz`` and optional members. The manifest carries the
SHA-256 of every other member. Nothing in an artifact is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from matar_tf.archive import read_zip
from matar_tf.errors import ArtifactError, MatarError
from matar_tf.files import new_folder, write_atomically
from matar_tf.json_reader import JsonReader
from matar_tf.parameters import Parameters
from matar_tf.policy import PolicySpace
from matar_tf.workload import Workload

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "check_free",
    "read_artifact",
    "write_artifact",
]

SCHEMA_VERSION: Final = 3
_MANIFEST = "manifest.json"
_TEMPLATE = "template.tflite"
_PARAMETERS = "parameters.npz"
_OPTIONAL = ("network.json", "network.npz", "calibration.npz")


@dataclass(frozen=True, kw_only=True, eq=False)
class Artifact:
    """A packaged network.

    Attributes:
      space: The widths that each policy entry may take.
      workload: What the network asks of hardware.
      parameters: The trained numbers.
      template: ``.tflite`` bytes into which a policy is filled.
      template_map: Where the policy entries sit in the template.
      accuracy: Metrics that the developer measured, by name (``float``, ``w8a8``).
      provenance: Recipe, seed, versions and command that made the network.
      extras: Optional members by file name, such as ``network.json``.
    """

    space: PolicySpace
    workload: Workload
    parameters: Parameters
    template: bytes
    template_map: Mapping[str, Any]
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, bytes] = field(default_factory=dict)

    def members(self) -> dict[str, bytes]:
        """Returns the files of the artifact, the manifest last."""
        for name in self.extras:
            if name not in _OPTIONAL:
                raise ArtifactError(
                    f"Expected extras among {list(_OPTIONAL)}, got {name!r}."
                )
        members = {
            _TEMPLATE: self.template,
            _PARAMETERS: self.parameters.to_npz(),
            **self.extras,
        }
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "space": self.space.to_json(),
            "workload": self.workload.to_json(),
            "template_map": dict(self.template_map),
            "accuracy": {name: dict(row) for name, row in self.accuracy.items()},
            "provenance": dict(self.provenance),
            "sha256": {
                name: hashlib.sha256(content).hexdigest()
                for name, content in members.items()
            },
        }
        members[_MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
        return members

    def digest(self) -> str:
        """Returns the SHA-256 of what decides the accuracy of a policy.

        Provenance and the accuracy table do not count: the same network packaged
        again keeps its digest, and with it its stored evaluations.
        """
        total = hashlib.sha256()
        for part in (
            self.template,
            self.parameters.to_npz(),
            json.dumps(self.template_map, sort_keys=True).encode(),
            json.dumps(self.space.to_json(), sort_keys=True).encode(),
        ):
            total.update(hashlib.sha256(part).digest())
        return total.hexdigest()


def write_artifact(
    artifact: Artifact, path: str | Path, *, overwrite: bool = False
) -> None:
    """Writes a directory, or one zip file if the path ends in ``.matar``.

    The artifact is written under a temporary name and renamed when complete.

    Raises:
      ArtifactError: If something stands at the path and `overwrite` is False.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    members = artifact.members()
    if path.suffix == ".matar":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        write_atomically(path, buffer.getvalue())
        return
    with new_folder(path) as folder:
        for name, content in members.items():
            (folder / name).write_bytes(content)


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """Checks that an artifact may be written at a path.

    Raises:
      ArtifactError: If something stands there: anything if `overwrite` is False, and
        anything but an artifact otherwise.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise ArtifactError(
            f"Expected a free path for the artifact, but {path} exists; choose another "
            "or pass --overwrite."
        )
    is_artifact = (
        (path / _MANIFEST).is_file() if path.is_dir() else path.suffix == ".matar"
    )
    if not is_artifact:
        raise ArtifactError(
            f"Expected an artifact to overwrite at {path}, but it holds something else."
        )


def read_artifact(path: str | Path) -> Artifact:
    """Reads and verifies an artifact.

    Raises:
      ArtifactError: If a member is missing, unknown, altered or malformed.
    """
    path = Path(path)
    members = _read_members(path)
    try:
        manifest = JsonReader(ArtifactError).parse(
            members.pop(_MANIFEST), f"the manifest of {path}"
        )
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise ArtifactError(
                f"Expected an artifact of schema_version {SCHEMA_VERSION} in {path}, "
                f"got {manifest['schema_version']!r}; package the model again."
            )
        digests = manifest["sha256"]
        if set(digests) != set(members):
            raise ArtifactError(
                f"Expected the members {sorted(digests)} in {path}, got "
                f"{sorted(members)}; the artifact is incomplete or was added to."
            )
        for name, content in members.items():
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise ArtifactError(
                    f"The member {name!r} of {path} does not match its SHA-256 in the "
                    "manifest; it was damaged or altered, fetch it again."
                )
        artifact = Artifact(
            space=PolicySpace.from_json(manifest["space"]),
            workload=Workload.from_json(manifest["workload"]),
            parameters=Parameters.from_npz(members.pop(_PARAMETERS)),
            template=members.pop(_TEMPLATE),
            template_map=manifest["template_map"],
            accuracy=_read_accuracy(manifest["accuracy"]),
            provenance=manifest["provenance"],
            extras=members,
        )
    except (AttributeError, LookupError, TypeError, ArithmeticError) as error:
        raise ArtifactError(
            f"The manifest of {path} is malformed: {error!r}; package the model again."
        ) from error
    except ArtifactError:
        raise
    except MatarError as error:
        raise ArtifactError(f"The artifact {path} is malformed: {error}") from error
    _check_entries(artifact, path)
    return artifact


def _read_members(path: Path) -> dict[str, bytes]:
    known = {_MANIFEST, _TEMPLATE, _PARAMETERS, *_OPTIONAL}
    if path.is_dir():
        members = {
            entry.name: entry.read_bytes()
            for entry in path.iterdir()
            if entry.is_file()
        }
    elif path.is_file():
        members = read_zip(path, str(path), known.__contains__)
    else:
        raise ArtifactError(
            f"Expected an artifact (a directory or a .matar file) at {path}, found "
            "nothing; make one with tools/train.py or tools/package.py."
        )
    if _MANIFEST not in members:
        raise ArtifactError(f"Expected a {_MANIFEST} in {path}; it is not an artifact.")
    unknown = sorted(set(members) - known)
    if unknown:
        raise ArtifactError(
            f"Expected the members {sorted(known)} in {path}, got also {unknown}."
        )
    return members


def _read_accuracy(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the accuracy table; whatever is no number in it is an error."""
    for row in table.values():
        for figure in row.values():
            if isinstance(figure, bool) or not isinstance(figure, int | float):
                raise TypeError(f"expected numbers in the accuracy table, got {row!r}")
    return {name: dict(row) for name, row in table.items()}


def _check_entries(artifact: Artifact, path: Path) -> None:
    for what, names, there in (
        ("weight", artifact.space.weights, artifact.parameters.layers),
        ("activation", artifact.space.activations, artifact.parameters.tensors),
    ):
        if set(names) != set(there):
            raise ArtifactError(
                f"Expected parameters for the {what} entries {sorted(names)} in "
                f"{path}, got {sorted(there)}."
            )
        for name, widths in names.items():
            if not set(widths) <= set(there[name].bits):
                raise ArtifactError(
                    f"Expected parameters for {list(widths)} bits of the {what} entry "
                    f"{name!r} in {path}, got {list(there[name].bits)}."
                )
