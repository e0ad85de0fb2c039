"""The artifact: all that an integrator needs to retarget a network.

A directory, or the same as one ``.matar`` zip file: ``manifest.json``,
``template.tflite``, ``parameters.npz`` and optional members. The manifest carries the
SHA-256 of every other member. Nothing in an artifact is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import ArtifactError, MatarError
from matar_tf.io.archive import check_size, read_members
from matar_tf.io.files import as_path, new_folder, write_atomically
from matar_tf.io.json_reader import JsonReader
from matar_tf.parameters import Parameters
from matar_tf.space import PolicySpace
from matar_tf.template_map import TemplateMap
from matar_tf.workload import Workload

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "check_free",
    "read_artifact",
    "write_artifact",
]

SCHEMA_VERSION: Final = 3
_SUFFIX = ".matar"
_MANIFEST = "manifest.json"
_TEMPLATE = "template.tflite"
_PARAMETERS = "parameters.npz"
_OPTIONAL = ("network.json", "network.npz", "calibration.npz")
_KEYS = (
    "schema_version",
    "space",
    "workload",
    "template_map",
    "accuracy",
    "provenance",
    "sha256",
)
_MAX_BYTES = 1 << 31  # of all members
_READER = JsonReader(ArtifactError)


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
      name: What the network is called where it is shown: that of the file it was read
        from.
    """

    space: PolicySpace
    workload: Workload
    parameters: Parameters
    template: bytes
    template_map: TemplateMap
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, bytes] = field(default_factory=dict)
    name: str = "network"

    def __repr__(self) -> str:
        workload, space = self.workload, self.space
        source, output = workload.inputs[0], workload.outputs[0]
        num_bytes = sum(
            layer.weight_elems + 4 * layer.bias_elems for layer in workload.layers
        )
        lines = [
            f"{self.name}: {len(workload.layers)} layers, {workload.macs:,} MACs, "
            f"{num_bytes:,} bytes of weights at 8 bits",
            f"  input {workload.tensors[source].shape}, output "
            f"{workload.tensors[output].shape}",
            f"  {len(space.weights)} weights in {_widths(space.weights)} bits, "
            f"{len(space.activations)} activations in {_widths(space.activations)} "
            f"bits: {space.num_policies:.3g} policies",
        ]
        lines += [
            f"  {name:8s} "
            + ", ".join(f"{metric} {value:.4f}" for metric, value in row.items())
            for name, row in self.accuracy.items()
        ]
        return "\n".join(lines)

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
            "template_map": self.template_map.to_json(),
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
            json.dumps(self.template_map.to_json(), sort_keys=True).encode(),
            json.dumps(self.space.to_json(), sort_keys=True).encode(),
        ):
            total.update(hashlib.sha256(part).digest())
        # Not of the bytes of a file, which follow from the zlib that packed them.
        total.update(self.parameters.digest())
        return total.hexdigest()


def _widths(entries: Mapping[str, tuple[int, ...]]) -> str:
    """Returns the widths that entries take, from the narrowest to the widest."""
    widths = sorted({bits for choices in entries.values() for bits in choices})
    return "/".join(map(str, widths))


