"""Zip files and arrays from strangers: sizes are bounded before anything is read."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from matar_tf.errors import ArtifactError

__all__ = ["MAX_BYTES", "read_array", "read_zip"]

MAX_BYTES: Final = 2 << 30  # of all members of a zip file together
_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_zip(
    source: Path | bytes, what: str, is_known: Callable[[str], bool]
) -> dict[str, bytes]:
    """Returns the members of a zip file by name.

    Args:
      source: The file, or its content.
      what: Its name in errors.
      is_known: Whether a member may be there.

    Raises:
      ArtifactError: If the file is damaged, too large or has other members.
    """
    try:
        with zipfile.ZipFile(
            io.BytesIO(source) if isinstance(source, bytes) else source
        ) as archive:
            infos = archive.infolist()
            for info in infos:
                if not is_known(info.filename):
                    raise ArtifactError(
                        f"Expected no member {info.filename!r} in {what}, got one of "
                        f"{info.file_size} bytes."
                    )
            total = sum(info.file_size for info in infos)
            if total > MAX_BYTES:
                raise ArtifactError(
                    f"Expected at most {MAX_BYTES} bytes in {what}, got {total}."
                )
            return {info.filename: archive.read(info) for info in infos}
    except (
        EOFError,
        NotImplementedError,  # another method of compression
        RuntimeError,  # encrypted
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ArtifactError(
            f"Expected a zip file as {what}, but it is damaged ({error}); fetch it "
            "again."
        ) from error


def read_array(content: bytes) -> np.ndarray:
    """Returns the array of an ``.npy`` file, which is never larger than its content.

    Raises:
      ValueError: If the content is malformed.
    """
    stream = io.BytesIO(content)
    read_header = _HEADERS.get(np.lib.format.read_magic(stream))
    if read_header is None:
        raise ValueError("arrays must be of version 1.0 or 2.0 of the .npy format")
    shape, _, dtype = read_header(stream)
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes != len(content) - stream.tell():
        raise ValueError(
            f"an array of shape {shape} takes {num_bytes} bytes, but there are "
            f"{len(content) - stream.tell()}"
        )
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
