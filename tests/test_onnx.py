"""Policies as ONNX files: QONNX on the executor of qonnx, ONNX in onnxruntime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fixtures.digits import digits_artifact, few_digits, powers_of_two
from fixtures.paths import DATA
from fixtures.programs import call, fails
from fixtures.samples import (
    image_samples,
    net_artifact,
    normal_samples,
    two_ends_samples,
)

import matar_tf
from matar_tf.artifact import Artifact
from matar_tf.errors import ExportError
from matar_tf.onnx.export import onnx_network, read_onnx_metadata
from matar_tf.policy import Policy
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate_tensors
from tools.benchmarks.qonnx_run import channels_first, layer_differences, run_qonnx

NETS = {
    "kernels": image_samples,
    "kernels_wide": image_samples,
    "concat_shared_wide": image_samples,
    "residual_bn_wide": image_samples,
    "six_convs": lambda: image_samples()[..., [0, 1, 2, 0]],
    "dense": lambda: normal_samples((12,)),
    "global_max": image_samples,
    "stride_of_five": lambda: normal_samples((16, 16, 3)),
}


def mixed(artifact: Artifact, seed: int) -> Policy:
    """Returns a policy with a width drawn for each entry."""
    rng, space = np.random.default_rng(seed), artifact.space
    return Policy(
        weights={name: int(rng.choice(one)) for name, one in space.weights.items()},
        activations={
            name: int(rng.choice([bits for bits in one if bits <= 8]))
            for name, one in space.activations.items()
        },
    )


@pytest.mark.parametrize("name", NETS)
def test_qonnx_computes_the_levels_of_every_layer(name: str) -> None:
    artifact, samples = net_artifact(name), NETS[name]()
    builder = ModelBuilder(artifact)
    policies = [artifact.space.policy(one) for one in ("w8a8", "w3a5", "w2a2")]
    for policy in (*policies, mixed(artifact, 0)):
        content = builder.build(policy)
        network = onnx_network(artifact, builder, policy, "qonnx", batch=len(samples))
        found = layer_differences(network, samples, simulate_tensors(content, samples))
        assert {one.entry for one in network.tensors.values()} >= {*policy.activations}
        assert len(found) == len(network.tensors)
        assert max(one.share for one in found.values()) <= 1e-4
        expected = Runner(content).predict(samples)
        (made,) = (run_qonnx(network, samples)[one] for one in output_names(network))
        assert np.mean(made.argmax(-1) == expected.argmax(-1)) == 1.0


def test_levels_of_powers_of_two_are_stored_as_they_are() -> None:
    artifact, samples = powers_of_two(digits_artifact()), few_digits().x_test[:16]
    builder, policy = ModelBuilder(artifact), artifact.space.policy("w4a4")
    network = onnx_network(artifact, builder, policy, "qonnx", batch=len(samples))
    simulated = simulate_tensors(builder.build(policy), samples)
    found = layer_differences(network, samples, simulated)
    assert len(found) == len(network.tensors)
    assert max(one.share for one in found.values()) == 0.0
    assert any(len(np.unique(levels)) > 10 for levels in simulated.values())


def test_levels_of_16_bits_are_at_most_one_apart() -> None:
    artifact, samples = net_artifact("residual_bn_wide"), image_samples()
    builder, policy = ModelBuilder(artifact), artifact.space.policy("w4a16")
    network = onnx_network(artifact, builder, policy, "qonnx", batch=len(samples))
    simulated = simulate_tensors(builder.build(policy), samples)
    found = layer_differences(network, samples, simulated)
    assert max(one.largest for one in found.values()) <= 1
    assert network.tensors[min(network.tensors)].grid.bits == 16


def output_names(network: Any) -> list[str]:
    return [one.name for one in network.model.graph.output]


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_names_the_classes_of_litert(name: str) -> None:
    artifact, samples = net_artifact(name), NETS[name]()
    builder = ModelBuilder(artifact)
    same: list[np.ndarray] = []
    for policy in ("w8a8", "w4a8", "w3a4"):
        chosen = artifact.space.policy(policy)
        network = onnx_network(artifact, builder, chosen, "onnx")
        session = onnxruntime.InferenceSession(network.model.SerializeToString())
        (made,) = session.run(None, {"samples": channels_first(samples)})
        expected = Runner(builder.build(chosen)).predict(samples)
        same.append(made.argmax(-1) == expected.argmax(-1))
    assert np.mean(same) >= 0.98  # of 96 samples of noise


def test_ends_keep_their_names() -> None:
    artifact, samples = net_artifact("two_ends"), two_ends_samples()
    builder = ModelBuilder(artifact)
    policy = artifact.space.policy("w4a8")
    expected = Runner(builder.build(policy)).predict(samples)
    given = {name: channels_first(values) for name, values in samples.items()}
    session = onnxruntime.InferenceSession(
        onnx_network(artifact, builder, policy, "onnx").model.SerializeToString()
    )
    names = [one.name for one in session.get_outputs()]
    found = dict(zip(names, session.run(None, given), strict=True))
    network = onnx_network(artifact, builder, policy, "qonnx", batch=32)
    in_qonnx = run_qonnx(network, samples)
    assert {*found} == {*expected}
    for name, values in expected.items():
        np.testing.assert_allclose(in_qonnx[name], values, atol=1e-6)
        assert np.mean(np.abs(found[name] - values) < 1e-5) > 0.9


@pytest.mark.parametrize("form", ["qonnx", "onnx"])
def test_a_file_holds_the_policy_in_its_widths(tmp_path: Path, form: str) -> None:
    artifact = net_artifact("kernels")
    path = tmp_path / "net.onnx"
    exported = matar_tf.export(
        artifact, "w3a5", path, format=form, target="bismo_ultra96"
    )
    assert exported.path == path
    assert exported.num_bytes == path.stat().st_size
    metadata = read_onnx_metadata(path)
    policy = artifact.space.policy("w3a5")
    assert metadata["policy"] == policy.to_json()
    assert metadata["artifact_digest"] == artifact.digest()
    assert metadata["format"] == form
    assert metadata["channels_first"] == ["samples"]
    assert metadata["target"] == "bismo_ultra96"
    grids = {one["entry"]: one["bits"] for one in metadata["tensors"].values()}
    assert {name: grids[name] for name in policy.activations} == policy.activations
    stored = {
        name: bits if form == "qonnx" else 4 if bits <= 4 else 8
        for name, bits in policy.weights.items()
    }
    assert metadata["stored_bits"] == stored
    model = onnx.load(path)
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    names = {f"{entry}/kernel/levels": bits for entry, bits in stored.items()}
    types = {4: onnx.TensorProto.INT4, 8: onnx.TensorProto.INT8}
    for name, bits in names.items():
        assert kinds[name] == types[bits] if form == "onnx" else onnx.TensorProto.FLOAT
    first = path.read_bytes()
    matar_tf.export(
        artifact, "w3a5", path, format=form, target="bismo_ultra96", overwrite=True
    )
    assert path.read_bytes() == first


def test_kernels_of_qonnx_are_whole_numbers_of_their_width() -> None:
    artifact = net_artifact("kernels")
    builder, policy = ModelBuilder(artifact), artifact.space.policy("w2a4")
    network = onnx_network(artifact, builder, policy, "qonnx")
    values = {
        one.name: onnx.numpy_helper.to_array(one)
        for one in network.model.graph.initializer
    }
    for entry, bits in policy.weights.items():
        levels = values[f"{entry}/kernel/levels"]
        lowest = -2 if bits == 2 else 1 - 2 ** (bits - 1)
        assert {*np.unique(levels)} <= {*range(lowest, 2 ** (bits - 1))}
        assert values[f"{entry}/kernel/bits"] == bits
        assert values[f"{entry}/kernel/scale"] == 1.0
    scales = [one for name, one in values.items() if name.endswith("/zero_point")]
    assert not np.any(scales)  # as compilers of hardware want them


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "qonx"}, "Did you mean 'qonnx'"),
        ({"format": "onnx", "profile": "packed-float"}, "no profile for the format"),
        ({"format": "onnx", "reference": lambda *_: None}, "no network to compare"),
        ({"format": "onnx", "path": "net.tflite"}, "ends in .onnx"),
        ({"format": "tflite", "path": "net.onnx"}, "ends in .tflite"),
    ],
)
def test_what_a_format_has_not_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / options.pop("path", "net.onnx")
    with pytest.raises(ExportError, match=message):
        matar_tf.export(net_artifact("dense"), "w4a8", path, **options)
    assert not path.exists()


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.startswith("matar_tf.onnx.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'matar_tf\[onnx\]'"):
        matar_tf.export(
            net_artifact("dense"), "w4a8", tmp_path / "net.onnx", format="onnx"
        )


def test_the_command_says_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, artifact = tmp_path / "net.onnx", DATA / "digits_net.matar"
    options = {"artifact": artifact, "policy": "w4a4", "output": path}
    assert call("export", format="qonnx", data="digits", num_samples=50, **options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Wrote {path}: {path.stat().st_size} bytes."
    accuracy = read_onnx_metadata(path)["metrics"]["accuracy"]
    assert f"  accuracy: {accuracy:.4f} on 50 samples" in lines
    options |= {"output": tmp_path / "other.onnx"}
    line = fails(capsys, "export", format="onnx", data="digits", verify=True, **options)
    assert "compare the policy's .tflite file" in line
