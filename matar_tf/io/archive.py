"""Reading zip files and arrays from strangers: bounded, and nothing is unpickled."""

from __future__ import annotations

import contextlib
import io
import math
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from matar_tf.errors import ArtifactError

__all__ = [
    "MAX_ARRAY_BYTES",
    "Members",
    "array_names",
    "check_arrays",
    "check_size",
    "open_members",
    "parse_arrays",
    "read_array",
    "read_members",
]

MAX_ARRAY_BYTES: Final = 1 << 30  # of all arrays of one .npz file of an artifact
_MAX_MEMBERS: Final = 100_000
_MAX_DIRECTORY_BYTES: Final = 1 << 23  # of a zip file; some 90 a member
# Trained weights hardly shrink when they are packed, data do more; zeros shrink a
# thousandfold. What takes little memory may shrink as it will.
_MAX_RATIO: Final = 20
_MAX_DATA_RATIO: Final = 100
_FREE_BYTES: Final = 1 << 26
_METHODS: Final = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_CHUNK_BYTES: Final = 1 << 20
_REMEDY: Final = "fetch it, or package the model, again"
_MAX_HEADER_CHARS: Final = 1000  # of an array; NumPy writes some 120
_DAMAGE: Final = (
    EOFError,
    NotImplementedError,  # a version to come, or patched data
    OSError,
    RuntimeError,  # an encrypted member
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
_NO_HEADER: Final = (
    KeyError,
    MemoryError,  # NumPy has Python parse a header, which this may end in
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


@dataclass(frozen=True, slots=True)
class Members:
    """Files that are read one by one, so that one can justify the size of the next.

    Attributes:
      sizes: Bytes that each takes when it is read, by name; more is never read.
      num_packed: Bytes that all take together where they lie.
      read: Returns the content of one.
    """

    sizes: Mapping[str, int]
    num_packed: int
    read: Callable[[str], bytes]


@contextlib.contextmanager
def open_members(
    source: Path | bytes,
    what: str,
    *,
    max_bytes: int,
    max_members: int = _MAX_MEMBERS,
    known: Iterable[str] = (),
) -> Iterator[Members]:
    """Yields the members of a zip file, none of which has been read.

    Args:
      source: Its path or its bytes.
      what: Its name in errors.
      max_bytes: The most that the members may take together, uncompressed.
      max_members: The most that there may be of them.
      known: The names that may be there; any without it.

    Raises:
      ArtifactError: If the file, or a member when it is read, is damaged, too large or
        too densely packed, or it has another member.
    """
    allowed = set(known)
    with _opened(source, what, max_members) as (archive, num_packed):
        infos = {one.filename: one for one in archive.infolist()}
        other = [name for name in infos if allowed and name not in allowed]
        if other:
            # The directory of a member that is a zip file itself, where the file ends.
            if min(one.header_offset for one in infos.values()):
                raise ArtifactError(
                    f"Expected a whole zip file in {what}, but it is cut off, or "
                    f"something stands before it; {_REMEDY}."
                )
            raise ArtifactError(
                f"Expected the members {sorted(allowed)} in {what}, got {other[0]!r}; "
                "check that it is the right file."
            )
        _check_members(infos.values(), num_packed, what, max_bytes, _MAX_RATIO)

        def read(name: str) -> bytes:
            info, room = infos[name], io.BytesIO()
            with _naming_damage(what), archive.open(info) as stream:
                # Read whole, it would be unpacked whole at once; joined, held twice.
                while chunk := stream.read(_CHUNK_BYTES):
                    room.write(chunk)
            return room.getvalue()

        sizes = {name: info.file_size for name, info in infos.items()}
        yield Members(sizes, num_packed, read)


def read_members(
    source: Path | bytes, what: str, *, max_bytes: int, **limits: Any
) -> dict[str, bytes]:
    """Returns the members of a zip file by name; arguments are of `open_members`.

    Raises:
      ArtifactError: If the file is damaged, too large or too densely packed, or has
        another member.
    """
    with open_members(source, what, max_bytes=max_bytes, **limits) as members:
        return {name: members.read(name) for name in members.sizes}


def parse_arrays(
    source: Path | bytes,
    what: str,
    *,
    max_bytes: int | None = MAX_ARRAY_BYTES,
    keys: Iterable[str] | None = None,
    remedy: str = _REMEDY,
) -> dict[str, np.ndarray]:
    """Returns the arrays of an ``.npz`` file by name.

    Args:
      source: Its path or its bytes.
      what: Its name in errors.
      max_bytes: The most that they may take together, None for any number.
      keys: Of which arrays, as far as they are there; None for all.
      remedy: What to do where it is damaged or holds something else, in errors.

    Raises:
      ArtifactError: If it is damaged, too large or too densely packed, or holds
        anything but arrays of numbers, or two members for one.
    """
    with (
        _naming_damage(what, remedy),
        _opened(source, what, _MAX_MEMBERS, remedy) as (archive, num_packed),
    ):
        infos = _arrays_of(archive, what, remedy)
        if keys is not None:
            infos = {key: infos[key] for key in keys if key in infos}
        _check_members(infos.values(), num_packed, what, max_bytes, _MAX_DATA_RATIO)
        arrays: dict[str, np.ndarray] = {}
        for key, info in infos.items():
            with archive.open(info) as stream:
                arrays[key] = read_array(
                    stream, info.file_size, f"{info.filename!r} of {what}", remedy
                )
        return arrays


def array_names(source: Path | bytes, what: str, *, remedy: str = _REMEDY) -> list[str]:
    """Returns the names of the arrays of an ``.npz`` file, without reading them.

    Raises:
      ArtifactError: If it is damaged, or holds two members for one array.
    """
    with _opened(source, what, _MAX_MEMBERS, remedy) as (archive, _):
        return list(_arrays_of(archive, what, remedy))


def _arrays_of(
    archive: zipfile.ZipFile, what: str, remedy: str
) -> dict[str, zipfile.ZipInfo]:
    """Returns members by the name of their array, with which NumPy writes a suffix.

    Raises:
      ArtifactError: If two are of one array.
    """
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in infos:
            raise ArtifactError(
                f"Expected one member for each array in {what}, got "
                f"{infos[name].filename!r} and {info.filename!r}; {remedy}."
            )
        infos[name] = info
    return infos


@contextlib.contextmanager
def _opened(
    source: Path | bytes, what: str, max_members: int, remedy: str = _REMEDY
) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """Yields a zip file whose members have different names, and its bytes."""
    with contextlib.ExitStack() as stack:
        with _naming_damage(what, remedy):
            # From one descriptor, so that what is measured is what is read.
            file = (
                io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
            )
            stack.enter_context(file)
            num_packed = file.seek(0, io.SEEK_END)
            opened: Any = _Bounded(file)
            archive = stack.enter_context(zipfile.ZipFile(opened))
            names = archive.namelist()
            if len(names) > max_members:
                raise ArtifactError(
                    f"Expected at most {max_members} members in {what}, got "
                    f"{len(names)}; {remedy}."
                )
            name, count = Counter(names).most_common(1)[0] if names else ("", 0)
            if count > 1:
                raise ArtifactError(
                    f"Expected members of different names in {what}, got {count} of "
                    f"the name {name!r}; {remedy}."
                )
        yield archive, num_packed


class _Bounded:
    """A file none of whose reads is large.

    A zip file says itself how large its directory is, which Python reads at once and
    unpacks into objects of ten times that size.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(
                f"its directory takes {size} bytes, more than {_MAX_DIRECTORY_BYTES}"
            )
        return self._file.read(_MAX_DIRECTORY_BYTES if size < 0 else size)


@contextlib.contextmanager
def _naming_damage(what: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Turns what damage ends in, in Python's reader of zip files, into a sentence."""
    try:
        yield
    except ArtifactError:
        raise
    except _DAMAGE as error:
        raise ArtifactError(
            f"Expected a zip file in {what}, but it is damaged ({error}); {remedy}."
        ) from error


def _check_members(
    infos: Collection[zipfile.ZipInfo],
    num_packed: int,
    what: str,
    max_bytes: int | None,
    max_ratio: int,
) -> None:
    """Checks what the directory of a zip file says of its members.

    More than it says of a member is never read.
    """
    for info in infos:
        if info.compress_type not in _METHODS:
            raise ArtifactError(
                f"Expected a stored or deflated member {info.filename!r} in {what}, "
                f"got compression {info.compress_type}; pack it with `zip`."
            )
    num_bytes = sum(info.file_size for info in infos)
    if max_bytes is not None:
        check_size(num_bytes, what, max_bytes)
    if num_bytes > max(_FREE_BYTES, max_ratio * num_packed):
        raise ArtifactError(
            f"Expected members of at most {max_ratio} times the {num_packed} bytes "
            f"that {what} takes, got {num_bytes} bytes; pack them without compression."
        )


def check_arrays(
    members: Mapping[str, bytes], what: str, *, max_bytes: int, num_packed: int
) -> None:
    """Checks what the ``.npz`` files among members unpack to; nothing is unpacked.

    Args:
      members: Files by name.
      what: What they are members of, in errors.
      max_bytes: The most that all arrays may take.
      num_packed: The bytes of what was read, of which the members were unpacked.

    Raises:
      ArtifactError: If they take more, or one of them is damaged.
    """
    num_bytes = 0
    for name, content in members.items():
        if name.endswith(".npz"):
            with _opened(content, f"{name} of {what}", _MAX_MEMBERS) as (archive, _):
                num_bytes += sum(info.file_size for info in archive.infolist())
    most = min(max_bytes, max(_FREE_BYTES, _MAX_RATIO * num_packed))
    check_size(num_bytes, f"the arrays of {what}", most)


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


def read_array(
    stream: IO[bytes], num_bytes: int, what: str, remedy: str = _REMEDY
) -> np.ndarray:
    """Returns the array of an ``.npy`` file of so many bytes.

    Raises:
      ArtifactError: If it is damaged, not of numbers, or not of the size it states.
    """
    try:
        shape, in_columns, dtype = _read_header(stream)
        # Before there is room for what the header promises.
        size = math.prod(shape) * dtype.itemsize
        is_right = size == num_bytes - stream.tell() and min(shape, default=0) >= 0
        if dtype.kind not in "biuf" or not is_right:
            raise ValueError(f"it states {dtype} of shape {shape}")
        array = np.empty(shape, dtype, order="F" if in_columns else "C")
        room = array.reshape(-1, order="A").view(np.uint8).data
        num_read = 0
        while chunk := stream.read(_CHUNK_BYTES):
            room[num_read : num_read + len(chunk)] = chunk
            num_read += len(chunk)
        if num_read < size:
            raise ValueError(f"it ends after {num_read} of {size} bytes")
        return array
    except _NO_HEADER as error:
        raise ArtifactError(
            f"Expected an array of numbers in {what}, but it is malformed ({error}); "
            f"{remedy}."
        ) from error


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Returns the shape of an array, whether it lies in columns, and its type."""
    form: Any = np.lib.format  # whose types lack an argument
    read_header = {
        (1, 0): form.read_array_header_1_0,
        (2, 0): form.read_array_header_2_0,
    }[form.read_magic(stream)]
    return read_header(stream, max_header_size=_MAX_HEADER_CHARS)
