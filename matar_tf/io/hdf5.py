"""Files of HDF5 from anywhere: a child process copies out what Keras reads of them.

The library that reads HDF5 is native code that trusts what it reads: a damaged file may
end the process, keep it busy for ever, or take all memory; links, external storage and
virtual datasets lead to other files. So a child with limits of memory and processor
time, which the operating system enforces, checks a file, reads it and answers texts and
plain arrays. From these a file is written anew for whoever needs one.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, Any, Final

import h5py
import numpy as np

from matar_tf.errors import ModelError
from matar_tf.io.limits import limit_memory, limit_time

__all__ = ["Hdf5", "most_unpacked", "read_hdf5", "serve", "write_hdf5"]

_MAX_GROUPS: Final = 32  # one in the other
_MAX_RATIO: Final = 10  # trained weights hardly shrink when they are packed
_FREE_BYTES: Final = 1 << 26  # may shrink as they will
_BYTES: Final = 1 << 28  # of memory, beside what the arrays take
_SECONDS: Final = 4.0  # of processor time
_BYTES_PER_SECOND: Final = 1 << 26  # of arrays, with time to spare
_WAIT_SECONDS: Final = 600.0  # on a busy machine
_SIZE_BYTES: Final = 8  # of the number before the answer's JSON
_FILTERS: Final = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
}
_ATTRIBUTES: Final = re.compile(
    r"backend|keras_version|model_config|training_config|(layer|weight)_names\d*"
)
_START: Final = """
import sys
sys.path[:] = sys.argv[2:]
from matar_tf.io.hdf5 import serve
serve(int(sys.argv[1]))
"""
_hdf5: Any = h5py  # the type stubs lack parts of these


@dataclass(frozen=True)
class Hdf5:
    """What a file of HDF5 holds for Keras.

    Attributes:
      groups: The attributes that Keras reads, a text or a list of texts each, by the
        path of the group ("" is the file) and their name.
      arrays: The arrays of numbers by path.
    """

    groups: dict[str, dict[str, str | list[str]]]
    arrays: dict[str, np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())


def most_unpacked(num_packed: int) -> int:
    """Returns the most bytes that a file of so many may hold once it is unpacked."""
    return max(_FREE_BYTES, _MAX_RATIO * num_packed)


def read_hdf5(file: IO[bytes], what: str) -> Hdf5:
    """Returns what a file of HDF5 holds for Keras.

    Args:
      file: It, with a descriptor; the child reads through that.
      what: Its name in errors.

    Raises:
      ModelError: If it is damaged, something in it leads elsewhere or is not of
        numbers, or it claims more than it holds.
    """
    num_bytes = os.fstat(file.fileno()).st_size
    with tempfile.TemporaryFile() as answer:
        try:
            status = subprocess.run(
                [sys.executable, "-c", _START, str(num_bytes), *sys.path],
                stdin=file,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                timeout=_WAIT_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise _foreign(what, "one that cannot be read in time") from error
        if status:
            raise _foreign(what, f"one whose reading {_ending(status)}")
        answer.seek(0)
        try:
            return _parsed(answer, num_bytes, what)
        except (LookupError, TypeError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            raise _foreign(what, f"one that is damaged ({error})") from error


def write_hdf5(content: Hdf5) -> io.BytesIO:
    """Returns a file of HDF5 with the same groups, attributes and arrays."""
    buffer = io.BytesIO()
    # The latest form, in which attributes may take more than 64 kB.
    with h5py.File(buffer, "w", libver="latest") as file:
        for path, attributes in content.groups.items():
            group = file.require_group(path) if path else file
            for name, value in attributes.items():
                group.attrs.create(name, value, dtype=h5py.string_dtype())
        for path, array in content.arrays.items():
            file.create_dataset(path, data=array)
    buffer.seek(0)
    return buffer


def _ending(status: int) -> str:
    """Returns how a child that failed ended, as a verb."""
    if status > 0:
        return "failed"
    if -status == signal.SIGXCPU:
        return "ran out of time"
    return f"was ended by {signal.Signals(-status).name}"


def _parsed(answer: IO[bytes], num_bytes: int, what: str) -> Hdf5:
    size = int.from_bytes(answer.read(_SIZE_BYTES), "little")
    # Of a byte JSON makes six at most: "\\u0000".
    if size > 6 * num_bytes + _FREE_BYTES:
        raise ValueError("its texts are too long")
    said = json.loads(answer.read(size))
    if "refused" in said:
        raise _foreign(what, str(said["refused"]))
    arrays: dict[str, np.ndarray] = {}
    for path, name, shape in said["arrays"]:
        dtype = np.dtype(str(name))
        if dtype.kind not in "biuf":
            raise ValueError(f"an array of {dtype}")
        stored = answer.read(math.prod(shape) * dtype.itemsize)
        arrays[str(path)] = np.frombuffer(stored, dtype).reshape(shape)
    return Hdf5(groups=said["groups"], arrays=arrays)


def _foreign(what: str, found: str) -> ModelError:
    return ModelError(
        f"Expected an HDF5 file as Keras writes it, of groups and plain arrays of "
        f"numbers that lie in it, at {what}, got {found}; matar_tf does not load it."
    )


def serve(num_bytes: int) -> None:
    """Reads the file that is the standard input, for the process that started this.

    Args:
      num_bytes: Of the file.
    """
    most = most_unpacked(num_bytes)
    num_allowed = _BYTES + 2 * most
    limit_memory(num_allowed)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * num_allowed, 2 * num_allowed))
    limit_time(_SECONDS + most / _BYTES_PER_SECOND)
    output = sys.stdout.buffer
    try:
        with h5py.File(sys.stdin.buffer, "r") as file:
            groups, arrays = _contents(file, num_bytes)
            listed = [(path, one.dtype.name, one.shape) for path, one in arrays.items()]
            _say(output, {"groups": groups, "arrays": listed})
            for array in arrays.values():
                native = np.asarray(array[()], array.dtype.newbyteorder("="))
                output.write(native.tobytes())
    except (LookupError, MemoryError, OSError, RuntimeError, ValueError) as error:
        output.seek(0)
        output.truncate()
        _say(output, {"refused": str(error) or "one that takes too much memory"})
    output.flush()


def _say(output: IO[bytes], message: Any) -> None:
    text = json.dumps(message).encode()
    output.write(len(text).to_bytes(_SIZE_BYTES, "little") + text)


def _contents(file: Any, num_bytes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the attributes of each group and all arrays, once they are checked.

    Raises:
      ValueError: If something leads elsewhere, or is not as Keras writes it.
    """
    groups: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    seen: set[Any] = set()
    waiting = [("", file, 0)]
    while waiting:
        path, item, depth = waiting.pop()
        address = _hdf5.h5o.get_info(item.id).addr
        if address in seen:
            raise ValueError(f"two names of {path!r:.100}")
        seen.add(address)
        if isinstance(item, h5py.Dataset):
            arrays[path] = _checked(item)
            continue
        if not isinstance(item, h5py.Group) or depth > _MAX_GROUPS:
            raise ValueError(f"{type(item).__name__} at depth {depth}")
        groups[path] = {
            name: _texts(item.attrs[name])
            for name in item.attrs
            if _ATTRIBUTES.fullmatch(name)
        }
        for key in item:
            link = item.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{type(link).__name__} {key!r:.100}")
            waiting.append((f"{path}/{key}".lstrip("/"), item[key], depth + 1))
    _check_size(groups, arrays.values(), num_bytes)
    return groups, arrays


