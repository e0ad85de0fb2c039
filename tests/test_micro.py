"""Files for microcontrollers: what they hold, what runs them, and how it rounds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.paths import DATA, ROOT
from fixtures.samples import image_samples, net_artifact, two_ends_samples

import matar_tf
from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import Data
from matar_tf.errors import DataError, ExportError
from matar_tf.parameters import weight_range
from matar_tf.policy import ALL_BITS
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite import _indexing
from matar_tf.tflite._decoding import DECODE, encode
from matar_tf.tflite._micro import check_micro
from matar_tf.tflite._schema import (
    is_decoded,
    parse_model,
    parse_stored,
    quantization,
    schema,
    tensor_array,
    text_of,
    write_model,
)
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.c_sources import arena_bytes
from matar_tf.tflite.evaluate import PolicyEvaluator
from matar_tf.tflite.export import export_model
from matar_tf.tflite.metadata import read_metadata
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate
from matar_tf.tflite.verify import verify

SHIPPED = ROOT / "recipes/artifacts/cifar10_resnet8.matar"
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def shipped() -> Artifact:
    return read_artifact(SHIPPED)


@pytest.fixture(scope="module")
def narrow() -> bytes:
    """A file all of whose kernels are tables: 3x3 convolutions of 8 channels."""
    artifact = net_artifact("six_convs")
    return ModelBuilder(artifact).build(artifact.space.named("w2a4"), profile="tflm")


def six_samples() -> np.ndarray:
    return image_samples()[:4, ..., [0, 1, 2, 0]]


@pytest.mark.filterwarnings("ignore:Compression of tensor:UserWarning")  # in tests
class TestTables:
    def test_indices_lie_from_the_highest_bit_on(self) -> None:
        """By hand: -2, 0, 1 are 00, 01, 10."""
        kernel = np.array([[-2, 1, 0], [0, 0, 1]], np.int8)
        indices, described = encode(kernel, 2, 0)
        np.testing.assert_array_equal(indices, [0b00_10_01_01, 0b01_10_0000])
        header = [0, 1, 0, 0, 1, 0b0000_0_010, 0, *[0] * 9]
        np.testing.assert_array_equal(described, [*header, 254, 0, 1])
        of_one = encode(kernel, 1, 0)[1]
        assert of_one[5] == 0b1111_0_010  # one table, as the steps say

    @pytest.mark.parametrize("axis", [0, 3])
    @pytest.mark.parametrize("bits", range(1, 8))
    def test_the_maker_of_the_format_writes_what_is_read(
        self, bits: int, axis: int
    ) -> None:
        """With a table of each channel; the packages's code is the other witness."""
        from tflite_micro.tensorflow.lite.micro import compression
        from tflite_micro.tensorflow.lite.micro.compression import spec

        rng = np.random.default_rng(bits)
        levels = rng.permuted(np.arange(-128, 128, dtype=np.int8))[: 2**bits]
        name = "DEPTHWISE_CONV_2D" if axis else "CONV_2D"
        content, place = _file_of(name, levels[rng.integers(0, 2**bits, 3 * 3 * 8 * 6)])
        expected = tensor_array(
            (plain := parse_model(content)), plain.subgraphs[0].tensors[place]
        )
        method = spec.LookUpTableCompression(
            index_bitwidth=bits, mode=spec.PerChannel(axis=axis)
        )
        asked = [spec.Tensor(subgraph=0, tensor=place, compression=[method])]
        packed = bytes(compression.compress(bytearray(content), asked))
        assert is_decoded(packed)
        samples = six_samples()[:, :4, :4, :1].repeat(8, axis=3)
        found = Runner(packed, runtime="tflm")
        assert found.sandbox_reason is None
        np.testing.assert_array_equal(
            found.predict(samples), Runner(content, runtime="tflm").predict(samples)
        )
        model = parse_model(packed)
        kernels = [
            tensor_array(model, model.subgraphs[0].tensors[one.inputs[1]])
            for one in model.subgraphs[0].operators
            if len(one.inputs) == 3
        ]
        np.testing.assert_array_equal(kernels[0], expected)

    def test_a_table_of_all_channels_is_refused_where_code_differs_on_it(self) -> None:
        """Some code goes by the steps and reads beyond it; it answers wrong."""
        from tflite_micro.tensorflow.lite.micro import compression
        from tflite_micro.tensorflow.lite.micro.compression import spec

        levels = np.arange(4, dtype=np.int8).repeat(108)
        content, place = _file_of("CONV_2D", levels)
        method = spec.LookUpTableCompression(index_bitwidth=2, mode=spec.PerTensor())
        asked = [spec.Tensor(subgraph=0, tensor=place, compression=[method])]
        packed = bytes(compression.compress(bytearray(content), asked))
        with pytest.raises(ExportError, match="Expected tables by channel"):
            Runner(packed, runtime="tflm")


