"""Statistics of batch norm and of kernels, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.errors import DataError
from matar_tf.keras import (
    KurtosisRegularizer,
    calibrate,
    get_policy,
    get_policy_space,
    graph,
    keras,
    package,
    quantize_model,
    reestimate_batch_norm,
    set_policy,
)
from matar_tf.keras._compat import tf
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

L = keras.layers
X = np.random.default_rng(0).normal(size=(40, 6, 6, 2)).astype(np.float32)


def build(*, norm_per_input: bool = True) -> Any:
    keras.utils.set_random_seed(0)
    inputs = L.Input((6, 6, 2), name="image")
    x = L.ReLU(name="relu")(L.Conv2D(4, 3, padding="same", name="first")(inputs))
    x = L.BatchNormalization(name="norm")(L.Conv2D(5, 3, name="middle")(x))
    x = L.Flatten()(L.ReLU()(x))
    model = keras.Model(inputs, L.Dense(3, name="last")(x))
    quantized = quantize_model(model, norm_per_input=norm_per_input)
    calibrate(quantized, X)
    return quantized


def norm_of(model: Any) -> Any:
    return graph.inner_layer(model.get_layer("norm"))


class TestBank:
    @pytest.mark.parametrize(("per_input", "rows"), [(True, 49), (False, 7)])
    def test_rows(self, per_input: bool, rows: int) -> None:
        norm = norm_of(build(norm_per_input=per_input))
        assert norm.moving_mean.shape == (rows, 5)
        assert norm.gamma.shape == (7, 5)

    def test_the_policy_in_force_chooses_the_row(self) -> None:
        model = build()
        norm = norm_of(model)
        space = get_policy_space(model)
        assert norm.input_entry == "relu"
        for weight_bits, input_bits in ((2, 2), (2, 8), (8, 2), (5, 3)):
            policy = space.uniform(weight_bits, input_bits)
            set_policy(model, policy)
            row = (weight_bits - 2) * 7 + (input_bits - 2)
            assert int(norm.statistics_row()) == row
            assert get_policy(model) == policy

    def test_the_deployed_file_has_the_row_of_its_policy(self) -> None:
        model = build()
        norm = norm_of(model)
        rng = np.random.default_rng(1)
        norm.moving_mean.assign(rng.normal(size=(49, 5)))
        norm.moving_variance.assign(rng.uniform(0.5, 2.0, size=(49, 5)))
        builder = ModelBuilder(package(model, include_network=False))
        space = get_policy_space(model)
        outputs = []
        for policy in (space.uniform(4, 4), space.uniform(4, 8), space.uniform(8, 4)):
            set_policy(model, policy)
            expected = model.predict(X, verbose=0)
            outputs.append(Runner(builder.build(policy)).predict(X))
            np.testing.assert_allclose(outputs[-1], expected, atol=1e-6)
        assert not np.allclose(outputs[0], outputs[1], atol=1e-2)


class TestReestimation:
    def test_gives_what_numpy_gives(self) -> None:
        model = build()
        norm = norm_of(model)
        others = norm.moving_mean.numpy()
        before = get_policy(model)
        policy = get_policy_space(model).named("w3a4")
        reestimate_batch_norm(model, X, policies=[policy] * 2, batch_size=99)
        row = 1 * 7 + 2
        set_policy(model, "w3a4")
        inner = keras.Model(model.inputs, model.get_layer("quant_middle").output)
        values = inner.predict(X, verbose=0).reshape(-1, 5)
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        np.testing.assert_allclose(mean[row], values.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance[row], values.var(0), rtol=2e-3)
        rest = np.delete(np.arange(49), row)
        np.testing.assert_array_equal(mean[rest], others[rest])
        assert before == get_policy_space(model).widest()

    def test_averages_over_policies_and_samples_drawn_from_the_seed(self) -> None:
        means = []
        for seed, batches in ((0, 4), (0, 4), (1, 4), (0, 3)):
            model = build()
            policies = [get_policy_space(model).widest()] * batches
            reestimate_batch_norm(model, X, policies=policies, seed=seed, batch_size=10)
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
                model, samples, policies=policies, transform=transform
            )
            means.append(norm_of(model).moving_mean.numpy())
        assert numbers == [0, 1]
        np.testing.assert_allclose(means[0], means[1], rtol=1e-5, atol=1e-6)
        assert not np.allclose(means[0], means[2])

    def test_reaches_every_row_by_default(self) -> None:
        model = build()
        before = norm_of(model).moving_variance.numpy()
        reestimate_batch_norm(model, X, batch_size=4)
        assert (norm_of(model).moving_variance.numpy() != before).any(axis=1).all()

    @pytest.mark.parametrize(
        ("samples", "arguments"),
        [(X[:0], {}), (X, {"policies": ()}), (X, {"batch_size": 0})],
    )
    def test_refuses(self, samples: np.ndarray, arguments: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="at least one policy"):
            reestimate_batch_norm(build(), samples, **arguments)


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
