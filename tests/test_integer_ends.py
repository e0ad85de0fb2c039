"""Files whose inputs and outputs are bytes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.paths import ROOT
from fixtures.samples import image_samples, net_artifact, two_ends_samples

import matar_tf
from matar_tf.artifact import Artifact, read_artifact
from matar_tf.errors import ExportError
from matar_tf.targets import load_target
from matar_tf.tflite._schema import (
    CheckedModel,
    op_name,
    parse_model,
    quantization,
    schema,
    write_model,
)
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.feeding import feeding
from matar_tf.tflite.metadata import read_metadata
from matar_tf.tflite.profiles import PROFILES
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate
from matar_tf.tflite.vela import compile_with_vela
from matar_tf.tflite.verify import verify

KINDS = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8}


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return net_artifact("kernels")


def built(artifact: Artifact, io: str, policy: str = "w4a4", **options: Any) -> Any:
    return ModelBuilder(artifact).build(artifact.space.named(policy), io=io, **options)


def ends(content: bytes) -> list[Any]:
    graph = parse_model(content).subgraphs[0]
    return [graph.tensors[i] for i in (*graph.inputs, *graph.outputs)]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("io", KINDS)
def test_outputs_are_those_of_the_file_of_floats(
    artifact: Artifact, io: str, profile: str
) -> None:
    runtime = PROFILES[profile].runtime
    samples = image_samples()[:8]
    content = built(artifact, io, profile=profile)
    assert isinstance(content, CheckedModel)
    assert {one.type for one in ends(content)} == {KINDS[io]}
    expected = Runner(built(artifact, "float32", profile=profile), runtime=runtime)
    for given in (content, bytes(content)):  # built here, and as a stranger's
        found = Runner(given, runtime=runtime)
        assert found.sandbox_reason is None
        np.testing.assert_array_equal(found.predict(samples), expected.predict(samples))
    outcome = verify(content, samples, runtime=runtime)
    assert outcome.first_runtime_difference is None
    assert outcome.runtime_share == 0.0


def test_bytes_are_what_the_grid_of_the_file_says(artifact: Artifact) -> None:
    """By hand, in LiteRT itself: no code of ours feeds it."""
    from ai_edge_litert.interpreter import Interpreter

    content = built(artifact, "uint8", "w8a8")
    told = read_metadata(content)["io"]
    assert told["type"] == "uint8"
    (fed,), (read,) = told["inputs"].values(), told["outputs"].values()
    sample = image_samples()[:1]
    levels = np.clip(np.rint(sample / fed["scale"]) + fed["zero_point"], 0, 255)
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    first, last = (
        details()[0]
        for details in (interpreter.get_input_details, interpreter.get_output_details)
    )
    assert first["quantization"] == pytest.approx((fed["scale"], fed["zero_point"]))
    interpreter.set_tensor(first["index"], levels.astype(np.uint8))
    interpreter.invoke()
    found = interpreter.get_tensor(last["index"]).astype(np.float32)
    found = (found - read["zero_point"]) * np.float32(read["scale"])
    expected = Runner(built(artifact, "float32", "w8a8")).predict(sample)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unsigned_bytes_are_128_more(artifact: Artifact) -> None:
    signed, unsigned = (
        read_metadata(built(artifact, io, "w8a8"))["io"] for io in ("int8", "uint8")
    )
    for place in ("inputs", "outputs"):
        for name, grid in signed[place].items():
            zero_point = grid["zero_point"] + 128
            assert {**grid, "zero_point": zero_point} in unsigned[place].values(), name


def test_several_ends_keep_their_names() -> None:
    artifact = net_artifact("two_ends")
    samples = two_ends_samples()
    expected = Runner(built(artifact, "float32")).predict(samples)
    for io in KINDS:
        content = built(artifact, io)
        told = read_metadata(content)["io"]
        assert set(told["inputs"]) == {"image", "meta"}
        assert set(told["outputs"]) == {"boxes", "kind"}
        for found in (Runner(content).predict(samples), simulate(content, samples)):
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values)


def test_floats_are_the_default_and_say_nothing(artifact: Artifact) -> None:
    plain = ModelBuilder(artifact).build(artifact.space.named("w4a4"))
    assert plain == built(artifact, "float32")
    assert "io" not in read_metadata(plain)


def test_vela_leaves_no_operator_to_the_host() -> None:
    shipped = read_artifact(ROOT / "recipes/artifacts/cifar10_resnet8.matar")
    backend = load_target("ethos_u55_128").backend
    counts = {
        io: compile_with_vela(built(shipped, io, "w8a8"), backend).num_cpu_ops
        for io in ("float32", "int8", "uint8")
    }
    assert counts == {"float32": 2, "int8": 0, "uint8": 0}


def test_the_command_writes_a_file_that_the_artifact_makes(tmp_path: Path) -> None:
    artifact = net_artifact("digits_net")
    path = tmp_path / "bytes.tflite"
    rng = np.random.default_rng(0)
    data = rng.uniform(size=(40, 8, 8, 1)).astype(np.float32), np.arange(40) % 10
    matar_tf.export(artifact, "w4a4", path, io="uint8", data=data)
    metrics = matar_tf.evaluate(path, data)
    assert metrics == read_metadata(path.read_bytes())["metrics"]
    plain = tmp_path / "plain.tflite"
    matar_tf.export(artifact, "w4a4", plain)
    assert metrics == matar_tf.evaluate(plain, data)


class TestRefusals:
    def test_another_type(self, artifact: Artifact) -> None:
        with pytest.raises(ExportError, match=r"got 'int4'. Did you mean"):
            built(artifact, "int4")

    def test_16_bits(self, artifact: Artifact) -> None:
        with pytest.raises(ExportError, match="computes in float or on 16 bits"):
            built(artifact, "int8", "w8a16")

    @pytest.mark.parametrize(
        ("scale", "zero_point"), [([0.5], [0]), ([1.0], [1]), ([], [])]
    )
    def test_another_grid_runs_apart(
        self, artifact: Artifact, scale: list[float], zero_point: list[int]
    ) -> None:
        model = parse_model(bytes(built(artifact, "uint8")))
        index = int(model.subgraphs[0].inputs[0])
        model.subgraphs[0].tensors[index].quantization = quantization(
            scale, zero_point, 0
        )
        content = write_model(model)
        if not scale:
            with pytest.raises(ExportError, match="one step and one zero point"):
                Runner(content).predict(image_samples()[:1])
            return
        assert "the same grid, by 128" in str(Runner(content).sandbox_reason)

    def test_operators_at_the_ends_alone_change(self, artifact: Artifact) -> None:
        counts = {}
        for io in ("float32", "int8", "uint8"):
            model = parse_model(built(artifact, io, "w8a8"))
            names = [op_name(model, one) for one in model.subgraphs[0].operators]
            counts[io] = names.count("QUANTIZE"), names.count("DEQUANTIZE"), len(names)
        quantizing, dequantizing, number = counts["float32"]
        assert counts["int8"] == (quantizing - 1, dequantizing - 1, number - 2)
        assert counts["uint8"] == (quantizing + 1, dequantizing - 1, number)


class TestFeeding:
    """The code that is printed runs, and gives what the file does."""

    @pytest.mark.parametrize("profile", ["int8", "tflm"])
    @pytest.mark.parametrize("io", ["float32", *KINDS])
    def test_in_python(self, io: str, profile: str, tmp_path: Path) -> None:
        artifact = net_artifact("two_ends")
        content = built(artifact, io, "w2a4", profile=profile)
        samples = {name: one[:1] for name, one in two_ends_samples().items()}
        path = tmp_path / "it's a file.tflite"
        path.write_bytes(content)
        code = feeding(content, str(path)).partition("In C++")[0]
        code = textwrap.dedent(code.partition("In Python:")[2])
        for name, values in samples.items():
            assert code.count(f"np.zeros({values.shape}, np.float32)") == 1
            code = code.replace(
                f"np.zeros({values.shape}, np.float32)", f"samples[{name!r}]"
            )
        words: dict[str, Any] = {"samples": samples}
        exec(code, words)
        runtime = "tflm" if "tflite_micro" in code else "litert"
        found = Runner(content, runtime=runtime).predict(samples)
        assert "boxes" in found
        for name, values in found.items():
            np.testing.assert_allclose(words[name], values, rtol=1e-6)

    def test_names_are_no_code(self) -> None:
        content = built(net_artifact("digits_net"), "float32")
        model = parse_model(bytes(content))
        for name, word in (("class", "x_class"), ("np", "x_np"), ("a\nb();", "a_b___")):
            model.signatureDefs[0].inputs[0].name = name
            code = feeding(write_model(model), "net.tflite")
            assert f"{word} = np.zeros" in code
            assert "b();\n" not in code

    def test_what_outputs_mean(self) -> None:
        code = feeding(built(net_artifact("two_ends"), "float32"), "net.tflite")
        assert "kind = interpreter.get_tensor(outputs[1])  # probabilities" in code
        assert "# real values of" in code
