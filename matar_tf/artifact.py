"""Artifacts as files: all that an integrator needs to retarget a network.

A directory, or the same as one ``.matar`` zip file: ``manifest.json``,
``template.tflite``, ``parameters.npz`` and optional members. The manifest carries the
SHA-256 of every other member, and of itself. Nothing in an artifact is executed or
unpickled. What can be computed again, the workload, is, and must be as it says.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from matar_tf.consistency import (
    check_entries,
    check_inputs,
    check_outputs,
    check_places,
    checked_workload,
)
from matar_tf.errors import ArtifactError, MatarError, printable, shown
from matar_tf.inputs import inputs_from_json
from matar_tf.io.archive import MAX_ARRAY_BYTES, Members, check_arrays, check_size
from matar_tf.io.files import as_path, check_parent, new_folder, write_atomically
from matar_tf.io.json_reader import MAX_JSON_BYTES, JsonReader
from matar_tf.measurements import Measurements
from matar_tf.members import MEMBERS, SUFFIX, open_artifact, read_member
from matar_tf.outputs import outputs_from_json
from matar_tf.packaged import (
    DIGEST_KEY,
    MANIFEST,
    MEASUREMENTS,
    PARAMETERS,
    SCHEMA_VERSION,
    TEMPLATE,
    Artifact,
    Source,
    check_no_member,
    manifest_digest,
)
from matar_tf.parameters import Parameters
from matar_tf.signing import check_signature
from matar_tf.space import PolicySpace
from matar_tf.template_map import TemplateMap
from matar_tf.tflite.template import Template
from matar_tf.workload import Workload

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "check_free",
    "read_artifact",
    "write_artifact",
]

_OLD_KEYS: Final = (  # of schema_version 3, without a digest of the manifest
    *("schema_version", "space", "workload", "template_map", "accuracy"),
    *("provenance", "sha256"),
)
_KEYS: Final = {3: _OLD_KEYS, SCHEMA_VERSION: (*_OLD_KEYS, DIGEST_KEY)}
_OUTPUTS, _INPUTS = "outputs", "inputs"  # keys that earlier versions did not write
_MAX_BYTES = 1 << 31  # of all members
# Kernels take one byte a weight in it, and four among the parameters.
_MAX_TEMPLATE_BYTES: Final = MAX_ARRAY_BYTES // 3
# Of arrays, for each byte of the template, whose kernels take one byte a weight: 4 of
# the float kernel, and of a depthwise layer some 100 for the terms of its batch norm.
_ARRAY_BYTES = 128
_FREE_ARRAY_BYTES = 1 << 26
_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_READER = JsonReader(ArtifactError)
# What a template of another making may end in, where it is read.
_CONTRADICTIONS = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError),
    ValueError,
)


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
    sizes = {name: len(content) for name, content in members.items()}
    _parse(Members(sizes, sum(sizes.values()), members.__getitem__), path)
    if path.suffix == SUFFIX:
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
    if path.is_dir() and path.suffix == SUFFIX:
        raise ArtifactError(
            f"Expected a free path or a file at {path}, since it ends in {SUFFIX}, "
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
        others = sorted(names - MEMBERS)
        if MANIFEST in names and others:
            raise ArtifactError(
                f"Expected an artifact alone to overwrite at {path}, but it holds also "
                f"{others}, which would be lost; write to another path and copy its "
                "files here."
            )
        is_artifact = MANIFEST in names
    else:
        is_artifact = path.suffix == SUFFIX
    if not is_artifact:
        raise ArtifactError(
            f"Expected an artifact to overwrite at {path}, but it holds something else."
        )


def read_artifact(
    path: str | Path,
    *,
    expect_digest: str | None = None,
    trust: str | Path | None = None,
) -> Artifact:
    """Reads and verifies an artifact.

    Args:
      path: A directory, or a ``.matar`` file.
      expect_digest: The SHA-256 that it must have (`Artifact.source`), 64 hex digits
        with or without ``sha256:`` before them; None for any.
      trust: PEM file of the public key, or of certificates, by which it must be signed
        (`matar_tf.signing`); None for no matter by whom, or not at all.

    Raises:
      ArtifactError: If a member is missing, unknown, altered or malformed, what it says
        contradicts its template, its digest is another, or trust is asked for and it
        is not signed so.
    """
    path = as_path(path, "an artifact", ArtifactError)
    expected = None if expect_digest is None else _as_digest(expect_digest)
    signed_by = "" if trust is None else check_signature(path, trust)
    with open_artifact(path, _MAX_BYTES) as members:
        artifact = _parse(members, path, expected)
    if artifact.source is None or not signed_by:
        return artifact
    return replace(artifact, source=replace(artifact.source, signed_by=signed_by))


def _as_digest(value: str) -> str:
    """Returns the hex digits of a digest that a user named."""
    match = _DIGEST.fullmatch(str(value).strip().lower())
    if match is None:
        raise ArtifactError(
            "Expected a SHA-256 of 64 hex digits in expect_digest=, got "
            f"{str(value)[:80]!r}; `matar verify` prints that of an artifact."
        )
    return match[1]


def _parse(members: Members, path: Path, expected: str | None = None) -> Artifact:
    """Returns the artifact of some members.

    The manifest is read first, then the template, which justifies the size of the rest.
    """
    check_size(sum(members.sizes.values()), str(path), _MAX_BYTES)
    content = read_member(members, MANIFEST, MAX_JSON_BYTES, path)
    manifest = _read_manifest(content, path)
    source = _source_of(manifest, path, expected)
    digests = _digests_of(manifest, members, path)
    template = read_member(members, TEMPLATE, _MAX_TEMPLATE_BYTES, path, digests)
    with _naming_contradictions(path):
        space = PolicySpace.from_json(manifest["space"])
        places = TemplateMap.from_json(manifest["template_map"])
        check_places(places, space, path)
        checked = Template.of(template, places)
    rest = _read_rest(members, len(template), path, digests)
    measured = rest.pop(MEASUREMENTS, None)
    with _naming_contradictions(path):
        artifact = Artifact(
            space=space,
            workload=Workload.from_json(manifest["workload"]),
            parameters=Parameters.from_npz(rest.pop(PARAMETERS)),
            template=template,
            template_map=places,
            accuracy=manifest["accuracy"],
            provenance=manifest["provenance"],
            extras=rest,
            measurements=None
            if measured is None
            else Measurements.from_json(_READER.parse(measured, MEASUREMENTS), space),
            outputs=outputs_from_json(manifest.get(_OUTPUTS, {})),
            inputs=inputs_from_json(manifest.get(_INPUTS, {})),
            name=printable(path.stem),
            source=source,
        )
        check_entries(artifact, path)
        check_outputs(artifact, path)
        check_inputs(artifact, path)
        return replace(artifact, workload=checked_workload(artifact, checked, path))


def _read_manifest(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = _READER.parse(content, MANIFEST)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version is not None and (type(version) is not int or version not in _KEYS):
            raise ArtifactError(
                f"Expected schema_version {' or '.join(map(str, _KEYS))}, got "
                f"{shown(version)}; package the model again, or use the version of "
                "matar_tf that wrote it."
            )
        optional = {_OUTPUTS, _INPUTS} & set(value if isinstance(value, dict) else ())
        keys = (*_KEYS[version or SCHEMA_VERSION], *optional)
        return _READER.object(value, MANIFEST, keys)
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


def _digests_of(
    manifest: dict[str, Any], members: Members, path: Path
) -> dict[str, Any]:
    """Returns the digests of members by name, which are those of the manifest."""
    digests = _READER.field(manifest, "sha256", dict)
    there = set(members.sizes) - {MANIFEST}
    if set(digests) != there:
        raise ArtifactError(
            f"Expected the members {shown(sorted(digests))} in {path}, got "
            f"{shown(sorted(there))}; the artifact is incomplete or was added to."
        )
    missing = [name for name in (TEMPLATE, PARAMETERS) if name not in there]
    if missing:
        raise ArtifactError(
            f"Expected a member {missing[0]!r} in {path}, found none; the artifact is "
            "incomplete."
        )
    return digests


def _read_rest(
    members: Members, num_bytes: int, path: Path, digests: Mapping[str, Any]
) -> dict[str, bytes]:
    """Returns what is beside manifest and template, of a size that these justify.

    Args:
      members: All members.
      num_bytes: Of the template.
      path: Of the artifact.
      digests: Of the members.
    """
    justified = min(_MAX_BYTES, _FREE_ARRAY_BYTES + _ARRAY_BYTES * num_bytes)
    most = justified + MAX_JSON_BYTES
    names = sorted(set(members.sizes) - {MANIFEST, TEMPLATE})
    taken = sum(members.sizes[name] for name in names)
    check_size(taken, f"{path} beside its template", most)
    rest = {name: read_member(members, name, most, path, digests) for name in names}
    check_arrays(rest, str(path), max_bytes=justified, num_packed=members.num_packed)
    return rest


@contextlib.contextmanager
def _naming_contradictions(path: Path) -> Iterator[None]:
    """Names the artifact where something in it is malformed or contradicts the rest."""
    try:
        yield
    except ArtifactError:
        raise
    except MatarError as error:
        raise ArtifactError(f"The artifact {path} is malformed: {error}") from error
    except _CONTRADICTIONS as error:
        raise ArtifactError(
            f"The artifact {path} is malformed: its parts are no network that was "
            f"packaged ({error!r}); package the model again."
        ) from error