def _check_size(groups: dict[str, Any], arrays: Any, num_bytes: int) -> None:
    texts = [one for attributes in groups.values() for one in attributes.values()]
    num_chars = sum(len(one) for text in texts for one in text)
    whole = sum(one.nbytes for one in arrays if one.chunks is None)
    unpacked = sum(one.nbytes for one in arrays) - whole
    if max(num_chars, whole) > num_bytes:
        raise ValueError(
            f"arrays of {whole} bytes and texts of {num_chars} in {num_bytes}"
        )
    if unpacked > most_unpacked(num_bytes):
        raise ValueError(
            f"compressed arrays of {unpacked} bytes in {num_bytes}; run h5repack -f "
            "NONE"
        )


def _checked(array: Any) -> Any:
    """Returns an array of numbers, all of which the file holds."""
    plan = array.id.get_create_plist()
    filters = {plan.get_filter(place)[0] for place in range(plan.get_nfilters())}
    if not filters <= _FILTERS:
        raise ValueError(
            "an array that is compressed in another way than gzip; run h5repack -f NONE"
        )
    if array.dtype.kind in "biuf" and not array.is_virtual and not array.external:
        return array
    raise ValueError(f"an array of {array.dtype} that is not")


def _texts(value: Any) -> str | list[str]:
    """Returns the value of an attribute: a text, or a list of texts."""
    if isinstance(value, (str, bytes)):
        return _text(value)
    if isinstance(value, np.ndarray) and (value.dtype.kind in "SO" or not value.size):
        return [_text(one) for one in value.ravel().tolist()]
    raise ValueError(f"an attribute of {type(value).__name__}")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return value
    raise ValueError(f"an attribute of {type(value).__name__}")
