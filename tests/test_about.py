"""Files say how they are fed: range, layout, colours, classes, in words and in code."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import few_digits
from fixtures.samples import net_artifact, normal_samples, two_ends_samples

import matar_tf
from matar_tf.artifact import Artifact
from matar_tf.card import ModelCard
from matar_tf.errors import ArtifactError, ExportError
from matar_tf.inputs import InputInfo
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite._schema import parse_model, write_model
from matar_tf.tflite.about import About, about_file
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import inputs_of, outputs_of
from matar_tf.tflite.feeding import feeding
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.inspect import inspect_model
from matar_tf.tflite.metadata import add_metadata, read_metadata
from matar_tf.tflite.runtime import Runner

NAMES = ("cat", 'a "dog"', "bird\\", "it's", "wal")


def told(
    name: str = "kernels", *, channels: str = "RGB", low: float = 0.0, **card: Any
) -> Artifact:
    """An artifact whose maker says what there is to say."""
    net = net_artifact(name)
    (end,) = inputs_of(net.template)
    samples = np.clip(normal_samples(end.shape), low, 1.0)
    info = replace(InputInfo.of(samples), channels=channels)
    said = {"class_names": NAMES, "preprocessing": "bytes / 255", **card}
    provenance = {"card": ModelCard(**said).to_json()}
    return replace(net, inputs={end.name: info}, provenance=provenance)


def test_what_an_artifact_says_is_in_its_files(tmp_path: Path) -> None:
    artifact = told()
    exported = matar_tf.export(artifact, "w4a4", tmp_path / "net.tflite")
    assert read_metadata(exported.path.read_bytes())["about"] == {
        "inputs": {"samples": {"range": [0, 1], "layout": "NHWC", "channels": "RGB"}},
        "class_names": list(NAMES),
        "preprocessing": "bytes / 255",
    }
    printed = repr(matar_tf.inspect(exported.path))
    assert "  input samples: 0 to 1, NHWC, RGB, as at training\n" in printed
    assert "  preprocessing: bytes / 255\n" in printed
    assert "  classes: cat, a " in printed


def test_what_outputs_mean_is_said_in_its_makers_words() -> None:
    net = net_artifact("two_ends")
    boxes = replace(net.outputs["boxes"], about="height, width")
    artifact = replace(net, outputs={**net.outputs, "boxes": boxes})
    builder = ModelBuilder(artifact)
    assert builder.about("int8") == {"about": {"outputs": {"boxes": "height, width"}}}
    content = builder.build(net.space.widest(), builder.about("int8"))
    assert "  output boxes: height, width\n" in repr(inspect_model(content))
    assert "# height, width: a score" in feeding(content, "net.tflite")


def test_nothing_is_added_where_nothing_is_said() -> None:
    for name in ("kernels", "two_ends"):
        assert ModelBuilder(net_artifact(name)).about("int8") == {}


def test_a_microcontroller_stores_few_names() -> None:
    names = [f"class {place}" for place in range(200)]
    builder = ModelBuilder(told(class_names=names))
    assert builder.about("int8")["about"]["class_names"] == names
    assert "class_names" not in builder.about("tflm")["about"]
    assert len(ModelBuilder(told()).about("tflm")["about"]["class_names"]) == 5


def test_sizes_count_it() -> None:
    builder = ModelBuilder(told("six_convs"))
    metadata = {**builder.about("packed-litert"), "metrics": {"loss": 0.25}}
    sizes = FileSizes(builder, profile="packed-litert", metadata=metadata)
    for policy in draw_policies(builder.space, IndependentSampler(), 5, 3):
        content = builder.build(policy, metadata, profile="packed-litert")
        assert sizes(policy) == len(content)


def test_what_is_no_card_is_refused() -> None:
    artifact = replace(net_artifact("kernels"), provenance={"card": "visa"})
    builder = ModelBuilder(artifact)
    builder.build(artifact.space.widest())  # says nothing of it
    with pytest.raises(ArtifactError, match="as card"):
        builder.about("int8")


class TestCode:
    @pytest.mark.parametrize("profile", ["int8", "tflm"])
    def test_it_prints_what_the_class_is_called(
        self, profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = [*NAMES, *"fghij"]
        artifact = told("digits_net", channels="gray", class_names=names)
        path = tmp_path / "net.tflite"
        exported = matar_tf.export(artifact, "w4a8", path, profile=profile)
        content = exported.path.read_bytes()
        code, _, cpp = feeding(content, str(path)).partition("In C++")
        assert "# real values of 0 to 1, NHWC, gray, as at training" in code
        assert "# Preprocessing: bytes / 255 (" in code
        samples = few_digits().x_test
        code = textwrap.dedent(code.partition("In Python:")[2])
        code = code.replace("np.zeros((1, 8, 8, 1), np.float32)", "sample")
        runtime = "tflm" if profile == "tflm" else "litert"
        found = Runner(content, runtime=runtime).predict(samples).argmax(-1)
        assert len(set(found)) > 1
        for place in (0, int(np.argmax(found != found[0]))):
            exec(code, {"sample": samples[place : place + 1]})
            assert capsys.readouterr().out == f"{names[found[place]]}\n"
        assert "// image: 8 x 8 x 1, real values of 0 to 1, NHWC, gray, as at" in cpp
        assert '"cat", "a \\"dog\\"", "bird\\\\", "it\'s", "wal", "f",' in cpp
        assert "class_names[best - output_0]" in cpp

    @pytest.mark.parametrize("odd", ["x" * 61, "a\nb", "a\x1b[2J"])
    def test_odd_names_are_left_out(self, odd: str) -> None:
        builder = ModelBuilder(told(class_names=[*NAMES[:4], odd]))
        content = builder.build(builder.space.widest(), builder.about("int8"))
        assert "class_names" not in feeding(content, "net.tflite")
        assert repr(inspect_model(content)).isprintable() is False  # ends of lines
        assert "\x1b" not in repr(inspect_model(content))

    def test_names_of_another_number_are_of_no_output(self) -> None:
        outputs = outputs_of(net_artifact("two_ends").template)
        named = About(class_names=("a", "b", "c")).named_output(outputs)
        assert named is not None
        assert named.name == "kind"
        assert About(class_names=("a",)).named_output(outputs) is None
        twice = (outputs[0], outputs[0])
        assert About(class_names=("a", "b")).named_output(twice) is None

    def test_words_are_no_code(self) -> None:
        builder = ModelBuilder(told(preprocessing="a\nimport os\\", channels="b\\"))
        content = builder.build(builder.space.widest(), builder.about("int8"))
        lines = [one.strip() for one in feeding(content, "net.tflite").splitlines()]
        assert all(one[0] in "#/" for one in lines if "import os" in one)
        assert not [one for one in lines if one.endswith("\\")]


@pytest.mark.parametrize(
    "about",
    [
        5,
        {"other": 1},
        {"inputs": []},
        {"inputs": {"a": {"range": [0]}}},
        {"inputs": {"a": {"range": []}}},
        {"inputs": {"a": {"range": [0, "1"]}}},
        {"inputs": {"a": {"range": [0, True]}}},
        {"inputs": {"a": {"range": [0, 10**400]}}},
        {"inputs": {"a": {"range": [0, 1], "layout": 3}}},
        {"outputs": {"a": 3}},
        {"class_names": "abc"},
        {"class_names": [1]},
        {"preprocessing": ["x"]},
    ],
)
def test_what_strangers_say_is_checked(about: Any) -> None:
    with pytest.raises(ExportError, match="under 'about'"):
        about_file({"about": about})


def test_a_strangers_file_is_refused_before_anything_is_printed() -> None:
    model = parse_model(bytes(ModelBuilder(told()).build(told().space.widest())))
    document = read_metadata(write_model(model))
    add_metadata(model, {**document, "about": {"class_names": 5}})
    for look in (inspect_model, lambda content: feeding(content, "a.tflite")):
        with pytest.raises(ExportError, match="under 'about'"):
            look(write_model(model))


def test_two_inputs_are_told_apart() -> None:
    infos = {name: InputInfo.of(one) for name, one in two_ends_samples().items()}
    artifact = replace(net_artifact("two_ends"), inputs=infos)
    said = ModelBuilder(artifact).about("int8")["about"]["inputs"]
    assert said["image"]["layout"] == "NHWC"
    assert "layout" not in said["meta"]
