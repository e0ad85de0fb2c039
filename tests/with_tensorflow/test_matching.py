"""Batch norms matched to the float network, on a network that was only calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from matar_tf.errors import MatarWarning, ModelError
from matar_tf.keras import (
    calibrate,
    get_policy,
    get_policy_space,
    keras,
    policy_space,
    quantize_model,
    reestimate_batch_norm,
    set_policy,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.train import matching
from matar_tf.keras.train.matching import matched
from matar_tf.keras.train.terms import fit_terms, flat
from matar_tf.norms import norm_places
from matar_tf.samplers import IndependentSampler, draw_policies, spread_policies

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 8, 8, 3)).astype(np.float32)
# Not what the network was trained on, as where a developer's samples are others.
OTHERS = 0.5 * RNG.normal(size=(64, 8, 8, 3)).astype(np.float32) + 0.3
UNIFORM = ("w8a8", "w6a6", "w4a4", "w3a3", "w2a2")


@pytest.fixture(scope="module")
def network() -> Any:
    """A float network whose batch norms hold the statistics of `X`."""
    keras.utils.set_random_seed(1)
    inputs = L.Input((8, 8, 3), name="image")
    x = inputs
    for number in range(3):
        x = L.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        norm = L.BatchNormalization(momentum=0.0, name=f"norm{number}")
        x = L.ReLU(name=f"relu{number}")(norm(x))
    model = keras.Model(inputs, L.Dense(4, name="last")(L.Flatten()(x)))
    model(X, training=True)
    return model


@pytest.fixture(scope="module")
def calibrated(network: Any) -> tuple[Any, list[np.ndarray]]:
    model = quantize_model(network)
    calibrate(model, X)
    return model, model.get_weights()


@pytest.fixture
def model(calibrated: tuple[Any, list[np.ndarray]]) -> Any:
    """The network as it was calibrated; one for all tests, since making it is slow."""
    calibrated[0].set_weights(calibrated[1])
    return calibrated[0]


@pytest.fixture(scope="module")
def after_match(calibrated: tuple[Any, list[np.ndarray]]) -> list[np.ndarray]:
    """Its weights after `reestimate_batch_norm` on `OTHERS`."""
    model, weights = calibrated
    model.set_weights(weights)
    assert reestimate(model, OTHERS)
    return model.get_weights()


def reestimate(model: Any, samples: np.ndarray, **changes: Any) -> bool:
    policies = spread_policies(get_policy_space(model), 98, 0)
    return reestimate_batch_norm(model, samples, **{"policies": policies, **changes})


def errors(model: Any, network: Any, names: Sequence[str] = UNIFORM) -> np.ndarray:
    """Squared differences from float outputs on `X`, over the variance of these."""
    expected = network.predict(X, verbose=0)
    missed = []
    for name in names:
        set_policy(model, name)
        missed.append(np.sum((model.predict(X, verbose=0) - expected) ** 2))
    return np.array(missed) / np.sum((expected - expected.mean(0)) ** 2)


class TestMatched:
    def test_outputs_have_the_mean_and_variance_of_the_reference(self) -> None:
        """Whatever the stored statistics are, which need not be the batch's."""
        ours = RNG.normal(1.0, 3.0, (500, 2))
        theirs = RNG.normal(-0.5, 0.7, (500, 2))
        stored = np.array([0.2, -1.0]), np.array([0.9, 2.0])
        mean, variance = matched(
            stored,
            (theirs.mean(0), theirs.var(0)),
            (ours.mean(0), ours.var(0)),
            epsilon=1e-3,
        )
        found = (ours - mean.numpy()) / np.sqrt(variance.numpy() + 1e-3)
        expected = (theirs - stored[0]) / np.sqrt(stored[1] + 1e-3)
        np.testing.assert_allclose(found.mean(0), expected.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.var(0), expected.var(0), rtol=1e-5)

    def test_what_epsilon_hides_changes_nothing(self) -> None:
        zero = tf.zeros(1, tf.float64)
        for seen, factor in ((1e-6, 1.0), (1e-3, 1.0), (1.0, 1.0 / 1e-3)):
            _, variance = matched(
                (zero, tf.constant([1e-6], tf.float64)),
                (zero, zero + 0.001),
                (zero, zero + seen),
                epsilon=1e-3,
            )
            assert float(variance[0]) == pytest.approx(1e-6 * factor, rel=3e-3)


class TestTerms:
    """Six rows that entries of two and three widths choose from, four of a third."""

    WIDEST = np.array([5, 9])
    PLACES = np.array(
        [norm_places((2, 3, 4), rows) for rows in np.ndindex(2, 3, 4)]  # all policies
    )

    def test_flat_terms_give_all_policies_the_statistics_of_the_widest(self) -> None:
        variances = RNG.uniform(0.5, 2.0, (10, 2))
        variances[9] = 1.0
        same = flat(variances, self.WIDEST, 1.0)[self.PLACES].prod(1)
        np.testing.assert_array_equal(same, np.tile(variances[5], (24, 1)))

    def test_kept_rows_stay_and_heavy_batches_come_first(self) -> None:
        before = np.arange(10.0)[:, np.newaxis]
        places = np.concatenate([self.PLACES, self.PLACES[:1]])
        targets = np.full((25, 1), 30.0)
        targets[-1] = 7.0  # what the first policy is to keep
        kept = np.isin(np.arange(10), self.WIDEST)
        weights = np.ones(25)
        weights[-1] = 1e6
        mean, _ = fit_terms(
            places,
            targets,
            np.ones((25, 1)),
            before,
            np.ones((10, 1)),
            kept=kept,
            weights=weights,
        )
        np.testing.assert_array_equal(mean[kept], before[kept])
        assert mean[self.PLACES[0]].sum() == pytest.approx(7.0, abs=1e-3)
        assert mean[self.PLACES[-2]].sum() == pytest.approx(30.0, abs=8.0)