def _file_of(name: str, levels: np.ndarray) -> tuple[bytes, int]:
    """Returns a network of one kernel of 432 levels and its tensor's place."""
    from fixtures.graphs import multiplication, options_of

    is_deep = name == "DEPTHWISE_CONV_2D"
    shape = (1, 3, 3, 48) if is_deep else (6, 3, 3, 8)
    shape = (1, 3, 3, 48) if is_deep else shape
    kind = options_of(
        "DepthwiseConv2DOptions" if is_deep else "Conv2DOptions",
        strideH=1,
        strideW=1,
        dilationHFactor=1,
        dilationWFactor=1,
        **({"depthMultiplier": 6} if is_deep else {}),
    )
    model = multiplication(
        name,
        (1, 4, 4, 8),
        shape,
        (1, 4, 4, shape[-1] if is_deep else shape[0]),
        kind,
        axis=3 if is_deep else 0,
    )
    buffer = model.buffers[model.subgraphs[0].tensors[3].buffer]
    buffer.data = levels.astype(np.int8).view(np.uint8)
    from fixtures.graphs import TYPES, add_operator, add_tensor

    out = model.subgraphs[0].tensors[2].shape
    made = add_tensor(model, out, TYPES.FLOAT32, scale=())
    add_operator(model, "DEQUANTIZE", [2], made, None)
    model.subgraphs[0].outputs = [made]
    return write_model(model), 3


