"""TFLite Metadata, read by hand: fields by their numbers in TensorFlow's schema."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from fixtures.digits import few_digits
from fixtures.programs import call, fails
from fixtures.samples import net_artifact, normal_samples, two_ends_samples
from flatbuffers.number_types import Float32Flags, Int8Flags, Uint8Flags, UOffsetTFlags

import matar_tf
from matar_tf.artifact import Artifact, write_artifact
from matar_tf.card import ModelCard
from matar_tf.errors import ExportError
from matar_tf.inputs import InputInfo
from matar_tf.tflite._interpreters import load_interpreter
from matar_tf.tflite._schema import parse_model, write_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.metadata import add_metadata, read_metadata
from matar_tf.tflite.standard_metadata import STANDARD_KEY

NAMES = (*"abcdefghi", "a\nj")


class Table:
    """A table of a flatbuffer."""

    def __init__(self, content: bytes, place: int) -> None:
        self._table = flatbuffers.table.Table(content, place)

    @classmethod
    def root(cls, content: bytes) -> Table:
        place = flatbuffers.encode.Get(UOffsetTFlags.packer_type, content, 0)
        return cls(content, place)

    def _at(self, slot: int) -> int:
        found = self._table.Offset(4 + 2 * slot)
        return found and found + self._table.Pos

    def text(self, slot: int) -> str:
        place = self._at(slot)
        return self._table.String(place).decode() if place else ""

    def number(self, slot: int, flags: Any) -> int:
        place = self._at(slot)
        return self._table.Get(flags, place) if place else 0

    def inner(self, slot: int) -> Table:
        place = self._at(slot)
        assert place
        return Table(self._table.Bytes, self._table.Indirect(place))

    def tables(self, slot: int) -> list[Table]:
        place = self._at(slot)
        if not place:
            return []
        at = self._table.Indirect(place)  # of the length
        places = [at + 4 + 4 * n for n in range(self._table.Get(UOffsetTFlags, at))]
        return [Table(self._table.Bytes, self._table.Indirect(one)) for one in places]

    def floats(self, slot: int) -> list[float]:
        at = self._table.Indirect(self._at(slot))
        number = self._table.Get(UOffsetTFlags, at)
        return [self._table.Get(Float32Flags, at + 4 + 4 * n) for n in range(number)]


def told(
    ends: tuple[float, float] = (0.0, 1.0), channels: str = "Gray", **card: Any
) -> Artifact:
    net = net_artifact("digits_net")
    samples = np.clip(normal_samples((8, 8, 1)), -1.0, 1.0)
    info = replace(InputInfo.of(samples), low=ends[0], high=ends[1], channels=channels)
    said = {"class_names": NAMES, "author": "Ada", "license": "MIT", **card}
    provenance = {"card": ModelCard(**said).to_json()}
    return replace(net, inputs={"image": info}, provenance=provenance, name="digits")


def exported(artifact: Artifact, folder: Path, **given: Any) -> bytes:
    """What is written, and what is on the way."""
    path = folder / "net.tflite"
    given = {"tflite_metadata": True, "overwrite": True, **given}
    matar_tf.export(artifact, given.pop("policy", "w4a4"), path, **given)
    return path.read_bytes()


def stored(content: bytes) -> bytes:
    model = parse_model(content)
    (entry,) = (one for one in model.metadata if one.name == b"TFLITE_METADATA")
    return bytes(model.buffers[entry.buffer].data)


def ends_of(content: bytes) -> tuple[list[Table], list[Table]]:
    (graph,) = Table.root(stored(content)).tables(3)
    return graph.tables(2), graph.tables(3)


def normalization(tensor: Table) -> tuple[list[float], list[float]] | None:
    """Mean and deviation, if a tensor says some."""
    units = tensor.tables(4)
    if not units:
        return None
    assert units[0].number(0, Uint8Flags) == 1  # NormalizationOptions
    options = units[0].inner(1)
    return options.floats(0), options.floats(1)


def test_who_made_it_is_said(tmp_path: Path) -> None:
    artifact = told(description="Tells digits apart.")
    found = stored(exported(artifact, tmp_path))
    assert found[4:8] == b"M001"
    root = Table.root(found)
    assert [root.text(slot) for slot in (0, 1, 2, 4, 5, 7)] == [
        *("digits", "Tells digits apart.", artifact.digest()[:12]),
        *("Ada", "MIT", "1.0.0"),
    ]


def test_an_image_is_one(tmp_path: Path) -> None:
    content = exported(told(preprocessing="ink / 255"), tmp_path)
    (image,), (scores,) = ends_of(content)
    assert image.text(0) == "image"
    assert image.text(1) == "0 to 1, NHWC, Gray; ink / 255"
    assert image.inner(3).number(0, Uint8Flags) == 2  # ImageProperties
    assert image.inner(3).inner(1).number(0, Int8Flags) == 2  # GRAYSCALE
    stats = image.inner(5)
    assert (stats.floats(1), stats.floats(0)) == ([0.0], [1.0])
    assert scores.text(0) == "output_0"
    assert scores.text(1) == "a score for each class, or a value each"
    assert scores.inner(3).number(0, Uint8Flags) == 1  # FeatureProperties


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.0, 1.0), ([0.0], [255.0])),
        ((-1.0, 1.0), ([127.5], [127.5])),
        ((0.0, 255.0), ([0.0], [1.0])),
        ((-0.5, 0.5), ([127.5], [255.0])),
        ((-2.1, 2.6), None),
        ((0.0, 0.99), None),
    ],
)
def test_bytes_become_what_the_input_takes(
    ends: tuple[float, float], expected: Any, tmp_path: Path
) -> None:
    (image,), _ = ends_of(exported(told(ends), tmp_path))
    assert normalization(image) == expected
    if expected is not None:
        (mean,), (std,) = expected
        assert ((0 - mean) / std, (255 - mean) / std) == ends


@pytest.mark.parametrize("channels", ["", "BGR", "RGB", "depth"])
def test_what_is_no_known_image_is_no_image(channels: str, tmp_path: Path) -> None:
    """RGB neither: the network takes one channel."""
    (image,), _ = ends_of(exported(told(channels=channels), tmp_path))
    assert image.inner(3).number(0, Uint8Flags) == 1
    assert normalization(image) is None
    assert image.inner(5).floats(0) == [1.0]


def test_colours_are_told(tmp_path: Path) -> None:
    net = net_artifact("kernels")
    samples = np.clip(normal_samples((8, 8, 3)), 0.0, 1.0)
    info = replace(InputInfo.of(samples), channels="R, G, B")
    content = exported(replace(net, inputs={"samples": info}), tmp_path)
    (image,), _ = ends_of(content)
    assert image.inner(3).inner(1).number(0, Int8Flags) == 1  # RGB
    assert not zipfile.is_zipfile(io.BytesIO(content))  # nobody named classes


def test_labels_stand_at_the_end(tmp_path: Path) -> None:
    content = exported(told(), tmp_path)
    _, (scores,) = ends_of(content)
    (file,) = scores.tables(6)
    assert file.text(0) == "labels.txt"
    assert file.number(2, Int8Flags) == 2  # TENSOR_AXIS_LABELS
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        (member,) = archive.infolist()
        assert member.compress_type == zipfile.ZIP_STORED
        labels = archive.read("labels.txt").decode().splitlines()
    assert labels == [*NAMES[:-1], "a\\nj"]  # a line each


def test_bytes_at_the_ends_have_their_levels(tmp_path: Path) -> None:
    artifact = told()
    content = exported(artifact, tmp_path, io="uint8")
    (image,), _ = ends_of(content)
    grid = read_metadata(content)["io"]["inputs"]["image"]
    top = min(255, round(1 / grid["scale"]) + grid["zero_point"])
    assert image.inner(5).floats(0) == [top]
    assert image.inner(5).floats(1) == [grid["zero_point"]]
    assert normalization(image) == ([0.0], [255.0])  # as of the float file


def test_ends_are_in_the_order_of_the_graph(tmp_path: Path) -> None:
    net = net_artifact("two_ends")
    infos = {name: InputInfo.of(one) for name, one in two_ends_samples().items()}
    card = {"card": {"class_names": ["x", "y", "z"]}}
    artifact = replace(net, inputs=infos, provenance=card)
    inputs, outputs = ends_of(exported(artifact, tmp_path))
    assert [one.text(0) for one in inputs] == ["meta", "image"]
    for one in inputs:
        low = np.float32(infos[one.text(0)].low)
        assert one.inner(5).floats(1) == [low]
    assert [one.text(0) for one in outputs] == ["boxes", "kind"]
    assert [len(one.tables(6)) for one in outputs] == [0, 1]
    assert outputs[1].text(1) == "probabilities"


def test_of_an_artifact_that_says_nothing_names_are_said(tmp_path: Path) -> None:
    content = exported(net_artifact("digits_net"), tmp_path)
    (image,), (scores,) = ends_of(content)
    assert (image.text(0), scores.text(0)) == ("image", "output_0")
    assert image.text(1) == ""
    assert "about" not in read_metadata(content)


ELSEWHERE = """
import numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(model_path="m.tflite")
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load("x.npy"))
interpreter.invoke()
np.save("y.npy", interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


def opened_elsewhere(content: bytes, sample: np.ndarray, folder: Path) -> np.ndarray:
    """Runs a file in tflite-runtime, which TensorFlow in its process corrupts."""
    folder.mkdir()
    (folder / "m.tflite").write_bytes(content)
    np.save(folder / "x.npy", sample)
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=folder, check=True)
    return np.load(folder / "y.npy")


