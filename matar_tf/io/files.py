"""Files and folders that appear whole or not at all, with the usual permissions."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from matar_tf.errors import MatarError

__all__ = [
    "as_path",
    "check_parent",
    "leftovers",
    "new_folder",
    "open_file",
    "read_at_most",
    "remove",
    "write_atomically",
]

_DISK_ERRORS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # name no file
_NUM_RANDOM: Final = 8  # bytes in a temporary name


def as_path(value: object, what: str, error: type[MatarError]) -> Path:
    """Returns a path that a user named.

    Args:
      value: Text or a path.
      what: Its name in errors.
      error: What is raised if it is neither.
    """
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value):
        shown = repr(value) if isinstance(value, str) else type(value).__name__
        raise error(f"Expected a path for {what}, got {shown}; name a file or folder.")
    return Path(cast("str", value))


def read_at_most(path: Path, max_bytes: int, error: type[MatarError]) -> bytes:
    """Returns the content of a file on a disk, which a link may lead to.

    Args:
      path: Its path.
      max_bytes: The most that is read.
      error: What is raised if it is no such file, has more, or cannot be read.
    """
    with open_file(path, error) as (file, size):
        if size > max_bytes:
            raise error(
                f"Expected a file of at most {max_bytes} bytes at {str(path)!r}, "
                "got more; check that it is the right one."
            )
        return file.read(size)  # not what is added meanwhile


@contextlib.contextmanager
def open_file(path: Path, error: type[MatarError]) -> Iterator[tuple[IO[bytes], int]]:
    """Yields a file on a disk, which a link may lead to, and its bytes.

    Args:
      path: Its path.
      error: What is raised if it is no such file, or cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise error(
                    f"Expected a file at {path}, got a device or a pipe; name a file."
                )
            yield file, status.st_size
    except OSError as reason:
        raise error(
            f"Expected a file that can be read at {path}, got: "
            f"{reason.strerror or reason}; check the path and its permissions."
        ) from reason


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file; without waiting for somebody to write, if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_parent(path: Path, error: type[MatarError]) -> None:
    """Checks that the folder is there that something is to be written in.

    Args:
      path: Of what is to be written.
      error: What is raised if it is not.
    """
    # A link may lead to what is not there yet.
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise error(
            f"Expected a folder to write {path.name} in at {folder}, found "
            f"{'a file' if folder.exists() else 'none'}; make one, or choose another "
            "path."
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it; a link stays one."""
    real = _behind_links(path)
    temporary = _beside(real)
    with _naming(path, temporary):
        # Not by tempfile, whose files nobody but the owner may read.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            temporary.replace(real)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `path` when the block ends.

    If the block fails, the folder is removed and `path` stays as it was.
    """
    path = path.resolve()  # a link stays one
    temporary = _beside(path)
    with _naming(path, temporary):
        temporary.mkdir()
        try:
            yield temporary
            _put_in_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _put_in_place(folder: Path, path: Path) -> None:
    """Renames a folder; one that is there is removed once that is done."""
    if not path.is_dir():
        folder.replace(path)
        return
    former = _beside(path)
    path.replace(former)
    try:
        folder.replace(path)
    except BaseException:
        former.replace(path)
        raise
    shutil.rmtree(former)


def leftovers(path: Path) -> list[Path]:
    """Returns what processes that were killed had begun to write in place of `path`."""
    path = _behind_links(path)
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _NUM_RANDOM}}}")
    return [found for found in path.parent.glob(".*") if name.fullmatch(found.name)]


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that it holds; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Lets errors name the path, where they name nothing, or what stands in for it."""
    try:
        yield
    except OSError as error:
        named = "" if error.filename is None else str(error.filename)
        is_ours = named.startswith(str(temporary))
        if not is_ours and (named or error.errno not in _DISK_ERRORS):
            raise
        meant = str(path) + named.removeprefix(str(temporary))
        raise OSError(error.errno, error.strerror, meant) from error


def _behind_links(path: Path) -> Path:
    """Returns the path of what a link stands for; any other path as it is."""
    # Not by Path.resolve, which has an error of its own for links in a circle.
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(_NUM_RANDOM)}"
