"""Artifacts as files: all that an integrator needs to retarget a network.

A directory, or the same as one ``.matar`` zip file: ``manifest.json``,
``template.tflite``, ``parameters.npz`` and optional members. The manifest carries the
SHA-256 of every other member, and of itself. Nothing in an artifact is executed or
unpickled. What can be computed again, the workload, is, and must be as it says.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import ArtifactError, MatarError, printable
from matar_tf.io.archive import check_arrays, check_size, read_members
from matar_tf.io.files import as_path, check_parent, new_folder, write_atomically
from matar_tf.io.json_reader import JsonReader
from matar_tf.packaged import (
    DIGEST_KEY,
    MANIFEST,
    OPTIONAL,
    PARAMETERS,
    SCHEMA_VERSION,
    TEMPLATE,
    Artifact,
    Source,
    check_no_member,
    manifest_digest,
)
from matar_tf.parameters import Parameters
from matar_tf.space import PolicySpace
from matar_tf.template_map import TemplateMap
from matar_tf.tflite._fingerprints import check_fingerprints
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.workload import read_workload
from matar_tf.workload import Workload

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "check_free",
    "read_artifact",
    "write_artifact",
]

_SUFFIX = ".matar"
_OLD_KEYS: Final = (  # of schema_version 3, without a digest of the manifest
    *("schema_version", "space", "workload", "template_map", "accuracy"),
    *("provenance", "sha256"),
)
_KEYS: Final = {3: _OLD_KEYS, SCHEMA_VERSION: (*_OLD_KEYS, DIGEST_KEY)}
_MEMBERS: Final = frozenset({MANIFEST, TEMPLATE, PARAMETERS, *OPTIONAL})
# What makes a folder a repository of a hub, or signed: never read.
_BESIDE: Final = ("README.md", "LICENSE", ".gitattributes", "model.sig")
_FOLDERS_BESIDE: Final = (".git", ".cache")
_MAX_BYTES = 1 << 31  # of all members
# Of arrays, for each byte of the template, whose kernels take one byte a weight: 4 of
# the float kernel, and of a depthwise layer some 100 for the terms of its batch norm.
_ARRAY_BYTES = 128
_FREE_ARRAY_BYTES = 1 << 26
_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_READER = JsonReader(ArtifactError)
# What a template of another making may end in, where it is read.
_CONTRADICTIONS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def write_artifact(
    artifact: Artifact, path: str | Path, *, overwrite: bool = False
) -> str:
    """Writes a directory, or one zip file if the path ends in ``.matar``.

    The artifact is written under a temporary name and renamed when complete.

    Returns:
      The SHA-256 of what was written, which `read_artifact` can be told to expect.

    Raises:
      ArtifactError: If something stands at the path and `overwrite` is False, or
        `read_artifact` would refuse what is written: it is too large, or its parts do
        not belong together.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    members = artifact.members()
    num_bytes = sum(map(len, members.values()))
    check_size(num_bytes, str(path), _MAX_BYTES)
    _parse(dict(members), path, num_bytes)
    if path.suffix == _SUFFIX:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        write_atomically(path, buffer.getvalue())
    else:
        with new_folder(path) as folder:
            for name, content in members.items():
                (folder / name).write_bytes(content)
    return json.loads(members[MANIFEST])[DIGEST_KEY]


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """Checks that an artifact may be written at a path.

    Raises:
      ArtifactError: If something stands there: anything if `overwrite` is False, and
        anything but an artifact otherwise; or the folder that it would be in is not
        there or is an artifact.
    """
    path = Path(path)
    check_parent(path, ArtifactError)
    check_no_member(path, ArtifactError)
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
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        others = sorted(names - _MEMBERS)
        if MANIFEST in names and others:
            raise ArtifactError(
                f"Expected an artifact alone to overwrite at {path}, but it holds also "
                f"{others}, which would be lost; write to another path and copy its "
                "files here."
            )
        is_artifact = MANIFEST in names
    else:
        is_artifact = path.suffix == _SUFFIX
    if not is_artifact:
        raise ArtifactError(
            f"Expected an artifact to overwrite at {path}, but it holds something else."
        )


def read_artifact(path: str | Path, *, expect_digest: str | None = None) -> Artifact:
    """Reads and verifies an artifact.

    Args:
      path: A directory, or a ``.matar`` file.
      expect_digest: The SHA-256 that it must have (`Artifact.source`), 64 hex digits
        with or without ``sha256:`` before them; None for any.

    Raises:
      ArtifactError: If a member is missing, unknown, altered or malformed, what it says
        contradicts its template, or its digest is another.
    """
    path = as_path(path, "an artifact", ArtifactError)
    expected = None if expect_digest is None else _as_digest(expect_digest)
    members = _read_members(path)
    num_bytes = sum(map(len, members.values()))
    num_packed = path.stat().st_size if path.is_file() else num_bytes
    return _parse(members, path, num_packed, expected)


def _as_digest(value: str) -> str:
    """Returns the hex digits of a digest that a user named."""
    match = _DIGEST.fullmatch(str(value).strip().lower())
    if match is None:
        raise ArtifactError(
            "Expected a SHA-256 of 64 hex digits in expect_digest=, got "
            f"{str(value)[:80]!r}; `matar verify` prints that of an artifact."
        )
    return match[1]


