"""What a file says of itself: a JSON object in a TFLite metadata buffer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.json_reader import JsonReader
from matar_tf.tflite._schema import load_model, schema

__all__ = ["METADATA_NAME", "add_metadata", "read_metadata"]

METADATA_NAME: Final = "matar_tf"
_READER = JsonReader(ExportError)


def add_metadata(model: Any, document: Mapping[str, Any]) -> None:
    """Stores a JSON object in the object form of a model; replaces an earlier one."""
    buffer = schema.BufferT()
    content = json.dumps(document, sort_keys=True).encode()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers) - 1
    others = [other for other in model.metadata or [] if not _is_ours(other)]
    model.metadata = [*others, entry]


def read_metadata(content: bytes) -> dict[str, Any]:
    """Returns what `add_metadata` stored in a file.

    Raises:
      ExportError: If the file is no TFLite model, or carries nothing of ours.
    """
    model = load_model(content)
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
        f"Expected a file with {METADATA_NAME!r} metadata, found none; it was not "
        "exported by matar_tf."
    )


def _stored(buffer: Any) -> bytes:
    return b"" if buffer.data is None else bytes(np.asarray(buffer.data, np.uint8))


def _is_ours(entry: Any) -> bool:
    return entry.name in (METADATA_NAME, METADATA_NAME.encode())
