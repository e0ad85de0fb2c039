"""What an artifact says of the samples that its network was made with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits
from fixtures.manifests import change_manifest
from fixtures.samples import net_artifact, two_ends_samples

from matar_tf.artifact import read_artifact, write_artifact
from matar_tf.errors import ArtifactError, DataError
from matar_tf.inputs import InputInfo, inputs_from_json, inputs_to_json
from matar_tf.reporting.card_page import model_card
from matar_tf.tflite.fitting_data import input_infos

PIXELS = np.array(  # two samples of two pixels of two channels
    [[[0.0, 1.0], [2.0, 1.0]], [[4.0, 1.0], [6.0, 5.0]]], np.float32
)


def test_figures_by_hand() -> None:
    found = InputInfo.of(PIXELS)
    assert found == InputInfo(
        shape=(2, 2),
        low=0.0,
        high=6.0,
        mean=(3.0, 2.0),
        deviation=(2.23607, 1.73205),  # the roots of 5 and of 3
        num_samples=2,
    )
    assert (found.layout, InputInfo.of(PIXELS[:, None]).layout) == (
        "steps, channels",
        "NHWC",
    )


@pytest.mark.parametrize(("number", "figures"), [(64, 64), (65, 1)])
def test_many_channels_have_one_figure(number: int, figures: int) -> None:
    found = InputInfo.of(np.random.default_rng(0).random((3, number)))
    assert len(found.mean) == len(found.deviation) == figures


@pytest.mark.parametrize(
    "change",
    [
        {"mean": (1.0,)},
        {"deviation": (1.0, 2.0, 3.0)},
        {"deviation": (1.0, -1.0)},
        {"low": 7.0},
        {"high": float("inf")},
        {"num_samples": 0},
        {"num_samples": True},
        {"channels": "R\nG"},
    ],
)
def test_refuses_what_no_samples_have(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError):
        replace(InputInfo.of(PIXELS), **change)


def test_json_there_and_back() -> None:
    given = {"image": replace(InputInfo.of(PIXELS), channels="RG")}
    assert inputs_from_json(inputs_to_json(given)) == given


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("mean", one) for one in (None, 3.0, ["3"], [[3.0, 2.0]], [True, 1.0])),
        *(("shape", one) for one in ([2.0, 2], "22", [1, 2, 3])),
        *(("low", one) for one in ("0", None, [0.0])),
        *(("num_samples", one) for one in (2.0, True)),
        ("channels", 3),
        ("more", 1),
    ],
)
def test_refuses_malformed_json(key: str, value: object) -> None:
    document = inputs_to_json({"image": InputInfo.of(PIXELS)})
    document["image"][key] = value
    with pytest.raises(ArtifactError):
        inputs_from_json(document)
    with pytest.raises(ArtifactError):
        inputs_from_json([document])


def test_an_artifact_keeps_it(tmp_path: Path) -> None:
    artifact = digits_artifact()
    infos = input_infos(artifact.template, few_digits().x_test)
    named = {name: replace(one, channels="grey") for name, one in infos.items()}
    write_artifact(replace(artifact, inputs=named), tmp_path / "net")
    found = read_artifact(tmp_path / "net")
    assert found.inputs == named
    assert found.digest() == artifact.digest()
    for name, content in artifact.members().items():
        if name != "manifest.json":
            assert found.members()[name] == content
    (one,) = named.values()
    card = model_card(found)
    assert f"NHWC | grey | 0..1 | {one.mean[0]:.4g} | {one.deviation[0]:.4g} | 200" in (
        card
    )
    assert "NHWC" not in model_card(artifact)
    # What is said must be of the inputs of the template.
    change_manifest(
        tmp_path / "net",
        lambda one: next(iter(one["inputs"].values())).update(shape=[8, 4, 1]),
    )
    with pytest.raises(ArtifactError, match="inputs as those of its template"):
        read_artifact(tmp_path / "net")


def test_of_several_inputs_by_name() -> None:
    artifact, samples = net_artifact("two_ends"), two_ends_samples()
    found = input_infos(artifact.template, samples)
    assert found.keys() == samples.keys()
    assert found["meta"] == InputInfo.of(samples["meta"])
    with pytest.raises(DataError, match="samples for each input"):
        input_infos(artifact.template, samples["meta"])
    with pytest.raises(DataError, match="samples of shape"):
        input_infos(digits_artifact().template, np.zeros((2, 3)))
