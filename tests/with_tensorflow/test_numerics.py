"""Values and gradients of fake quantization, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from matar_tf.keras._compat import tf
from matar_tf.keras.quantizers import fake_quantize
from matar_tf.keras.quantizers.fixed_point import fixed_point, multiply
from matar_tf.parameters import activation_range, weight_range
from matar_tf.policy import ALL_BITS
from matar_tf.tflite._rounding import multiply_away_from_zero, quantized_multiplier
from matar_tf.tflite.profiles import largest_factor


def ranges(bits: int, signed: bool) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_ranges_have_the_size_of_their_width(bits: int) -> None:
    low, high = weight_range(bits)
    if bits == 2:
        assert (low, high) == (-2, 1)
    else:
        assert (low, high - low + 1) == (-high, 2**bits - 1)
    for signed in (True, False):
        low, high = activation_range(bits, signed=signed)
        assert (low, high) == ranges(bits, signed)


@pytest.mark.parametrize(
    ("bits", "factor"), [(8, 1), (7, 2), (6, 4), (5, 8), (4, 18), (3, 42), (2, 63)]
)
def test_the_store_factor_is_the_largest_that_fits(bits: int, factor: int) -> None:
    assert largest_factor(bits, 127) == factor


@pytest.mark.parametrize(("bits", "factor"), [(4, 1), (3, 2), (2, 3)])
def test_the_factor_within_four_bits(bits: int, factor: int) -> None:
    assert largest_factor(bits, 7) == factor


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_values_at_both_sides_of_each_boundary(bits: int, signed: bool) -> None:
    low, high = ranges(bits, signed)
    step = 0.25
    levels = np.array(
        [low - 9, low - 0.51, low, low + 0.49, low + 0.51, high - 0.51, high, high + 9]
    )
    expected = [low, low, low, low, low + 1, high - 1, high, high]
    quantized = fake_quantize.fake_quantize(
        tf.constant(levels * step, tf.float32),
        tf.constant(step),
        tf.constant(float(low)),
        tf.constant(float(high)),
    )
    np.testing.assert_allclose(quantized / step, expected)


def test_halves_round_up() -> None:
    x = tf.constant([-1.5, -0.5, 0.5, 1.5, 2.5])
    quantized = fake_quantize.fake_quantize(
        x, tf.constant(1.0), tf.constant(-4.0), tf.constant(3.0)
    )
    np.testing.assert_array_equal(quantized, [-1.0, 0.0, 1.0, 2.0, 3.0])


class TestQuantizeRow:
    bits = (2, 4, 8)
    qmins = (-1, -7, -127)
    qmaxs = (1, 7, 127)
    scales = (0.5, 0.25, 0.125)

    @pytest.mark.parametrize("row", [0, 1, 2])
    def test_gradients_are_those_of_lsq(self, row: int) -> None:
        rng = np.random.default_rng(row)
        x = rng.normal(size=(50, 3)).astype(np.float32)
        log_steps = tf.Variable(rng.normal(-2.0, 0.3, (3, 3)).astype(np.float32))
        upstream = rng.normal(size=x.shape).astype(np.float32)
        inputs = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = fake_quantize.quantize_row(
                inputs,
                log_steps,
                tf.constant(row),
                self.qmins,
                self.qmaxs,
                self.scales,
            )
        to_x, to_steps = tape.gradient(outputs, [inputs, log_steps], upstream)
        step = np.exp(log_steps.numpy()[row])
        high = float(self.qmaxs[row])
        v = x / step
        inside = np.abs(v) <= high
        levels = np.floor(np.clip(v, -high, high) + 0.5)
        np.testing.assert_allclose(outputs, levels * step, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(to_x, np.where(inside, upstream, 0.0))
        per_level = np.where(inside, levels - v, np.sign(v) * high)
        # d(step) = sum(upstream * .) * scale; d(log step) = d(step) * step.
        expected = (upstream * per_level).sum(0) * float(self.scales[row]) * step
        np.testing.assert_allclose(
            tf.convert_to_tensor(to_steps)[row], expected, rtol=1e-3, atol=1e-5
        )
        others = np.delete(tf.convert_to_tensor(to_steps).numpy(), row, axis=0)
        np.testing.assert_array_equal(others, 0.0)

    @pytest.mark.parametrize("signed", [True, False])
    def test_xla_gives_the_same(self, signed: bool) -> None:
        grids = [ranges(bits, signed) for bits in self.bits]
        rng = np.random.default_rng(0)
        x, upstream = (
            tf.constant(rng.normal(size=(40, 5)), tf.float32) for _ in range(2)
        )
        log_steps = tf.Variable(np.log([0.9, 0.3, 0.02]), dtype=tf.float32)
        row = tf.Variable(0)

        def run() -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = fake_quantize.quantize_row(
                    x,
                    log_steps,
                    row,
                    *zip(*grids, strict=True),
                    self.scales,
                    fused=True,
                )
            return outputs, *tape.gradient(outputs, [x, log_steps], upstream)

        compiled = tf.function(run, jit_compile=True, autograph=False)
        for number in range(3):
            row.assign(number)
            for ours, theirs in zip(compiled(), run(), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("signed", [True, False])
    @pytest.mark.parametrize("bits", ALL_BITS)
    def test_fused_kernels_give_the_same(self, bits: int, signed: bool) -> None:
        low, high = ranges(bits, signed)
        other_low, other_high = ranges(10 - bits, signed)
        rng = np.random.default_rng(bits)
        # No value within 1e-3 steps of a half or of an end, where rounding decides.
        whole = rng.integers(low - 40, high + 40, 4000)
        v = whole + rng.uniform(-0.499, 0.499, whole.size)
        v = v[(np.abs(v - low) > 1e-3) & (np.abs(v - high) > 1e-3)]
        v = v[: v.size // 4 * 4]
        upstream = rng.normal(size=v.size)

        def run(shift: int, *, fused: bool) -> list[np.ndarray]:
            x, above = (
                tf.constant(np.roll(one, shift), tf.float32)
                for one in (v * 0.037, upstream)
            )
            log_steps = tf.Variable([0.0, np.log(0.037)], dtype=tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = fake_quantize.quantize_row(
                    x,
                    log_steps,
                    tf.constant(1),
                    [other_low, low],
                    [other_high, high],
                    [9.0, 0.5],
                    fused=fused,
                )
            gradients = tape.gradient(outputs, [x, log_steps], above)
            return [tf.convert_to_tensor(one).numpy() for one in (outputs, *gradients)]

        exact = run(0, fused=False)
        fast = [run(v.size // 4 * quarter, fused=True) for quarter in range(4)]
        np.testing.assert_allclose(fast[0][0], exact[0], rtol=1e-5, atol=1e-5 * 0.037)
        np.testing.assert_array_equal(fast[0][1], exact[1])
        # A quarter of the samples tells the gradient of the step: right on average.
        estimates = [one[2] for one in fast]
        np.testing.assert_allclose(np.mean(estimates, axis=0), exact[2], rtol=1e-3)
        assert np.ptp(estimates, axis=0)[1] > 0


class TestOptimalSteps:
    def test_beat_the_step_of_the_largest_magnitude(self) -> None:
        x = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
        x[:, 1] *= 3
        lows, highs = tf.constant([-1.0, -7.0]), tf.constant([1.0, 7.0])
        steps = fake_quantize.optimal_steps(tf.constant(x), lows, highs).numpy()
        assert steps.shape == (2, 2)
        for row, high in enumerate((1.0, 7.0)):

            def error(step: np.ndarray, high: float = high) -> np.ndarray:
                levels = np.floor(np.clip(x / step, -high, high) + 0.5)
                return ((levels * step - x) ** 2).mean(0)

            widest = np.abs(x).max(0) / high
            assert (error(steps[row]) < 0.9 * error(widest)).all()

    def test_exact_grids_are_found(self) -> None:
        x = tf.constant([[-3.0], [0.0], [1.0], [3.0]])
        steps = fake_quantize.optimal_steps(x, tf.constant([-3.0]), tf.constant([3.0]))
        np.testing.assert_allclose(steps, [[1.0]], rtol=1e-6)

    def test_zeros_get_a_positive_step(self) -> None:
        steps = fake_quantize.optimal_steps(
            tf.zeros((4, 1)), tf.constant([-1.0]), tf.constant([1.0])
        )
        assert steps.numpy() > 0


@pytest.mark.parametrize(
    "factor", [0.5, 1 / 3, 1.0, 3.7, 1e-4, 2.0**-40 / 3, 1.0 - 2.0**-33, 0.0]
)
def test_fixed_point_products_are_those_of_the_simulator(factor: float) -> None:
    """A factor next to 1 carries: its multiplier would have 32 bits."""
    x = np.array([*range(-130, 131), -(2**27), 2**27 - 1, 2**26 + 1])
    made = fixed_point(tf.constant(factor, tf.float64))
    products = multiply(tf.constant(x, tf.int64), *made).numpy()
    if factor == 0.0:
        assert not products.any()
        return
    expected = quantized_multiplier(factor)
    assert tuple(map(int, made)) == tuple(map(int, expected))
    np.testing.assert_array_equal(products, multiply_away_from_zero(x, *expected))
