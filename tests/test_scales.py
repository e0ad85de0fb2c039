"""Which scales a network has: in its space, in its numbers, in its artifact."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from fixtures.digits import digits_artifact, powers_of_two

from matar_tf.errors import ArtifactError, PolicyError
from matar_tf.reporting.card_page import model_card
from matar_tf.scales import POWER_OF_TWO, are_powers_of_two, next_powers_of_two
from matar_tf.space import PolicySpace
from matar_tf.tflite._levels import passing_channels
from matar_tf.tflite.profiles import largest_factor

SPACE = PolicySpace(weights={"a": (2, 8)}, activations={"x": (8,)}, scale=POWER_OF_TWO)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 0.5, 2.0**-126, 2.0**127], True),
        ([1.0, 3.0], False),
        ([np.nextafter(np.float32(0.5), np.float32(1.0))], False),
        *((([one], False)) for one in (0.0, -1.0, np.inf, np.nan)),
    ],
)
def test_powers_of_two(values: list[float], expected: bool) -> None:
    assert are_powers_of_two(np.float32(values)) is expected


def test_the_next_power_of_two() -> None:
    values = np.float32([0.25, 0.2500001, 0.4999999, 0.5, 3.0, 1e-30])
    expected = [0.25, 0.5, 0.5, 0.5, 4.0, 2.0**-99]
    np.testing.assert_array_equal(next_powers_of_two(values), np.float32(expected))
    assert next_powers_of_two(values).dtype == np.float32


def test_a_space_keeps_its_scale() -> None:
    for other in (
        PolicySpace.from_json(SPACE.to_json()),
        SPACE.with_choices(weights={"a": (4,)}),
        SPACE.only(SPACE.widest()),
        copy.deepcopy(SPACE),
        pickle.loads(pickle.dumps(SPACE)),
    ):
        assert other.scale == POWER_OF_TWO
    free = replace(SPACE, scale="free")
    assert free != SPACE
    assert free.to_json().keys() == {"schema_version", "weights", "activations"}
    assert SPACE.described() == "2 policies, scales of powers of two"
    assert free.described() == "2 policies"


@pytest.mark.parametrize("scale", ["shift", None, ["power_of_two"]])
def test_refuses_another_scale(scale: object) -> None:
    with pytest.raises(PolicyError, match="a scale among"):
        PolicySpace.from_json({**SPACE.to_json(), "scale": scale})


def test_levels_are_stored_as_they_are() -> None:
    assert [largest_factor(bits, 127) for bits in (8, 4, 2)] == [1, 18, 63]
    assert {largest_factor(bits, 127, POWER_OF_TWO) for bits in (8, 4, 2)} == {1}


def test_a_silent_channel_has_a_power_of_two_too() -> None:
    step = np.float32([2.0**-20, 2.0**-40])
    given = step, np.ones(2), np.float32([0.0, 3.0]), np.float32(0.5)
    passes, free = passing_channels(*given, 2**20)
    also, scale = passing_channels(*given, 2**20, POWER_OF_TWO)
    assert passes.tolist() == also.tolist() == [True, False]
    assert free[1] == np.float32(6.0 / 2**20)
    assert scale.tolist() == [2.0**-20, 8.0 / 2**20]


def test_an_artifact_holds_what_its_space_says() -> None:
    artifact = digits_artifact()
    changed = powers_of_two(artifact)
    assert changed.digest() != artifact.digest()
    assert "scales of powers of two" in repr(changed)
    assert "scales" not in repr(artifact)
    assert "All scales are powers of two." in model_card(changed)
    assert "cales" not in model_card(artifact)
    with pytest.raises(ArtifactError, match=r"got batch norms of \['stem', 'conv'\]"):
        replace(changed, parameters=artifact.parameters)
    tensors = changed.parameters.tensors
    free = replace(tensors["logits"], step=tensors["logits"].step * np.float32(1.5))
    spoilt = replace(changed.parameters, tensors={**tensors, "logits": free})
    with pytest.raises(ArtifactError, match=r"powers of two.*others of \['logits'\]"):
        replace(changed, parameters=spoilt)
    assert replace(artifact, parameters=spoilt).space.scale == "free"
