"""What a file says of itself: a JSON object in a TFLite metadata buffer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.io.json_reader import JsonReader
from matar_tf.tflite._schema import parse_model, schema

__all__ = ["METADATA_NAME", "add_metadata", "encode_metadata", "read_metadata"]

METADATA_NAME: Final = "matar_tf"
_READER = JsonReader(ExportError)
_NUM_FLOAT_CHARS: Final = 24  # of the longest one, such as -2.2250738585072014e-308


def add_metadata(model: Any, document: Mapping[str, Any]) -> None:
    """Stores a JSON object in the object form of a model; replaces an earlier one."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(encode_metadata(document), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers) - 1
    others = [other for other in model.metadata or [] if not _is_ours(other)]
    model.metadata = [*others, entry]


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
    model = parse_model(content)
    for entry in model.metadata or []:
        if _is_ours(entry):
            stored = _stored(model.buffers[entry.buffer])
            document = _READER.parse(stored, "the metadata of the file")
            if not isinstance(document, dict):
                raise ExportError(
                    f"Expected a JSON object in the metadata of the file, got "
                    f"{str(document)[:80]}; export it again."
                )
            return document
    raise ExportError(
        f"Expected a file with {METADATA_NAME!r} metadata, found none: it was not "
        "exported by matar_tf; name one that was. `matar evaluate` takes others, too."
    )


def _stored(buffer: Any) -> bytes:
    return b"" if buffer.data is None else bytes(np.asarray(buffer.data, np.uint8))


def _is_ours(entry: Any) -> bool:
    return entry.name in (METADATA_NAME, METADATA_NAME.encode())