@pytest.mark.parametrize("policy", ["w4a4", "w8a16"])
def test_every_runtime_opens_it(policy: str, tmp_path: Path) -> None:
    """As it stands on disk, with what nobody of ours takes out."""
    plain = exported(told(), tmp_path, policy=policy, tflite_metadata=False)
    content = exported(told(), tmp_path, policy=policy)
    assert zipfile.is_zipfile(io.BytesIO(content))
    assert b"M001" not in plain
    sample = few_digits().x_test[:1]
    found = []
    for number, given in enumerate((plain, content)):
        interpreter = load_interpreter("litert")(model_content=given)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
        interpreter.invoke()
        place = interpreter.get_output_details()[0]["index"]
        found.append(interpreter.get_tensor(place))
        if policy == "w4a4":
            found.append(opened_elsewhere(given, sample, tmp_path / str(number)))
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])
    data = few_digits()
    assert matar_tf.evaluate(content, data) == matar_tf.evaluate(plain, data)
    if policy == "w4a4":
        micro = matar_tf.evaluate(content, data, runtime="tflm")
        assert micro == matar_tf.evaluate(plain, data, runtime="tflm")


def test_sizes_count_it() -> None:
    builder = ModelBuilder(told())
    metadata = {**builder.about("int8"), STANDARD_KEY: "digits"}
    sizes = FileSizes(builder, profile="packed-litert", metadata=metadata)
    for name in ("w8a8", "w4a4", "w2a2"):
        policy = builder.space.named(name)
        content = builder.build(policy, metadata, profile="packed-litert")
        assert sizes(policy) == len(content)
        assert content == builder.build(policy, metadata, profile="packed-litert")


