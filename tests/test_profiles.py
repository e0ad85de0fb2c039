"""Profiles store the same numbers in other containers."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.samples import image_samples, net_artifact

from matar_tf.artifact import Artifact
from matar_tf.errors import ExportError
from matar_tf.policy import Policy
from matar_tf.tflite import profiles
from matar_tf.tflite._containers import pack
from matar_tf.tflite._schema import COMPUTE_OPS, op_name, parse_model, schema
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.metadata import read_metadata
from matar_tf.tflite.profiles import PROFILES
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import run_all_tensors, verify

POLICIES = ("w8a8", "w4a4", "w3a3", "w2a2")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return net_artifact("kernels")


def storage_types(content: bytes) -> list[tuple[str, int]]:
    model = parse_model(content)
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        name = op_name(model, operator)
        if name in COMPUTE_OPS:
            kernel = int(operator.inputs[1])
            for other in graph.operators:  # a kernel that is dequantized first
                if op_name(model, other) == "DEQUANTIZE" and other.outputs[0] == kernel:
                    kernel = int(other.inputs[0])
            found.append((name, graph.tensors[kernel].type))
    return found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("profile", ["packed-litert", "packed-float"])
def test_exact_profiles_equal_int8(
    artifact: Artifact, profile: str, policy: str
) -> None:
    builder = ModelBuilder(artifact)
    samples = image_samples()
    expected = Runner(builder.build(artifact.space.named(policy))).predict(samples)
    packed = builder.build(artifact.space.named(policy), profile=profile)
    np.testing.assert_array_equal(Runner(packed).predict(samples), expected)


@pytest.mark.parametrize("policy", ["w8a8", "w4a4", "w3a5", "w2a2"])
@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_the_simulator_reproduces_every_profile(
    artifact: Artifact, profile: str, policy: str
) -> None:
    content = ModelBuilder(artifact).build(
        artifact.space.named(policy), profile=profile
    )
    samples, runtime = image_samples(), PROFILES[profile].runtime
    outcome = verify(content, samples, runtime=runtime)
    assert outcome.runtime_share == 0.0
    assert outcome.agreement == 1.0
    assert outcome.first_runtime_difference is None
    assert len(outcome.layers) >= 9  # the input and each layer
    last = int(parse_model(content).subgraphs[0].outputs[0])
    np.testing.assert_array_equal(
        run_all_tensors(content, samples, runtime=runtime)[last],
        Runner(content, runtime=runtime).predict(samples, batch_size=len(samples)),
    )


def test_litert_packs_pointwise_and_dense_kernels_where_xnnpack_can(
    artifact: Artifact,
) -> None:
    builder = ModelBuilder(artifact)
    content = builder.build(artifact.space.named("w2a2"), profile="packed-litert")
    int8, int4, int2 = (
        schema.TensorType.INT8,
        schema.TensorType.INT4,
        schema.TensorType.INT2,
    )
    dense, full, depthwise = "FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"
    assert storage_types(content) == [
        (full, int8),  # the first layer, 8 bits
        (dense, int2),  # pointwise, 8 input channels
        (depthwise, int8),  # no integer kernel takes less
        (dense, int4),  # pointwise, 6 input channels: not a multiple of 4
        (full, int8),  # pointwise, 5 input channels: odd
        (full, int8),  # 3x3
        (dense, int2),  # dense, 8 inputs
        (dense, int8),  # the last layer, 8 bits
    ]
    notes = read_metadata(content)["notes"]
    assert len(notes) == 4
    assert sum("even number" in note for note in notes.values()) == 1


def test_portable_packs_convolutions_into_int4(artifact: Artifact) -> None:
    builder = ModelBuilder(artifact)
    content = builder.build(artifact.space.named("w3a3"), profile="packed-portable")
    types = [kind for _, kind in storage_types(content)]
    int8, int4 = schema.TensorType.INT8, schema.TensorType.INT4
    assert types == [int8, int4, int4, int4, int4, int4, int8, int8]
    # Inexact by at most a few levels of the output; see the profile's description.
    expected = Runner(builder.build(artifact.space.named("w3a3")))
    samples = image_samples()
    outputs = Runner(content).predict(samples)
    correlation = np.corrcoef(outputs.ravel(), expected.predict(samples).ravel())
    assert correlation[0, 1] > 0.8


def test_packed_float_packs_every_narrow_kernel(artifact: Artifact) -> None:
    builder = ModelBuilder(artifact)
    content = builder.build(artifact.space.named("w2a2"), profile="packed-float")
    types = [kind for _, kind in storage_types(content)]
    int8, int2 = schema.TensorType.INT8, schema.TensorType.INT2
    assert types == [int8, *[int2] * 6, int8]


class TestPacking:
    def test_nibbles_start_low(self) -> None:
        values = np.array([1, -2, 7, -7, 3], np.int8)
        packed = pack(values, 4)
        np.testing.assert_array_equal(packed, [0xE1, 0x97, 0x03])

    def test_four_values_share_a_byte_lowest_first(self) -> None:
        values = np.array([1, -1, 0, -2, 1], np.int8)
        packed = pack(values, 2)
        np.testing.assert_array_equal(packed, [0b10_00_11_01, 0b01])


def test_equal_policies_give_equal_files(artifact: Artifact) -> None:
    policy = artifact.space.named("w2a4")
    turned = Policy(
        weights=dict(reversed(policy.weights.items())),
        activations=dict(reversed(policy.activations.items())),
    )
    assert list(turned.weights) != list(policy.weights)
    builder = ModelBuilder(artifact)
    for profile in PROFILES:
        assert builder.build(turned, profile=profile) == builder.build(
            policy, profile=profile
        )


def test_metadata_says_policy_profile_and_artifact(artifact: Artifact) -> None:
    policy = artifact.space.named("w4a4")
    content = ModelBuilder(artifact).build(policy, {"target": "mine"})
    document = read_metadata(content)
    assert document["policy"] == policy.to_json()
    assert document["profile"] == "int8"
    assert document["target"] == "mine"
    assert document["artifact_digest"] == artifact.digest()
    assert set(document["stored_bits"].values()) == {8}


def test_unknown_profiles_are_refused(artifact: Artifact) -> None:
    with pytest.raises(ExportError, match="packed-litert"):
        ModelBuilder(artifact).build(
            artifact.space.named("w8a8"), profile="packed-lite"
        )


def test_a_file_without_metadata_is_refused() -> None:
    with pytest.raises(ExportError, match="not exported"):
        read_metadata(net_artifact("dense").template)
