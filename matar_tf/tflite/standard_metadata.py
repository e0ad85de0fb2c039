"""TFLite Metadata: what Android Studio, Task libraries and MediaPipe read of a file.

A flatbuffer of TensorFlow's ``metadata_schema.fbs`` under an entry of the model, and
labels in a zip archive at the end of the file, whose readers begin at its end. Numbers
of fields and values are those of the schema, version 1.1.0, identifier ``M001``.

Reference:
  https://www.tensorflow.org/lite/models/convert/metadata;
  tensorflow_lite_support/metadata/metadata_schema.fbs.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import flatbuffers
import numpy as np

from matar_tf.errors import ExportError, printable, shown
from matar_tf.packaged import Artifact
from matar_tf.tflite._schema import CheckedModel, parse_model, write_model
from matar_tf.tflite.about import About, InputAbout, about_file, card_of
from matar_tf.tflite.ends import Input, Output, inputs_of, outputs_of, to_levels
from matar_tf.tflite.metadata import STANDARD_NAME, add_stored

__all__ = ["LABELS", "STANDARD_KEY", "add_standard", "check_standard"]

STANDARD_KEY: Final = "tflite_metadata"  # of our own metadata: the network's name
LABELS: Final = "labels.txt"
_IDENTIFIER: Final = b"M001"
_PARSER: Final = "1.0.0"  # that understands all that is written here
_AXIS_LABELS: Final = 2  # of AssociatedFileType
_FEATURE, _IMAGE = 1, 2  # of ContentProperties
_NORMALIZATION: Final = 1  # of ProcessUnitOptions
_RGB, _GRAYSCALE = 1, 2  # of ColorSpaceType
_COLOURS: Final = {
    "rgb": (_RGB, 3),
    **dict.fromkeys(("gray", "grey", "grayscale", "greyscale"), (_GRAYSCALE, 1)),
}
_BYTE: Final = 255
# Of bytes after one scaling of all: of any other range nobody knows what was done.
_RANGES_OF_BYTES: Final = ((0, 1), (-1, 1), (-0.5, 0.5), (0, _BYTE), (-128, 127))
_DIGEST_CHARS: Final = 12  # that tell a version

_Fields = Mapping[int, int | tuple[str, int]]  # by number: places, or types and values


def check_standard(profile: str) -> None:
    """Checks that files of a profile may have TFLite Metadata.

    Raises:
      ExportError: If they are for microcontrollers.
    """
    if profile == "tflm":
        raise ExportError(
            "Expected no TFLite Metadata in the profile 'tflm', whose files stand in "
            "flash, where nothing reads them; leave tflite_metadata out."
        )


def add_standard(
    content: CheckedModel, artifact: Artifact, document: Mapping[str, Any]
) -> CheckedModel:
    """Returns a file with TFLite Metadata; their bytes follow from the arguments.

    Args:
      content: A file that was built here.
      artifact: What it was built of.
      document: Its own metadata, which name the network under `STANDARD_KEY`.

    Raises:
      ExportError: If the name is no text.
      ArtifactError: If what the artifact holds as a card is none.
    """
    name = document[STANDARD_KEY]
    if not isinstance(name, str):
        raise ExportError(
            f"Expected the name of a network for TFLite Metadata, got {shown(name)}; "
            "export the file again."
        )
    card, about = card_of(artifact), about_file(document)
    model = parse_model(content)
    writer = _Writer(model, about)
    texts = {
        0: name,
        1: card.description,
        2: artifact.digest()[:_DIGEST_CHARS],
        4: card.author,
        5: card.license,
        7: _PARSER,
    }
    add_stored(model, STANDARD_NAME, writer.written(texts))
    made = write_model(model)
    if writer.labelled is not None:
        made = _with_labels(made, about.class_names)
    return type(content)(made)


def _with_labels(content: bytes, names: Iterable[str]) -> bytes:
    """Returns a file with an archive at its end that holds a name a line, as stored."""
    file = io.BytesIO(content)
    file.seek(0, io.SEEK_END)
    member = zipfile.ZipInfo(LABELS)  # of 1980, whenever it is
    member.create_system = 3  # wherever it is
    text = "".join(f"{printable(one)}\n" for one in names)
    # Not "a", which would look for an archive in the kernels.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(member, text.encode(errors="replace"))
    return file.getvalue()


class _Writer:
    """Writes the metadata of one model, from the inside out as flatbuffers are."""

    def __init__(self, model: Any, about: About) -> None:
        self._model = model
        self._about = about
        self._builder = flatbuffers.Builder(1 << 10)
        outputs = outputs_of(model)
        self._outputs = outputs
        self.labelled = about.named_output(outputs)

    def written(self, texts: Mapping[int, str]) -> bytes:
        """Returns the root table, with these texts of the network."""
        inputs = [self._input(one) for one in inputs_of(self._model)]
        outputs = [self._output(one) for one in self._outputs]
        ends = {2: self._list(inputs), 3: self._list(outputs)}
        graph = self._table(7, ends)
        root = self._table(8, {3: self._list([graph]), **self._texts(texts)})
        self._builder.Finish(root, file_identifier=_IDENTIFIER)
        return bytes(self._builder.Output())

    def _input(self, end: Input) -> int:
        said = self._about.inputs.get(end.name)
        tensor = self._model.subgraphs[0].tensors[end.index]
        words = self._about.preprocessing
        about = "; ".join(filter(None, (str(said or ""), words)))
        colour = None if said is None else _colour(end, said)
        if colour is None:
            content = self._union(_FEATURE, self._table(0, {}))
        else:
            content = self._union(_IMAGE, self._table(2, {0: ("Int8", colour)}))
        fields = {**self._texts({0: end.name, 1: about}), 3: content}
        if said is None:
            return self._table(7, fields)
        if colour is not None and (said.low, said.high) in _RANGES_OF_BYTES:
            std = _BYTE / (said.high - said.low)
            options = {0: self._floats(0.0 - said.low * std), 1: self._floats(std)}
            unit = self._union(_NORMALIZATION, self._table(2, options))
            fields[4] = self._list([unit])
        low, high = to_levels(np.array([said.low, said.high]), tensor)
        fields[5] = self._table(2, {0: self._floats(high), 1: self._floats(low)})
        return self._table(7, fields)

    def _output(self, end: Output) -> int:
        about = self._about.outputs.get(end.name) or end.meaning
        content = self._union(_FEATURE, self._table(0, {}))
        fields = {**self._texts({0: end.name, 1: about}), 3: content}
        if end is self.labelled:
            what = "Names of classes, one a line."
            named = self._texts({0: LABELS, 1: what})
            file = self._table(4, {**named, 2: ("Int8", _AXIS_LABELS)})
            fields[6] = self._list([file])
        return self._table(7, fields)

    def _union(self, kind: int, value: int) -> int:
        return self._table(2, {0: ("Uint8", kind), 1: value})

    def _texts(self, texts: Mapping[int, str]) -> dict[int, int]:
        """Returns fields of texts; none of empty ones."""
        return {
            slot: self._builder.CreateString(text, errors="replace")
            for slot, text in texts.items()
            if text
        }

    def _floats(self, value: float) -> int:
        """Returns a vector of one number, which holds for all channels."""
        return self._builder.CreateNumpyVector(np.array([value], np.float32))

    def _list(self, tables: Sequence[int]) -> int:
        self._builder.StartVector(4, len(tables), 4)
        for one in reversed(tables):
            self._builder.PrependUOffsetTRelative(one)
        return self._builder.EndVector()

    def _table(self, number: int, fields: _Fields) -> int:
        """Returns a table of at most so many fields: what was made before, or bytes."""
        self._builder.StartObject(number)
        for slot, value in fields.items():
            if isinstance(value, int):
                self._builder.PrependUOffsetTRelativeSlot(slot, value, 0)
            elif value[0] == "Int8":
                self._builder.PrependInt8Slot(slot, value[1], 0)
            else:
                self._builder.PrependUint8Slot(slot, value[1], 0)
        return self._builder.EndObject()


def _colour(end: Input, said: InputAbout) -> int | None:
    """Returns the colour space of an image; None if there is no number for it.

    Of blue before red there is none, so that it is no image to readers.
    """
    known = _COLOURS.get(re.sub("[^a-z]", "", said.channels.lower()))
    is_image = len(end.shape) == 3 and said.layout == "NHWC"
    if known is None or not is_image or end.shape[-1] != known[1]:
        return None
    return known[0]
