"""Checkpoints from anywhere: read without TensorFlow's reader, and written anew for it.

That reader ends the process when the index of a checkpoint is damaged. The index is a
sorted table (of LevelDB, whose format is in its ``doc/table_format.md``) of messages
(``tensor_bundle.proto`` of TensorFlow); the values lie one after the other in files
beside it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from matar_tf.errors import ModelError
from matar_tf.io.files import open_file, read_at_most
from matar_tf.keras._compat import tensor_bundle_pb2, tf, trackable_object_graph_pb2

__all__ = ["copy_checkpoint"]

_GRAPH: Final = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MAX_INDEX_BYTES: Final = 1 << 26
# A key has the names of the objects that lead to a value; of a layer there are some six
# values with an optimizer's.
_MAX_KEY_BYTES: Final = 2000
_MAX_ENTRIES: Final = 20_000
_MAX_SHARDS: Final = 100  # files that are open together
_FOOTER_BYTES: Final = 48
_MAGIC: Final = bytes.fromhex("57fb808b247547db")
_CHECKSUM_BYTES: Final = 4
_bundle: Any = tensor_bundle_pb2
_graph: Any = trackable_object_graph_pb2
_Entries = dict[str, Any]
_DAMAGE: Final = (DecodeError, LookupError, OSError, TypeError, ValueError)
# Of numbers and texts; the others are handles.
_STORED: Final = {
    one.as_datatype_enum
    for one in vars(tf.dtypes).values()
    if isinstance(one, tf.DType) and one.is_numpy_compatible
}


def copy_checkpoint(
    prefix: Path, target: Path, *, without: tuple[str, ...] = ()
) -> dict[str, int]:
    """Writes a checkpoint anew.

    Args:
      prefix: The path of its files, without what follows the name.
      target: The same of the copy, in a folder that is there.
      without: The names of the objects below the root that the copy is not to have.

    Returns:
      The bytes of all its values by name.

    Raises:
      ModelError: If it is damaged, or not as TensorFlow writes it.
    """
    with _naming_damage(prefix):
        num_shards, entries = _read_index(prefix)
        values = _read_values(prefix, num_shards, entries)
        if without:
            values[_GRAPH] = _pruned(values[_GRAPH], without)
        tf.raw_ops.SaveV2(
            prefix=str(target),
            tensor_names=list(values),
            shape_and_slices=[""] * len(values),
            tensors=list(values.values()),
        )
        _, copied = _read_index(target)
        for name, entry in entries.items():
            is_changed = name == _GRAPH and without
            if not is_changed and copied[name].crc32c != entry.crc32c:
                raise _damaged(prefix, f"the checksum of {name!r:.100}")
        return {name: entry.size for name, entry in entries.items()}


@contextlib.contextmanager
def _naming_damage(prefix: Path) -> Iterator[None]:
    """Turns what damage ends in into a sentence."""
    try:
        yield
    except ModelError:
        raise
    except (*_DAMAGE, tf.errors.OpError) as error:
        raise _damaged(prefix, f"its form ({error!r:.200})") from error


def _read_values(prefix: Path, num_shards: int, entries: _Entries) -> dict[str, Any]:
    """Returns the values by name, from files that each is opened once."""
    values: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(
                open_file(
                    prefix.with_name(
                        f"{prefix.name}.data-{at:05d}-of-{num_shards:05d}"
                    ),
                    ModelError,
                )
            )
            for at in range(num_shards)
        ]
        left = sum(size for _, size in files)
        for name, entry in entries.items():
            left -= entry.size
            if left < 0 or min(entry.size, entry.offset) < 0 or entry.slices:
                raise _damaged(prefix, f"the place of {name!r:.100}")
            if not 0 <= entry.shard_id < num_shards or entry.dtype not in _STORED:
                raise _damaged(prefix, f"the file or type of {name!r:.100}")
            file, _ = files[entry.shard_id]
            file.seek(entry.offset)
            values[name] = _value(entry, file.read(entry.size))
    return values


def _damaged(prefix: Path, what: str) -> ModelError:
    return ModelError(
        f"Expected a checkpoint as Keras saves it at {str(prefix)!r}, but {what} is "
        "wrong; fetch it again."
    )


def _pruned(graph: Any, without: tuple[str, ...]) -> Any:
    """Returns the stored graph of objects without some of those below the root."""
    parsed = _graph.TrackableObjectGraph.FromString(graph.numpy())
    root = parsed.nodes[0]
    kept = [one for one in root.children if one.local_name not in without]
    del root.children[:]
    root.children.extend(kept)
    return tf.constant(parsed.SerializeToString())


def _value(entry: Any, content: bytes) -> Any:
    """Returns a value of the type and shape that an entry states."""
    dtype = tf.as_dtype(entry.dtype)
    shape = [one.size for one in entry.shape.dim]
    if dtype == tf.string:
        return tf.constant(_strings(content, math.prod(shape)), tf.string, shape)
    return tf.constant(np.frombuffer(content, dtype.as_numpy_dtype).reshape(shape))


def _strings(content: bytes, number: int) -> list[bytes]:
    """Returns texts, which lie behind all their lengths and a checksum."""
    if number > len(content):
        raise ValueError(f"{number} texts in {len(content)} bytes")
    place, sizes = 0, []
    for _ in range(number):
        size, place = _varint(content, place)
        sizes.append(size)
    place += _CHECKSUM_BYTES
    found = []
    for size in sizes:
        found.append(content[place : place + size])
        place += size
    return found


def _read_index(prefix: Path) -> tuple[int, _Entries]:
    """Returns the number of files with values, and of each value the entry."""
    path = prefix.with_name(f"{prefix.name}.index")
    content = read_at_most(path, _MAX_INDEX_BYTES, ModelError)
    footer = content[-_FOOTER_BYTES:]
    if not footer.endswith(_MAGIC):
        raise _damaged(prefix, "the end of the index")
    place = _varint(footer, _varint(footer, 0)[1])[1]  # behind the metadata's
    header, entries, left = _bundle.BundleHeaderProto(), {}, len(content)
    num_left = _MAX_ENTRIES
    for _, handle in _block(content, *_handle(footer, place)):
        offset, size = _handle(handle, 0)
        left -= size
        num_left -= 1
        if left < 0 or num_left < 0:
            raise _damaged(prefix, "the size of the index")
        for key, value in _block(content, offset, size):
            if not key:
                header = _bundle.BundleHeaderProto.FromString(value)
            else:
                entries[key.decode()] = _bundle.BundleEntryProto.FromString(value)
            num_left -= 1
            if num_left < 0:
                raise _damaged(prefix, f"the number of values, above {_MAX_ENTRIES},")
    is_known = 1 <= header.num_shards <= min(len(entries), _MAX_SHARDS)
    if not is_known or header.endianness != _bundle.BundleHeaderProto.LITTLE:
        raise _damaged(prefix, "the header of the index")
    return header.num_shards, entries


def _handle(content: bytes, place: int) -> tuple[int, int]:
    """Returns offset and size of a block."""
    offset, place = _varint(content, place)
    return offset, _varint(content, place)[0]


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block, which states of each key what is new."""
    block = content[offset : offset + size]
    if content[offset + size] != 0 or size < 4:
        raise ValueError("the index is compressed")
    end = size - 4 * (1 + int.from_bytes(block[-4:], "little"))
    place, key = 0, b""
    while place < end:
        num_shared, place = _varint(block, place)
        num_new, place = _varint(block, place)
        num_value, place = _varint(block, place)
        if num_shared + num_new > _MAX_KEY_BYTES:
            raise ValueError(f"a name of more than {_MAX_KEY_BYTES} bytes")
        key = key[:num_shared] + block[place : place + num_new]
        place += num_new
        yield key, block[place : place + num_value]
        place += num_value


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Returns a whole number of seven bits a byte, and the place behind it."""
    number = shift = 0
    while shift < 64:
        byte = content[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
    raise ValueError("a number of more than 64 bits")
