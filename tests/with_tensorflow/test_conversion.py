"""The exported integer model equals the Keras model, whatever layers it is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from fixtures.nets import NETS, L, build_net, chain, conv, free_space, samples_for

from matar_tf.artifact import Artifact
from matar_tf.errors import ModelError
from matar_tf.keras import (
    IndependentSampler,
    calibrate,
    keras,
    package,
    quantize_model,
    set_policy,
)
from matar_tf.keras.packaging.convert import convert_policy
from matar_tf.policy import Policy
from matar_tf.samplers import draw_policies
from matar_tf.tflite._schema import COMPUTE_OPS, op_name, parse_model, tensor_array
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.simulator import simulate


def prepare(name: str) -> tuple[Any, Artifact]:
    net = build_net(name)
    model = quantize_model(net, free_space(net))
    calibrate(model, samples_for(name))
    return model, package(model)


def policies_of(artifact: Artifact, num_random: int = 2) -> list[Policy]:
    named = [artifact.space.named(name) for name in ("w8a8", "w4a4", "w2a2")]
    return named + list(
        draw_policies(artifact.space, IndependentSampler(), num_random, 0)
    )


class TestExactness:
    @pytest.mark.parametrize("name", NETS)
    def test_the_file_and_the_simulator_equal_the_keras_model(self, name: str) -> None:
        model, artifact = prepare(name)
        builder = ModelBuilder(artifact)
        samples = samples_for(name)
        step = artifact.parameters.tensors["logits"].step[-1]
        for policy in policies_of(artifact):
            set_policy(model, policy)
            expected = model.predict(samples, verbose=0)
            content = builder.build(policy)
            outputs = Runner(content).predict(samples)
            different = np.abs(outputs - expected) > step / 2
            # A value half-way between levels may fall to either side: float sums in
            # Keras carry rounding noise that integer sums have not.
            assert different.mean() <= 0.025, policy
            assert np.abs(outputs - expected).max() < 2.5 * step, policy
            np.testing.assert_array_equal(simulate(content, samples), outputs)

    def test_outputs_use_the_whole_range(self) -> None:
        """Guards the comparison above: constant outputs would agree, too."""
        _, artifact = prepare("residual_bn")
        content = ModelBuilder(artifact).build(artifact.space.named("w8a8"))
        outputs = Runner(content).predict(samples_for("residual_bn"))
        assert len(np.unique(outputs)) > 60

    def test_a_final_softmax_stays_within_one_level(self) -> None:
        net = build_net("conv")
        outputs = L.Activation("softmax")(net.output)
        model = quantize_model(keras.Model(net.input, outputs))
        calibrate(model, samples_for("conv"))
        artifact = package(model)
        assert artifact.workload.layers[-1].kind.value == "softmax"
        runner = Runner(ModelBuilder(artifact).build(artifact.space.named("w4a4")))
        set_policy(model, "w4a4")
        expected = model.predict(samples_for("conv"), verbose=0)
        outputs = runner.predict(samples_for("conv"))
        assert np.abs(outputs - expected).max() <= 1.01 / 256


class TestClamps:
    def test_clamps_are_there_below_eight_bits_only(self) -> None:
        _, artifact = prepare("residual_bn")
        builder = ModelBuilder(artifact)

        def num_quantize(name: str) -> int:
            model = parse_model(builder.build(artifact.space.named(name)))
            operators = model.subgraphs[0].operators
            return [op_name(model, one) for one in operators].count("QUANTIZE")

        assert num_quantize("w8a8") == 1  # the float input
        assert num_quantize("w4a4") == 3  # and the signed batch norm and sum


class TestReference:
    """The long way through the converter writes the same file, tensor for tensor."""

    @pytest.mark.parametrize("name", ["residual_bn", "depthwise_net", "concat_net"])
    def test_filled_and_converted_files_have_the_same_tensors(self, name: str) -> None:
        model, artifact, samples = _reference_net(name)
        builder = ModelBuilder(artifact)
        for policy in policies_of(artifact, 3):
            set_policy(model, policy)
            converted = convert_policy(model)
            filled = builder.build(policy)
            kernels = list(zip(_kernels(filled), _kernels(converted), strict=True))
            assert len(kernels) == len(artifact.space.weights)
            for ours, theirs in kernels:
                np.testing.assert_array_equal(ours["values"], theirs["values"])
                np.testing.assert_array_max_ulp(ours["scale"], theirs["scale"], 2)
                assert ours["input_scale"] == pytest.approx(
                    theirs["input_scale"], rel=1e-6
                )
                assert ours["input_zero_point"] % 256 == (
                    theirs["input_zero_point"] % 256
                ) or _is_clamped(ours, theirs)
                np.testing.assert_allclose(ours["bias"], theirs["bias"], atol=1)
            np.testing.assert_array_equal(
                Runner(filled).predict(samples), Runner(converted).predict(samples)
            )


class TestTemplate:
    def test_files_have_a_signature(self) -> None:
        _, artifact = prepare("residual_bn")
        content = ModelBuilder(artifact).build(artifact.space.named("w4a4"))
        samples = samples_for("residual_bn")
        interpreter = Interpreter(model_content=content)
        names = {"inputs": ["samples"], "outputs": ["output_0"]}
        assert interpreter.get_signature_list() == {"serving_default": names}
        run = interpreter.get_signature_runner()
        for sample, expected in zip(
            samples, Runner(content).predict(samples), strict=True
        ):
            outputs = run(samples=sample[None])["output_0"]
            np.testing.assert_array_equal(outputs[0], expected)

    def test_negative_and_zero_batch_norm_scales(self) -> None:
        net = build_net("conv_bn_relu6")
        norm = next(x for x in net.layers if isinstance(x, L.BatchNormalization))
        weights = norm.get_weights()
        weights[0][:2] = 0.0, -0.5
        norm.set_weights(weights)
        model = quantize_model(net)
        calibrate(model, samples_for("conv_bn_relu6"))
        artifact = package(model)
        for name in ("w8a8", "w3a3"):
            set_policy(model, name)
            content = ModelBuilder(artifact).build(artifact.space.named(name))
            outputs = Runner(content).predict(samples_for("conv_bn_relu6"))
            expected = model.predict(samples_for("conv_bn_relu6"), verbose=0)
            step = artifact.parameters.tensors["logits"].step[-1]
            assert np.abs(outputs - expected).max() < step / 2

    def test_an_untrained_model_is_refused(self) -> None:
        with pytest.raises(ModelError, match="calibrate"):
            package(quantize_model(build_net("conv")))

    def test_freed_entries_export_exactly(self) -> None:
        from matar_tf.keras import policy_space

        net = build_net("conv")
        space = policy_space(net)
        space = space.with_choices(
            weights=dict.fromkeys(space.weights, (2, 3, 8)),
            activations=dict.fromkeys(space.activations, (2, 5, 8)),
        )
        model = quantize_model(net, space)
        calibrate(model, samples_for("conv"))
        artifact = package(model)
        policy = Policy(
            weights=dict.fromkeys(space.weights, 3),
            activations=dict.fromkeys(space.activations, 5),
        )
        set_policy(model, policy)
        outputs = Runner(ModelBuilder(artifact).build(policy)).predict(
            samples_for("conv")
        )
        expected = model.predict(samples_for("conv"), verbose=0)
        assert (
            np.abs(outputs - expected).max()
            < artifact.parameters.tensors["logits"].step[1] / 2
        )

    def test_workload_counts_what_the_graph_multiplies(self) -> None:
        _, artifact = prepare("separable")
        macs = {layer.name: layer.macs for layer in artifact.workload.layers}
        # 8x8 inputs; the separable convolutions are 'valid': 6x6, then 4x4 outputs.
        names = [name for name in artifact.space.weights if "separable" in name]
        first_depthwise, first_pointwise, second_depthwise, second_pointwise = names
        assert macs[first_depthwise] == 6 * 6 * 3 * 3 * 4
        assert macs[first_pointwise] == 6 * 6 * 4 * 6
        assert macs[second_depthwise] == 4 * 4 * 3 * 3 * 6
        assert macs[second_pointwise] == 4 * 4 * 6 * 6
        assert macs["logits"] == 4 * 4 * 6 * 5


def _reference_net(name: str) -> tuple[Any, Artifact, np.ndarray]:
    """A network that ends in a 1x1 convolution: the converter has no dense kernels
    with one scale per channel."""
    keras.utils.set_random_seed(3)
    inputs = L.Input((8, 8, 3), name="samples")
    body = {
        "residual_bn": NETS["residual_bn"][1],
        "depthwise_net": chain(
            conv(),
            L.DepthwiseConv2D(3, padding="same"),
            L.BatchNormalization(),
            L.ReLU(),
            conv(6, 1),
        ),
        "concat_net": lambda x: L.AveragePooling2D()(NETS["concat"][1](x)),
    }[name]
    model = keras.Model(inputs, conv(5, 1, name="logits")(body(inputs)))
    rng = np.random.default_rng(4)
    for layer in model.layers:
        if getattr(layer, "use_bias", False):
            weights = layer.get_weights()
            weights[-1] = rng.normal(size=weights[-1].shape) * 0.1
            layer.set_weights(weights)
    samples = rng.normal(size=(8, 8, 8, 3)).astype(np.float32)
    # The converter's narrow signed grid has a zero point of the other sign, where an
    # average pool rounds ties the other way than Keras and the filled file do.
    space = None if name == "concat_net" else free_space(model)
    quantized = quantize_model(model, space)
    calibrate(quantized, samples)
    return quantized, package(quantized), samples


def _kernels(content: bytes) -> list[dict[str, Any]]:
    model = parse_model(content)
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        if op_name(model, operator) not in COMPUTE_OPS:
            continue
        source, kernel, bias = (graph.tensors[i] for i in operator.inputs)
        found.append(
            {
                "values": tensor_array(model, kernel),
                "scale": np.asarray(kernel.quantization.scale, np.float32),
                "bias": tensor_array(model, bias),
                "input_scale": float(source.quantization.scale[0]),
                "input_zero_point": int(source.quantization.zeroPoint[0]),
            }
        )
    return found


def _is_clamped(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """The fill moves a clamped tensor from the top of int8 to its bottom."""
    num_levels = 128 - theirs["input_zero_point"]  # 2**(n-1): the positive half
    return ours["input_zero_point"] == -128 + num_levels
