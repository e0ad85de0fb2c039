"""tools/compare.py: a shared network beside networks for one policy each.

Samples are noise, labelled by what the shared network makes of it at 8 bits: so its
accuracy is 100 % there, and lower the fewer bits a policy has.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.digits import digits_artifact, few_digits, write_digits
from fixtures.programs import call, fails, load

from matar_tf.artifact import Artifact, write_artifact
from matar_tf.keras import load_network, package, set_policy
from matar_tf.policy import Policy
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

FAMILIES = {"8/4/2": {2, 4, 8}, "2..8": set(range(2, 9)), "4..8": set(range(4, 9))}


@functools.cache
def noise() -> tuple[np.ndarray, np.ndarray]:
    samples = np.random.default_rng(0).random((200, 8, 8, 1), np.float32)
    artifact = digits_artifact()
    content = ModelBuilder(artifact).build(artifact.space.named("w8a8"))
    return samples, Runner(content).predict(samples).argmax(axis=1)


def percent(artifact: Artifact, policy: Policy) -> float:
    samples, labels = noise()
    outputs = Runner(ModelBuilder(artifact).build(policy)).predict(samples)
    return 100 * float(np.mean(outputs.argmax(axis=1) == labels))


def dedicated(name: str) -> Artifact:
    """Another network, for one policy: with other weights in the last layer."""
    artifact = digits_artifact()
    layers = dict(artifact.parameters.layers)
    kernel = layers["logits"].kernel
    other = np.random.default_rng(1).normal(size=kernel.shape) * kernel.std()
    layers["logits"] = replace(
        layers["logits"], kernel=(kernel + other).astype(np.float32)
    )
    return replace(
        artifact,
        space=artifact.space.only(artifact.space.named(name)),
        parameters=replace(artifact.parameters, layers=layers),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared network, digits and noise."""
    folder = tmp_path_factory.mktemp("files")
    write_digits(folder)
    samples, labels = noise()
    np.savez(folder / "noise.npz", x_test=samples, y_test=labels)
    return folder


def table(
    capsys: pytest.CaptureFixture[str], artifact: Path, data: Path, **values: Any
) -> dict[str, list[str]]:
    """Runs the program; returns shared, dedicated, gap, re-est., worst, to float."""
    assert call("compare", artifact=str(artifact), data=str(data), **values) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:24].strip(): line[24:].split() for line in lines if line}


def test_a_gap_is_shared_minus_dedicated_and_the_last_column_shared_minus_float() -> (
    None
):
    row = load("compare").Row
    rows = [
        row(name="float", shared=90.0),
        row(name="w4a4", shared=88.5, dedicated=89.25, reestimated=88.75),
        row(name="2 random 4..8", shared=91.0, worst=80.0),
        row(name="file: qat", dedicated=87.0),
    ]
    shown = [line.split() for line in load("compare").to_text(rows).splitlines()]
    assert shown == [
        ["policy", "shared", "dedicated", "gap", "re-est.", "worst", "to", "float"],
        ["float", "90.00", "-", "-", "-", "-", "0.00"],
        ["w4a4", "88.50", "89.25", "-0.75", "88.75", "-", "-1.50"],
        ["2", "random", "4..8", "91.00", "-", "-", "-", "80.00", "1.00"],
        ["file:", "qat", "-", "87.00", "-", "-", "-", "-"],
    ]


