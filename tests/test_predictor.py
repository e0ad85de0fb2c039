"""What is predicted of policies that were not measured, and how surely."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fixtures.noisy_samples import (
    NUM_SAMPLES,
    Samples,
    drawn,
    noise_of,
    on_held_out,
    on_trained,
)
from scipy.stats import spearmanr

from matar_tf.errors import ArtifactError
from matar_tf.measurements import Levels, Measurements
from matar_tf.policy import Policy
from matar_tf.predictor import Predictor, cross_validation, rank_correlation


@pytest.mark.parametrize(
    ("measurements", "samples"),
    [(on_held_out(), Samples(1)), (on_trained(), Samples(2))],
    ids=["held out", "trained on"],
)
def test_intervals_cover_what_is_measured_later(
    measurements: Measurements, samples: Samples
) -> None:
    policies = drawn(400, 1)
    found = np.array([*map(samples.accuracy, policies)])
    predictor = Predictor(measurements, "accuracy")
    expected, deviations = predictor.predict(policies)
    _, low, high = predictor.with_bounds(policies)
    assert np.all((low <= expected) & (expected <= high))
    assert np.allclose(high - expected, 1.959964 * deviations)
    assert 0.9 <= np.mean((low <= found) & (found <= high)) <= 0.99
    assert spearmanr(expected, found)[0] > 0.95
    # Not by being wide: accuracies lie over a range of several points.
    assert np.abs(expected - found).mean() < 0.25 * found.std()


def test_the_scale_is_that_of_samples_held_out() -> None:
    measurements = on_trained()
    policies = drawn(50, 1)
    trained = replace(measurements, trained_on=False, levels=None)
    found = np.array([*map(Samples(2).accuracy, policies)])
    flattered = Predictor(trained, "accuracy").predict(policies)[0]
    expected = Predictor(measurements, "accuracy").predict(policies)[0]
    assert np.mean(flattered - found) > 3 * abs(np.mean(expected - found))


def test_more_samples_make_it_surer() -> None:
    measurements, policies = on_trained(), drawn(20, 1)
    levels = measurements.levels
    assert levels is not None
    # Two: a line through both leaves nothing that would tell of their luck.
    two = Levels(
        policies=levels.policies[::4],
        metrics={"accuracy": levels.metrics["accuracy"][::4]},
        num_samples=NUM_SAMPLES,
    )
    measurements = replace(measurements, levels=two)
    many = replace(measurements, levels=replace(two, num_samples=100_000))
    before = Predictor(measurements, "accuracy").predict(policies)[1]
    after = Predictor(many, "accuracy").predict(policies)[1]
    assert np.all(after < before)


def test_levels_off_the_line_make_it_less_sure() -> None:
    measurements, policies = on_trained(), drawn(20, 1)
    levels = measurements.levels
    assert levels is not None
    values = levels.metrics["accuracy"] + 0.03 * np.array([0, 1, -1, 1, 0])
    off = replace(levels, metrics={"accuracy": values})
    before = Predictor(measurements, "accuracy").predict(policies)[1]
    after = Predictor(replace(measurements, levels=off), "accuracy").predict(policies)
    assert np.all(after[1] > before)


def test_the_order_of_entries_does_not_matter() -> None:
    policy = drawn(1, 3)[0]
    turned = Policy(
        weights=dict(reversed(policy.weights.items())),
        activations=dict(reversed(policy.activations.items())),
    )
    predictor = Predictor(on_held_out(40), "accuracy")
    assert np.array_equal(*(predictor.predict([one]) for one in (policy, turned)))


def test_other_metrics_are_learned_by_themselves() -> None:
    measurements = on_held_out(60)
    only = replace(measurements, metrics={"accuracy": measurements.metrics["accuracy"]})
    policies = drawn(100, 1)
    found = np.array([*map(Samples(1).accuracy, policies)])
    assert spearmanr(Predictor(only, "accuracy").predict(policies)[0], found)[0] > 0.8
    losses = Predictor(measurements, "loss").predict(policies)[0]
    assert spearmanr(losses, [*map(noise_of, policies)])[0] > 0.95


def test_refuses_what_was_not_measured() -> None:
    with pytest.raises(ArtifactError, match=r"of \['accuracy'\], got 'loss'"):
        Predictor(on_trained(), "loss")  # of which there are no levels
    with pytest.raises(ArtifactError, match="got 'auc'"):
        Predictor(on_held_out(), "auc")


def test_constant_measurements_say_that_they_are() -> None:
    measurements = on_held_out(20)
    same = {name: np.full((2, 20), 0.5) for name in measurements.metrics}
    flat = replace(measurements, policies=measurements.policies[:20], metrics=same)
    expected, deviations = Predictor(flat, "accuracy").predict(drawn(5, 1))
    assert np.allclose(expected, 0.5)
    assert np.all(np.isfinite(deviations))
    assert cross_validation(flat)["spearman"] == 0.0


def test_cross_validation_is_of_policies_left_out() -> None:
    measurements = on_trained()
    found = cross_validation(measurements)
    # The best fifth is narrow: there it is luck that ranks.
    assert 0.9 < found["spearman_halves"] < found["spearman"] < 1.0
    assert found["spearman_best_fifth"] < found["spearman"]
    assert 0.88 <= found["coverage"] <= 1.0
    # As far as it is from new policies on the same samples.
    trained = replace(measurements, trained_on=False, levels=None)
    policies, samples = drawn(200, 5), Samples(1, stretch=0.5)
    expected = Predictor(trained, "accuracy").predict(policies)[0]
    errors = np.abs(expected - [*map(samples.accuracy, policies)])
    assert found["mean_absolute_error"] == pytest.approx(errors.mean(), rel=0.25)
    assert found["largest_absolute_error"] > 2 * found["mean_absolute_error"]


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_scipys(ties: bool) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 50))
    if ties:
        one, other = np.round(one), np.round(other)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other)[0])