def write_artifact(
    artifact: Artifact, path: str | Path, *, overwrite: bool = False
) -> None:
    """Writes a directory, or one zip file if the path ends in ``.matar``.

    The artifact is written under a temporary name and renamed when complete.

    Raises:
      ArtifactError: If something stands at the path and `overwrite` is False, or
        `read_artifact` would refuse what is written: it is too large, or its parts do
        not belong together.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    members = artifact.members()
    check_size(sum(map(len, members.values())), str(path), _MAX_BYTES)
    _parse(dict(members), path)
    if path.suffix == _SUFFIX:
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
    if path.is_dir() and path.suffix == _SUFFIX:
        raise ArtifactError(
            f"Expected a free path or a file at {path}, since it ends in {_SUFFIX}, "
            "got a folder; choose another path."
        )
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise ArtifactError(
            f"Expected a free path for the artifact, but {path} exists; choose another "
            "or pass overwrite=True."
        )
    is_artifact = (
        (path / _MANIFEST).is_file() if path.is_dir() else path.suffix == _SUFFIX
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
    path = as_path(path, "an artifact", ArtifactError)
    return _parse(_read_members(path), path)


def _parse(members: dict[str, bytes], path: Path) -> Artifact:
    """Returns the artifact of some members, which it uses up."""
    manifest = _read_manifest(members.pop(_MANIFEST), path)
    try:
        digests = _READER.field(manifest, "sha256", dict)
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
            template_map=TemplateMap.from_json(manifest["template_map"]),
            accuracy=_read_accuracy(manifest["accuracy"]),
            provenance=_READER.field(manifest, "provenance", dict),
            extras=members,
            name=path.stem,
        )
    except KeyError as error:
        raise ArtifactError(
            f"Expected a member {error.args[0]!r} in {path}, found none; the artifact "
            "is incomplete."
        ) from error
    except ArtifactError:
        raise
    except MatarError as error:
        raise ArtifactError(f"The artifact {path} is malformed: {error}") from error
    _check_entries(artifact, path)
    _check_workload(artifact, path)
    _check_map(artifact, path)
    return artifact


def _read_manifest(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = _READER.parse(content, _MANIFEST)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version is not None and version != SCHEMA_VERSION:
            raise ArtifactError(
                f"Expected schema_version {SCHEMA_VERSION}, got {version!r}; package "
                "the model again."
            )
        return _READER.object(value, _MANIFEST, _KEYS)
    except ArtifactError as error:
        raise ArtifactError(f"The manifest of {path} is malformed: {error}") from error


def _read_accuracy(value: Any) -> dict[str, dict[str, float]]:
    rows: list[Any] = list(value.values()) if isinstance(value, dict) else [None]
    if not all(isinstance(row, dict) for row in rows) or not all(
        type(figure) in (int, float) and abs(figure) <= sys.float_info.max
        for row in rows
        for figure in row.values()
    ):
        raise ArtifactError(
            "Expected finite numbers by policy and metric under 'accuracy' in the "
            f"manifest, got {str(value)[:80]}; package the model again."
        )
    return value


def _read_members(path: Path) -> dict[str, bytes]:
    known = {_MANIFEST, _TEMPLATE, _PARAMETERS, *_OPTIONAL}
    if path.is_dir():
        members = _read_folder(path, known)
    elif path.is_file():
        members = read_members(path, str(path), max_bytes=_MAX_BYTES, known=known)
    else:
        raise ArtifactError(
            f"Expected an artifact (a directory or a .matar file) at {path}, found "
            "nothing; make one with matar_tf.package or `matar train`."
        )
    if _MANIFEST not in members:
        raise ArtifactError(f"Expected a {_MANIFEST} in {path}; it is not an artifact.")
    return members


def _read_folder(path: Path, known: set[str]) -> dict[str, bytes]:
    files = [entry for entry in path.iterdir() if entry.is_file()]
    unknown = sorted({file.name for file in files} - known)
    if unknown:
        raise ArtifactError(
            f"Expected the members {sorted(known)} in {path}, got also {unknown}."
        )
    check_size(sum(file.stat().st_size for file in files), str(path), _MAX_BYTES)
    return {file.name: file.read_bytes() for file in files}


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


def _check_workload(artifact: Artifact, path: Path) -> None:
    """Checks that the workload's entries and kernels are those of the parameters."""
    workload, parameters = artifact.workload, artifact.parameters
    sizes = {
        layer.weights: layer.weight_elems
        for layer in workload.layers
        if layer.weights is not None
    }
    kernels = {name: layer.kernel.size for name, layer in parameters.layers.items()}
    if sizes != kernels:
        raise ArtifactError(
            f"Expected a workload with kernels of the sizes {kernels} in {path}, got "
            f"{sizes}; package the model again."
        )
    for tensor in workload.tensors.values():
        if tensor.activation not in (None, *artifact.space.activations):
            raise ArtifactError(
                f"Expected tensors of known activation entries in the workload of "
                f"{path}, got {tensor.activation!r}; package the model again."
            )


def _check_map(artifact: Artifact, path: Path) -> None:
    """Checks that the template map has a place for each entry, and for no other."""
    places = artifact.template_map
    activations = set(artifact.space.activations)
    inputs = {place.input for place in places.kernels.values()} - {None}
    if (
        set(places.kernels) != set(artifact.space.weights)
        or not activations.issuperset(inputs)
        or len({place.operator for place in places.kernels.values()})
        < len(places.kernels)
        or activations != set(places.tensors.values())
        or not activations.issuperset(places.clamps)
    ):
        raise ArtifactError(
            f"Expected a template_map with a place for each entry of the policy in "
            f"{path}, got {str(places)[:80]}; package the model again."
        )
