"""Statistics of batch norm and of kernels, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.errors import DataError, ModelError
from matar_tf.keras import (
    KurtosisRegularizer,
    calibrate,
    get_policy,
    get_policy_space,
    keras,
    package,
    quantize_model,
    reestimate_batch_norm,
    set_policy,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.train import batch_norm
from matar_tf.keras.train.terms import fit_terms, missed_by_terms
from matar_tf.samplers import IndependentSampler, draw_policies
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers
X = np.random.default_rng(0).normal(size=(40, 6, 6, 2)).astype(np.float32)


def build(*, norm_context: int = 12) -> Any:
    keras.utils.set_random_seed(0)
    inputs = L.Input((6, 6, 2), name="image")
    x = L.ReLU(name="relu")(L.Conv2D(4, 3, padding="same", name="first")(inputs))
    x = L.Conv2D(4, 3, padding="same", name="second")(x)
    x = L.BatchNormalization(name="norm2")(x)
    x = L.Conv2D(5, 3, name="middle")(L.ReLU(name="relu2")(x))
    x = L.BatchNormalization(name="norm")(x)
    x = L.Flatten()(L.ReLU()(x))
    model = keras.Model(inputs, L.Dense(3, name="last")(x))
    quantized = quantize_model(model, norm_context=norm_context)
    calibrate(quantized, X)
    return quantized


def test_statistics_need_the_steps_of_activations() -> None:
    inputs = L.Input((6, 6, 2))
    x = L.BatchNormalization()(L.Conv2D(4, 3)(inputs))
    model = quantize_model(keras.Model(inputs, L.Dense(3)(L.Flatten()(x))))
    with pytest.raises(ModelError, match="has seen no samples"):
        reestimate_batch_norm(model, X)


def _before_norm(model: Any, x: np.ndarray) -> np.ndarray:
    """What the norm sees, if the norm before it takes the statistics of the batch."""
    second = keras.Model(model.inputs, model.get_layer("quant_second").output)
    norm2 = wrapper.inner_layer(model.get_layer("norm2"))
    values, _, _ = norm2.normalize_batch(second(x))
    relu = model.get_layer("quant_relu2")
    return model.get_layer("quant_middle")(relu(values)).numpy().reshape(-1, 5)


def norm_of(model: Any) -> Any:
    return wrapper.inner_layer(model.get_layer("norm"))


class TestBank:
    @pytest.mark.parametrize(
        ("context", "rows"), [(0, 7), (1, 49), (2, 56), (3, 63), (12, 63)]
    )
    def test_rows(self, context: int, rows: int) -> None:
        norm = norm_of(build(norm_context=context))
        assert norm.moving_mean.shape == (rows, 5)
        assert norm.gamma.shape == (5,)
        # Nearest first; the first layer has no choice of widths.
        before = [("activations", "relu2"), ("weights", "second")]
        before.append(("activations", "relu"))
        assert [entry[:2] for entry in norm.context] == before[:context]

    def test_the_policy_in_force_chooses_the_rows(self) -> None:
        model = build()
        norm = norm_of(model)
        space = get_policy_space(model)
        for weight_bits, input_bits in ((2, 2), (2, 8), (8, 2), (5, 3)):
            policy = space.uniform(weight_bits, input_bits)
            set_policy(model, policy)
            w, a = weight_bits - 2, input_bits - 2
            assert norm.places().numpy().tolist() == [w * 7 + a, 49 + w, 56 + a]
            assert get_policy(model) == policy

    def test_the_deployed_file_has_the_statistics_of_its_policy(self) -> None:
        model = build()
        norm = norm_of(model)
        rng = np.random.default_rng(1)
        norm.moving_mean.assign(rng.normal(size=(63, 5)))
        norm.moving_variance.assign(rng.uniform(0.5, 2.0, size=(63, 5)))
        norm.gamma.assign(rng.normal(size=5))
        builder = ModelBuilder(package(model, include_network=False))
        space = get_policy_space(model)
        outputs = []
        for policy in (space.uniform(4, 4), space.uniform(4, 8), space.uniform(2, 4)):
            set_policy(model, policy)
            expected = model.predict(X, verbose=0)
            outputs.append(Runner(builder.build(policy)).predict(X))
            np.testing.assert_allclose(outputs[-1], expected, atol=1e-6)
        assert not np.allclose(outputs[0], outputs[1], atol=1e-2)

    def test_packaged_statistics_are_those_of_training(self) -> None:
        model = build()
        reestimate_batch_norm(model, X, batch_size=8, method="statistics")
        layer = package(model, include_network=False).parameters.layers["middle"]
        for policy in draw_policies(
            get_policy_space(model), IndependentSampler(), 9, 1
        ):
            set_policy(model, policy)
            for ours, theirs in zip(
                layer.affine(policy), norm_of(model).folded(), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)

    def test_a_float_scale_below_zero_goes_into_the_kernel(self) -> None:
        inputs = L.Input((6, 6, 2), name="image")
        x = L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="d")(inputs)
        x = L.BatchNormalization(name="norm_d")(x)
        x = L.BatchNormalization(name="norm_c")(L.Conv2D(3, 1, name="c")(x))
        model = keras.Model(inputs, L.Dense(2, name="last")(L.Flatten()(x)))
        rng = np.random.default_rng(0)
        for name, size in (("norm_d", 4), ("norm_c", 3)):
            model.get_layer(name).set_weights(
                [*rng.normal(size=(3, size)), rng.uniform(0.5, 1.0, size)]
            )
        quantized = quantize_model(model)
        calibrate(quantized, X)
        gammas = wrapper.inner_layer(quantized.get_layer("quant_norm_c")).gamma.numpy()
        assert (gammas >= 0).all()
        assert (model.get_layer("norm_c").gamma.numpy() < 0).any()
        np.testing.assert_allclose(
            quantized.predict(X, verbose=0), model.predict(X, verbose=0), atol=0.15
        )


class TestFitTerms:
    def test_finds_the_terms_of_additive_statistics(self) -> None:
        rng = np.random.default_rng(0)
        places = np.stack([rng.integers(0, 4, 200), rng.integers(4, 7, 200)], axis=1)
        true_means = rng.normal(size=(7, 2))
        true_logs = rng.normal(size=(7, 2)) * 0.3
        means = true_means[places].sum(axis=1)
        variances = np.exp(true_logs[places].sum(axis=1))
        found = fit_terms(places, means, variances, np.zeros((7, 2)), np.ones((7, 2)))
        np.testing.assert_allclose(found[0][places].sum(1), means, atol=2e-3)
        np.testing.assert_allclose(found[1][places].prod(1), variances, rtol=2e-3)

    def test_what_terms_miss_is_a_likelihood(self) -> None:
        """Of 4 values with mean 1 and variance 2, by a normal of mean 0, variance 3."""
        values = np.array([1.0, 1.0, 3.0, -1.0])
        logs = -0.5 * (np.log(2 * np.pi * 3.0) + values**2 / 3.0)
        found = missed_by_terms(
            np.array([[0, 1]]),
            np.array([[1.0]]),
            np.array([[2.0]]),
            np.array([[0.5], [-0.5]]),
            np.array([[1.5], [2.0]]),
        )
        assert found == pytest.approx(-2.0 * logs.mean() - np.log(2 * np.pi))

    def test_rows_without_a_batch_stay(self) -> None:
        before = np.array([[1.0], [2.0], [3.0], [4.0]])
        places = np.array([[0, 2], [0, 2]])
        mean, variance = fit_terms(
            places, np.array([[9.0], [9.0]]), np.array([[5.0], [5.0]]), before, before
        )
        np.testing.assert_array_equal(mean[[1, 3]], before[[1, 3]])
        np.testing.assert_allclose(variance[[1, 3]], before[[1, 3]], rtol=1e-6)
        assert mean[[0, 2]].sum() == pytest.approx(9.0, rel=5e-3)
        assert variance[[0, 2]].prod() == pytest.approx(5.0, rel=5e-3)


class TestReestimation:
    def test_gives_what_numpy_gives(self) -> None:
        model = build()
        norm = norm_of(model)
        others = norm.moving_mean.numpy()
        before = get_policy(model)
        policy = get_policy_space(model).named("w3a4")
        reestimate_batch_norm(
            model, X, policies=[policy] * 9, batch_size=99, method="statistics"
        )
        set_policy(model, "w3a4")
        values = _before_norm(model, X)
        mean, variance = norm.statistics()
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(variance, values.var(0), rtol=1e-2)
        rest = np.delete(np.arange(63), norm.places())
        np.testing.assert_array_equal(norm.moving_mean.numpy()[rest], others[rest])
        assert before == get_policy_space(model).widest()

    def test_averages_over_policies_and_samples_drawn_from_the_seed(self) -> None:
        means = []
        for seed, batches in ((0, 4), (0, 4), (1, 4), (0, 3)):
            model = build()
            policies = [get_policy_space(model).widest()] * batches
            reestimate_batch_norm(
                model,
                X,
                policies=policies,
                seed=seed,
                batch_size=10,
                method="statistics",
            )
            means.append(norm_of(model).moving_mean.numpy())
        np.testing.assert_array_equal(means[0], means[1])
        assert not np.array_equal(means[0], means[2])
        assert not np.array_equal(means[0], means[3])

    def test_transforms_each_batch_as_training_does(self) -> None:
        means, numbers = [], []

        def shifted(batch: Any, number: int) -> Any:
            numbers.append(number)
            return batch + 0.5

        for samples, transform in ((X, shifted), (X + 0.5, None), (X, None)):
            model = build()
            policies = [get_policy_space(model).widest()] * 2
            reestimate_batch_norm(
                model,
                samples,
                policies=policies,
                transform=transform,
                method="statistics",
            )
            means.append(norm_of(model).moving_mean.numpy())
        assert numbers == [0, 1]
        np.testing.assert_allclose(means[0], means[1], rtol=1e-5, atol=1e-6)
        assert not np.allclose(means[0], means[2])

    def test_reaches_every_row_by_default(self) -> None:
        model = build()
        before = norm_of(model).moving_variance.numpy()
        reestimate_batch_norm(model, X, batch_size=4, method="statistics")
        assert (norm_of(model).moving_variance.numpy() != before).any(axis=1).all()

    @pytest.mark.parametrize(
        ("samples", "arguments"),
        [
            (X[:0], {"method": "statistics"}),
            (X[:1], {}),
            (X, {"policies": ()}),
            (X, {"batch_size": 0}),
        ],
    )
    def test_refuses(self, samples: np.ndarray, arguments: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="at least one policy"):
            reestimate_batch_norm(build(), samples, **arguments)

    def test_a_fit_that_tells_less_of_other_batches_is_not_taken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = build()
        policies = [get_policy_space(model).widest()] * 16

        def spoils(*arguments: np.ndarray, **_: Any) -> tuple[np.ndarray, np.ndarray]:
            assert len(arguments[0]) == 12  # four batches judge
            return arguments[3] + 9.0, arguments[4]

        monkeypatch.setattr(batch_norm, "fit_terms", spoils)
        before = norm_of(model).moving_mean.numpy()
        assert not reestimate_batch_norm(
            model, X, policies=policies, batch_size=8, method="statistics"
        )
        np.testing.assert_array_equal(norm_of(model).moving_mean.numpy(), before)

    def test_refuses_another_method(self) -> None:
        with pytest.raises(ModelError, match="match or statistics, got 'mean'"):
            reestimate_batch_norm(build(), X, method="mean")

    @pytest.mark.parametrize(
        "samples",
        [X[:, :5], X[0], "images", tf.data.Dataset.from_tensor_slices(X).batch(8)],
        ids=["size", "one", "text", "dataset"],
    )
    def test_refuses_what_is_no_array_of_samples(self, samples: Any) -> None:
        model = build()
        set_policy(model, "w3a3")
        with pytest.raises(DataError, match=r"shape \(None, 6, 6, 2\) as one array"):
            reestimate_batch_norm(model, samples)

    def test_takes_a_tensor(self) -> None:
        rows: list[np.ndarray] = []
        for samples in (X, tf.constant(X)):
            model = build()
            policies = [get_policy_space(model).widest()]
            reestimate_batch_norm(
                model, samples, policies=policies, method="statistics"
            )
            rows.append(norm_of(model).moving_mean.numpy())
        np.testing.assert_array_equal(*rows)

    def test_a_failure_leaves_the_policy_in_force(self) -> None:
        def fails(batch: Any, number: int) -> Any:
            raise RuntimeError

        model = build()
        set_policy(model, "w3a3")
        with pytest.raises(RuntimeError):
            reestimate_batch_norm(model, X, transform=fails)
        assert get_policy(model) == get_policy_space(model).named("w3a3")


class TestKurtosis:
    @pytest.mark.parametrize(
        ("kernel", "kurtosis"), [([-1.0, 1.0], 1.0), ([-1.0, 0.0, 0.0, 1.0], 2.0)]
    )
    def test_by_hand(self, kernel: list[float], kurtosis: float) -> None:
        value = KurtosisRegularizer(0.5, target=1.5)(tf.constant(kernel))
        assert float(value) == pytest.approx(0.5 * (kurtosis - 1.5) ** 2, rel=1e-5)

    def test_a_uniform_kernel_costs_next_to_nothing(self) -> None:
        rng = np.random.default_rng(0)
        penalty = KurtosisRegularizer(1.0)
        uniform = tf.constant(rng.uniform(-1, 1, (3, 3, 64, 64)), tf.float32)
        normal = tf.constant(rng.normal(size=(3, 3, 64, 64)), tf.float32)
        assert float(penalty(uniform)) < 1e-3
        assert float(penalty(normal)) == pytest.approx(1.44, rel=0.05)

    def test_is_a_regularizer_of_keras(self) -> None:
        made = keras.regularizers.get(KurtosisRegularizer(0.1, 2.0))
        config = keras.regularizers.serialize(made)
        again = keras.regularizers.deserialize(config)
        assert (again.rate, again.target) == (0.1, 2.0)