def test_shared_beside_dedicated(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = digits_artifact()
    names = ("w8a8", "w4a4", "w2a2", "w2a8")
    others = {name: dedicated(name) for name in names}
    for name, one in others.items():
        write_artifact(one, tmp_path / f"{name}.matar")
    content = ModelBuilder(artifact).build(artifact.space.named("w3a3"))
    (tmp_path / "other.tflite").write_bytes(content)
    cells = table(
        capsys,
        files / "net.matar",
        files / "noise.npz",
        num_random=0,
        dedicated=[str(tmp_path / f"{name}.matar") for name in names],
        files=[str(tmp_path / "other.tflite")],
    )
    for name, one in others.items():
        policy = artifact.space.named(name)
        shared, alone = percent(artifact, policy), percent(one, policy)
        assert shared - alone > 5.0
        expected = [f"{shared:.2f}", f"{alone:.2f}", f"{shared - alone:.2f}"]
        assert cells["mixed: w2a8" if name == "w2a8" else name][:3] == expected
    assert cells["w8a8"][0] == "100.00"
    measured = percent(artifact, artifact.space.named("w3a3"))
    assert cells["w3a3"][:4] == [f"{measured:.2f}", "-", "-", "-"]
    assert cells["file: other"][:3] == ["-", f"{measured:.2f}", "-"]


@pytest.mark.parametrize("seed", [0, 3])
def test_random_policies_of_three_families(
    files: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    artifact = digits_artifact()
    values = {"num_random": 8, "seed": seed}
    cells = table(capsys, files / "net.matar", files / "noise.npz", **values)
    shown = [cells[f"8 random {family}"] for family in FAMILIES]
    expected: list[tuple[float, float]] = []
    for bits in FAMILIES.values():
        policies = draw_policies(
            artifact.space, IndependentSampler(bits=tuple(sorted(bits))), 8, seed
        )
        assert drawn_bits(artifact, policies) == bits
        found = [percent(artifact, policy) for policy in policies]
        expected.append((float(np.mean(found)), min(found)))
    assert [(row[0], row[4]) for row in shown] == [
        (f"{mean:.2f}", f"{worst:.2f}") for mean, worst in expected
    ]
    # No two families are alike, and none is that of 8 bits, which would be 100 %.
    assert len({mean for mean, _ in expected}) == 3
    assert all(worst < mean < 100.0 for mean, worst in expected)


def drawn_bits(artifact: Artifact, policies: Sequence[Policy]) -> set[int]:
    """Returns the widths of the entries that have a choice."""
    return {
        getattr(policy, kind)[name]
        for policy in policies
        for kind in ("weights", "activations")
        for name, bits in getattr(artifact.space, kind).items()
        if len(bits) > 1
    }


def test_statistics_are_estimated_again_for_the_policy_on_the_first_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A network whose statistics are far off, but for those of the batch itself.
    network = load_network(digits_artifact())
    for name in ("stem_bn", "conv_bn"):
        layer = network.get_layer(name)
        shift = 3.0 * np.sqrt(np.abs(layer.moving_variance.numpy()[:1]))
        layer.moving_mean.assign_add(np.broadcast_to(shift, layer.moving_mean.shape))
    write_artifact(package(network), tmp_path / "net.matar")
    # After the digits come samples, all alike, that no statistics should be of.
    data = few_digits()
    glare = np.ones((400, 8, 8, 1), np.float32)
    samples = np.concatenate([data.x_test, glare])
    labels = np.concatenate([data.y_test, np.arange(400) % 10])
    np.savez(tmp_path / "data.npz", x_test=samples, y_test=labels)
    values = {"num_random": 0, "reestimate": len(data.x_test)}
    cells = table(capsys, tmp_path / "net.matar", tmp_path / "data.npz", **values)
    for name in ("w8a8", "w4a4", "w2a2"):
        # In training a batch norm takes the statistics of its batch.
        set_policy(network, name)
        outputs = network(data.x_test, training=True).numpy()
        hits = np.sum(outputs.argmax(axis=1) == data.y_test)
        # Forty of the others hit, whatever class they are taken for.
        assert float(cells[name][3]) == pytest.approx((hits + 40) / 6, abs=0.5)
        assert float(cells[name][0]) < 30.0


def test_a_network_of_one_policy_has_one_row(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = digits_artifact()
    alone = artifact.space.only(artifact.space.named("w4a4"))
    write_artifact(replace(artifact, space=alone), tmp_path / "alone.matar")
    values = {"artifact": str(tmp_path / "alone.matar"), "num_random": 3}
    assert call("compare", **values, data=str(files / "data.npz")) == 0
    shown = capsys.readouterr().out
    assert "w4a4" in shown
    assert "w8a8" not in shown
    assert "random" not in shown


def test_a_dedicated_network_has_one_policy(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(files / "net.matar")
    values = {"artifact": path, "data": str(files / "data.npz")}
    assert "one policy" in fails(capsys, "compare", **values, dedicated=[path])


def test_two_networks_for_one_policy(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = digits_artifact()
    alone = replace(artifact, space=artifact.space.only(artifact.space.widest()))
    paths = [str(tmp_path / name) for name in ("a.matar", "b.matar")]
    for path in paths:
        write_artifact(alone, path)
    values = {"artifact": str(files / "net.matar"), "data": str(files / "data.npz")}
    message = fails(capsys, "compare", **values, dedicated=paths)
    assert "b.matar for the policy of another" in message


def test_dedicated_networks_of_one_name_are_told_apart(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = digits_artifact()
    paths: list[str] = []
    for index, name in enumerate(("w4a8", "w8a4")):
        alone = replace(artifact, space=artifact.space.only(artifact.space.named(name)))
        (tmp_path / str(index)).mkdir()
        paths.append(str(tmp_path / str(index) / "policy_00.matar"))
        write_artifact(alone, paths[-1])
    values = {"artifact": str(files / "net.matar"), "num_random": 0}
    values |= {"data": str(files / "data.npz"), "dedicated": paths}
    assert call("compare", **values) == 0
    shown = capsys.readouterr().out
    assert "mixed: policy_00 " in shown
    assert f"mixed: {paths[1]} " in shown


def test_no_float_figure_of_other_samples(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = few_digits()
    np.savez(tmp_path / "less.npz", x_test=data.x_test[:50], y_test=data.y_test[:50])
    artifact = replace(
        digits_artifact(),
        accuracy={"float": {"accuracy": 0.75}},
        provenance={"data_digest": data.digest()},
    )
    np.savez(tmp_path / "same.npz", x_test=data.x_test, y_test=data.y_test)
    write_artifact(artifact, tmp_path / "net.matar")
    found = []
    for name in ("same", "less"):
        values = {"artifact": str(tmp_path / "net.matar"), "num_random": 0}
        values |= {"data": str(tmp_path / f"{name}.npz")}
        assert call("compare", **values) == 0
        out = capsys.readouterr().out
        found.append(next(one for one in out.splitlines() if "float  " in one))
    assert found[0].split()[1] == "75.00"
    assert found[1].split()[1] == "-"