def test_it_is_asked_for_where_it_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"policy": "w4a4", "tflite_metadata": True}
    with pytest.raises(ExportError, match="files stand in flash"):
        matar_tf.export(told(), path=tmp_path / "a.tflite", profile="tflm", **given)
    with pytest.raises(ExportError, match="'onnx', which has no place"):
        matar_tf.export(told(), path=tmp_path / "a.onnx", format="onnx", **given)
    assert not list(tmp_path.iterdir())
    write_artifact(told(), tmp_path / "digits.matar")
    path = tmp_path / "named.tflite"
    words = {"policies": "w4a4", "output": path, "tflite_metadata": True}
    assert call("export", str(tmp_path / "digits.matar"), **words) == 0
    content = path.read_bytes()
    assert content == exported(told(), tmp_path)
    capsys.readouterr()
    # The artifact makes these bytes, whatever it is called by now.
    (tmp_path / "digits.matar").rename(tmp_path / "other.matar")
    both = {"artifact": tmp_path / "other.matar", "model": path}
    assert call("verify", **both) == 0
    assert "those that the artifact makes" in capsys.readouterr().out
    model = parse_model(content)
    said = read_metadata(content)
    names = {**said["about"], "class_names": list("jihgfedcba")}
    add_metadata(model, {**said, "about": names})
    path.write_bytes(write_model(model))
    assert "got others; it was altered" in fails(capsys, "verify", **both)
    add_metadata(model, {**said, STANDARD_KEY: 5})
    path.write_bytes(write_model(model))
    assert "Expected the name of a network" in fails(capsys, "verify", **both)
