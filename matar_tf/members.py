"""The files of an artifact, read one by one: of a folder, or of one zip file."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import ArtifactError, shown
from matar_tf.io.archive import Members, check_size, open_members
from matar_tf.io.files import read_at_most
from matar_tf.packaged import (
    MANIFEST,
    MEASUREMENTS,
    OPTIONAL,
    PARAMETERS,
    TEMPLATE,
)

__all__ = ["MEMBERS", "SUFFIX", "open_artifact", "read_member"]

SUFFIX: Final = ".matar"
MEMBERS: Final = frozenset({MANIFEST, TEMPLATE, PARAMETERS, MEASUREMENTS, *OPTIONAL})
# What makes a folder a repository of a hub, or signed: never read.
_BESIDE: Final = ("README.md", "LICENSE", ".gitattributes", "model.sig")
_FOLDERS_BESIDE: Final = (".git", ".cache")


@contextlib.contextmanager
def open_artifact(path: Path, max_bytes: int) -> Iterator[Members]:
    """Yields the members of an artifact, the manifest among them.

    Args:
      path: Of a folder or a zip file.
      max_bytes: The most that a zip file may unpack to.

    Raises:
      ArtifactError: If there is none, it has other members, or one cannot be read when
        it is.
    """
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            members = _open_folder(path)
        elif path.is_file():
            if path.suffix != SUFFIX and not zipfile.is_zipfile(path):
                raise ArtifactError(
                    f"Expected an artifact (a directory or a {SUFFIX} file) at {path}, "
                    "got another kind of file; make one with matar_tf.package or "
                    "`matar train`."
                )
            members = stack.enter_context(
                open_members(path, str(path), max_bytes=max_bytes, known=MEMBERS)
            )
        else:
            raise ArtifactError(
                f"Expected an artifact (a directory or a .matar file) at {path}, found "
                "nothing; make one with matar_tf.package or `matar train`."
            )
        if MANIFEST not in members.sizes:
            raise ArtifactError(
                f"Expected a {MANIFEST} in {path}, found none: it is not an artifact; "
                "name one that matar_tf.package or `matar train` made."
            )
        yield members


def _open_folder(path: Path) -> Members:
    """Returns the members of a folder.

    They may be links to files elsewhere, as in the cache of a hub: what they lead to is
    read only as far as it is long, and must have its digest.
    """
    entries = list(path.iterdir())
    files = [entry for entry in entries if entry.name in MEMBERS and entry.is_file()]
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
            f"{', '.join((*_BESIDE, *_FOLDERS_BESIDE))}, got also {shown(unknown)}; "
            "move them elsewhere."
        )
    sizes = {file.name: file.stat().st_size for file in files}

    def read(name: str) -> bytes:
        return read_at_most(path / name, sizes[name], ArtifactError)

    return Members(sizes, sum(sizes.values()), read)


def read_member(
    members: Members,
    name: str,
    max_bytes: int,
    path: Path,
    digests: Mapping[str, Any] | None = None,
) -> bytes:
    """Returns a member, which must have its digest if there are any.

    Args:
      members: All members.
      name: Its name.
      max_bytes: The most that it may take.
      path: Of the artifact.
      digests: SHA-256 of the members by name, in hex.

    Raises:
      ArtifactError: If it is too large, damaged or another one.
    """
    check_size(members.sizes[name], f"{name} of {path}", max_bytes)
    content = members.read(name)
    if digests is not None and hashlib.sha256(content).hexdigest() != digests[name]:
        raise ArtifactError(
            f"The member {name!r} of {path} does not match its SHA-256 in the "
            "manifest; it was damaged or altered, fetch it again."
        )
    return content
