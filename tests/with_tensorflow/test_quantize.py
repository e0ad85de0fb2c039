"""Quantizing models: three ways in, policies, the bank of batch norms, bad models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.nets import L, build_net, free_space, keras_model, samples_for
from fixtures.paths import ROOT

from matar_tf.errors import DataError, ModelError, PolicyError
from matar_tf.keras import (
    IndependentSampler,
    MatarQuantizeConfig,
    MatarQuantizeScheme,
    calibrate,
    get_policy,
    get_policy_space,
    keras,
    package,
    policy_space,
    quantize_model,
    reestimate_batch_norm,
    set_policy,
)
from matar_tf.keras._compat import tf, tfmot
from matar_tf.keras.layers import InputQuantize, MultiBitBatchNormalization
from matar_tf.keras.quantizers import watch, wrapper
from matar_tf.keras.quantizers.derived import (
    FixedGridQuantizer,
    _round_pooled,
    snap_bias,
)
from matar_tf.keras.quantizers.learned import ActivationQuantizer
from matar_tf.keras.quantizers.weights import WeightQuantizer
from matar_tf.results import Candidate
from matar_tf.samplers import draw_policies

tfmot_keras = tfmot.quantization.keras
NET = "residual_bn"


@pytest.fixture
def quantized() -> Any:
    model = quantize_model(build_net(NET))
    calibrate(model, samples_for(NET))
    return model


def logits(model: Any, samples: np.ndarray) -> np.ndarray:
    return model.predict(samples, verbose=0)


class TestThreeWays:
    def test_annotating_the_model_and_applying_the_scheme(self) -> None:
        net = build_net(NET)
        space = (
            policy_space(net).with_choices(weights={"conv2d_1": (2, 8)})
            if ("conv2d_1" in policy_space(net).weights)
            else policy_space(net)
        )
        model = tfmot_keras.quantize_apply(
            tfmot_keras.quantize_annotate_model(net), scheme=MatarQuantizeScheme(space)
        )
        assert get_policy_space(model) == space
        _trains(model, samples_for(NET))

    def test_the_short_form_is_the_same(self, quantized: Any) -> None:
        assert get_policy_space(quantized) == policy_space(build_net(NET))
        _trains(quantized, samples_for(NET))

    @pytest.mark.parametrize("scheme", ["tfmot", "matar"])
    def test_single_layers(self, scheme: str) -> None:
        inputs = L.Input((12,))
        config = MatarQuantizeConfig(weight_bits=(2, 4, 8), activation_bits=(3, 8))
        hidden = tfmot_keras.quantize_annotate_layer(
            L.Dense(8, activation="relu", name="hidden"), quantize_config=config
        )
        net = keras.Model(inputs, L.Dense(5, name="out")(hidden(inputs)))
        if scheme == "tfmot":
            with keras.utils.custom_object_scope({}):
                model = tfmot_keras.quantize_apply(net)
        else:
            model = tfmot_keras.quantize_apply(net, scheme=MatarQuantizeScheme())
        space = get_policy_space(model)
        assert dict(space.weights) == {"hidden": (2, 4, 8)}
        assert space.activations["hidden"] == (3, 8)
        _trains(model, samples_for("dense"))
        set_policy(model, get_policy(model))

    def test_an_adapter_around_a_users_config(self) -> None:
        class Scale(keras.layers.Layer):
            def build(self, shape: Any) -> None:
                self.kernel = self.add_weight("kernel", (int(shape[-1]), 4))

            def call(self, x: Any) -> Any:
                return tf.matmul(x, self.kernel)

        class ScaleConfig(tfmot_keras.QuantizeConfig):
            def get_weights_and_quantizers(self, layer: Any) -> Any:
                return [(layer.kernel, None)]

            def get_activations_and_quantizers(self, layer: Any) -> Any:
                return []

            def get_output_quantizers(self, layer: Any) -> Any:
                return [None]

            def set_quantize_weights(self, layer: Any, weights: Any) -> None:
                layer.kernel = weights[0]

            def set_quantize_activations(self, layer: Any, activations: Any) -> None:
                assert not activations

            def get_config(self) -> dict[str, Any]:
                return {}

        with keras.utils.custom_object_scope(
            {"Scale": Scale, "ScaleConfig": ScaleConfig}
        ):
            inputs = L.Input((12,))
            config = MatarQuantizeConfig(ScaleConfig(), weight_bits=(2, 8))
            scale = tfmot_keras.quantize_annotate_layer(Scale(name="scale"), config)
            model = tfmot_keras.quantize_apply(
                keras.Model(inputs, scale(inputs)), scheme=MatarQuantizeScheme()
            )
        space = get_policy_space(model)
        assert dict(space.weights) == {"scale": (2, 8)}
        samples = samples_for("dense")
        calibrate(model, samples)
        wide = logits(model, samples)
        set_policy(model, "w2a2")
        assert np.abs(logits(model, samples) - wide).max() > 1e-3

    def test_a_policy_in_any_form(self, tmp_path: Path) -> None:
        model = quantize_model(build_net("dense"))
        policy = get_policy_space(model).named("w4a4")
        (tmp_path / "one.json").write_text(json.dumps(policy.to_json()))
        found = Candidate(name="policy_00", policy=policy, metrics={}, costs={})
        for one in (policy, "w4a4", tmp_path / "one.json", found):
            set_policy(model, "w8a8")
            set_policy(model, one)
            assert get_policy(model) == policy

    def test_leaves_the_float_model_alone_and_starts_close_to_it(self) -> None:
        net = build_net(NET)
        before = net.get_weights()
        samples = samples_for(NET)
        expected = logits(net, samples)
        model = quantize_model(net)
        np.testing.assert_allclose(logits(model, samples), expected, atol=0.05)
        calibrate(model, samples)
        error = np.abs(logits(model, samples) - expected).max()
        assert 0 < error < 0.1 * np.abs(expected).max()
        for old, new in zip(before, net.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_names_that_layers_made_here_would_take(self) -> None:
        inputs = L.Input((8, 8, 3), name="x")
        x = L.SeparableConv2D(4, 3, padding="same", name="s")(inputs)
        x = L.Conv2D(4, 1, name="s_pointwise")(x)
        x = L.Conv2D(4, 1, activation="sigmoid", name="c")(x)
        x = L.Conv2D(4, 1, name="c_sigmoid")(x)
        x = L.Add(name="add")([x, L.Conv2D(4, 1, name="x_quantize")(inputs), x])
        x = L.Add(name="add_0")([x, x])
        net = keras.Model(inputs, L.Dense(2, name="out")(L.Flatten()(x)))
        space = policy_space(net)
        assert set(space.weights) == {
            *("s_depthwise", "s_pointwise_2", "s_pointwise", "c", "c_sigmoid"),
            *("x_quantize", "out"),
        }
        assert space == policy_space(net)
        model = quantize_model(net)
        samples = np.ones((2, 8, 8, 3), np.float32)
        np.testing.assert_allclose(
            model.predict(samples, verbose=0), net.predict(samples, verbose=0), atol=0.1
        )


class TestPolicies:
    def test_defaults_keep_the_ends_at_eight_bits(self) -> None:
        space = policy_space(build_net("conv_bn_relu6"))
        weights, activations = list(space.weights), list(space.activations)
        assert space.weights[weights[0]] == space.weights["logits"] == (8,)
        assert space.activations["samples"] == space.activations["logits"] == (8,)
        assert space.weights[weights[1]] == (2, 3, 4, 5, 6, 7, 8)
        # The ReLU6 is free; the last convolution feeds the last layer.
        assert space.activations[activations[1]] == (2, 3, 4, 5, 6, 7, 8)
        assert space.activations[activations[2]] == (8,)

    def test_tensors_that_no_multiplication_reads_stay_at_eight_bits(self) -> None:
        free = {
            name: {
                entry
                for entry, bits in policy_space(build_net(name)).activations.items()
                if len(bits) > 1
            }
            for name in ("residual_bn", "concat_shared", "global_average")
        }
        # The skip of a sum is read by a convolution too, its other addend is not.
        assert free["residual_bn"] == {"re_lu"}
        # conv2d_1 is an addend, and reaches a convolution through the concatenation.
        assert free["concat_shared"] == {"re_lu", "conv2d_1"}
        assert free["global_average"] == {"global_average_pooling2d"}
        # A network of one's own frees them.
        net = build_net("residual_bn")
        space = policy_space(net).with_choices(activations={"add": (2, 8)})
        assert get_policy_space(quantize_model(net, space)) == space

    def test_unknown_and_missing_names_are_refused(self) -> None:
        net = build_net(NET)
        space = policy_space(net)
        from matar_tf.space import PolicySpace

        extra = {**space.weights, "dense_9": (8,)}
        with pytest.raises(PolicyError, match="dense_9"):
            quantize_model(
                net, PolicySpace(weights=extra, activations=space.activations)
            )
        fewer = dict(list(space.weights.items())[1:])
        with pytest.raises(PolicyError, match="no weights entry"):
            quantize_model(
                net, PolicySpace(weights=fewer, activations=space.activations)
            )

    def test_set_and_get_round_trip(self, quantized: Any) -> None:
        space = get_policy_space(quantized)
        for policy in draw_policies(space, IndependentSampler(), 5, 0):
            set_policy(quantized, policy)
            assert get_policy(quantized) == policy

    def test_one_trace_serves_fifty_policies(self) -> None:
        net = build_net(NET)
        quantized = quantize_model(net, free_space(net))
        calibrate(quantized, samples_for(NET))
        traces: list[int] = []

        @tf.function
        def infer(x: Any) -> Any:
            traces.append(1)
            return quantized(x, training=False)

        samples = tf.constant(samples_for(NET))
        outputs = []
        space = get_policy_space(quantized)
        for policy in draw_policies(space, IndependentSampler(), 50, 0):
            set_policy(quantized, policy)
            outputs.append(infer(samples).numpy())
        assert len(traces) == 1
        assert len({output.tobytes() for output in outputs}) > 40

    def test_unsigned_inputs_use_all_levels(self) -> None:
        net = build_net("dense")
        samples = np.abs(samples_for("dense"))
        steps = []
        for signed in (True, False):
            model = quantize_model(net, signed_inputs=signed)
            calibrate(model, samples)
            quantizer = wrapper.output_quantizer(model.layers[1])
            steps.append(float(quantizer.step()))
        assert steps[1] == pytest.approx(steps[0] * 127 / 255, rel=0.2)

    def test_a_float_model_has_no_policy(self) -> None:
        with pytest.raises(ModelError, match="quantize_model"):
            set_policy(build_net("dense"), "w8a8")


class TestQuantizers:
    def test_activations_initialise_on_the_first_training_batch(self) -> None:
        model = quantize_model(build_net(NET))
        quantizer = wrapper.output_quantizer(model.layers[1])
        assert int(quantizer.initialized) == 0
        _trains(model, samples_for(NET))
        assert watch.has_values(int(quantizer.initialized))
        assert 0 < float(quantizer.step()) < 1

    def test_weights_have_one_step_per_channel(self, quantized: Any) -> None:
        for layer in quantized.layers:
            quantizer = wrapper.kernel_quantizer(layer)
            if quantizer is not None:
                assert quantizer.log_steps.shape[0] == len(quantizer.bits)
                assert int(np.prod(quantizer.log_steps.shape[1:])) > 1

    @pytest.mark.parametrize(
        "quantizer",
        [
            WeightQuantizer((2, 5), 2),
            ActivationQuantizer((3, 8), False),
            FixedGridQuantizer(True),
        ],
    )
    def test_config_round_trip(self, quantizer: Any) -> None:
        copy = type(quantizer).from_config(quantizer.get_config())
        assert copy.get_config() == quantizer.get_config()
        assert copy is not quantizer

    def test_fixed_grids(self) -> None:
        x = tf.constant([-2.0, -0.001, 0.0, 0.5, 0.999, 2.0])
        unsigned = FixedGridQuantizer(False).fake_quantize(x)
        np.testing.assert_allclose(
            unsigned, np.array([0, 0, 0, 128, 255, 255]) / 256, atol=1e-7
        )
        signed = FixedGridQuantizer(True).fake_quantize(x)
        np.testing.assert_allclose(
            signed, np.array([-128, 0, 0, 64, 127, 127]) / 128, atol=1e-7
        )

    def test_the_step_of_an_8_bit_input_is_not_learned(self) -> None:
        for bits, is_learned in (((8,), False), ((4, 8), True), ((4,), True)):
            layer = InputQuantize("image", bits)
            layer.build((None, 4, 4, 3))
            names = [weight.name for weight in layer.trainable_weights]
            assert names == (["input_log_steps:0"] if is_learned else [])

    def test_steps_fit_the_float_tensors_whatever_the_widths(self) -> None:
        network, samples = build_net("residual_bn"), samples_for("residual_bn")
        space = policy_space(network)
        found: list[dict[str, float]] = []
        for one in (space, space.only(space.named("w2a2"))):
            model = quantize_model(network, one)
            calibrate(model, samples)
            set_policy(model, "w2a2")
            found.append(
                {
                    quantizer.entry: float(quantizer.step())
                    for layer in model.layers
                    for quantizer in wrapper.all_quantizers(layer)
                    if quantizer.kind == "activations"
                }
            )
        every, alone = found
        assert len(every) > 4
        assert alone == pytest.approx(every, rel=1e-6)

    def test_traced_training_leaves_relus_to_unsigned_grids(self) -> None:
        # Eager training computes them; both are the same function.
        model = quantize_model(build_net("separable"))
        samples = samples_for("separable", 8)
        calibrate(model, samples)
        set_policy(model, "w4a4")

        def learn(x: Any) -> list[Any]:
            with tf.GradientTape() as tape:
                outputs = model(x, training=True)
                loss = tf.reduce_sum(outputs**2)
            gradients = tape.gradient(loss, model.trainable_variables)
            return [outputs, *map(tf.convert_to_tensor, gradients)]

        traced = tf.function(learn).get_concrete_function(tf.constant(samples))
        relus = [op for op in traced.graph.get_operations() if op.type == "Relu"]
        # Those of whole tensors; looks at a grid take some values.
        relus = [op for op in relus if op.outputs[0].shape.rank != 1]
        assert relus
        assert not any(op.outputs[0].consumers() for op in relus)
        for ours, plain in zip(
            traced(tf.constant(samples)), learn(tf.constant(samples)), strict=True
        ):
            scale = float(np.abs(plain).max())
            np.testing.assert_allclose(ours, plain, atol=1e-5 * scale, rtol=0)

    def test_biases_lie_on_the_accumulator_grid_in_evaluation(self) -> None:
        model = quantize_model(build_net("dense"))
        calibrate(model, samples_for("dense"))
        layer = model.get_layer("quant_logits")
        kernel = wrapper.kernel_quantizer(layer)
        source = wrapper.input_quantizer(layer)
        grid = float(source.step()) * kernel.step().numpy()
        bias = np.array([0.1, -0.2, 0.3, 0.4, -0.5], np.float32)
        snapped = snap_bias(tf.constant(bias), layer).numpy()
        np.testing.assert_allclose(
            snapped / grid, np.floor(bias / grid + 0.5), rtol=1e-4
        )
        assert np.abs(snapped - bias).max() > 0

    def test_pools_round_stored_integers_away_from_zero(self) -> None:
        class Source:
            """Unsigned: zero point 127 - 3 = 124 at 2 bits, -128 at 8."""

            signed = False

            def __init__(self, row: int) -> None:
                self.row = tf.constant(row)

            def ranges(self) -> Any:
                return [0, 0], [3, 255]

            def step(self) -> Any:
                return tf.constant(0.5)

        pooled = tf.constant([0.5, 1.5, 2.0, 2.25]) * 0.5
        # Stored 124.5 .. rounds up; stored -127.5, -126.5 round down, away from zero.
        at_two_bits = _round_pooled(pooled, Source(0)) / 0.5
        np.testing.assert_array_equal(at_two_bits, [1.0, 2.0, 2.0, 2.0])
        at_eight_bits = _round_pooled(pooled, Source(1)) / 0.5
        np.testing.assert_array_equal(at_eight_bits, [0.0, 1.0, 2.0, 2.0])


class TestBatchNorm:
    def test_only_the_row_in_force_learns_statistics(self) -> None:
        norm = MultiBitBatchNormalization("conv", (2, 4, 8), momentum=0.5)
        x = tf.constant(
            np.random.default_rng(0).normal(3.0, 2.0, (64, 5, 5, 2)), tf.float32
        )
        norm.build(x.shape)
        norm.rows.assign([1])
        outputs = norm(x, training=True).numpy()
        np.testing.assert_allclose(outputs.mean((0, 1, 2)), 0.0, atol=1e-4)
        mean = norm.moving_mean.numpy()
        np.testing.assert_array_equal(mean[[0, 2]], 0.0)
        expected = 0.5 * x.numpy().mean((0, 1, 2))
        np.testing.assert_allclose(mean[1], expected, rtol=1e-4)

    def test_evaluates_with_the_row_in_force(self) -> None:
        norm = MultiBitBatchNormalization("conv", (2, 8), epsilon=0.0)
        norm.build((None, 2))
        norm.gamma.assign([2.0, -3.0])
        norm.beta.assign([0.5, 0.25])
        norm.moving_mean.assign([[0.0, 0.0], [1.0, 2.0]])
        norm.moving_variance.assign([[1.0, 1.0], [4.0, 9.0]])
        norm.rows.assign([1])
        outputs = norm(tf.constant([[3.0, 5.0]]), training=False)
        # 2 * (3 - 1) / 2 + 0.5 = 2.5; |-3| * (5 - 2) / 3 + 0.25 = 3.25.
        np.testing.assert_allclose(outputs, [[2.5, 3.25]], rtol=1e-6)

    def test_adds_up_terms(self) -> None:
        context = [("activations", "x", (4, 8)), ("weights", "before", (2, 3, 4))]
        norm = MultiBitBatchNormalization("conv", (2, 8), context, epsilon=0.0)
        norm.build((None, 1))
        # Four rows of the pair, three of the entry before it.
        norm.moving_mean.assign([[1.0], [2.0], [3.0], [4.0], [0.1], [0.2], [0.3]])
        norm.moving_variance.assign([[1.0], [1.0], [4.0], [1.0], [1.0], [9.0], [1.0]])
        norm.rows.assign([1, 0, 1])
        # Rows 2 and 5: mean 3.2, variance 36.
        outputs = norm(tf.constant([[9.2]]), training=False)
        np.testing.assert_allclose(outputs, [[1.0]], rtol=1e-6)

    def test_each_term_learns_its_share(self) -> None:
        context = [("activations", "x", (4, 8)), ("weights", "before", (2, 3, 4))]
        norm = MultiBitBatchNormalization("conv", (2, 8), context, momentum=0.5)
        x = tf.constant(np.random.default_rng(0).normal(3.0, 2.0, (400, 1)), tf.float32)
        norm.build(x.shape)
        norm.rows.assign([0, 1, 2])
        norm(x, training=True)
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        # Half of what is missing, a quarter by each of the two terms.
        changed = np.zeros(7)
        changed[[1, 6]] = 0.25 * x.numpy().mean()
        np.testing.assert_allclose(mean[:, 0], changed, rtol=1e-4)
        # The product of both moves half of the way: each by the square root.
        factors = np.ones(7)
        factors[[1, 6]] = np.sqrt(1.0 + 0.5 * (x.numpy().var() - 1.0))
        np.testing.assert_allclose(variance[:, 0], factors, rtol=1e-4)

    def test_one_policy_learns_as_a_plain_batch_norm(self) -> None:
        context = [("activations", f"a{i}", (4, 8)) for i in range(12)]
        norm = MultiBitBatchNormalization("conv", (2, 8), context, momentum=0.9)
        plain = keras.layers.BatchNormalization(momentum=0.9)
        rng = np.random.default_rng(0)
        scales = np.array([0.1, 1.0, 30.0])
        for _ in range(20):
            x = tf.constant(rng.normal(1.0, scales, (32, 4, 4, 3)), tf.float32)
            norm(x, training=True)
            plain(x, training=True)
        mean, variance = norm.statistics()
        np.testing.assert_allclose(mean, plain.moving_mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(variance, plain.moving_variance, rtol=1e-4)

    def test_a_channel_that_was_dead_comes_back_within_bounds(self) -> None:
        context = [("activations", f"a{i}", (4, 8)) for i in range(12)]
        norm = MultiBitBatchNormalization("conv", (2, 8), context, momentum=0.5)
        norm.build((None, 1))
        rng = np.random.default_rng(0)
        for scale in (0.0, 10.0, 0.0, 10.0):
            x = tf.constant(rng.normal(0.0, scale, (64, 1)), tf.float32)
            for _ in range(100):
                norm.rows.assign([0] * 13)
                norm(x, training=True)
                found = norm.moving_variance.numpy()
                assert np.all(found > 0.0)
                assert found.max() < 1e4
            np.testing.assert_allclose(
                norm.statistics()[1], [max(x.numpy().var(), 1e-6)], rtol=1e-3
            )

    def test_one_scale_for_all_widths(self) -> None:
        norm = MultiBitBatchNormalization("conv", (2, 8))
        norm.build((None, 3))
        assert norm.gamma.shape == (3,)
        x = tf.constant([[1.0, 2.0, 3.0]])
        norm.gamma.assign([2.0, 2.0, 2.0])
        for row in (0, 1):
            norm.rows.assign([row])
            np.testing.assert_allclose(norm(x, training=False), 2 * x, rtol=1e-3)


def _custom(name: str, parent: Any) -> Any:
    return type(name, (parent,), {})


def _annotated(layer: Any) -> Any:
    return tfmot.quantization.keras.quantize_annotate_layer(layer)


def _applied(model: Any, *, strict: bool = False) -> Any:
    scheme = MatarQuantizeScheme(strict=strict)
    return tfmot.quantization.keras.quantize_apply(model, scheme=scheme)


class TestBadModels:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: object(), "tf_keras model"),
            (lambda: keras.Sequential([L.Dense(3)]), "no input shape"),
            (lambda: _subclassed(), "subclassed"),
            (lambda: keras_model((4,), L.Dense(3, activation="softplus")), "softplus"),
            (lambda: keras_model((4,), L.LayerNormalization()), "BatchNormalization"),
            (lambda: keras_model((4,), L.LeakyReLU(0.0)), "alpha of layer .* got 0"),
            (lambda: keras_model((4,), L.LeakyReLU(-0.1)), "alpha of layer .* -0.1"),
            (
                lambda: keras_model((4,), L.ReLU(threshold=0.5)),
                "threshold of layer .* to be 0, got 0.5",
            ),
            (lambda: _told(), r"'norm' .* called with training=True; leave"),
            (lambda: keras_model((4,), L.Dense(2, dtype="float64")), "in float32"),
            (lambda: keras_model((4,), L.Dense(2, dtype="bfloat16")), "in float32"),
            (
                lambda: keras_model(
                    (8, 8, 2), L.SeparableConv2D(2, 3, pointwise_constraint="non_neg")
                ),
                "no pointwise_constraint",
            ),
            (
                lambda: keras_model((4,), L.BatchNormalization(gamma_regularizer="l2")),
                "no gamma_regularizer",
            ),
            (
                lambda: keras_model((4,), L.Dense(3, activity_regularizer="l1")),
                "no activity_regularizer",
            ),
            (
                lambda: keras_model((4,), L.Dense(3, activation=_relu_by_name())),
                "another function of that name",
            ),
            (lambda: quantize_model(build_net("dense")), "quantized already"),
        ],
    )
    def test_are_refused_with_advice(self, make: Any, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            quantize_model(make(), strict=True)

    def test_functions_of_keras_and_tensorflow_are_known(self) -> None:
        for function in ("relu6", tf.nn.relu, tf.nn.relu6, tf.nn.tanh, tf.sigmoid):
            assert policy_space(keras_model((4,), L.Dense(3, activation=function)))

    def test_a_context_of_fewer_entries_than_none(self) -> None:
        with pytest.raises(ModelError, match="norm_context of at least 0, got -1"):
            quantize_model(keras_model((4,), L.Dense(2)), norm_context=-1)

    def test_a_keras_3_model(self) -> None:
        code = (
            "import warnings; warnings.simplefilter('ignore')\n"
            "import keras, matar_tf\n"
            "model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])\n"
            "try:\n    matar_tf.quantize_model(model)\n"
            "except matar_tf.MatarError as error:\n    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Keras 3" in done.stdout

    @pytest.mark.parametrize("shape", [(0, 12), (4, 11), (12,)])
    def test_calibration_needs_a_batch(self, shape: tuple[int, ...]) -> None:
        model = quantize_model(build_net("dense"))
        with pytest.raises(DataError, match="12"):
            calibrate(model, np.zeros(shape, np.float32))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_samples_and_weights_that_are_not_finite(self, value: float) -> None:
        model = quantize_model(build_net("conv_bn_relu6"))
        samples = samples_for("conv_bn_relu6")
        calibrate(model, samples)
        holed = samples.copy()
        holed[3, 1, 0, 2] = value
        with pytest.raises(DataError, match="finite samples, got NaN or infinity"):
            calibrate(model, holed)
        with pytest.raises(DataError, match="finite samples, got NaN or infinity"):
            reestimate_batch_norm(model, holed, policies=[get_policy(model)])
        weight = next(one for one in model.weights if "moving_mean" in one.name)
        weight.assign(np.full(weight.shape, value))
        with pytest.raises(ModelError, match=r"'batch_norm.*training diverged"):
            package(model)

    def test_parts_of_a_model_take_any_size(self) -> None:
        inputs = L.Input((None, None, 3))
        x = _annotated(L.Conv2D(4, 3, activation="relu"))(inputs)
        model = _applied(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x))))
        calibrate(model, np.ones((2, 7, 9, 3), np.float32))
        with pytest.raises(DataError, match="batch"):
            calibrate(model, np.ones((2, 7, 9, 4), np.float32))
        model.compile("sgd", "mse")
        model.fit(np.ones((8, 6, 5, 3)), np.zeros((8, 3)), verbose=0)
        with pytest.raises(ModelError, match=r"input_shape=\(224, 224, 3\)"):
            package(model)

    @pytest.mark.parametrize("way", ["quantize_model", "tfmot"])
    def test_all_that_is_to_be_changed_is_in_one_error(self, way: str) -> None:
        def apply(model: Any, *, strict: bool) -> Any:
            annotated = tfmot.quantization.keras.quantize_annotate_model(model)
            return _applied(annotated, strict=strict)

        ways = {"quantize_model": quantize_model, "tfmot": apply}
        with pytest.raises(ModelError) as caught:
            ways[way](_much_to_change(), strict=True)
        title, *lines = str(caught.value).split("\n")
        assert "'net' with 3 things to change:" in title
        for line, said in zip(
            lines,
            [
                "layer 'first' (Conv2D), got 'softsign'",
                "got 'norm' (LayerNormalization); use BatchNormalization",
                "got 'grow' (Resizing); do it to the samples",
            ],
            strict=True,
        ):
            assert line.startswith("  Expected")
            assert line.endswith(".")
            assert said in line
        assert "Did you mean" not in str(caught.value)

    def test_layers_of_a_model_inside_are_named_too(self) -> None:
        inputs = L.Input((4, 4, 2))
        inner = keras.Model(inputs, L.Conv3D(2, 1, name="deep")(inputs[..., None]))
        model = keras.Model(inputs, L.Flatten()(inner(inputs)))
        with pytest.raises(ModelError) as caught:
            quantize_model(model, strict=True)
        said = f"'{inner.name}/deep' (Conv3D); use layers of one or two"
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("layer", "said"),
        [
            (L.LSTM(3), "(LSTM); use convolutions over time"),
            (L.LocallyConnected1D(3, 1), "leave it out, or compute it outside"),
            (L.Lambda(lambda x: x), "(Lambda); write what it computes as layers"),
            (_custom("Narrow", L.Dense)(3), "(Narrow); use Dense itself"),
            (_custom("Conv1d", L.Layer)(), "(Conv1d); use Conv1D itself"),
            (_custom("Odd", L.Layer)(), "(Odd); build it of layers of tf_keras"),
        ],
    )
    def test_advice_on_other_kinds(self, layer: Any, said: str) -> None:
        with pytest.raises(ModelError) as caught:
            quantize_model(keras_model((4, 2), layer), strict=True)
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"weight_bits": (8, 4)}, "ascending widths in 2..8 as weight_bits"),
            ({"weight_bits": ()}, "weight_bits"),
            ({"activation_bits": (1, 8)}, "as activation_bits, got"),
            ({"activation_bits": (4, 4)}, "activation_bits"),
            ({"activation_bits": (2.5,)}, "activation_bits"),
            ({"quantize_output": "input"}, "quantize_output, got 'input'"),
            ({"quantize_output": None}, "quantize_output"),
        ],
    )
    def test_a_config_of_what_is_not_there(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ModelError, match=message):
            MatarQuantizeConfig(**arguments)

    def test_calibration_needs_quantizers(self) -> None:
        with pytest.raises(ModelError, match="no MATAR quantizers"):
            calibrate(build_net("dense"), samples_for("dense"))


def _trains(model: Any, samples: np.ndarray) -> None:
    model.compile("adam", "mse")
    outputs = model.predict(samples, verbose=0)
    history = model.fit(samples, np.zeros_like(outputs), epochs=3, verbose=0)
    losses = history.history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    squares = np.square(model.predict(samples, verbose=0))
    evaluated = model.evaluate(samples, np.zeros_like(outputs), verbose=0)
    assert evaluated == pytest.approx(squares.mean(), rel=1e-4)


def _subclassed() -> Any:
    class Mine(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    return Mine()


def _much_to_change() -> Any:
    image, other = L.Input((None, None, 3), name="image"), L.Input((4,), name="other")
    first = L.Conv2D(4, 3, activation="softsign", trainable=False, name="first")
    twice = L.Conv2D(4, 3, name="twice")
    x = L.LayerNormalization(name="norm")(twice(twice(first(image))))
    x = L.GlobalAveragePooling2D()(L.Resizing(8, 8, name="grow")(x))
    total = L.Add(name="sum")([x, L.Dense(4)(other)])
    outputs = [total, L.Dense(2, activation="softmax", name="probabilities")(x)]
    return keras.Model([image, other], outputs, name="net")


def _told() -> Any:
    inputs = L.Input((4,))
    norm = L.BatchNormalization(name="norm")
    return keras.Model(inputs, norm(L.Dense(3)(inputs), training=True))


def _relu_by_name() -> Any:
    def relu(x: Any) -> Any:
        return tf.nn.leaky_relu(x)

    return relu


def test_calibration_sees_all_channels_where_sizes_are_powers_of_two() -> None:
    model = quantize_model(keras_model((128, 8), L.Conv1D(4, 3)))
    samples = np.random.default_rng(0).normal(size=(1024, 128, 8)).astype(np.float32)
    samples[..., 5:] *= 100.0
    calibrate(model, samples)
    step = next(one for one in model.weights if "input_log_steps" in one.name)
    assert 127 * np.exp(step.numpy().max()) > 200.0
