"""Imagined accuracies: sums of drops, and a luck that repeats."""

import numpy as np
import pytest

from matar_tf.evolution._genome import GenomeCodec
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace
from tools.benchmarks.luck import _Imagined

SPACE = PolicySpace(
    weights={"conv": (2, 4, 8), "dense": (4, 8)}, activations={"image": (8,)}
)
POLICIES = [
    Policy(weights={"conv": conv, "dense": dense}, activations={"image": 8})
    for conv in (2, 4, 8)
    for dense in (4, 8)
]


def imagined(luck=0, deviation=0.01):
    codec = GenomeCodec(SPACE)
    # Of each entry of more than one width, the narrowest choice first.
    drops = {(2, 4, 8): [0.2, 0.05, 0.0], (4, 8): [0.1, 0.0], (8,): [0.0]}
    return _Imagined(
        codec=codec,
        drops=[drops[widths] for widths in codec.widths],
        accuracy=0.9,
        deviation=deviation,
        luck=luck,
    )


def accuracies(of):
    return [metrics["accuracy"] for _, metrics in of.measure(POLICIES)]


def test_drops_add_up():
    expected = [0.6, 0.7, 0.75, 0.85, 0.8, 0.9]
    assert imagined().known(POLICIES) == pytest.approx(expected)
    assert accuracies(imagined(deviation=0.0)) == pytest.approx(expected)


def test_luck_repeats_and_follows_its_seed():
    assert accuracies(imagined()) == accuracies(imagined())
    assert accuracies(imagined()) != accuracies(imagined(luck=1))


def test_luck_has_the_deviation_that_is_asked_for():
    many = [accuracies(imagined(luck)) for luck in range(300)]
    errors = np.asarray(many) - imagined().known(POLICIES)
    # 1,800 draws: three standard errors of the mean are 0.0007, of the deviation 5 %.
    assert abs(errors.mean()) < 0.001
    assert errors.std() == pytest.approx(0.01, rel=0.05)
    # Each policy has luck of its own.
    assert np.abs(np.corrcoef(errors.T) - np.eye(6)).max() < 0.25


def test_the_surrogate_knows_all_but_the_luck():
    one = imagined()
    values = -np.asarray(accuracies(one))[:, np.newaxis]
    surrogate = one.surrogate(POLICIES, values)
    known = -np.asarray(one.known(POLICIES))[:, np.newaxis]
    np.testing.assert_allclose(surrogate.predict(POLICIES), known)
    np.testing.assert_array_equal(surrogate.deviations(POLICIES), np.full((6, 1), 0.01))
