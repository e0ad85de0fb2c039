"""Sizes of files are known without building each of them."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.samples import net_artifact

from matar_tf.artifact import Artifact
from matar_tf.errors import PolicyError
from matar_tf.policy import ALL_BITS, Policy
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite._containers import narrowest_container
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.metadata import encode_metadata, read_metadata
from matar_tf.tflite.profiles import PROFILES

# Sums and concatenations are signed: below 8 bits operators cut them off.
NETWORKS = ("kernels_wide", "concat_shared_wide", "residual_bn_wide")


@pytest.fixture(scope="module", params=NETWORKS)
def artifact(request: pytest.FixtureRequest) -> Artifact:
    return net_artifact(request.param)


def drawn(artifact: Artifact, number: int) -> list[Policy]:
    return draw_policies(artifact.space, IndependentSampler(bits=ALL_BITS), number, 7)


def about(target: str, accuracy: float) -> dict[str, Any]:
    metrics = {"accuracy": accuracy, "loss": 2.0 - accuracy}
    return {"target": target, "metrics": metrics, "num_samples": 200}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("target", ["npu", "accelerator_with_a_long_name"])
def test_sizes_are_those_of_the_files(
    artifact: Artifact, profile: str, target: str
) -> None:
    builder = ModelBuilder(artifact)
    sizes = FileSizes(builder, profile=profile, metadata=about(target, 0.0))
    policies = [
        *(artifact.space.named(name) for name in ("w8a8", "w4a4", "w2a2")),
        *drawn(artifact, 40),
    ]
    found = [sizes(policy) for policy in policies]
    again = FileSizes(builder, profile=profile, metadata=about(target, 0.0))
    backwards = [again(policy) for policy in reversed(policies)]
    for index, policy in enumerate(policies):
        # Whatever is measured of it later.
        accuracy = index / 30 - 0.1
        content = builder.build(policy, about(target, accuracy), profile=profile)
        assert found[index] == len(content)
        assert read_metadata(content)["metrics"]["accuracy"] == accuracy
    assert backwards[::-1] == found


@pytest.mark.parametrize("profile", PROFILES)
def test_few_files_are_built(profile: str) -> None:
    """One for each rest of the length of the text, where only kernels change."""
    artifact = net_artifact("six_convs")
    sizes = FileSizes(ModelBuilder(artifact), profile=profile)
    policies = drawn(artifact, 100)
    values = {sizes(policy) for policy in policies}
    num_policies = len(set(policies))
    expected = {
        "int8": 1,  # all files are of one size
        "packed-litert": 16,  # how many blocks of 16 bytes leave over
        "packed-portable": 16,
        "packed-float": num_policies,
        "tflm": num_policies,
    }
    assert sizes.num_built <= expected[profile] <= num_policies
    assert (len(values) == 1) == (profile == "int8")


def test_equal_policies_in_another_order_have_one_size(artifact: Artifact) -> None:
    sizes = FileSizes(ModelBuilder(artifact), profile="packed-litert")
    for policy in drawn(artifact, 5):
        turned = Policy(
            weights=dict(reversed(policy.weights.items())),
            activations=dict(reversed(policy.activations.items())),
        )
        content = ModelBuilder(artifact).build(turned, profile="packed-litert")
        assert sizes(policy) == sizes(turned) == len(content)


def test_a_policy_of_another_network_has_no_size(artifact: Artifact) -> None:
    """Nor has one whose kernels and text are as long as those of a known one."""
    sizes = FileSizes(ModelBuilder(artifact))
    widest = artifact.space.widest()
    assert sizes(widest) > 0
    for activations in ({**widest.activations, "x": 8}, {}):
        other = Policy(weights=widest.weights, activations=activations)
        with pytest.raises(PolicyError, match="entry"):
            sizes(other)


def test_fractions_take_the_same_room() -> None:
    fractions = (0.5, 1 / 3, -2.2250738585072014e-308, 1e22, 0.0)
    lengths = {len(encode_metadata({"metrics": {"loss": one}})) for one in fractions}
    # {"metrics": {"loss": }} has 23 characters.
    assert lengths == {23 + 24}
    assert len(encode_metadata({"a": [1, 2], "b": "0.5"})) == 25


@pytest.mark.parametrize(
    ("bits", "container"), [(2, 2), (3, 4), (4, 4), (5, 8), (7, 8), (8, 8)]
)
def test_containers(bits: int, container: int) -> None:
    assert narrowest_container(bits) == container
