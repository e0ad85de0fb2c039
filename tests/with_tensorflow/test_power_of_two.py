"""Networks whose scales are powers of two: trained, packaged, run."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matar_tf.artifact import read_artifact, write_artifact
from matar_tf.errors import ModelError
from matar_tf.keras import (
    MatarQuantizeConfig,
    MatarQuantizeScheme,
    calibrate,
    get_policy_space,
    keras,
    load_model,
    load_network,
    package,
    policy_space,
    quantize_model,
    set_policy,
)
from matar_tf.keras._compat import tf, tfmot
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.fake_quantize import (
    next_powers_of_two,
    optimal_steps,
    quantize_row,
    steps_of,
)
from matar_tf.keras.quantizers.learned import ActivationQuantizer
from matar_tf.keras.quantizers.weights import WeightQuantizer
from matar_tf.scales import POWER_OF_TWO, are_powers_of_two
from matar_tf.tflite._schema import parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.inspect import inspect_model
from matar_tf.tflite.runtime import Runner

L = keras.layers
SAMPLES = np.random.default_rng(0).random((64, 8, 8, 1), np.float32)


@functools.cache
def network() -> Any:
    """Convolutions, batch norms (one by itself, one silent channel), pooling, dense."""
    keras.utils.set_random_seed(0)
    inputs = L.Input((8, 8, 1), name="image")
    x = inputs
    for name, channels in (("stem", 4), ("conv", 6)):
        x = L.Conv2D(channels, 3, padding="same", name=name)(x)
        x = L.BatchNormalization(name=f"{name}_bn")(x)
        x = L.ReLU(name=f"{name}_relu")(x)
    x = L.MaxPooling2D(4)(x)
    x = L.BatchNormalization(name="alone")(x)
    model = keras.Model(inputs, L.Dense(5, name="logits")(L.Flatten()(x)))
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            channels = layer.output_shape[-1]
            gamma = rng.uniform(0.5, 2.0, channels) * rng.choice([-1.0, 1.0], channels)
            gamma[0] = 0.0
            moved = rng.uniform(0.5, 1.5, (3, channels))
            layer.set_weights([gamma, moved[0], moved[1] - 1.0, moved[2]])
    return model


def below() -> Any:
    """The convolutions alone."""
    return keras.Model(network().input, network().get_layer("conv_relu").output)


def quantized() -> Any:
    model = quantize_model(network(), scale=POWER_OF_TWO, signed_inputs=False)
    calibrate(model, SAMPLES)
    return model


@functools.cache
def packaged() -> tuple[Any, Any]:
    model = quantized()
    return model, package(model, samples=SAMPLES)


class TestSteps:
    def test_are_the_nearest_powers_of_two_in_the_logarithm(self) -> None:
        x = np.float32([0.24, 0.26, 0.35, 0.36, 1.41, 1.42, 1e-45, 1e30])
        found = steps_of(tf.math.log(x), POWER_OF_TWO)
        expected = [0.25, 0.25, 0.25, 0.5, 1.0, 2.0, 2.0**-126, 2.0**100]
        np.testing.assert_array_equal(found, np.float32(expected))

    def test_every_exponent_is_exact(self) -> None:
        expected = np.ldexp(np.float32(1.0), np.arange(-126, 128))
        logs = tf.constant(np.log(expected.astype(np.float64)), tf.float32)
        np.testing.assert_array_equal(steps_of(logs, POWER_OF_TWO), expected)
        np.testing.assert_array_equal(next_powers_of_two(expected), expected)
        above = np.nextafter(expected[1:-1], np.float32(np.inf))
        np.testing.assert_array_equal(next_powers_of_two(above), expected[2:])
        assert float(next_powers_of_two(tf.constant(0.0))) == 0.0

    def test_gradient_is_that_of_the_rounded_step(self) -> None:
        """By hand: LSQ's, ``sum(round(v) - v)`` inside, times the step."""
        x, logs = (
            tf.constant([0.3, 0.9, 9.0]),
            tf.Variable([[np.log(0.6)]], dtype=tf.float32),
        )
        with tf.GradientTape() as tape:
            y = quantize_row(
                *(x, logs[:, 0], tf.constant(0), [-8], [7], [1.0]), scale=POWER_OF_TWO
            )
        np.testing.assert_allclose(y, [0.5, 1.0, 3.5])
        inside = (1 - 0.6) + (2 - 1.8)
        expected = (inside + 7) * 0.5
        np.testing.assert_allclose(tape.gradient(y, logs), [[expected]], rtol=1e-5)

    def test_first_ones_have_the_least_error_among_powers_of_two(self) -> None:
        values = np.random.default_rng(0).normal(size=(500, 1)).astype(np.float32)
        ends = tf.constant([-2.0, -7.0]), tf.constant([1.0, 7.0])
        found = optimal_steps(values, *ends, scale=POWER_OF_TWO).numpy()[:, 0]
        for step, low, high in zip(found, *map(np.asarray, ends), strict=True):
            errors = {}
            for power in 2.0 ** np.arange(-8, 3):
                levels = np.floor(np.clip(values / power, low, high) + 0.5)
                errors[power] = np.mean((levels * power - values) ** 2)
            assert step == min(errors, key=errors.__getitem__)