def _parse(
    members: dict[str, bytes], path: Path, num_packed: int, expected: str | None = None
) -> Artifact:
    """Returns the artifact of some members, which it uses up."""
    manifest = _read_manifest(members.pop(MANIFEST), path)
    source = _source_of(manifest, path, expected)
    _check_members(members, manifest, path)
    _check_arrays(members, path, num_packed)
    try:
        artifact = Artifact(
            space=PolicySpace.from_json(manifest["space"]),
            workload=Workload.from_json(manifest["workload"]),
            parameters=Parameters.from_npz(members.pop(PARAMETERS)),
            template=members.pop(TEMPLATE),
            template_map=TemplateMap.from_json(manifest["template_map"]),
            accuracy=manifest["accuracy"],
            provenance=manifest["provenance"],
            extras=members,
            name=printable(path.stem),
            source=source,
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
    return replace(artifact, workload=_checked_workload(artifact, path))


def _read_manifest(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = _READER.parse(content, MANIFEST)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version is not None and (type(version) is not int or version not in _KEYS):
            raise ArtifactError(
                f"Expected schema_version {' or '.join(map(str, _KEYS))}, got "
                f"{version!r}; package the model again, or use the version of "
                "matar_tf that wrote it."
            )
        return _READER.object(value, MANIFEST, _KEYS[version or SCHEMA_VERSION])
    except ArtifactError as error:
        raise ArtifactError(f"The manifest of {path} is malformed: {error}") from error


def _source_of(manifest: dict[str, Any], path: Path, expected: str | None) -> Source:
    """Returns where a manifest comes from, which must be as it says, and as expected.

    Raises:
      ArtifactError: If its digest is another.
    """
    digest = manifest_digest(manifest)
    if manifest.get(DIGEST_KEY, digest) != digest:
        raise ArtifactError(
            f"The manifest of {path} does not match its own SHA-256; it was damaged or "
            "altered, fetch it again."
        )
    if expected not in (None, digest):
        raise ArtifactError(
            f"Expected the artifact sha256:{expected} at {path}, got sha256:{digest}; "
            "it is another one, or was altered: fetch it again."
        )
    return Source(digest=digest, has_digest=DIGEST_KEY in manifest)


def _check_members(
    members: Mapping[str, bytes], manifest: dict[str, Any], path: Path
) -> None:
    """Checks that members are those of a manifest."""
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


def _check_arrays(members: Mapping[str, bytes], path: Path, num_packed: int) -> None:
    """Checks that the network justifies the size of the arrays that members hold."""
    justified = _FREE_ARRAY_BYTES + _ARRAY_BYTES * len(members.get(TEMPLATE, b""))
    most = min(_MAX_BYTES, justified)
    check_arrays(members, str(path), max_bytes=most, num_packed=num_packed)


def _read_members(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        members = _read_folder(path)
    elif path.is_file():
        if path.suffix != _SUFFIX and not zipfile.is_zipfile(path):
            raise ArtifactError(
                f"Expected an artifact (a directory or a {_SUFFIX} file) at {path}, "
                "got another kind of file; make one with matar_tf.package or `matar "
                "train`."
            )
        members = read_members(path, str(path), max_bytes=_MAX_BYTES, known=_MEMBERS)
    else:
        raise ArtifactError(
            f"Expected an artifact (a directory or a .matar file) at {path}, found "
            "nothing; make one with matar_tf.package or `matar train`."
        )
    if MANIFEST not in members:
        raise ArtifactError(
            f"Expected a {MANIFEST} in {path}, found none: it is not an artifact; name "
            "one that matar_tf.package or `matar train` made."
        )
    return members


def _read_folder(path: Path) -> dict[str, bytes]:
    entries = list(path.iterdir())
    files = [entry for entry in entries if entry.name in _MEMBERS and entry.is_file()]
    beside = [
        entry
        for entry in entries
        if (entry.name in _BESIDE and entry.is_file())
        or (entry.name in _FOLDERS_BESIDE and entry.is_dir())
    ]
    unknown = sorted({entry.name for entry in {*entries} - {*files, *beside}})
    if unknown and (path / MANIFEST).is_file():
        raise ArtifactError(
            f"Expected in {path} members of an artifact alone, and beside them at most "
            f"{', '.join((*_BESIDE, *_FOLDERS_BESIDE))}, got also {unknown}; move them "
            "elsewhere."
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
    places = artifact.template_map
    if set(places.kernels) != set(artifact.space.weights) or (
        set(places.tensors.values()) != set(artifact.space.activations)
    ):
        raise ArtifactError(
            f"Expected a template_map with a place for each entry of the policy in "
            f"{path}, got {str(places)[:80]}; package the model again."
        )


def _checked_workload(artifact: Artifact, path: Path) -> Workload:
    """Returns the workload of a template, which must be as the manifest says.

    Raises:
      ArtifactError: If it is not, or template, template map and parameters do not
        belong together.
    """
    try:
        template = ModelBuilder(artifact).template
        check_fingerprints(template, artifact.parameters)
        workload = read_workload(template)
    except MatarError as error:
        raise ArtifactError(f"The artifact {path} is malformed: {error}") from error
    except _CONTRADICTIONS as error:
        raise ArtifactError(
            f"The artifact {path} is malformed: its template is no network that was "
            f"packaged ({error!r}); package the model again."
        ) from error
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
