"""What a file says of itself: a JSON object in a TFLite metadata buffer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.io.json_reader import JsonReader
from matar_tf.tflite._schema import parse_model, schema

__all__ = [
    "METADATA_NAME",
    "STANDARD_NAME",
    "add_metadata",
    "add_stored",
    "drop_standard",
    "encode_metadata",
    "find_metadata",
    "read_metadata",
]

METADATA_NAME: Final = "matar_tf"
STANDARD_NAME: Final = "TFLITE_METADATA"  # see matar_tf.tflite.standard_metadata
_READER = JsonReader(ExportError)
_NUM_FLOAT_CHARS: Final = 24  # of the longest one, such as -2.2250738585072014e-308


def add_metadata(model: Any, document: Mapping[str, Any]) -> None:
    """Stores a JSON object in the object form of a model; replaces an earlier one."""
    add_stored(model, METADATA_NAME, encode_metadata(document))


def add_stored(model: Any, name: str, content: bytes) -> None:
    """Stores bytes under a name in the object form of a model, in place of others."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(model.buffers) - 1
    others = [other for other in model.metadata or [] if not _is_named(other, name)]
    model.metadata = [*others, entry]


def drop_standard(model: Any) -> None:
    """Takes TFLite Metadata, which no interpreter needs, out of a model.

    So nothing of a stranger's is handed to native code that nobody has checked.
    """
    entries = list(model.metadata or [])
    kept = [one for one in entries if not _is_named(one, STANDARD_NAME)]
    if len(kept) == len(entries):
        return
    holders = [*model.subgraphs[0].tensors, *kept]
    for index in {one.buffer for one in entries} - {one.buffer for one in holders}:
        model.buffers[index] = schema.BufferT()
    model.metadata = kept


def encode_metadata(document: Mapping[str, Any]) -> bytes:
    """Returns what is stored: JSON, and spaces where fractions are short.

    With these its length does not depend on fractions: the size of a file is known
    before anything is measured of it.

    Raises:
      ExportError: If JSON has no form for it.
    """
    try:
        text = json.dumps(document, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"Expected metadata that JSON can hold, got {document!r}: {error}."
        ) from error
    return (text + " " * _num_spaces(document)).encode()


def _num_spaces(value: object) -> int:
    if isinstance(value, float):
        return _NUM_FLOAT_CHARS - len(json.dumps(value))
    if isinstance(value, Mapping):
        return sum(map(_num_spaces, cast("Mapping[str, object]", value).values()))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return sum(map(_num_spaces, cast("Sequence[object]", value)))
    return 0


def read_metadata(content: bytes) -> dict[str, Any]:
    """Returns what `add_metadata` stored in a file.

    Raises:
      ExportError: If the file is no TFLite model, or carries nothing of ours.
    """
    document = find_metadata(parse_model(content))
    if document is None:
        raise ExportError(
            f"Expected a file with {METADATA_NAME!r} metadata, found none: it was not "
            "exported by matar_tf; name one that was. `matar evaluate` takes others, "
            "too."
        )
    return document


def find_metadata(model: Any) -> dict[str, Any] | None:
    """Returns what `add_metadata` stored in the object form of a model, or None.

    Raises:
      ExportError: If it is no JSON object.
    """
    for entry in model.metadata or []:
        if _is_named(entry, METADATA_NAME):
            stored = _stored(model.buffers[entry.buffer])
            document = _READER.parse(stored, "the metadata of the file")
            if not isinstance(document, dict):
                raise ExportError(
                    f"Expected a JSON object in the metadata of the file, got "
                    f"{str(document)[:80]}; export it again."
                )
            return document
    return None


def _stored(buffer: Any) -> bytes:
    return b"" if buffer.data is None else bytes(np.asarray(buffer.data, np.uint8))


def _is_named(entry: Any, name: str) -> bool:
    return entry.name in (name, name.encode())
