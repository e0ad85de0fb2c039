"""Artifacts and model files from strangers: refused with a sentence, never run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import zipfile

import numpy as np
import pytest
from fixtures.paths import SHIPPED

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import ArtifactError, ExportError, MatarError, ModelError
from matar_tf.io.archive import read_array, read_members
from matar_tf.template_map import TemplateMap
from matar_tf.tflite._schema import parse_model, write_model
from matar_tf.tflite.build import ModelBuilder


@pytest.fixture(scope="module")
def shipped() -> Artifact:
    return read_artifact(SHIPPED)


class TestArchive:
    @staticmethod
    def zipped(*names: str, content: bytes = b"x" * 100) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, content)
        return buffer.getvalue()

    def test_the_sum_of_sizes_is_bounded(self):
        content = self.zipped("a", "b")
        assert set(read_members(content, "it", max_bytes=200)) == {"a", "b"}
        with pytest.raises(ArtifactError, match="at most 199 bytes in it, got 200"):
            read_members(content, "it", max_bytes=199)

    def test_unknown_members_and_damage_are_refused(self):
        content = self.zipped("a", "b")
        with pytest.raises(ArtifactError, match=r"\['a'\] in it, got 'b'"):
            read_members(content, "it", max_bytes=200, known=["a"])
        damaged = content[:36] + b"\xff" * 8 + content[44:]
        with pytest.raises(ArtifactError, match="damaged"):
            read_members(damaged, "it", max_bytes=200)

    @pytest.mark.parametrize(
        "method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    )
    def test_damage_of_every_compression_is_refused(self, method):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("a", bytes(range(256)) * 4)
        num_refused = 0
        for place in range(31, 80):
            damaged = bytearray(buffer.getvalue())
            damaged[place] ^= 0xFF
            with contextlib.suppress(ArtifactError):
                read_members(bytes(damaged), "it", max_bytes=2000)
                num_refused -= 1
            num_refused += 1
        assert num_refused > 40

    def test_an_array_is_as_large_as_its_content(self):
        stream = io.BytesIO()
        np.save(stream, np.arange(6, dtype=np.float32).reshape(2, 3))
        content = stream.getvalue()
        assert read_array(content, "it").tolist() == [[0, 1, 2], [3, 4, 5]]
        with pytest.raises(ArtifactError, match=r"float32 of shape \(2, 3\)"):
            read_array(content[:-1], "it")

    def test_long_headers_are_read_and_unknown_versions_refused(self):
        stream = io.BytesIO()
        array = np.arange(3, dtype=np.int32)
        np.lib.format.write_array(stream, array, version=(2, 0))
        content = stream.getvalue()
        assert content[6:8] == b"\x02\x00"
        assert read_array(content, "it").tolist() == [0, 1, 2]
        with pytest.raises(ArtifactError, match="an array of numbers in it"):
            read_array(content[:6] + b"\x03" + content[7:], "it")

    def test_the_number_of_members_is_bounded(self):
        limits = {"max_bytes": 999, "max_members": 2}
        assert len(read_members(self.zipped("a", "b"), "it", **limits)) == 2
        with pytest.raises(ArtifactError, match="at most 2 members of different names"):
            read_members(self.zipped("a", "b", "c"), "it", **limits)

    @pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
    def test_two_members_of_one_name_are_refused(self):
        with pytest.raises(ArtifactError, match="different names in it, got 2"):
            read_members(self.zipped("a", "a"), "it", max_bytes=999)


class TestModelFile:
    def test_a_file_that_was_cut_off(self, shipped):
        assert parse_model(shipped.template).subgraphs
        for size in (8, 100, len(shipped.template) // 2):
            with pytest.raises(ExportError, match="damaged"):
                parse_model(shipped.template[:size])

    def test_an_operator_that_reads_what_comes_later(self, shipped):
        model = parse_model(shipped.template)
        first = model.subgraphs[0].operators[0]
        first.inputs[0] = first.outputs[0]
        with pytest.raises(ExportError, match="reads what is made later"):
            parse_model(write_model(model))


def builder_of(artifact, places):
    """The builder of an artifact with another template map, as JSON."""
    changed = TemplateMap.from_json(places)
    return ModelBuilder(dataclasses.replace(artifact, template_map=changed))


class TestTemplateMap:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda at: at["kernels"]["stem"].update(operator=0), "the template has a"),
            (lambda at: at["kernels"]["stem"].update(operator=9999), "points outside"),
            (
                lambda at: at["kernels"]["stem"].update(operator="x"),
                "Expected int",
            ),
            (lambda at: at["clamps"].update(stem_relu=[1]), "one of .'QUANTIZE'"),
            (lambda at: at["tensors"].update({"9999": "stem_relu"}), "points outside"),
            (lambda at: at["before_clamps"].append(-1), "points outside"),
            (
                lambda at: at["tensors"].pop(next(iter(at["tensors"]))),
                "no entry for the",
            ),
            (lambda at: at["kernels"]["stem"].update(input=None), "of the input of"),
        ],
    )
    def test_places_of_other_kinds(self, shipped, change, message):
        at = shipped.template_map.to_json()
        change(at)
        with pytest.raises(MatarError, match=message):
            builder_of(shipped, at)

    def test_kernels_of_other_shapes(self, shipped):
        at = shipped.template_map.to_json()
        first, *_, last = at["kernels"].values()
        for key in ("operator", "input"):
            first[key], last[key] = last[key], first[key]
        with pytest.raises(ModelError, match="Expected a kernel and a bias"):
            builder_of(shipped, at)
