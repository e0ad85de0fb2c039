"""What a user chooses for single layers: widths, and one step for a whole kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures.kernels import run_builtin
from fixtures.nets import L, build_net

import matar_tf
from matar_tf import MatarQuantizeConfig, load_model, policy_space, quantize_model
from matar_tf.errors import ArtifactError, ExportError, ModelError, PolicyError
from matar_tf.keras import calibrate, get_policy_space, keras, package, set_policy
from matar_tf.keras._compat import tfmot
from matar_tf.keras.packaging.convert import convert_policy
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.weights import WeightQuantizer
from matar_tf.parameters import Parameters
from matar_tf.policy import ALL_BITS
from matar_tf.tflite import simulator
from matar_tf.tflite._schema import op_name, parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.verify import run_all_tensors

tfmot_keras = tfmot.quantization.keras
PER_TENSOR = MatarQuantizeConfig(per_channel=False)
RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(64, 8, 8, 3)).astype(np.float32)


def network(*, norm_last: bool = False) -> Any:
    """A network with a kernel of each layout, and batch norms that are not trivial."""
    keras.backend.reset_uids()
    keras.utils.set_random_seed(0)
    inputs = L.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, use_bias=False, name="stem")(inputs)
    x = L.ReLU(name="stem_relu")(L.BatchNormalization(name="stem_norm")(x))
    x = L.DepthwiseConv2D(3, name="block_depthwise")(x)
    x = L.ReLU(name="block_relu")(L.BatchNormalization(name="block_norm")(x))
    x = L.SeparableConv2D(5, 3, activation="relu", name="block_separable")(x)
    x = L.BatchNormalization(name="late_norm")(x) if norm_last else x
    model = keras.Model(inputs, L.Dense(4, name="head")(L.Flatten()(x)), name="net")
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            size = layer.gamma.shape[0]
            signs = np.where(np.arange(size) % 3 == 0, -1.0, 1.0)
            values = [signs * RNG.uniform(0.5, 2.0, size), RNG.normal(size=size)]
            values += [RNG.normal(size=size), RNG.uniform(0.5, 4.0, size)]
            layer.set_weights(values)
    return model


def widths(model: Any) -> dict[str, tuple[int, ...]]:
    return dict(get_policy_space(model).weights)


class TestWidths:
    def test_by_name_kind_and_pattern(self) -> None:
        configs = {
            "*": MatarQuantizeConfig(weight_bits=(4, 8)),
            "block_*": MatarQuantizeConfig(weight_bits=(2, 8), activation_bits=(8,)),
            "DepthwiseConv2D": MatarQuantizeConfig(weight_bits=(8,)),
            "head": MatarQuantizeConfig(activation_bits=ALL_BITS),
        }
        space = policy_space(network(), configs=configs)
        assert dict(space.weights) == {
            "stem": (4, 8),
            "block_depthwise": (8,),
            "block_separable_depthwise": (2, 8),
            "block_separable_pointwise": (2, 8),
            "head": (8,),  # the last one, as by default
        }
        assert space.activations["head"] == ALL_BITS
        assert space.activations["stem_relu"] == ALL_BITS  # as by default
        assert space.activations["block_relu"] == (8,)
        assert get_policy_space(quantize_model(network(), configs=configs)) == space

    def test_a_config_without_widths_leaves_them(self) -> None:
        configs = {"*": MatarQuantizeConfig()}
        assert policy_space(network(), configs=configs) == policy_space(network())

    def test_a_space_comes_before_the_widths_of_configs(self) -> None:
        configs = {"stem": MatarQuantizeConfig(weight_bits=(4,))}
        space = policy_space(network()).with_choices(weights={"stem": (5,)})
        assert widths(quantize_model(network(), space, configs=configs)) == dict(
            space.weights
        )

    def test_patterns_of_a_space_free_first_and_last(self) -> None:
        space = policy_space(network())
        assert {space.weights["stem"], space.weights["head"]} == {(8,)}
        freed = space.with_choices(weights={"*": ALL_BITS, "block_*": (8,)})
        assert {freed.weights["stem"], freed.weights["head"]} == {ALL_BITS}
        assert freed.weights["block_depthwise"] == (8,)
        assert freed.activations == space.activations
        with pytest.raises(PolicyError, match=r"pattern .* got 'stm'.*mean 'stem'"):
            space.with_choices(weights={"stm": (8,)})

    @pytest.mark.parametrize(
        ("configs", "message"),
        [
            ({"stm": MatarQuantizeConfig()}, r"'stm'\. Did you mean 'stem'"),
            ({"conv2d": MatarQuantizeConfig()}, "Did you mean 'Conv2D'"),
            ({"image": MatarQuantizeConfig()}, "name of layers"),
            ({"other*": MatarQuantizeConfig()}, r"got 'other\*'"),
        ],
    )
    def test_what_matches_nothing_is_refused(self, configs: Any, message: str) -> None:
        for function in (policy_space, quantize_model):
            with pytest.raises(PolicyError, match=message):
                function(network(), configs=configs)

    def test_other_values_are_refused(self) -> None:
        with pytest.raises(ModelError, match="for 'stem' in configs, got 8"):
            quantize_model(network(), configs={"stem": 8})

    def test_the_config_of_an_annotated_layer_comes_first(self) -> None:
        config = MatarQuantizeConfig(weight_bits=(2, 4), per_channel=False)
        inputs = L.Input((6,))
        layer = tfmot_keras.quantize_annotate_layer(L.Dense(3, name="a"), config)
        x = tfmot_keras.quantize_annotate_layer(L.Dense(3, name="b"))(layer(inputs))
        scheme = matar_tf.MatarQuantizeScheme(
            configs={"Dense": MatarQuantizeConfig(weight_bits=(3, 8))}
        )
        model = tfmot_keras.quantize_apply(keras.Model(inputs, x), scheme=scheme)
        assert widths(model) == {"a": (2, 4), "b": (3, 8)}
        shapes = [
            wrapper.kernel_quantizer(one).log_steps.shape for one in model.layers[2:]
        ]
        assert shapes == [(2,), (2, 3)]


class TestOneStepForAKernel:
    def test_first_step_by_hand(self) -> None:
        """The best step of all values; the gradient's scale counts all of them."""
        kernel = keras.backend.variable(np.array([[7.0, 1.0], [-7.0, 0.0]]))
        quantizer = WeightQuantizer((4,), per_channel=False).observe(kernel)
        quantizer.build((2, 2), "kernel", L.Layer(name="owner"))
        np.testing.assert_allclose(quantizer.all_steps(), [1.0], rtol=1e-5)
        found = quantizer.fake_quantize(keras.backend.constant([[7.4, 0.4], [3.6, -9]]))
        np.testing.assert_allclose(found, [[7.0, 0.0], [4.0, -7.0]], rtol=1e-5)

    def test_that_of_zeros_is_that_of_every_channel(self) -> None:
        steps = []
        for per_channel in (True, False):
            quantizer = WeightQuantizer((2, 8), per_channel=per_channel)
            quantizer.observe(keras.backend.variable(np.zeros((5, 3))))
            quantizer.build((5, 3), "kernel", L.Layer(name=f"owner{per_channel}"))
            steps.append(quantizer.all_steps())
        np.testing.assert_array_equal(steps[0], np.repeat(steps[1][:, None], 3, axis=1))

    def test_batch_norms_are_folded(self) -> None:
        """What the network computes stays: in float until there are steps."""
        float_model = network()
        model = quantize_model(float_model, configs={"*": PER_TENSOR})
        kinds = {type(wrapper.inner_layer(one)).__name__ for one in model.layers}
        assert "MultiBitBatchNormalization" not in kinds
        for layer in model.layers:
            quantizer = wrapper.kernel_quantizer(layer)
            if quantizer is not None:
                # Steps so fine that nothing is rounded.
                quantizer.log_steps.assign(np.full(quantizer.log_steps.shape, -14.0))
                quantizer.ranges = lambda bits=quantizer.bits: (
                    [-(2**30)] * len(bits),
                    [2**30] * len(bits),
                )
        expected = float_model.predict(SAMPLES, verbose=0)
        found = model(SAMPLES, training=False).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)

    def test_a_batch_norm_that_cannot_be_folded_is_refused(self) -> None:
        model = network(norm_last=True)
        with pytest.raises(ModelError, match=r"'late_norm', which scales each channel"):
            quantize_model(model, configs={"*": PER_TENSOR})
        configs = dict.fromkeys(("Conv2D", "Dense"), PER_TENSOR)
        assert quantize_model(model, configs=configs)

    def test_in_training_file_and_simulator(self, tmp_path: Any) -> None:
        model = quantize_model(network(), configs={"*": PER_TENSOR})
        calibrate(model, SAMPLES)
        model.compile("adam", "mse")
        steps = [one for one in model.trainable_variables if "kernel" in one.name]
        steps = [one for one in steps if "log_steps" in one.name]
        before = [one.numpy() for one in steps]
        assert {one.shape for one in before} == {(7,), (1,)}
        model.fit(SAMPLES, np.ones((64, 4)), verbose=0)
        assert all((a != b.numpy()).any() for a, b in zip(before, steps, strict=True))
        model.save(tmp_path / "model.h5")
        outputs = model.predict(SAMPLES, verbose=0)
        loaded = load_model(tmp_path / "model.h5")
        np.testing.assert_array_equal(loaded.predict(SAMPLES, verbose=0), outputs)

        artifact = package(model)
        again = Parameters.from_npz(artifact.parameters.to_npz())
        assert again.digest() == artifact.parameters.digest()
        builder = ModelBuilder(artifact)
        for name in ("w8a8", "w2a4"):
            content = builder.build(artifact.space.named(name))
            for runner, kernels in (
                (run_all_tensors, "xnnpack"),
                (run_builtin, "builtin"),
            ):
                simulated = simulator.simulate_tensors(
                    content, SAMPLES[:8], kernels=kernels
                )
                run = runner(content, SAMPLES[:8])
                for operator in parse_model(content).subgraphs[0].operators:
                    index = int(operator.outputs[0])
                    np.testing.assert_array_equal(simulated[index], run[index])
            set_policy(model, name)
            expected = model.predict(SAMPLES[:8], verbose=0)
            last = int(parse_model(content).subgraphs[0].outputs[0])
            found = run_all_tensors(content, SAMPLES[:8])[last]
            step = artifact.parameters.tensors["head"].step.max()
            assert np.abs(found - expected).max() < 1.5 * step
            assert scales_of(content) == {1}
        assert scales_of(convert_policy(model)) == {1}

    def test_a_bias_beyond_its_one_step_is_refused(self) -> None:
        model = quantize_model(build_net("dense"), configs={"*": PER_TENSOR})
        calibrate(model, RNG.normal(size=(32, 12)).astype(np.float32))
        layer = next(one for one in model.layers if wrapper.kernel_quantizer(one))
        layer._weight_vars[-1][0].assign(np.array([1e9] + [0.0] * 7, np.float32))
        artifact = package(model, include_network=False)
        with pytest.raises(ExportError, match=r"got 1 that are too large.*per_channel"):
            ModelBuilder(artifact).build(artifact.space.widest())

    def test_a_wrong_number_of_steps_is_refused(self) -> None:
        model = quantize_model(build_net("dense"), configs={"*": PER_TENSOR})
        calibrate(model, RNG.normal(size=(32, 12)).astype(np.float32))
        layers = package(model, include_network=False).parameters.layers
        first = next(iter(layers.values()))
        object.__setattr__(first, "step", np.repeat(first.step, 2, axis=1))
        with pytest.raises(ArtifactError, match="must have the shape"):
            Parameters.from_npz(Parameters(layers=layers, tensors={}).to_npz())


def scales_of(content: bytes) -> set[int]:
    """Returns how many steps the kernels of a file have."""
    model = parse_model(content)
    graph = model.subgraphs[0]
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    return {
        len(graph.tensors[operator.inputs[1]].quantization.scale)
        for operator in graph.operators
        if op_name(model, operator) in kinds
    }