class TestOnSamplesOfAnotherKind:
    def test_plain_statistics_destroy_the_network(
        self, model: Any, network: Any
    ) -> None:
        assert reestimate(model, OTHERS, method="statistics")
        assert errors(model, network, ["w8a8"])[0] > 0.3

    def test_eight_bits_stay_and_two_are_repaired(
        self, model: Any, network: Any, after_match: list[np.ndarray]
    ) -> None:
        before = errors(model, network)
        model.set_weights(after_match)
        after = errors(model, network)
        assert before[0] < 1e-3
        assert after[0] == before[0]
        assert after[-1] < 0.8 * before[-1]
        assert (after <= 1.05 * before).all()

    def test_a_second_call_changes_nothing_in_a_model_made_anew_either(
        self, network: Any, after_match: list[np.ndarray]
    ) -> None:
        again = quantize_model(network)
        again.set_weights(after_match)
        with pytest.warns(MatarWarning, match="stay as they were.*the second call"):
            assert not reestimate(again, OTHERS)
        for ours, theirs in zip(again.get_weights(), after_match, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_eight_samples_are_too_few(
        self, model: Any, calibrated: tuple[Any, list[np.ndarray]]
    ) -> None:
        set_policy(model, "w3a3")
        with pytest.warns(MatarWarning, match="Give more samples"):
            assert not reestimate(model, OTHERS[:8])
        assert get_policy(model) == get_policy_space(model).named("w3a3")
        set_policy(model, "w8a8")
        for ours, theirs in zip(model.get_weights(), calibrated[1], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_rows_that_no_policy_uses_stay(model: Any, network: Any) -> None:
    norm = wrapper.inner_layer(model.get_layer("norm1"))
    means = norm.moving_mean.numpy()
    before = errors(model, network, ["w2a2"])
    policies = [get_policy_space(model).named("w2a2")] * 2
    assert reestimate_batch_norm(model, X[:64], policies=policies, batch_size=32)
    changed = (norm.moving_mean.numpy() != means).any(axis=1)
    set_policy(model, "w2a2")
    assert np.flatnonzero(changed).tolist() == sorted(norm.places().numpy().tolist())
    assert errors(model, network, ["w2a2"]) < 0.8 * before


def test_samples_are_transformed(model: Any, after_match: list[np.ndarray]) -> None:
    assert reestimate(model, 2.0 * OTHERS, transform=lambda batch, _: batch / 2.0)
    set_policy(model, "w8a8")
    for ours, theirs in zip(model.get_weights(), after_match, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_network_without_batch_norm_has_nothing_to_fit() -> None:
    inputs = L.Input((4,))
    x = L.Dense(3, activation="relu")(L.Dense(3, activation="relu")(inputs))
    model = quantize_model(keras.Model(inputs, L.Dense(2)(x)))
    samples = RNG.normal(size=(16, 4)).astype(np.float32)
    calibrate(model, samples)
    before = model.get_weights()
    policies = draw_policies(get_policy_space(model), IndependentSampler(), 3, 0)
    assert not reestimate_batch_norm(model, samples, policies=policies)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_of_one_policy_has_nothing_to_match_it_to(network: Any) -> None:
    space = policy_space(network)
    model = quantize_model(network, space.only(space.named("w4a4")))
    calibrate(model, X)
    with pytest.raises(ModelError, match="of several policies, got one"):
        reestimate_batch_norm(model, X)


def test_a_failure_leaves_statistics_and_policy(
    model: Any,
    calibrated: tuple[Any, list[np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the second layer to be fitted, when the first has new statistics."""
    fits: list[object] = []

    def fails(*arguments: Any, **keywords: Any) -> Any:
        fits.append(arguments)
        if len(fits) > 1:
            raise KeyboardInterrupt
        return fit_terms(*arguments, **keywords)

    monkeypatch.setattr(matching, "fit_terms", fails)
    policies = [get_policy_space(model).named("w2a2")]
    with pytest.raises(KeyboardInterrupt):
        reestimate_batch_norm(model, OTHERS, policies=policies)
    assert len(fits) == 2
    for ours, theirs in zip(model.get_weights(), calibrated[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_that_was_trained_is_refused(model: Any) -> None:
    """Its float pass clips nothing, which it has learned to do."""
    before = model.get_weights()
    model(X[:8], training=True)
    with pytest.raises(ModelError, match=r"not trained.*method='statistics'"):
        reestimate(model, OTHERS)
    model.set_weights(before)
    assert reestimate(model, OTHERS, method="statistics")
