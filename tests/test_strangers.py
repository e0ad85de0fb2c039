"""Artifacts and model files from strangers: refused with a sentence, never run."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from matar_tf.archive import read_array, read_zip
from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import ArtifactError, ExportError
from matar_tf.keras import load_network
from matar_tf.parameters import Parameters
from matar_tf.tflite._schema import load_model, write_model

_SHIPPED = Path(__file__).parent.parent / "recipes/artifacts/cifar10_resnet8.matar"


@pytest.fixture(scope="module")
def shipped() -> Artifact:
    return read_artifact(_SHIPPED)


class TestNetwork:
    @pytest.mark.parametrize(
        "layer",
        [
            {"module": "keras.layers", "class_name": "TFOpLambda"},
            {"class_name": "TFOpLambda"},
            {"module": "keras.layers", "class_name": "Lambda"},
            {"module": "os", "class_name": "Conv2D"},
            {"module": "keras.utils", "class_name": "get_file"},
            {"module": "keras.layers", "class_name": "Add", "registered_name": "x>y"},
        ],
    )
    def test_other_classes_are_not_built(self, shipped, layer, tmp_path):
        target = tmp_path / "written.txt"
        config = json.loads(shipped.extras["network.json"])
        config["layers"].append(
            {
                **layer,
                "name": "extra",
                "config": {"name": "extra", "function": "io.write_file"},
                "inbound_nodes": [[["input", 0, 0, {"contents": str(target)}]]],
            }
        )
        extras = {**shipped.extras, "network.json": json.dumps(config).encode()}
        with pytest.raises(ArtifactError, match="foreign code"):
            load_network(dataclasses.replace(shipped, extras=extras))
        assert not target.exists()

    def test_constants_are_not_passed_to_layers(self, shipped):
        config = json.loads(shipped.extras["network.json"])
        config["layers"][-1]["inbound_nodes"] = [["_CONSTANT_VALUE", -1, "x", {}]]
        extras = {**shipped.extras, "network.json": json.dumps(config).encode()}
        with pytest.raises(ArtifactError, match="passes constants"):
            load_network(dataclasses.replace(shipped, extras=extras))

    def test_the_shipped_one_is_built(self, shipped):
        assert load_network(shipped).count_params() > 0


class TestParameters:
    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("step", -1.0, "must be above 0"),
            ("step", 0.0, "must be above 0"),
            ("step", np.nan, "finite float32"),
            ("kernel", np.inf, "finite float32"),
        ],
    )
    def test_numbers_that_no_network_has(self, shipped, field, value, message):
        name, layer = next(iter(shipped.parameters.layers.items()))
        array = getattr(layer, field).copy()
        array.flat[0] = value
        layers = {
            **shipped.parameters.layers,
            name: dataclasses.replace(layer, **{field: array}),
        }
        changed = dataclasses.replace(shipped.parameters, layers=layers)
        with pytest.raises(ArtifactError, match=message):
            Parameters.from_npz(changed.to_npz())

    @pytest.mark.parametrize(
        "entry", [("__class__", "stem", (2, 8)), ("weights", "nobody", (2, 8))]
    )
    def test_statistics_of_entries_that_are_not_there(self, shipped, entry):
        name, layer = next(
            (name, one)
            for name, one in shipped.parameters.layers.items()
            if one.norm is not None
        )
        _, _, bits = layer.norm.entries[0]
        entries = ((*entry[:2], bits), *layer.norm.entries[1:])
        norm = dataclasses.replace(layer.norm, entries=entries)
        layers = {
            **shipped.parameters.layers,
            name: dataclasses.replace(layer, norm=norm),
        }
        changed = dataclasses.replace(shipped.parameters, layers=layers)
        with pytest.raises(ArtifactError, match="malformed"):
            Parameters.from_npz(changed.to_npz())


class TestArchive:
    @staticmethod
    def zipped(*names: str, content: bytes = b"x" * 100) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, content)
        return buffer.getvalue()

    def test_the_sum_of_sizes_is_bounded(self, monkeypatch):
        content = self.zipped("a", "b")
        monkeypatch.setattr("matar_tf.archive.MAX_BYTES", 200)
        assert set(read_zip(content, "it", lambda _: True)) == {"a", "b"}
        monkeypatch.setattr("matar_tf.archive.MAX_BYTES", 199)
        with pytest.raises(ArtifactError, match="at most 199 bytes in it, got 200"):
            read_zip(content, "it", lambda _: True)

    def test_unknown_members_and_damage_are_refused(self):
        content = self.zipped("a", "b")
        with pytest.raises(ArtifactError, match="no member 'b'"):
            read_zip(content, "it", lambda name: name == "a")
        damaged = content[:36] + b"\xff" * 8 + content[44:]
        with pytest.raises(ArtifactError, match="damaged"):
            read_zip(damaged, "it", lambda _: True)

    def test_an_array_is_as_large_as_its_content(self):
        stream = io.BytesIO()
        np.save(stream, np.arange(6, dtype=np.float32).reshape(2, 3))
        content = stream.getvalue()
        assert read_array(content).tolist() == [[0, 1, 2], [3, 4, 5]]
        with pytest.raises(ValueError, match="takes 24 bytes, but there are 23"):
            read_array(content[:-1])


class TestModelFile:
    def test_a_file_that_was_cut_off(self, shipped):
        assert load_model(shipped.template).subgraphs
        for size in (8, 100, len(shipped.template) // 2):
            with pytest.raises(ExportError, match="damaged"):
                load_model(shipped.template[:size])

    def test_an_operator_that_reads_what_comes_later(self, shipped):
        model = load_model(shipped.template)
        first = model.subgraphs[0].operators[0]
        first.inputs[0] = first.outputs[0]
        with pytest.raises(ExportError, match="reads what is computed later"):
            load_model(write_model(model))
