"""What is expected of policies, of a developer's measurements and one's own samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fixtures.noisy_samples import SPACE, Samples, drawn, noise_of, on_trained

from matar_tf.estimator import Estimator
from matar_tf.evidence import Evidence, Pairs
from matar_tf.measurements import DIVERGENCE
from matar_tf.policy import Policy
from matar_tf.predictor import Predictor

WIDEST = SPACE.widest()
NUM_PARTS = 8
PREDICTOR = Predictor(on_trained(), "accuracy")
MEASURED = drawn(60, 5)
OTHERS = drawn(300, 6)


def evidence_of(
    samples: Samples,
    number: int,
    policies: tuple[Policy, ...] = MEASURED,
    seed: int = 0,
) -> Evidence:
    """Measures policies on some of the samples."""
    chosen = np.random.default_rng(seed).permutation(len(samples.bears))[:number]
    policies = (WIDEST, *policies)
    right = np.stack([samples.outcomes(one)[chosen] for one in policies])
    parts = [right[:, part::NUM_PARTS].mean(axis=1) for part in range(NUM_PARTS)]
    return Evidence.of_parts(policies, {"accuracy": np.stack(parts)}, number)


def truth(samples: Samples, policies: tuple[Policy, ...]) -> np.ndarray:
    return np.array([*map(samples.accuracy, policies)])


def test_one_policy_by_hand() -> None:
    """Numbers, not matrices: the miss of one policy against the error of its pair."""
    policy = SPACE.named("w3a3")
    guess = PREDICTOR.guess((WIDEST, policy))
    apart = float(guess.expected[1] - guess.expected[0])
    error, found = 0.001, apart - 0.004
    pairs = Pairs(
        differences=np.array([0.0, found]),
        errors=np.array([0.0, error]),
        level=float(guess.expected[0]),
        level_error=0.004,
    )
    evidence = Evidence(
        policies=(WIDEST, policy), metrics={"accuracy": pairs}, num_samples=10_000_000
    )
    expected = Estimator(PREDICTOR, evidence).predict((WIDEST, policy))[0]
    # With one policy the slope takes up all that it misses by: none is left to learn.
    prior = PREDICTOR.slope_deviation**2
    slope = found / apart
    luck = (error**2 + float(guess.misses[1])) / apart**2
    known = prior + max((slope - 1.0) ** 2 - 4.0 * (luck + prior), 0.0)
    share = known / (known + luck)
    assert expected[0] == pytest.approx(float(guess.expected[0]), abs=1e-6)
    assert expected[1] - expected[0] == pytest.approx(
        apart * (1.0 + share * (slope - 1.0)), rel=1e-3
    )


def test_the_widest_policy_alone_tells_no_policies_apart() -> None:
    estimator = Estimator(PREDICTOR, evidence_of(Samples(2), 4000, ()))
    before = PREDICTOR.predict(OTHERS)[0]
    found = estimator.predict(OTHERS)[0]
    assert estimator.metric == "expected_accuracy"
    assert np.ptp(found - before) == pytest.approx(0.0, abs=1e-9)
    assert np.all(np.isfinite(estimator.predict(OTHERS)[1]))


def test_few_samples_do_no_harm() -> None:
    samples = Samples(2)
    found = truth(samples, MEASURED)
    off = {
        seed: Estimator(PREDICTOR, evidence_of(samples, 100, seed=seed)).predict(
            MEASURED
        )[0]
        - found
        for seed in range(10)
    }
    ours = np.mean([np.std(one) for one in off.values()])
    before = np.std(PREDICTOR.predict(MEASURED)[0] - found)
    alone = [
        np.std(
            evidence_of(samples, 100, seed=seed).metrics["accuracy"].differences[1:]
            - found
        )
        for seed in range(10)
    ]
    assert ours < 1.25 * before
    assert ours < 0.5 * np.mean(alone)


@pytest.mark.parametrize("number", [2, 3, 16])
def test_samples_that_are_all_right_tell_nothing(number: int) -> None:
    """Every policy is right on each: differences of 0, without an error to be seen."""
    parts = np.ones((min(number, NUM_PARTS), 1 + len(MEASURED)))
    evidence = Evidence.of_parts((WIDEST, *MEASURED), {"accuracy": parts}, number)
    estimator = Estimator(PREDICTOR, evidence)
    before = PREDICTOR.predict(OTHERS)[0]
    found = estimator.predict(OTHERS)[0]
    assert estimator.disagreement is None
    assert np.std(found) == pytest.approx(np.std(before), rel=0.05)
    assert np.abs(found - before).mean() < 0.01


def test_many_samples_mend_the_guess() -> None:
    samples = Samples(2)
    estimator = Estimator(PREDICTOR, evidence_of(samples, 4000))
    for policies, gain in ((MEASURED, 0.85), (OTHERS, 1.0)):
        found = truth(samples, policies)
        before, after = (
            np.std(one.predict(policies)[0] - found) for one in (PREDICTOR, estimator)
        )
        assert after < gain * before


class TestOtherSamples:
    """Twice as much noise as the developer's: policies lie farther apart."""

    SAMPLES = Samples(2, stretch=3.0)

    def test_are_said_to_be_others(self) -> None:
        found = Estimator(PREDICTOR, evidence_of(self.SAMPLES, 1000)).disagreement
        assert found is not None
        assert "These 1,000 samples are of another kind" in found
        assert f"{100 * level_on(self.SAMPLES, 1000):.2f} %" in found

    def test_overrule_the_developers(self) -> None:
        found = truth(self.SAMPLES, OTHERS)
        estimator = Estimator(PREDICTOR, evidence_of(self.SAMPLES, 4000))
        expected, low, high = estimator.with_bounds(OTHERS)
        before = np.abs(PREDICTOR.predict(OTHERS)[0] - found).mean()
        assert np.abs(expected - found).mean() < 0.3 * before
        assert np.mean((low <= found) & (found <= high)) > 0.9

    def test_the_developers_own_are_not(self) -> None:
        said = [
            Estimator(PREDICTOR, evidence_of(Samples(2), 1000, seed=seed)).disagreement
            for seed in range(20)
        ]
        assert sum(one is not None for one in said) <= 1


