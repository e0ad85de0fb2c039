"""Reading zip files and arrays from strangers: bounded, and nothing is unpickled."""

from __future__ import annotations

import io
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from matar_tf.errors import ArtifactError

__all__ = [
    "MAX_ARRAY_BYTES",
    "check_size",
    "parse_arrays",
    "read_array",
    "read_members",
]

MAX_ARRAY_BYTES: Final = 1 << 30  # of all arrays of one .npz file
_MAX_MEMBERS = 100_000
_DAMAGE = (
    EOFError,
    NotImplementedError,  # an unknown compression
    OSError,
    RuntimeError,  # an encrypted member
    ValueError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_members(
    source: Path | bytes,
    what: str,
    *,
    max_bytes: int,
    max_members: int = _MAX_MEMBERS,
    known: Iterable[str] = (),
) -> dict[str, bytes]:
    """Returns the members of a zip file by name.

    Args:
      source: Its path or its bytes.
      what: Its name in errors.
      max_bytes: The most that the members may take together, uncompressed.
      max_members: The most that there may be of them.
      known: The names that may be there; any without it.

    Raises:
      ArtifactError: If the file is damaged, too large, or has another member.
    """
    allowed = set(known)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            other = [name for name in names if allowed and name not in allowed]
            if other:
                raise ArtifactError(
                    f"Expected the members {sorted(allowed)} in {what}, got "
                    f"{other[0]!r}."
                )
            if len(set(names)) < len(names) or len(names) > max_members:
                raise ArtifactError(
                    f"Expected at most {max_members} members of different names in "
                    f"{what}, got {len(names)}; package the model again."
                )
            check_size(sum(info.file_size for info in infos), what, max_bytes)
            return {info.filename: archive.read(info) for info in infos}
    except ArtifactError:
        raise
    except _DAMAGE as error:
        raise ArtifactError(
            f"Expected a zip file in {what}, but it is damaged ({error}); fetch it "
            "again."
        ) from error


def check_size(num_bytes: int, what: str, max_bytes: int) -> None:
    """Refuses what is too large to be read.

    Raises:
      ArtifactError: If there are more bytes than allowed.
    """
    if num_bytes > max_bytes:
        raise ArtifactError(
            f"Expected at most {max_bytes} bytes in {what}, got {num_bytes}; fetch it "
            "from whoever packaged it."
        )


def parse_arrays(content: bytes, what: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an ``.npz`` file by name.

    Raises:
      ArtifactError: If it is damaged or too large, or holds anything but arrays of
        numbers.
    """
    members = read_members(content, what, max_bytes=MAX_ARRAY_BYTES)
    return {
        name.removesuffix(".npy"): read_array(member, f"{name!r} of {what}")
        for name, member in members.items()
    }


def read_array(content: bytes, what: str) -> np.ndarray:
    """Returns the array of an ``.npy`` file.

    Raises:
      ArtifactError: If it is damaged, not of numbers, or not of the size it states.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
        # Before NumPy makes room for what the header promises.
        num_bytes = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "biuf" or num_bytes != len(content) - stream.tell():
            raise ValueError(f"it states {dtype} of shape {shape}")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"Expected an array of numbers in {what}, but it is malformed ({error}); "
            "package the model again."
        ) from error
