"""Artifacts and model files from strangers: refused with a sentence, never run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from fixtures.digits import few_digits
from fixtures.graphs import add_operator, add_tensor, graph_of, options_of
from fixtures.paths import SHIPPED
from fixtures.programs import call
from fixtures.samples import net_artifact

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import ArtifactError, ExportError, MatarError, ModelError
from matar_tf.io.archive import (
    array_names,
    parse_arrays,
    read_array,
    read_members,
)
from matar_tf.template_map import TemplateMap
from matar_tf.tflite import _schema
from matar_tf.tflite._graph_rules import check_model
from matar_tf.tflite._places import check_places, passed_on
from matar_tf.tflite._schema import parse_model, schema, write_model
from matar_tf.tflite._unpacking import unpack
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.evaluate import evaluate_model
from matar_tf.tflite.inspect import inspect_model
from matar_tf.tflite.metadata import add_stored, drop_standard
from matar_tf.tflite.runtime import Runner, foreign_reason


@pytest.fixture(scope="module")
def shipped() -> Artifact:
    return read_artifact(SHIPPED)


def array_of(content: bytes) -> np.ndarray:
    """The array of the bytes of an ``.npy`` file."""
    return read_array(io.BytesIO(content), len(content), "it")


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
        assert array_of(content).tolist() == [[0, 1, 2], [3, 4, 5]]
        with pytest.raises(ArtifactError, match=r"float32 of shape \(2, 3\)"):
            array_of(content[:-1])

    def test_long_headers_are_read_and_unknown_versions_refused(self):
        stream = io.BytesIO()
        array = np.arange(3, dtype=np.int32)
        np.lib.format.write_array(stream, array, version=(2, 0))
        content = stream.getvalue()
        assert content[6:8] == b"\x02\x00"
        assert array_of(content).tolist() == [0, 1, 2]
        with pytest.raises(ArtifactError, match="an array of numbers in it"):
            array_of(content[:6] + b"\x03" + content[7:])

    def test_the_number_of_members_is_bounded(self):
        limits = {"max_bytes": 999, "max_members": 2}
        assert len(read_members(self.zipped("a", "b"), "it", **limits)) == 2
        with pytest.raises(ArtifactError, match="at most 2 members in it, got 3"):
            read_members(self.zipped("a", "b", "c"), "it", **limits)

    def test_a_file_that_was_cut_off_ends_in_a_zip_file_of_its_own(self):
        inner = self.zipped("index.json")
        stored = io.BytesIO()
        with zipfile.ZipFile(stored, "w") as archive:
            archive.writestr("a", inner)
        cut = stored.getvalue()[: 30 + len("a") + len(inner)]
        with pytest.raises(ArtifactError, match="whole zip file in it, but it is cut"):
            read_members(cut, "it", max_bytes=9999, known=["a"])
        # Nothing is wrong with what stands before members that are known.
        whole = read_members(b"#!" + stored.getvalue(), "it", max_bytes=9999)
        assert whole == {"a": inner}

    @pytest.mark.parametrize("names", [("x.npy", "x"), ("x", "x.npy"), ("x.npy", "y")])
    def test_two_members_for_one_array(self, names):
        stream = io.BytesIO()
        np.save(stream, np.arange(3))
        content = self.zipped(*names, content=stream.getvalue())
        if "y" in names:
            assert list(parse_arrays(content, "it")) == ["x", "y"]
            assert array_names(content, "it") == ["x", "y"]
            return
        for read in (parse_arrays, array_names):
            with pytest.raises(ArtifactError, match="one member for each array in it"):
                read(content, "it")

    @pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
    def test_two_members_of_one_name_are_refused(self):
        with pytest.raises(ArtifactError, match="in it, got 2 of the name 'a'"):
            read_members(self.zipped("a", "a"), "it", max_bytes=999)


class TestModelFile:
    def test_a_file_that_was_cut_off(self, shipped):
        assert parse_model(shipped.template).subgraphs
        for size in (8, 100, len(shipped.template) // 2):
            with pytest.raises(ExportError, match="damaged"):
                parse_model(shipped.template[:size])

    def test_more_tables_than_any_network_has(self, shipped):
        model = parse_model(shipped.template)
        graph = model.subgraphs[0]
        graph.tensors += [graph.tensors[0]] * (10_000 - len(graph.tensors))
        assert len(parse_model(write_model(model)).subgraphs[0].tensors) == 10_000
        graph.tensors.append(graph.tensors[0])
        with pytest.raises(ExportError, match=r"at most 10000 .*, got 10001; take"):
            parse_model(write_model(model))

    def test_more_inputs_than_all_operators_have(self):
        model = graph_of("RELU", (1, 4), (1, 4))
        options = options_of("ConcatenationOptions", axis=1)
        # QUANTIZE and RELU read one each.
        for count in (*[1000] * 99, 998):
            result = add_tensor(model, (1, 4 * count))
            add_operator(model, "CONCATENATION", [2] * count, result, options)
        assert len(parse_model(write_model(model)).subgraphs[0].operators) == 102
        model.subgraphs[0].operators[-1].inputs += [2]
        with pytest.raises(ExportError, match="100001 inputs of operators, 100000 at"):
            parse_model(write_model(model))

    def test_an_operator_that_reads_what_comes_later(self, shipped):
        model = parse_model(shipped.template)
        first = model.subgraphs[0].operators[0]
        first.inputs[0] = first.outputs[0]
        with pytest.raises(ExportError, match="reads what is made later"):
            parse_model(write_model(model))


class TestStructure:
    """Files that name one thing many times: small, and large in object form."""

    @staticmethod
    def model_with(**vectors):
        """The bytes of a model; vectors are lists of functions that add a table."""
        builder = flatbuffers.Builder(1024)
        ends = {"tensors": None}
        for field, makers in vectors.items():
            tables = [make(builder) for make in makers]
            builder.StartVector(4, len(tables), 4)
            for table in tables:
                builder.PrependUOffsetTRelative(table)
            ends[field] = builder.EndVector()
        schema.SubGraphStart(builder)
        if ends["tensors"] is not None:
            schema.SubGraphAddTensors(builder, ends["tensors"])
        graph = schema.SubGraphEnd(builder)
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(graph)
        graphs = builder.EndVector()
        schema.ModelStart(builder)
        schema.ModelAddSubgraphs(builder, graphs)
        for field, end in ends.items():
            if end is not None and field != "tensors":
                getattr(schema, f"ModelAdd{field}")(builder, end)
        builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    @staticmethod
    def shared(name, **fields):
        """Makes a table once, and names it again after that."""
        made = []

        def make(builder):
            if not made:
                added = {key: make(builder) for key, make in fields.items()}
                getattr(schema, f"{name}Start")(builder)
                for key, value in added.items():
                    getattr(schema, f"{name}Add{key}")(builder, value)
                made.append(getattr(schema, f"{name}End")(builder))
            return made[0]

        return make

    def test_a_table_named_more_often_than_it_would_fit(self):
        for field, name in (("tensors", "Tensor"), ("Buffers", "Buffer")):
            content = self.model_with(**{field: [self.shared(name)] * 10_000})
            with pytest.raises(ExportError, match=r"10000 tables in 4\d{4} bytes"):
                parse_model(content)

    @pytest.mark.parametrize(
        ("field", "table", "text"),
        [
            ("tensors", "Tensor", "Name"),
            ("OperatorCodes", "OperatorCode", "CustomCode"),
            ("Metadata", "Metadata", "Name"),
            ("SignatureDefs", "SignatureDef", "SignatureKey"),
        ],
    )
    def test_a_long_text_of_many_tables(self, field, table, text):
        def content(count):
            one = self.shared(table, **{text: lambda b: b.CreateString("x" * 1000)})
            return self.model_with(**{field: [one] * count})

        assert len(content(2)) < 2000
        unpack(content(1))
        with pytest.raises(ValueError, match=r"texts of more than 1\d{3} bytes"):
            unpack(content(2))
        with pytest.raises(ExportError, match=r"damaged .*texts of more than 1\d{3}"):
            parse_model(content(100))

    def test_a_tensor_of_many_axes(self):
        def content(count):
            sizes = np.ones(count, np.int32)
            shape = self.shared("Tensor", Shape=lambda b: b.CreateNumpyVector(sizes))
            return self.model_with(tensors=[shape])

        unpack(content(64))
        with pytest.raises(ExportError, match="tensor 0 has more than 64 axes"):
            parse_model(content(65))

    def test_a_long_vector_of_many_buffers(self):
        zeros = np.zeros(1000, np.uint8)
        buffer = self.shared("Buffer", Data=lambda b: b.CreateNumpyVector(zeros))
        content = self.model_with(Buffers=[buffer] * 100)
        with pytest.raises(ExportError, match=r"vectors of 100\d{3} bytes in 1\d{3}"):
            parse_model(content)

    def test_a_file_of_any_length_is_not_read(self, monkeypatch):
        monkeypatch.setattr(_schema, "MAX_FILE_BYTES", 100)
        with pytest.raises(ExportError, match="at most 100 bytes, got 101"):
            parse_model(b"\x1c\0\0\0TFL3" + bytes(93))

    def test_a_file_of_two_graphs(self, shipped):
        model = parse_model(shipped.template)
        model.subgraphs = model.subgraphs * 2
        with pytest.raises(ExportError, match="one subgraph, got 2"):
            parse_model(write_model(model))


def builder_of(artifact, places):
    """The builder of an artifact with another template map, as JSON."""
    changed = TemplateMap.from_json(places)
    return ModelBuilder(dataclasses.replace(artifact, template_map=changed))


class TestTemplateMap:
    def test_a_long_chain_is_followed_once(self):
        model = graph_of("SOFTMAX", (1, 4), (1, 4))
        for index in range(2, 3000):
            add_tensor(model, (1, 4))
            add_operator(model, "RELU", [index], index + 1)
        start = time.process_time()
        assert passed_on(model, {2}) == set(range(3, 3001))
        assert passed_on(model, {2999}) == {3000}
        assert passed_on(model, {0}) == set()
        assert time.process_time() - start < 1

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
            (lambda at: at["kernels"].pop("stem"), "a place for each of the operators"),
            (lambda at: at["tensors"].update({"0": "stem_relu"}), "integer graph in"),
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

    def test_tensors_that_keep_a_grid_have_one_entry(self):
        artifact = net_artifact("global_max")
        at = artifact.template_map.to_json()
        *_, source, kept, _ = at["tensors"]
        assert at["tensors"][source] == at["tensors"][kept]
        at["tensors"][kept] = "samples"
        *_, last = at["kernels"].values()
        last["input"] = "samples"
        with pytest.raises(ModelError, match="a REDUCE_MAX, in the template map"):
            builder_of(artifact, at)

    def test_clamps_stand_between_what_is_before_them_and_what_is_not(self):
        artifact = net_artifact("concat_shared_wide")
        at = artifact.template_map.to_json()
        assert at["before_clamps"]
        builder_of(artifact, at)
        at["before_clamps"].pop()
        with pytest.raises(ModelError, match="in the template map, got"):
            builder_of(artifact, at)

    def test_kernels_are_of_one_layer(self, shipped):
        model = parse_model(shipped.template)
        check_places(model, shipped.template_map)
        layers = [one for one in model.subgraphs[0].operators if len(one.inputs) == 3]
        layers[1].inputs[1] = layers[0].inputs[1]
        with pytest.raises(ModelError, match="of one layer each"):
            check_places(model, shipped.template_map)


class TestSteps:
    @pytest.mark.parametrize(
        ("factor", "message"),
        [(1e-30, "Expected steps of 1e-30 to 1e"), (1e30, "Expected steps of 1e-30")],
    )
    def test_of_an_activation(self, shipped, factor, message):
        with pytest.raises(ModelError, match=message):
            ModelBuilder(scaled(shipped, "stem_relu", factor))

    def test_of_the_sides_of_a_sum(self, shipped):
        """The kernels of a sum take steps that are not 2**19 times the output's."""
        tensors = shipped.parameters.tensors
        widest = float(tensors["stack1_2_bn"].step.max())
        finest = float(tensors["stack1_relu"].step.min())
        limit = 2**19 * finest / widest
        ModelBuilder(scaled(shipped, "stack1_2_bn", 0.99 * limit))
        with pytest.raises(
            ModelError, match="steps below 524288 times those of 'stack1_relu'"
        ):
            ModelBuilder(scaled(shipped, "stack1_2_bn", 1.01 * limit))

    @pytest.mark.parametrize("profile", ["int8", "packed-float"])
    def test_of_a_kernel(self, profile):
        artifact = net_artifact("dense")
        layers = dict(artifact.parameters.layers)
        step = layers["logits"].step * np.float32(1e25)
        layers["logits"] = dataclasses.replace(layers["logits"], step=step)
        parameters = dataclasses.replace(artifact.parameters, layers=layers)
        builder = ModelBuilder(dataclasses.replace(artifact, parameters=parameters))
        with pytest.raises(ExportError, match="of the kernel of 'logits'"):
            builder.build(artifact.space.narrowest(), profile=profile)