def level_on(samples: Samples, number: int) -> float:
    return evidence_of(samples, number).metrics["accuracy"].level


def test_intervals_cover_and_narrow() -> None:
    samples = Samples(2)
    found, widths = truth(samples, OTHERS), []
    for number in (200, 4000):
        estimator = Estimator(PREDICTOR, evidence_of(samples, number))
        expected, low, high = estimator.with_bounds(OTHERS)
        assert np.all((low <= expected) & (expected <= high))
        assert np.all((low >= 0.0) & (high <= 1.0))
        assert np.mean((low <= found) & (found <= high)) > 0.9
        widths.append(float((high - low).mean()))
    assert widths[1] < widths[0]


def test_divergence_tells_of_accuracy_without_labels() -> None:
    """Of policies that are worse than the developer saw, in a pattern."""
    rng = np.random.default_rng(0)
    bad = MEASURED[::2]
    powers = np.array([noise_of(one) * (1 + 2 * (one in bad)) for one in MEASURED])
    parts = powers * (1 + 0.01 * rng.normal(size=(NUM_PARTS, len(MEASURED))))
    parts = np.concatenate([np.zeros((NUM_PARTS, 1)), parts], axis=1)
    evidence = Evidence.of_parts((WIDEST, *MEASURED), {DIVERGENCE: parts}, 800)
    estimator = Estimator(PREDICTOR, evidence)
    moved = estimator.predict(MEASURED)[0] - PREDICTOR.predict(MEASURED)[0]
    assert moved[::2].mean() < moved[1::2].mean() - 1e-4
    assert estimator.disagreement is None
    assert math.isfinite(float(moved.sum()))
