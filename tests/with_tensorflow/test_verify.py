"""What the three witnesses say of one file."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from fixtures.nets import build_net, calibrated, packaged, samples_for

from matar_tf.artifact import Artifact
from matar_tf.keras import keras, keras_tensors, package
from matar_tf.tflite._schema import parse_model, schema, tensor_array
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.verify import (
    LayerDifference,
    Verification,
    run_all_tensors,
    verify,
)


def layer(name: str, runtime: float, keras: float | None) -> LayerDifference:
    return LayerDifference(
        name=name,
        operator="CONV_2D",
        runtime_share=runtime,
        runtime_levels=int(runtime > 0),
        keras_share=keras,
        keras_levels=None if keras is None else int(keras > 0),
    )


def test_the_first_difference_is_the_earliest_of_its_kind() -> None:
    layers = (
        layer("a", 0.0, 0.0),
        layer("b", 0.0, None),
        layer("c", 0.0, 0.1),
        layer("d", 0.2, 0.3),
        layer("e", 0.9, 0.9),
    )
    outcome = Verification(runtime_share=0.9, agreement=0.5, layers=layers)
    assert outcome.first_keras_difference == layers[2]
    assert outcome.first_runtime_difference == layers[3]
    alone = Verification(runtime_share=0.0, agreement=1.0, layers=layers[:2])
    assert alone.first_keras_difference is None
    assert alone.first_runtime_difference is None


def test_a_level_that_keras_has_elsewhere_is_found() -> None:
    samples, artifact = samples_for("residual_bn"), packaged("residual_bn")
    content = ModelBuilder(artifact).build(artifact.space.named("w4a4"))
    names = [one.name for one in verify(content, samples).layers]
    tensors = parse_model(content).subgraphs[0].tensors
    stored = {one.name.decode(): one for one in tensors if one.name}
    name = next(one for one in names[2:] if one in artifact.space.activations)
    quantization = stored[name].quantization
    step, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    # Keras as this file would have it, but 3 levels more in one element.
    index = [one.name for one in tensors].index(stored[name].name)
    levels = run_all_tensors(content, samples)[index].astype(int) - zero_point
    same = {name: [levels * step]}
    assert verify(content, samples, same).first_keras_difference is None
    levels.flat[7] += 3
    found = verify(content, samples, {name: [levels * step]}).first_keras_difference
    assert found is not None
    assert (found.name, found.keras_levels) == (name, 3)
    assert found.keras_share == pytest.approx(1 / levels.size)


def test_a_part_that_bears_the_name_of_a_concatenation_is_no_difference() -> None:
    _, outcome = _verified("concat", "w8a8")
    assert outcome.first_runtime_difference is None
    assert {one.keras_share for one in outcome.layers} == {None, 0.0}
    # The parts have the grid of the whole, which alone Keras has quantized.
    shares = [
        one.keras_share for one in outcome.layers if one.operator == "CONCATENATION"
    ]
    assert shares == [0.0]


@pytest.mark.parametrize("name", ["concat_norms", "concat_of_pools", "concat_of_sum"])
@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_all_tensors_of_a_shared_grid_are_compared(name: str, bits: str) -> None:
    tensors, outcome = _verified(name, bits)
    assert max(map(len, tensors.values())) > 1
    shares = [one.keras_share for one in outcome.layers if one.keras_share is not None]
    assert shares == [0.0] * sum(map(len, tensors.values()))


def test_a_difference_that_begins_in_a_part_is_found_there() -> None:
    """The first tensor of the grid is right, and so is all before the second."""
    samples, artifact = samples_for("concat_norms"), _artifact("concat_norms")
    policy = artifact.space.named("w4a4")
    tensors = keras_tensors(artifact, policy, samples)
    (shared,) = [of for of in tensors.values() if len(of) > 1]
    step = np.diff(np.unique(shared[1])).min()
    shared[1] = shared[1].copy()
    shared[1].flat[3] += 2 * step
    content = ModelBuilder(artifact).build(policy)
    layers = verify(content, samples, tensors).layers
    (found,) = [one for one in layers if one.keras_share]
    assert found.keras_levels == 2
    assert found.keras_share == pytest.approx(1 / shared[1].size)


@functools.cache
def _artifact(name: str) -> Artifact:
    """With its network, which gives the tensors of Keras."""
    return package(calibrated(build_net(name), samples_for(name)))


def _verified(name: str, bits: str) -> tuple[dict[str, list[np.ndarray]], Verification]:
    samples, artifact = samples_for(name), _artifact(name)
    policy = artifact.space.named(bits)
    tensors = keras_tensors(artifact, policy, samples)
    return tensors, verify(ModelBuilder(artifact).build(policy), samples, tensors)


def test_dense_layers_of_a_sequence() -> None:
    inputs = keras.layers.Input((16, 4))
    x = keras.layers.Dense(5, activation="relu")(inputs)
    samples = np.random.default_rng(0).normal(size=(8, 16, 4)).astype(np.float32)
    model = calibrated(keras.Model(inputs, keras.layers.Dense(3)(x)), samples)
    artifact = package(model, include_network=False)
    content = ModelBuilder(artifact).build(artifact.space.widest())
    assert verify(content, samples).runtime_share == 0.0


@pytest.mark.parametrize(
    ("kind", "stored", "values"),
    [
        # 0x21: low half 1, high half 2; 0xF8: low half -8, high half -1
        (schema.TensorType.INT4, [0x21, 0xF8], [1, 2, -8, -1]),
        (schema.TensorType.INT4, [0x07], [7]),  # an odd number: a half is unused
        # pairs of bits from the lowest: 00, 01, 10, 11
        (schema.TensorType.INT2, [0b11_10_01_00], [0, 1, -2, -1]),
        (schema.TensorType.INT8, [0x80, 0x7F], [-128, 127]),
    ],
)
def test_packed_constants_come_as_int8(
    kind: int, stored: list[int], values: list[int]
) -> None:
    model, tensor, buffer = schema.ModelT(), schema.TensorT(), schema.BufferT()
    buffer.data = np.array(stored, np.uint8)
    model.buffers, tensor.buffer = [buffer], 0
    tensor.type, tensor.shape = kind, np.array([len(values)], np.int32)
    found = tensor_array(model, tensor)
    assert found is not None
    assert found.dtype == np.int8
    assert found.tolist() == values