class TestNetworks:
    @pytest.mark.parametrize("per_channel", [True, False])
    def test_all_steps_are_powers_of_two_and_batch_norms_are_folded(
        self, per_channel: bool
    ) -> None:
        whole = network() if per_channel else below()
        model = quantize_model(whole, scale=POWER_OF_TWO, per_channel=per_channel)
        kernels = [
            one.all_steps()
            for one in map(wrapper.kernel_quantizer, model.layers)
            if one is not None
        ]
        assert all(map(are_powers_of_two, kernels))
        assert {step[0].size > 1 for step in kernels} == {per_channel}
        assert get_policy_space(model).scale == POWER_OF_TWO
        names = {type(wrapper.inner_layer(one)).__name__ for one in model.layers}
        assert "MultiBitBatchNormalization" not in names

    def test_folding_keeps_what_the_network_computes(self) -> None:
        model, expected = quantized(), network()(SAMPLES).numpy()
        apart = model(SAMPLES, training=False).numpy() - expected
        assert np.abs(apart).max() < 0.05 * np.ptp(expected)

    def test_training_moves_steps_from_power_to_power(self, eager: None) -> None:
        model = quantized()
        before = get_policy_space(model).scale, model.get_weights()
        model.compile(keras.optimizers.Adam(0.3), "mse")
        model.fit(SAMPLES, np.zeros((64, 5)), batch_size=32, verbose=0)
        steps = [
            (np.exp(one.log_steps.numpy()), one.all_steps())
            for layer in model.layers
            for one in wrapper.all_quantizers(layer)
        ]
        assert before[0] == POWER_OF_TWO
        assert all(are_powers_of_two(step) for _, step in steps)
        assert not all(are_powers_of_two(learned) for learned, _ in steps)

    def test_a_space_asks_for_them_too(self) -> None:
        space = policy_space(network(), scale=POWER_OF_TWO)
        assert get_policy_space(quantize_model(network(), space)) == space
        free = policy_space(below())
        assert get_policy_space(quantize_model(below(), free)) == free
        both = get_policy_space(quantize_model(below(), free, scale=POWER_OF_TWO))
        assert both == replace(free, scale=POWER_OF_TWO)

    def test_refuses_a_batch_norm_by_itself_with_one_step_a_layer(self) -> None:
        with pytest.raises(ModelError, match="per_channel=True for 'alone'"):
            quantize_model(network(), scale=POWER_OF_TWO, per_channel=False)

    def test_the_scheme_of_tfmot_makes_them_too(self) -> None:
        api = tfmot.quantization.keras
        scheme = MatarQuantizeScheme(scale=POWER_OF_TWO, per_channel=False)
        annotated = api.quantize_annotate_model(below())
        model = api.quantize_apply(annotated, scheme=scheme)
        assert get_policy_space(model).scale == POWER_OF_TWO
        kernel = wrapper.kernel_quantizer(model.get_layer("quant_conv"))
        assert kernel is not None
        assert kernel.all_steps().shape == (1,)  # one width, one step

    def test_refuses_another_scale(self) -> None:
        with pytest.raises(ModelError, match=r"a scale among.*got 'powers'"):
            quantize_model(network(), scale="powers")
        own = MatarQuantizeConfig(scale=POWER_OF_TWO)
        with pytest.raises(ModelError, match=r"'power_of_two' of 'conv'.*whole"):
            quantize_model(network(), configs={"conv": own})

    @pytest.mark.parametrize("kind", [WeightQuantizer, ActivationQuantizer])
    def test_config_round_trip(self, kind: Any) -> None:
        one = kind((2, 5), scale=POWER_OF_TWO)
        assert kind.from_config(one.get_config()).scale == POWER_OF_TWO
        assert "scale" not in kind((2, 5)).get_config()


class TestFiles:
    def test_a_config_for_all_layers_rounds_alike(self) -> None:
        """It wraps what is left of a batch norm, too, which changes nothing."""
        whole = keras.Model(below().input, L.Dense(4)(L.Flatten()(below().output)))
        every = MatarQuantizeConfig(per_channel=False, signed=True)
        model = quantize_model(whole, scale=POWER_OF_TWO, configs={"*": every})
        calibrate(model, SAMPLES)
        artifact = package(model, include_network=False)
        for policy in ("w8a8", "w2a8"):
            content = ModelBuilder(artifact).build(artifact.space.named(policy))
            set_policy(model, policy)
            np.testing.assert_array_equal(
                Runner(content).predict(SAMPLES), model(SAMPLES, training=False)
            )

    def test_a_saved_model_is_the_same(self, tmp_path: Path) -> None:
        model, _ = packaged()
        model.save(tmp_path / "net.h5")
        other = load_model(tmp_path / "net.h5")
        assert get_policy_space(other) == get_policy_space(model)
        np.testing.assert_array_equal(other(SAMPLES), model(SAMPLES))

    @pytest.mark.parametrize("policy", ["w8a8", "w4a8", "w2a8", "w2a2"])
    def test_an_artifact_gives_the_levels_of_training(
        self, tmp_path: Path, policy: str
    ) -> None:
        model, artifact = packaged()
        write_artifact(artifact, tmp_path / "net.matar")
        artifact = read_artifact(tmp_path / "net.matar")
        assert artifact.space.scale == POWER_OF_TWO
        content = ModelBuilder(artifact).build(artifact.space.named(policy))
        assert "  scale: power_of_two\n" in repr(inspect_model(content))
        graph = parse_model(content).subgraphs[0]
        scales = [
            one.quantization.scale
            for one in graph.tensors
            if one.quantization is not None and one.quantization.scale is not None
        ]
        assert len(scales) > 10
        assert all(map(are_powers_of_two, scales))
        set_policy(model, policy)
        expected = model(SAMPLES, training=False).numpy()
        np.testing.assert_array_equal(Runner(content).predict(SAMPLES), expected)
        again = load_network(artifact)
        set_policy(again, policy)
        np.testing.assert_array_equal(again(SAMPLES, training=False), expected)