class TestFiles:
    @pytest.mark.parametrize(
        ("policy", "most"),
        [
            ("w2a2", 43_500),
            ("w3a3", 53_500),
            ("w4a4", 60_000),
            ("w5a8", 79_500),
            ("w6a8", 94_048),
            ("w7a8", 94_048),
            ("w8a8", 94_048),
        ],
    )
    def test_sizes_of_resnet8(self, shipped: Artifact, policy: str, most: int) -> None:
        content = ModelBuilder(shipped).build(
            shipped.space.named(policy), profile="tflm"
        )
        assert len(content) <= most
        stored = read_metadata(content)["stored_bits"]
        assert set(stored.values()) <= {8, int(policy[1])}

    @pytest.mark.parametrize("name", ["kernels", "six_convs", "dense", "two_ends"])
    def test_a_kernel_is_a_table_where_that_is_smaller(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of each kernel the other choice is taken, too: no file gets smaller by it."""
        artifact = net_artifact(name)
        builder = ModelBuilder(artifact)
        decide = _indexing.is_smaller
        for policy in draw_policies(artifact.space, IndependentSampler(), 3, 1):
            content = builder.build(policy, profile="tflm")
            assert len(content) <= len(builder.build(policy))
            for changed in range(len(artifact.space.weights)):
                places = iter(range(1000))
                monkeypatch.setattr(
                    _indexing,
                    "is_smaller",
                    lambda *sizes, at=changed, places=places: (
                        decide(*sizes) != (next(places) == at)
                    ),
                )
                other = builder.build(policy, profile="tflm")
                # What all decoding operators share counts for each.
                assert len(content) <= len(other) + 128
                monkeypatch.undo()

    @pytest.mark.parametrize("name", ["kernels", "digits_net", "global_max", "dense"])
    def test_every_tensor_is_the_simulators(self, name: str) -> None:
        artifact = net_artifact(name)
        shape = parse_model(artifact.template).subgraphs[0].tensors[0].shape[1:]
        samples = np.random.default_rng(0).normal(size=(8, *map(int, shape)))
        samples = samples.astype(np.float32)
        for policy in draw_policies(artifact.space, IndependentSampler(), 4, 7):
            content = ModelBuilder(artifact).build(policy, profile="tflm")
            outcome = verify(content, samples, runtime="tflm")
            assert outcome.first_runtime_difference is None
            plain = ModelBuilder(artifact).build(policy)
            np.testing.assert_array_equal(
                Runner(content, runtime="tflm").predict(samples),
                Runner(plain, runtime="tflm").predict(samples),
            )

    def test_several_ends(self) -> None:
        artifact = net_artifact("two_ends")
        content = ModelBuilder(artifact).build(
            artifact.space.named("w3a4"), profile="tflm"
        )
        samples = two_ends_samples()
        found = Runner(content, runtime="tflm").predict(samples)
        expected = simulate(content, samples, kernels="tflm")
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)

    def test_the_network_is_that_of_other_profiles(self, narrow: bytes) -> None:
        artifact = net_artifact("six_convs")
        plain = ModelBuilder(artifact).build(artifact.space.named("w2a4"))
        model, other = parse_model(narrow), parse_model(plain)
        for one, two in zip(
            model.subgraphs[0].operators, other.subgraphs[0].operators, strict=True
        ):
            assert list(one.inputs) == list(two.inputs)
        kernels = [
            [
                tensor_array(of, tensor)
                for tensor in of.subgraphs[0].tensors
                if text_of(tensor.name).endswith("/kernel")
            ]
            for of in (model, other)
        ]
        assert len(kernels[0]) == 7
        for one, two in zip(*kernels, strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_table_is_shown_as_one(narrow: bytes) -> None:
    rows = [one for one in matar_tf.inspect(bytes(narrow)).operators if one.entry]
    assert [one.storage for one in rows[1:6]] == ["table, 2 bits"] * 5
    # 576 values of 2 bits, 16 bytes before 4 values, and a bias of 8 numbers.
    assert {one.num_bytes for one in rows[1:6]} == {144 + 16 + 4 + 32}


class TestRuntime:
    def test_rounds_in_another_way(self, shipped: Artifact) -> None:
        content = ModelBuilder(shipped).build(shipped.space.named("w3a3"))
        here = Runner(content, runtime="tflm").predict(IMAGES)
        np.testing.assert_array_equal(here, simulate(content, IMAGES, kernels="tflm"))
        assert (here != Runner(content).predict(IMAGES)).any()

    def test_policies_are_measured_where_they_run(self) -> None:
        artifact = net_artifact("digits_net")
        samples = np.random.default_rng(0).uniform(size=(40, 8, 8, 1))
        samples = samples.astype(np.float32)
        data = Data(x_test=samples, y_test=np.arange(40) % 10)
        policy = artifact.space.named("w2a2")
        content = ModelBuilder(artifact).build(policy, profile="tflm")
        expected = Runner(content, runtime="tflm").predict(samples)
        found = PolicyEvaluator(artifact, data.x_test, data.y_test, profile="tflm")
        right = (expected.argmax(axis=1) == data.y_test).mean()
        assert found(policy)["accuracy"] == right

    def test_other_runtimes_say_that_they_cannot(self, narrow: bytes) -> None:
        for runtime in ("litert", "tflite_runtime"):
            with pytest.raises(ExportError, match="Expected the runtime 'tflm' for"):
                Runner(narrow, runtime=runtime)

    def test_what_is_not_installed_is_named(
        self, narrow: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ExportError, match=r"pip install 'matar_tf\[tflm\]'"):
            Runner(narrow, runtime="tflm")

    def test_one_thread(self, narrow: bytes) -> None:
        with pytest.raises(ExportError, match=r"one thread .* got 2"):
            Runner(narrow, runtime="tflm", num_threads=2)

    def test_other_samples_are_refused(self, narrow: bytes) -> None:
        with pytest.raises(DataError, match="samples of shape"):
            Runner(narrow, runtime="tflm").predict(image_samples())

    def test_layers_that_it_has_not_are_named(self) -> None:
        from fixtures.graphs import graph_of, options_of

        gelu = graph_of("GELU", (1, 4), (1, 4), options_of("GeluOptions"))
        wide = graph_of("SOFTMAX", (1, 512), (1, 512), options_of("SoftmaxOptions"))
        for model, match in ((gelu, "got another in the GELU"), (wide, "511 classes")):
            with pytest.raises(ExportError, match=match):
                check_micro(model)
        artifact = net_artifact("kernels")
        of_16_bits = ModelBuilder(artifact).build(artifact.space.named("w8a16"))
        with pytest.raises(ExportError, match=r"activations of 8 bits .* got 16 bits"):
            simulate(of_16_bits, image_samples(), kernels="tflm")
        narrower = graph_of(
            "SOFTMAX", (1, 511), (1, 511), options_of("SoftmaxOptions", beta=1.0)
        )
        check_micro(narrower)

    def test_a_file_is_opened_before_it_is_written(
        self, shipped: Artifact, tmp_path: Path
    ) -> None:
        builder = ModelBuilder(shipped)
        path = tmp_path / "small.tflite"
        found = export_model(builder, shipped.space.named("w5a8"), path, profile="tflm")
        assert found.num_bytes == path.stat().st_size < 79_500


def _header(model: Any, change: Callable[[np.ndarray], None]) -> None:
    tensor = model.subgraphs[0].tensors[_decoder(model).inputs[1]]
    content = np.array(model.buffers[tensor.buffer].data)
    change(content)
    model.buffers[tensor.buffer].data = content


def _decoder(model: Any) -> Any:
    code = [one.customCode for one in model.operatorCodes].index(DECODE.encode())
    return next(o for o in model.subgraphs[0].operators if o.opcodeIndex == code)


def _tensor(model: Any, place: str, number: int) -> Any:
    return model.subgraphs[0].tensors[getattr(_decoder(model), place)[number]]


def _at(place: int, value: int) -> Callable[[Any], None]:
    return lambda model: _header(model, lambda one: one.__setitem__(place, value))


def _cut(model: Any, place: int) -> None:
    tensor = _tensor(model, "inputs", place)
    model.buffers[tensor.buffer].data = model.buffers[tensor.buffer].data[:-1]
    tensor.shape = np.array([len(model.buffers[tensor.buffer].data)], np.int32)


def _shared(model: Any) -> None:
    """Two operators decode one tensor into kernels."""
    code = _decoder(model).opcodeIndex
    first, second = [
        one for one in model.subgraphs[0].operators if one.opcodeIndex == code
    ][:2]
    second.inputs = first.inputs


# What a stranger may write: each would have the interpreter read or write elsewhere.
STRANGE: dict[str, Callable[[Any], None]] = {
    "pruning": _at(0, 2),
    "another kind": _at(0, 128),
    "another version": _at(1, 2),
    "something reserved": _at(2, 1),
    "another version of tables": _at(4, 0),
    "no bits": _at(5, 0),
    "a reserved bit": _at(5, 0b1010),
    "more bits": _at(5, 7),
    "another axis": _at(5, 0x32),
    "tables beyond the end": _at(6, 4),
    "too large a table": _at(6, 255),
    "a rest": _at(15, 1),
    "no table": lambda m: [_cut(m, 1) for _ in range(4)],
    "a short table": lambda m: _cut(m, 1),
    "a short header": lambda m: [_cut(m, 1) for _ in range(12)],
    "few indices": lambda m: _cut(m, 0),
    "a larger kernel": lambda m: setattr(
        _tensor(m, "outputs", 0), "shape", np.array([8, 3, 3, 400], np.int32)
    ),
    "a huge kernel": lambda m: setattr(
        _tensor(m, "outputs", 0), "shape", np.full(5, 2**31 - 1, np.int32)
    ),
    "no kernel": lambda m: setattr(
        _tensor(m, "outputs", 0), "shape", np.array([8, 0, 3, 8], np.int32)
    ),
    "a kernel of many axes": lambda m: setattr(
        _tensor(m, "outputs", 0), "shape", np.array([1] * 40 + [576], np.int32)
    ),
    "another type": lambda m: setattr(
        _tensor(m, "outputs", 0), "type", schema.TensorType.INT32
    ),
    "no steps": lambda m: setattr(_tensor(m, "outputs", 0), "quantization", None),
    "steps in the middle": lambda m: setattr(
        _tensor(m, "outputs", 0).quantization, "quantizedDimension", 1
    ),
    "a stored kernel": lambda m: setattr(
        _tensor(m, "outputs", 0), "buffer", _tensor(m, "inputs", 0).buffer
    ),
    "fewer zero points": lambda m: setattr(
        _tensor(m, "inputs", 0),
        "quantization",
        quantization([1.0, 1.0], [0], 0),
    ),
    "other constants": lambda m: setattr(
        _tensor(m, "inputs", 0), "type", schema.TensorType.INT8
    ),
    "the input": lambda m: setattr(
        _decoder(m), "inputs", [int(m.subgraphs[0].inputs[0]), _decoder(m).inputs[1]]
    ),
    "one input": lambda m: setattr(_decoder(m), "inputs", _decoder(m).inputs[:1]),
    "none": lambda m: setattr(_decoder(m), "inputs", [-1, _decoder(m).inputs[1]]),
    "options": lambda m: setattr(_decoder(m), "customOptions", np.ones(4, np.uint8)),
    "one tensor twice": _shared,
    "a table read elsewhere": lambda m: setattr(
        m.subgraphs[0].operators[-1], "inputs", [_decoder(m).inputs[1]]
    ),
    "another operator": lambda m: setattr(
        m.operatorCodes[_decoder(m).opcodeIndex], "customCode", "FlexConv"
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_tables_are_refused(narrow: bytes, name: str) -> None:
    model = parse_stored(bytes(narrow))
    STRANGE[name](model)
    with pytest.raises(ExportError, match="Expected"):
        Runner(write_model(model), runtime="tflm")


def test_a_small_file_does_not_unpack_to_a_large_one(narrow: bytes) -> None:
    """Tensors may share what is stored; so kernels are counted."""
    from matar_tf.tflite import _decoding

    model = parse_stored(bytes(narrow))
    before = _decoding._MAX_VALUES
    try:
        _decoding._MAX_VALUES = 1000
        with pytest.raises(ExportError, match="at most 1000 values"):
            parse_model(write_model(model))
    finally:
        _decoding._MAX_VALUES = before


def test_all_widths_have_tables() -> None:
    """A level of each width has a place among 1 to 7 bits of an index."""
    for bits in ALL_BITS:
        low, high = weight_range(bits)
        count = high - low + 1
        assert (count - 1).bit_length() <= bits


class TestSources:
    """What is written beside a file, compiled against a stand-in for the library."""

    @pytest.mark.parametrize(
        ("policy", "io", "member"),
        [
            ("w3a4", "float32", "f"),
            ("w8a8", "int8", "int8"),
            ("w3a4", "uint8", "uint8"),
        ],
    )
    def test_the_program_compiles_and_runs(
        self, policy: str, io: str, member: str, tmp_path: Path
    ) -> None:
        artifact = net_artifact("digits_net")
        path = tmp_path / "4 digits.tflite"
        found = matar_tf.export(artifact, policy, path, profile="tflm", io=io)
        names = ["4 digits_model.h", "4 digits_model.cc", "4 digits_main.cc"]
        assert [one.name for one in found.sources] == names
        program = tmp_path / "program"
        subprocess.run(
            [
                *("g++", "-std=c++17", "-Wall", "-Wextra", "-Werror"),
                *(
                    f"-DSTUB_MEMBER={member}",
                    "-I",
                    str(DATA / "tflm_stub"),
                    "-I",
                    str(tmp_path),
                ),
                *(str(one) for one in found.sources[1:]),
                *("-o", str(program)),
            ],
            check=True,
        )
        done = subprocess.run([program], check=True, capture_output=True, text=True)
        assert done.stdout == "class 3\n"
        main = found.sources[2].read_text()
        assert ("AddDecode" in main) == (policy == "w3a4")
        assert main[main.index("int main") :].count("\n") < 25
        bytes_of = re.findall(r"0x([0-9a-f]{2}),", found.sources[1].read_text())
        assert bytes(int(one, 16) for one in bytes_of) == path.read_bytes()

    def test_the_arena_is_what_the_file_takes(self) -> None:
        """It starts in that, and not in much less."""
        from tflite_micro.python.tflite_micro.runtime import Interpreter

        artifact = net_artifact("digits_net")
        content = ModelBuilder(artifact).build(
            artifact.space.named("w2a2"), profile="tflm"
        )
        size = arena_bytes(content)
        Interpreter.from_bytes(bytes(content), arena_size=size + 16)
        with pytest.raises(RuntimeError):
            Interpreter.from_bytes(bytes(content), arena_size=size // 2)

    def test_sources_that_are_there_are_kept(self, tmp_path: Path) -> None:
        artifact = net_artifact("digits_net")
        (tmp_path / "net_main.cc").write_text("mine")
        with pytest.raises(ExportError, match=r"Expected no file at .*net_main\.cc"):
            matar_tf.export(artifact, "w4a4", tmp_path / "net.tflite", profile="tflm")
        assert [one.name for one in tmp_path.iterdir()] == ["net_main.cc"]


class TestSearches:
    """What is searched is what is deployed, there too."""

    def search(self, **options: Any) -> Any:
        rng = np.random.default_rng(0)
        samples = rng.uniform(size=(60, 8, 8, 1)).astype(np.float32)
        artifact = net_artifact("digits_net")
        labels = Runner(artifact_file(artifact, "w8a8")).predict(samples)
        return matar_tf.search(
            artifact,
            "cortex_m4_cmsis_nn",
            (samples, labels.argmax(axis=1)),
            max_evaluations=12,
            population_size=4,
            progress=False,
            **options,
        )

    def test_policies_of_the_front_are_as_accurate_as_their_files(
        self, tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(0)
        samples = rng.uniform(size=(60, 8, 8, 1)).astype(np.float32)
        artifact = net_artifact("digits_net")
        labels = Runner(artifact_file(artifact, "w8a8")).predict(samples)
        data = samples, labels.argmax(axis=1)
        found = self.search(profile="tflm")
        for number, one in enumerate(found.front):
            path = tmp_path / f"{number}.tflite"
            matar_tf.export(artifact, one.policy, path, profile="tflm", data=data)
            measured = matar_tf.evaluate(path, data, runtime="tflm")
            assert measured["accuracy"] == one.metrics["accuracy"]
            assert read_metadata(path.read_bytes())["metrics"] == measured

    def test_runtimes_share_no_measurement(self, tmp_path: Path) -> None:
        store = tmp_path / "store.sqlite"
        first = self.search(store=store)
        second = self.search(store=store, runtime="tflm")
        again = self.search(store=store, runtime="tflm")
        assert (first.num_reused, second.num_reused) == (0, 0)
        assert again.num_evaluated == 0
        assert "tflite-micro" in second.provenance.versions
        assert first.provenance.data_digest != second.provenance.data_digest

    def test_a_profile_names_its_runtimes(self) -> None:
        with pytest.raises(ExportError, match=r"among \['tflm'\] .* got 'litert'"):
            self.search(profile="tflm", runtime="litert")
        with pytest.raises(ExportError, match=r"among \['litert'\] .* got 'tflm'"):
            self.search(profile="packed-float", runtime="tflm")


def artifact_file(artifact: Artifact, name: str) -> bytes:
    return ModelBuilder(artifact).build(artifact.space.named(name))
