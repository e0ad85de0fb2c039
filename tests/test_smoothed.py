"""What is expected of measured policies where nobody but oneself measured any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fixtures.noisy_samples import SPACE, drawn

from matar_tf.evidence import Evidence, Pairs
from matar_tf.measurements import DIVERGENCE
from matar_tf.smoothed import Smoothed

WIDEST = SPACE.widest()
NUMBER = 200
POLICIES = (WIDEST, *drawn(NUMBER, 3))


def pairs_of(
    differences: np.ndarray, errors: np.ndarray | float, level: float = 0.9
) -> Pairs:
    return Pairs(
        differences=differences,
        errors=np.broadcast_to(errors, differences.shape),
        level=level,
        level_error=0.01,
    )


def smoothed(
    differences: np.ndarray,
    errors: np.ndarray | float,
    distances: np.ndarray,
    metric: str = "accuracy",
    num_samples: int = 10**12,
) -> Smoothed:
    number = len(differences)
    evidence = Evidence(
        policies=POLICIES[:number],
        metrics={
            metric: pairs_of(differences, errors),
            DIVERGENCE: pairs_of(distances, 0.0),
        },
        num_samples=num_samples,
    )
    return Smoothed(evidence, metric)


def noisy(seed: int, miss: float, luck: float) -> tuple[np.ndarray, ...]:
    """Policies whose accuracy falls by their divergence: distances, truth, measured."""
    rng = np.random.default_rng(seed)
    distances = np.concatenate([[0.0], rng.uniform(0.0, 0.2, NUMBER)])
    truth = -0.5 * distances * (1.0 + miss * rng.normal(size=NUMBER + 1))
    roots = np.sqrt(distances)
    return distances, truth, truth + luck * roots * rng.normal(size=NUMBER + 1), roots


def test_figures_without_luck_are_what_they_are() -> None:
    distances, _, found, roots = noisy(0, 0.3, 0.0)
    one = smoothed(found, 1e-9 * roots, distances)
    assert one.metric == "expected_accuracy"
    assert one.with_bounds(POLICIES)[0] == pytest.approx(0.9 + found, abs=1e-6)


def test_luck_alone_is_drawn_to_the_line() -> None:
    distances, truth, found, roots = noisy(1, 0.0, 0.1)
    expected = smoothed(found, 0.1 * roots, distances).with_bounds(POLICIES)[0]
    off = np.abs(expected - 0.9 - truth)
    assert off.mean() < np.abs(found - truth).mean() / 3
    # The luckiest is none of the best.
    assert expected[1:].argmax() == distances[1:].argmin() != found[1:].argmax()


def test_between_both_each_counts_by_its_variance() -> None:
    """Of a policy at distance d: misses of 0.5 * 0.3 * d, luck of 0.02 * sqrt(d)."""
    distances, truth, found, roots = noisy(2, 0.3, 0.02)
    expected = smoothed(found, 0.02 * roots, distances).with_bounds(POLICIES)[0]
    misses, luck = (0.15 * distances) ** 2, (0.02 * roots) ** 2
    share = np.divide(misses, misses + luck, where=distances > 0)
    line = -0.5 * distances
    by_hand = line + share * (found - line)
    far = distances > 0.1
    assert (expected - 0.9)[far] == pytest.approx(by_hand[far], abs=0.006)
    assert np.abs(expected - 0.9 - truth).mean() < np.abs(found - truth).mean()


@pytest.mark.parametrize(("miss", "luck"), [(0.0, 0.05), (0.3, 0.02), (0.3, 0.1)])
def test_intervals_cover(miss: float, luck: float) -> None:
    covered = []
    for seed in range(10):
        distances, truth, found, roots = noisy(seed, miss, luck)
        one = smoothed(found, luck * roots, distances)
        _, low, high = one.with_bounds(POLICIES)
        # Luck is drawn apart here, whereas it is taken to be alike: on the safe side.
        covered.append(((low <= 0.9 + truth) & (0.9 + truth <= high))[1:].mean())
    assert np.mean(covered) >= 0.93


def test_what_is_farther_is_not_better() -> None:
    """Not even if all were luckier than the widest policy."""
    distances, _, _, roots = noisy(4, 0.0, 0.0)
    found = 0.2 * distances
    expected, low, high = smoothed(found, 0.5 * roots, distances).with_bounds(POLICIES)
    assert expected[0] == pytest.approx(0.9)
    assert np.all(np.diff(expected[np.argsort(distances)]) < 0.0)
    assert np.all((low < expected) & (expected < high))


def test_sure_to_be_better_is_still_no_better() -> None:
    distances, _, _, roots = noisy(4, 0.0, 0.0)
    one = smoothed(0.2 * distances, 1e-9 * roots, distances)
    expected, low, high = one.with_bounds(POLICIES)
    assert np.all(expected <= 0.9)
    assert np.all(np.isfinite([low, high]))


def test_metrics_that_are_better_if_smaller() -> None:
    distances, _, found, roots = noisy(5, 0.3, 0.02)
    accuracy = smoothed(found, 0.02 * roots, distances).with_bounds(POLICIES)[0]
    loss = smoothed(-found, 0.02 * roots, distances, "loss").with_bounds(POLICIES)[0]
    assert loss - 0.9 == pytest.approx(0.9 - accuracy)


@pytest.mark.parametrize(("number", "is_drawn"), [(8, False), (9, True)])
def test_few_policies_are_as_measured(number: int, is_drawn: bool) -> None:
    distances, _, found, roots = (one[:number] for one in noisy(6, 0.0, 0.1))
    expected = smoothed(found, 0.1 * roots, distances).with_bounds(POLICIES[:number])[0]
    assert (not np.allclose(expected, np.minimum(0.9 + found, 1.0))) == is_drawn


def test_the_level_is_as_sure_as_the_samples_are_many() -> None:
    """Of 400 samples, nine tenths right: 1.96 deviations of 1.5 points."""
    distances, _, found, roots = noisy(7, 0.3, 0.02)
    one = smoothed(found, 0.02 * roots, distances, num_samples=400)
    _, low, high = one.with_bounds(POLICIES[:1])
    off = 1.96 * math.sqrt(0.9 * 0.1 / 400)
    assert (low[0], high[0]) == pytest.approx((0.9 - off, 0.9 + off), abs=1e-4)


@pytest.mark.parametrize("metric", ["accuracy", "agreement"])
def test_shares_have_bounds_within_0_and_1(metric: str) -> None:
    distances, _, found, roots = noisy(9, 0.3, 0.1)
    one = smoothed(found + 0.09, 0.1 * roots, distances, metric, num_samples=20)
    expected, low, high = one.with_bounds(POLICIES)
    assert high.max() == 1.0
    assert np.all((low >= 0.0) & (expected <= 1.0))


def test_equal_outputs_are_equal() -> None:
    distances, _, found, roots = noisy(8, 0.3, 0.02)
    distances[1:20] = 0.0
    expected = smoothed(found, 0.02 * roots, distances).with_bounds(POLICIES)[0]
    assert expected[:20] == pytest.approx(np.full(20, 0.9))