def scaled(artifact, entry, factor):
    """The artifact with other steps of an activation."""
    tensors = dict(artifact.parameters.tensors)
    step = tensors[entry].step * np.float32(factor)
    tensors[entry] = dataclasses.replace(tensors[entry], step=step)
    parameters = dataclasses.replace(artifact.parameters, tensors=tensors)
    return dataclasses.replace(artifact, parameters=parameters)


class TestStandardMetadata:
    """TFLite Metadata of strangers: an entry, and a zip archive at the file's end."""

    HOSTILE = (b"", b"\xff" * 64, b"\x04\0\0\0M001" + b"\xff" * 56)

    @staticmethod
    def marked(content: bytes, stored: bytes, tail: bytes) -> bytes:
        model = parse_model(bytes(content))
        add_stored(model, "TFLITE_METADATA", stored)
        return write_model(model) + tail

    @pytest.mark.parametrize("stored", HOSTILE)
    def test_none_of_it_reaches_native_code(self, stored: bytes) -> None:
        content = write_model(graph_of("RELU", (1, 4), (1, 4)))
        tail = TestArchive.zipped("../labels.txt", content=b"stranger's words" * 9)
        foreign = self.marked(content, stored or b"stranger's", tail)
        given = check_model(foreign)
        assert not parse_model(given).metadata
        for one in (stored[8:], b"TFLITE_METADATA", b"labels.txt", b"stranger's"):
            assert not one or one not in given
        assert len(given) < len(foreign) - len(tail)
        assert foreign_reason(parse_model(foreign)) is None  # runs in this process
        samples = np.ones((2, 4), np.float32)
        expected = Runner(content).predict(samples)
        np.testing.assert_array_equal(Runner(foreign).predict(samples), expected)

    def test_a_buffer_that_is_a_kernel_too_stays(self) -> None:
        model = parse_model(bytes(net_artifact("dense").template))
        index = model.subgraphs[0].operators[1].inputs[1]
        kernel = model.subgraphs[0].tensors[index]
        content = bytes(model.buffers[kernel.buffer].data)
        add_stored(model, "TFLITE_METADATA", b"x")
        model.metadata[-1].buffer = kernel.buffer
        drop_standard(model)
        assert bytes(model.buffers[kernel.buffer].data) == content

    @pytest.mark.parametrize("stored", HOSTILE)
    def test_it_is_inspected_and_measured_as_without(
        self, stored: bytes, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        artifact = net_artifact("digits_net")
        content = ModelBuilder(artifact).build(artifact.space.widest())
        foreign = self.marked(content, stored, TestArchive.zipped("labels.txt"))
        path = tmp_path / "net.tflite"
        path.write_bytes(foreign)
        assert call("inspect", model=str(path)) == 0
        assert "In Python:" in capsys.readouterr().out
        assert inspect_model(foreign).operators == inspect_model(content).operators
        data = few_digits()
        assert evaluate_model(foreign, data) == evaluate_model(content, data)
        micro = evaluate_model(foreign, data, runtime="tflm")
        assert micro == evaluate_model(content, data, runtime="tflm")
