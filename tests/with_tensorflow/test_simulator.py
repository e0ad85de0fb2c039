"""The NumPy simulator equals the kernels of both kinds, operator for operator."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from fixtures.kernels import run_builtin
from fixtures.nets import calibrated, packaged, samples_for

from matar_tf.artifact import Artifact
from matar_tf.errors import ExportError
from matar_tf.keras import keras, package
from matar_tf.keras._compat import tf
from matar_tf.tflite import _rounding, simulator
from matar_tf.tflite._schema import op_name, parse_model, write_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.verify import run_all_tensors


@pytest.mark.parametrize(
    "name",
    [
        "residual_bn",
        "depthwise",
        "average_pool",
        "concat",
        "global_average",
        "preactivation",
        "leaky_relu",
    ],
)
@pytest.mark.parametrize("policy", ["w8a8", "w4a4", "w2a2"])
def test_builtin_kernels_are_reproduced_tensor_for_tensor(
    name: str, policy: str
) -> None:
    artifact = packaged(name, free=True)
    content = ModelBuilder(artifact).build(artifact.space.named(policy))
    samples = samples_for(name, 8)
    expected = run_builtin(content, samples)
    simulated = simulator.simulate_tensors(content, samples, kernels="builtin")
    parsed = parse_model(content)
    for operator in parsed.subgraphs[0].operators:
        output = int(operator.outputs[0])
        np.testing.assert_array_equal(
            simulated[output], expected[output], err_msg=op_name(parsed, operator)
        )


@functools.cache
def pooled(num_channels: int) -> tuple[Artifact, np.ndarray]:
    """A network that takes the mean of some channels, and samples for it."""
    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((6, 7, 3))
    x = keras.layers.Conv2D(num_channels, 3, padding="same")(inputs)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    network = keras.Model(inputs, keras.layers.Conv2D(4, 1)(x))
    samples = np.random.default_rng(0).normal(size=(512, 6, 7, 3)).astype(np.float32)
    return package(calibrated(network, samples[:64]), include_network=False), samples


@pytest.mark.parametrize("num_channels", [6, 16, 20])
@pytest.mark.parametrize("policy", ["w8a8", "w8a5", "w4a4"])
def test_mean_of_whole_and_broken_blocks_of_channels(
    num_channels: int, policy: str
) -> None:
    artifact, samples = pooled(num_channels)
    content = ModelBuilder(artifact).build(artifact.space.named(policy))
    parsed = parse_model(content)
    operators = parsed.subgraphs[0].operators
    (mean,) = [one for one in operators if op_name(parsed, one) == "MEAN"]
    output = int(mean.outputs[0])
    for kernels, run in (("builtin", run_builtin), ("xnnpack", run_all_tensors)):
        simulated = simulator.simulate_tensors(content, samples, kernels=kernels)
        expected = run(content, samples)[output]
        np.testing.assert_array_equal(simulated[output], expected, err_msg=kernels)


def leaky_relu_file(slope: float) -> bytes:
    """A file of one leaky ReLU on 256 values."""
    store = tf.quantization.fake_quant_with_min_max_vars

    @tf.function(input_signature=[tf.TensorSpec((1, 256))], autograph=False)
    def network(x: Any) -> Any:
        x = store(x, -128 * 0.02, 127 * 0.02)
        return store(tf.nn.leaky_relu(x, slope), -128 * 0.03, 127 * 0.03)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [network.get_concrete_function()]
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def on_grids(content: bytes, grids: list[tuple[float, int]]) -> bytes:
    """Gives input and output of the leaky ReLU of a file their steps and zeros."""
    model = parse_model(content)
    (operator,) = [
        one
        for one in model.subgraphs[0].operators
        if op_name(model, one) == "LEAKY_RELU"
    ]
    places = (operator.inputs[0], operator.outputs[0])
    for place, (step, zero_point) in zip(places, grids, strict=True):
        quantization = model.subgraphs[0].tensors[place].quantization
        quantization.scale = np.array([step], np.float32)
        quantization.zeroPoint = np.array([zero_point], np.int64)
    return write_model(model)


class TestLeakyRelu:
    def test_by_hand(self) -> None:
        """Steps 0.5 and 1, slope 0.3: factors 128 and 38 of 256, or 0.5 and 0.15."""
        content = on_grids(leaky_relu_file(0.3), [(0.5, 0), (1.0, 0)])
        samples = np.zeros((1, 256), np.float32)
        samples[0, :5] = np.array([3, 4, -3, -10, -20]) * 0.5
        # 1.5 is a half. -10 * 38 = -380, and + 128 is within -256 .. -1.
        coarse = simulator.simulate(content, samples, kernels="xnnpack")
        np.testing.assert_array_equal(coarse[0, :5], [2, 2, 0, -1, -3])
        # 0.15 is 0.6 / 4: -1.8, -6 and -12 become -2, -6 and -12, and then quarters.
        exact = simulator.simulate(content, samples, kernels="builtin")
        np.testing.assert_array_equal(exact[0, :5], [2, 2, -1, -2, -3])

    @pytest.mark.parametrize("slope", [0.01, 0.2, 0.95, 1.7])
    def test_all_levels_on_many_grids(self, slope: float) -> None:
        plain, rng = leaky_relu_file(slope), np.random.default_rng(0)
        kinds = set()
        for ratio in np.exp(np.linspace(-6.0, 6.0, 24)):
            step = np.float32(np.exp(rng.uniform(-5.0, 0.0)))
            zero_points = rng.integers(-128, 128, 2).tolist()
            grids = [(step, zero_points[0]), (step / np.float32(ratio), zero_points[1])]
            content = on_grids(plain, grids)
            levels = np.arange(-128, 128) - zero_points[0]
            samples = (levels * step).astype(np.float32)[np.newaxis]
            for kernels, run in (
                ("builtin", run_builtin),
                ("xnnpack", run_all_tensors),
            ):
                simulated = simulator.simulate_tensors(
                    content, samples, kernels=kernels
                )
                for index, expected in run(content, samples).items():
                    if expected.dtype == np.int8:
                        np.testing.assert_array_equal(simulated[index], expected)
            kinds.add(1 / 256 <= min(ratio, ratio * slope) <= 128)
        assert kinds == {True, False}  # those that XNNPACK takes, and others


class TestRounding:
    def test_gemmlowp_rounds_halves_away_from_zero(self) -> None:
        acc = np.array([2, 6, -2, -6])
        factor = _rounding.quantized_multiplier(np.array([0.25]))
        away = _rounding.multiply_away_from_zero(acc, *factor)
        np.testing.assert_array_equal(away, [1, 2, -1, -2])
        up = _rounding.multiply_twice_rounded(acc, *factor)
        np.testing.assert_array_equal(up, [1, 2, 0, -1])

    def test_xnnpack_rounds_halves_to_even(self) -> None:
        acc = np.array([1, 3, 5, -1, -3, 7])
        half = np.array([0.5], np.float32)
        rounded = _rounding.requantize(acc, half, "xnnpack")
        np.testing.assert_array_equal(rounded, [0, 2, 2, 0, -2, 4])

    def test_builtin_rounds_halves_up(self) -> None:
        acc = np.array([1, 3, 5, -1, -3, 7])
        rounded = _rounding.requantize(acc, np.array([0.5]), "builtin")
        np.testing.assert_array_equal(rounded, [1, 2, 3, 0, -1, 4])

    def test_fixed_point_multipliers_are_those_of_the_specification(self) -> None:
        multiplier, shift = _rounding.quantized_multiplier(np.array([0.25, 1.0, 3.0]))
        np.testing.assert_array_equal(multiplier, [2**30, 2**30, 3 * 2**29])
        np.testing.assert_array_equal(shift, [-1, 1, 2])


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(ExportError, match="xnnpack"):
        simulator.simulate(b"", np.zeros((1, 1), np.float32), kernels="gemmlowp")
