"""Grids of activations: what sets them, and what happens where they do not fit."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
from fixtures.digits import few_digits

from matar_tf.errors import DataError, MatarWarning
from matar_tf.keras import (
    PolicyRandomizer,
    calibrate,
    keras,
    package,
    quantize_model,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.checks import input_grids
from matar_tf.keras.quantizers import fake_quantize, watch
from matar_tf.keras.train.train import _calibration_samples

BATCH = 16
X, Y = few_digits().x_test[: 8 * BATCH], few_digits().y_test[: 8 * BATCH]
RNG = np.random.default_rng(0)
eagerly = pytest.mark.usefixtures("eager")


def make_model(signed_inputs: bool = False) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((8, 8, 1), name="image")
    x = keras.layers.Flatten(name="flat")(inputs)
    x = keras.layers.Dense(12, activation="relu", name="hidden")(x)
    network = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    model = quantize_model(network, signed_inputs=signed_inputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    return model


def fit(model: Any, x: np.ndarray, callbacks: Any = (), epochs: int = 1) -> None:
    y = np.resize(Y, len(x))
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


def reach(model: Any) -> float:
    """The largest value that the 8-bit grid of the input holds."""
    (grid,) = input_grids(model)
    return float(np.exp(grid.log_steps.numpy()[-1])) * grid.ranges()[1][-1]


def steps(model: Any) -> dict[str, np.ndarray]:
    return {
        weight.name: weight.numpy()
        for weight in model.weights
        if "log_steps" in weight.name and "kernel" not in weight.name
    }


def state(model: Any) -> int:
    (grid,) = input_grids(model)
    return int(grid.initialized.numpy())


def assert_same_steps(model: Any, other: Any, factor: float = 1.0) -> None:
    for name, values in steps(model).items():
        off = np.abs(values - steps(other)[name]).max()
        assert off <= np.log(factor) + 1e-6, name


@functools.cache
def calibrated() -> Any:
    """Do not change it."""
    model = make_model()
    calibrate(model, X)
    return model


class TestOutliers:
    @pytest.mark.parametrize(
        ("num_alive", "num_dirty", "are_told"),
        [(7, 1, False), (8, 1, True), (39, 2, False), (40, 2, True), (100, 6, False)],
    )
    def test_one_of_20_samples(
        self, num_alive: int, num_dirty: int, are_told: bool
    ) -> None:
        sizes = np.zeros(200, np.float32)  # silence says nothing of the size of sounds
        sizes[:num_alive] = 2.0
        sizes[:num_dirty] = 1e4
        limit = float(watch.largest_ordinary(tf.constant(sizes), 16.0))
        assert limit == (32.0 if are_told else 160_000.0)

    def test_large_values_in_every_sample_count(self) -> None:
        rng = np.random.default_rng(1)
        stars = rng.uniform(0.0, 0.01, (300, 8, 8, 1)).astype(np.float32)
        stars[np.arange(300), rng.integers(8, size=300), 3] = 1.0
        loud = 0.03 * X.copy()
        loud[: len(X) // 10] *= 33.0
        for x, largest in ((stars, 1.0), (loud, 0.99 * X[: len(X) // 10].max())):
            model = make_model()
            with warnings.catch_warnings():
                warnings.simplefilter("error", MatarWarning)
                calibrate(model, x)
            assert reach(model) == pytest.approx(largest, rel=0.05)

    @eagerly
    def test_fit_overlooks_no_rare_value(self) -> None:
        """One of 65,536, which no look at some values is sure to meet."""
        x = np.full((8 * BATCH, 4096), 0.01, np.float32)
        x[3::BATCH, 4095] = 1.0
        network = keras.Sequential([keras.layers.Input((4096,)), keras.layers.Dense(2)])
        model = quantize_model(network, signed_inputs=False)
        model.compile("sgd", "mse")
        fit(model, x)
        assert reach(model) == pytest.approx(1.0, rel=0.2)  # the least squared error
        assert state(model) == watch.SET_STATE

    @pytest.mark.parametrize(("largest", "found"), [(16.0, -1), (15.9, 1)])
    def test_the_largest_magnitude_may_be_told(
        self, largest: float, found: int
    ) -> None:
        values = tf.constant([0.1, 0.2])
        look = watch.misfit(values, 1.0, 0, 255, is_fixed=True, largest=largest)
        assert int(look) == found


class TestLooks:
    """Levels 0..255 of step 1, unless said otherwise."""

    @pytest.mark.parametrize(
        ("values", "found"),
        [
            ([100.0] * 31 + [272.0], -1),  # 1 of 32 saturates
            ([100.0] * 30 + [272.0], 1),  # 1 of 31
            ([100.0] * 30 + [272.0] + [0.0] * 99, 1),
            ([100.0] * 31 + [271.0] * 5, -1),  # a sixteenth outside
            ([16.0, 1.0], -1),  # a sixteenth of 255
            ([15.9, 1.0], 1),
            ([0.0, 0.0], 0),
        ],
    )
    def test_a_fixed_grid(self, values: list[float], found: int) -> None:
        look = watch.misfit(tf.constant(values), 1.0, 0, 255, is_fixed=True)
        assert int(look) == found

    def test_a_learned_grid_may_saturate_half(self) -> None:
        for number, found in ((50, -1), (51, 1)):
            values = tf.constant([300.0] * number + [100.0] * (100 - number))
            look = watch.misfit(values, 1.0, 0, 255, is_fixed=False)
            assert int(look) == found

    def test_two_bits_may_saturate_a_quarter(self) -> None:
        for number, found in ((25, -1), (26, 1)):
            values = tf.constant([2.7] * number + [2.6] * (100 - number))
            look = watch.misfit(values, 1.0, -2, 1, is_fixed=True)
            assert int(look) == found

    def test_a_signed_grid_for_values_of_one_sign(self) -> None:
        values = tf.constant([0.0, 1.0, 1.0, 1.0])
        look = watch.misfit(values, 1.0 / 128.0, -128, 127, is_fixed=True)
        assert int(look) == -1

    def test_best_steps_are_never_doubted(self) -> None:
        tensors = {
            "normal": RNG.normal(size=30_000),
            "heavy": RNG.standard_t(3, 30_000),
            "uniform": RNG.random(30_000),
            "sparse": RNG.lognormal(size=30_000) * (RNG.random(30_000) < 0.02),
        }
        for name, x in tensors.items():
            values = tf.constant(x, tf.float32)
            for low, high in ((-128, 127), (-8, 7), (-2, 1)):
                ends = (tf.constant([float(end)]) for end in (low, high))
                (step,) = fake_quantize.optimal_steps(values, *ends)
                look = watch.misfit(values, step, low, high, is_fixed=True)
                assert int(look) == -1, (name, high)

    def test_two_batches_outvote_the_first_and_one_outvotes_silence(self) -> None:
        def looks(start: int, found: list[int]) -> tuple[int, bool]:
            for one in found[:-1]:
                assert not watch.wants_steps(tf.constant(start), tf.constant(one))
                start = int(watch.next_state(tf.constant(start), tf.constant(one)))
            wants = watch.wants_steps(tf.constant(start), tf.constant(found[-1]))
            return start, bool(wants)

        assert looks(0, [1])[1]
        assert looks(watch.NEW_STATE, [1, 1])[1]
        assert not looks(watch.NEW_STATE, [1, -1, 1])[1]
        assert looks(watch.NEW_STATE, [1, 0, 0, 1])[1]
        assert looks(watch.SET_STATE, [-1, -1, *[1] * 8])[1]
        assert not looks(watch.SET_STATE, [*[1] * 7, -1, 1])[1]
        assert looks(watch.SILENT_STATE, [0, 0, -1])[1]
        assert looks(watch.SILENT_STATE, [0])[0] == watch.SILENT_STATE

    def test_flags_outlive_looks(self) -> None:
        flagged = watch.FLAG_NEGATIVE + watch.FLAG_SET_ANEW
        moved = watch.next_state(tf.constant(flagged + 3), tf.constant(1))
        assert int(moved) == flagged + 4
        for moves, after in ((True, watch.NEW_STATE), (False, watch.SET_STATE)):
            set_ = watch.state_once_set(
                tf.constant(flagged + 8), is_silent=tf.constant(False), moves=moves
            )
            assert int(set_) == flagged + after


class TestCalibrate:
    def test_one_outlier_pixel_sets_nothing(self) -> None:
        dirty = X.copy()
        dirty[5, 3, 3] = 1e4
        model = make_model()
        with pytest.warns(MatarWarning, match=r"1 of \d+ samples reach 1e\+04"):
            calibrate(model, dirty)
        assert_same_steps(model, calibrated(), factor=1.2)

    def test_dirty_and_silent_samples_set_nothing(self) -> None:
        dirty = np.concatenate([255.0 * X[:8], 0.0 * X[:16], 0.01 * X[:64], X])
        model = make_model()
        with pytest.warns(MatarWarning, match=r"8 of \d+ samples reach 255"):
            calibrate(model, dirty)
        np.testing.assert_allclose(reach(model), reach(calibrated()), rtol=1e-6)
        assert_same_steps(model, calibrated(), factor=1.5)

    def test_a_list_of_batches_is_all_of_their_samples(self) -> None:
        model = make_model()
        calibrate(model, [0.01 * X[:10], X[:50], X[50:]])
        assert_same_steps(model, calibrated(), factor=1.2)
        calibrate(model, [X[:50], X[50:]])
        assert_same_steps(model, calibrated())
        calibrate(model, list(X))  # a list of samples is a batch
        assert_same_steps(model, calibrated())

    def test_lists_that_are_no_batches(self) -> None:
        for samples in ([X[0], X[0, :4]], [X, X[:, :4]], [[[1.0], [2.0, 3.0]]], []):
            with pytest.raises(DataError, match="batch"):
                calibrate(make_model(), samples)
        with pytest.raises(DataError, match="finite"):
            calibrate(make_model(), [X, X * np.nan])

    def test_samples_that_say_nothing_or_two_things(self) -> None:
        with pytest.warns(MatarWarning, match="All samples are zero"):
            calibrate(make_model(), 0.0 * X)
        with pytest.raises(DataError, match="unsigned bytes"):
            calibrate(make_model(), (255.0 * X).astype(np.uint8))

    def test_more_samples_than_a_batch_tell_the_same(self) -> None:
        model = make_model()
        calibrate(model, np.tile(X, (5, 1, 1, 1)))
        assert_same_steps(model, calibrated(), factor=1.2)

    def test_samples_below_0_on_an_unsigned_grid(self) -> None:
        model = make_model()
        with pytest.warns(UserWarning, match=r"below 0 .* 'image'.*signed_inputs=True"):
            calibrate(model, 2.0 * X - 1.0)
        calibrate(make_model(signed_inputs=True), 2.0 * X - 1.0)

    def test_another_range_than_that_which_was_set(self) -> None:
        model = make_model()
        calibrate(model, X)
        with pytest.warns(UserWarning, match=r"in 0\.\.1, .* got 0\.\.255; .* anew"):
            calibrate(model, 255.0 * X)
        assert reach(model) == pytest.approx(255.0)

    def test_training_is_calibrated_on_a_random_part(self) -> None:
        x = np.arange(2000)
        chosen = _calibration_samples(x, 3)
        assert len(set(chosen)) == 512
        assert 900 < chosen.mean() < 1100
        np.testing.assert_array_equal(chosen, _calibration_samples(x, 3))
        np.testing.assert_array_equal(_calibration_samples(x[:512], 3), x[:512])


class TestFit:
    @eagerly
    @pytest.mark.parametrize(("size", "num_batches"), [(1e4, 1), (250.0, 8)])
    def test_one_outlier_pixel_of_the_first_batch(
        self, size: float, num_batches: int
    ) -> None:
        """At once, or outvoted."""
        model, x = make_model(), X.copy()
        x[5, 3, 3] = size
        fit(model, x[: num_batches * BATCH])
        assert reach(model) == pytest.approx(1.0, rel=0.01)
        assert_same_steps(model, calibrated(), factor=3.0)

    @eagerly
    @pytest.mark.parametrize("factor", [0.01, 0.3, 100.0])
    def test_a_first_batch_unlike_the_rest_is_outvoted(self, factor: float) -> None:
        model = make_model()
        x = np.concatenate([factor * X[:BATCH], X])
        with pytest.warns(UserWarning, match=r"'image' did .* set anew in training"):
            fit(model, x, [PolicyRandomizer()])
        assert reach(model) == pytest.approx(1.0, rel=0.01)
        assert state(model) == watch.SET_STATE
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Expected|The input grid")
            fit(model, X, [PolicyRandomizer()])
            package(model, include_network=False)

    @eagerly
    def test_a_dead_first_batch_is_not_one(self) -> None:
        model = make_model()
        fit(model, np.concatenate([0.0 * X[:BATCH], X[:BATCH]]), [PolicyRandomizer()])
        assert reach(model) == pytest.approx(1.0)

    @eagerly
    def test_like_batches_leave_what_the_first_one_set(self) -> None:
        model, short = make_model(), make_model()
        fit(short, X[:BATCH])
        fit(model, X)
        assert reach(model) == reach(short)

    @eagerly
    def test_dirty_batches_now_and_then_change_nothing(self) -> None:
        model = make_model()
        calibrate(model, X)
        x = X.copy()
        x[2 * BATCH : 3 * BATCH] *= 255.0
        x[5 * BATCH : 6 * BATCH] *= 0.001
        fit(model, x)
        assert reach(model) == reach(calibrated())

    @pytest.mark.parametrize("run_eagerly", [True, False])
    @pytest.mark.parametrize("value", [np.nan, -np.inf])
    def test_a_batch_that_is_not_finite(self, value: float, run_eagerly: bool) -> None:
        model = make_model()
        model.compile("sgd", model.loss, run_eagerly=run_eagerly)
        before = model.get_weights()
        x = X[:BATCH].copy()
        x[3, 4, 5] = value
        with pytest.raises(DataError, match=r"^Expected finite samples, got NaN"):
            fit(model, x, [PolicyRandomizer()])
        for now, then in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)

    @eagerly
    def test_a_first_batch_of_another_range(self) -> None:
        model = make_model()
        calibrate(model, X)
        with pytest.warns(UserWarning, match=r"fit 0\.\.1, .* got a first batch"):
            fit(model, 255.0 * X[:BATCH], [PolicyRandomizer()])

    @eagerly
    def test_samples_below_0_on_an_unsigned_grid(self) -> None:
        model = make_model()
        with pytest.warns(UserWarning, match=r"below 0 .* 'image', got many"):
            fit(model, 2.0 * X[:BATCH] - 1.0, [PolicyRandomizer()])
        with pytest.warns(UserWarning, match=r"below 0 .* 'image', got many"):
            package(model, include_network=False)

    @eagerly
    def test_package_names_a_grid_that_training_could_not_mend(self) -> None:
        model = make_model()
        fit(model, np.concatenate([0.01 * X[:BATCH], X[:BATCH]]))
        with pytest.warns(UserWarning, match=r"'image' saturated, or most levels"):
            package(model, include_network=False)

    @eagerly
    def test_the_deeper_grids_of_a_quiet_start_come_back(self) -> None:
        models = []
        for first in (0.001 * X[:BATCH], X[:BATCH]):
            model = make_model()
            model.compile(keras.optimizers.SGD(0.0), model.loss)
            fit(model, np.concatenate([first, X, X, X]))
            models.append(model)
        assert_same_steps(*models, factor=1.5)
