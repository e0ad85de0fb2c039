"""Layers that a network calls several times: one kernel, everything else per call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.nets import free_space, keras_model

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
    summary,
)
from matar_tf.keras._compat import tf, tfmot
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.tracing import FloatTracer, tracing
from matar_tf.tflite._schema import parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.profiles import PROFILES
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import verify

L = keras.layers
SHAPE = (8, 8, 3)


def samples(number: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((number, *SHAPE), np.float32)


def tower() -> Any:
    fed = L.Input(SHAPE)
    x = L.Conv2D(6, 3, use_bias=False, name="conv")(fed)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x))
    x = L.SeparableConv2D(5, 3, activation="relu", name="split")(x)
    x = L.Dropout(0.25, name="drop")(x)
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(fed, L.Dense(4, name="embed")(x), name="tower")


def siamese(image: Any) -> Any:
    """A network called on an image and on a part of it."""
    embed = tower()
    cut = L.ZeroPadding2D(1, name="pad")(L.Cropping2D(1, name="cut")(image))
    return L.Subtract(name="apart")([embed(image), embed(cut)])


def branches(image: Any) -> Any:
    """A dense layer on two branches, and on tensors of another size."""
    dense = L.Dense(4, activation="relu", name="dense")
    pools = [L.GlobalMaxPooling2D()(image), L.GlobalAveragePooling2D()(image)]
    dense_image = L.GlobalMaxPooling2D(name="last")(dense(image))
    return L.Add(name="sum")([*map(dense, pools), dense_image])


def recurrence(image: Any) -> Any:
    """A block of a layer of its own, three times in depth."""
    step, relu = L.Dense(5, name="step"), L.ReLU(name="relu")
    x = L.Dense(5, name="start")(L.Flatten()(image))
    for _ in range(3):
        x = relu(step(x))
    return x


def pyramid(image: Any) -> Any:
    """One head on maps of two sizes, with a batch norm for each."""
    first = L.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    maps = [first, L.MaxPooling2D(name="half")(first)]
    head = L.Conv2D(6, 3, padding="same", name="head")
    heads = [
        L.BatchNormalization(name=f"norm{i}")(head(one)) for i, one in enumerate(maps)
    ]
    return L.Concatenate()([L.GlobalMaxPooling2D()(one) for one in heads])


def half_normed(image: Any) -> Any:
    """A convolution with a batch norm after one of its calls alone."""
    conv = L.Conv2D(4, 3, name="conv")
    sides = [L.BatchNormalization(name="norm")(conv(image)), conv(L.ReLU()(image))]
    return L.Concatenate()([L.GlobalMaxPooling2D()(one) for one in sides])


BODIES = (siamese, branches, recurrence, pyramid, half_normed)


@pytest.mark.parametrize("body", BODIES)
def test_a_file_computes_what_the_network_does(body: Any) -> None:
    model, x = keras_model(SHAPE, body), samples()
    expected = model.predict(x, verbose=0)
    model = quantize_model(model, free_space(model))
    with tracing(FloatTracer()):
        np.testing.assert_allclose(model(x, training=False), expected, atol=1e-5)
    calibrate(model, x)
    artifact = package(model, include_network=False)
    builder = ModelBuilder(artifact)
    for name in ("w8a8", "w4a3", "w2a2"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        expected = model.predict(x, verbose=0)
        found = Runner(builder.build(policy)).predict(x)
        np.testing.assert_array_equal(found, expected)


def siamese_of_two() -> Any:
    """Two inputs through one tower, and a dense layer on each result."""
    keras.utils.set_random_seed(0)
    embed, dense = tower(), L.Dense(4, name="dense")
    sides = [L.Input(SHAPE, name=name) for name in ("left", "right")]
    x = L.Subtract(name="apart")([dense(embed(one)) for one in sides])
    return keras.Model(sides, L.Dense(2, name="same")(x))


def pairs(number: int = 32) -> dict[str, np.ndarray]:
    x = samples(2 * number)
    return {"left": x[:number], "right": x[number:] * 0.5}


@pytest.fixture(scope="module")
def pair() -> Any:
    """A siamese network of two inputs, trained a few steps."""
    model = quantize_model(siamese_of_two())
    calibrate(model, pairs())
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.fit(pairs(), np.ones((32, 2)), batch_size=8, verbose=0)
    set_policy(model, "w4a4")
    return model


@pytest.fixture(scope="module")
def artifact(pair: Any) -> Any:
    return package(pair)


def test_a_kernel_is_one_entry_an_activation_one_for_each_call() -> None:
    space = policy_space(siamese_of_two())
    kernels = ["tower/conv", "tower/split_depthwise", "tower/split_pointwise"]
    assert list(space.weights) == [*kernels, "tower/embed", "dense", "same"]
    assert {"tower/relu", "tower/relu/use_2", "dense", "dense/use_2"} <= set(
        space.activations
    )
    # The first layer of both inputs.
    assert space.weights["tower/conv"] == (8,)
    # In the middle in one call, the first in another.
    assert policy_space(keras_model(SHAPE, branches)).weights["dense"] == (8,)


def test_gradients_of_calls_add_up(pair: Any) -> None:
    kernel = wrapper.kernel_variable(pair.get_layer("quant_dense"))
    ends = [pair.get_layer(name) for name in ("quant_dense", "dense/use_2")]
    made = [end.inbound_nodes[-1].outputs for end in ends]  # in the last network
    probe = keras.Model(pair.inputs, made)
    with tf.GradientTape(persistent=True) as tape:
        one, other = probe(pairs(), training=True)
        both = tf.reduce_sum(one) + tf.reduce_sum(other)
        parts = tf.reduce_sum(one), tf.reduce_sum(other)
    whole = tape.gradient(both, kernel)
    first, second = (tape.gradient(part, kernel) for part in parts)
    assert np.abs(first).max() > 0.0
    assert np.abs(second).max() > 0.0
    np.testing.assert_allclose(whole, first + second, rtol=1e-5, atol=1e-6)
    assert sum(one is kernel for one in pair.trainable_variables) == 1


def test_statistics_are_those_of_each_call(pair: Any) -> None:
    norms = [pair.get_layer(name) for name in ("tower/norm", "tower/norm/use_2")]
    means = [norm.moving_mean.numpy() for norm in norms]
    assert all(np.abs(one).max() > 0.0 for one in means)  # which began with zeros
    assert not np.allclose(*means)


@pytest.mark.parametrize("way", ["h5", "clone", "artifact"])
def test_what_is_loaded_has_one_kernel(
    pair: Any, artifact: Any, tmp_path: Path, way: str
) -> None:
    if way == "clone":
        loaded = keras.models.clone_model(pair)
        loaded.set_weights(pair.get_weights())
    elif way == "artifact":
        write_artifact(artifact, tmp_path / "net.matar")
        loaded = load_network(read_artifact(tmp_path / "net.matar"))
    else:
        pair.save(tmp_path / "net", save_format=way)
        loaded = load_model(tmp_path / "net")
    set_policy(loaded, "w4a4")
    expected = pair.predict(pairs(), verbose=0)
    np.testing.assert_array_equal(loaded.predict(pairs(), verbose=0), expected)
    assert len(loaded.weights) == len(pair.weights)
    kernel = wrapper.kernel_variable(loaded.get_layer("dense/use_2"))
    assert kernel is wrapper.kernel_variable(loaded.get_layer("quant_dense"))
    kernel.assign(kernel + 0.5)
    assert not np.allclose(loaded.predict(pairs(), verbose=0), expected)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_file_holds_a_kernel_once(artifact: Any, profile: str) -> None:
    builder = ModelBuilder(artifact)
    sizes = FileSizes(builder, profile=profile)
    for name in ("w8a8", "w2a4"):
        policy = artifact.space.named(name)
        content = builder.build(policy, profile=profile)
        assert sizes(policy) == len(content)
        tensors = parse_model(content).subgraphs[0].tensors
        buffers = {
            one.name: one.buffer for one in tensors if b"/kernel" in (one.name or b"")
        }
        assert buffers[b"dense/kernel"] == buffers[b"dense/use_2/kernel"]
        assert len(buffers) - 5 >= len(set(buffers.values())) >= 6


def test_a_file_of_two_inputs_is_verified(pair: Any, artifact: Any) -> None:
    policy = artifact.space.named("w4a4")
    content = ModelBuilder(artifact).build(policy)
    found = verify(content, pairs())
    assert found.first_runtime_difference is None
    expected = pair.predict(pairs(), verbose=0)
    np.testing.assert_array_equal(Runner(content).predict(pairs()), expected)


def test_multiplications_count_for_each_call(artifact: Any, pair: Any) -> None:
    layers = {one.name: one for one in artifact.workload.layers}
    first, second = layers["dense"], layers["dense/use_2"]
    assert (first.weights, second.weights) == ("dense", "dense")
    assert first.macs == second.macs == 16
    assert {"dense", "tower/conv"} <= artifact.workload.storing
    assert "dense/use_2" not in artifact.workload.storing
    rows = {one.name: one for one in summary(pair).layers}
    assert rows["dense"].quantized == ("kernel", "output")
    assert rows["dense/use_2"].quantized == ("kernel of 'dense'", "output")
    kernel = rows["dense"].weight_bytes[8] - rows["dense/use_2"].weight_bytes[8]
    assert kernel == 16
    assert summary(pair).macs == artifact.workload.macs


def test_a_layer_that_is_annotated_by_itself() -> None:
    """By tfmot's own functions, with a config; another layer stays in float."""
    config = MatarQuantizeConfig(weight_bits=(3, 5))
    dense = tfmot.quantization.keras.quantize_annotate_layer(
        L.Dense(4, name="dense"), config
    )
    fed, float_dense = L.Input((6,)), L.Dense(6, name="float")
    x = dense(float_dense(float_dense(fed)))
    other = dense(L.ReLU()(float_dense(fed)))
    model = keras.Model(fed, L.Add()([x, other]))
    quantized = tfmot.quantization.keras.quantize_apply(model, MatarQuantizeScheme())
    assert get_policy_space(quantized).weights == {"dense": (3, 5)}
    assert len(quantized.trainable_weights) == 4 + 1 + 2
    inputs = np.ones((3, 6), np.float32)
    with tracing(FloatTracer()):
        np.testing.assert_allclose(quantized(inputs), model(inputs), rtol=1e-5)


def test_what_cannot_be_shared_is_refused() -> None:
    registry = tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry()
    config = registry.get_quantize_config(L.Dense(4))
    with pytest.raises(ModelError, match="without another one inside for 'dense'"):
        quantize_model(keras_model(SHAPE, branches), configs={"dense": config})
    model, config = keras_model(SHAPE, pyramid), MatarQuantizeConfig(per_channel=False)
    for weight in model.weights:
        weight.assign(np.abs(weight))  # else batch norms stay apart
    with pytest.raises(ModelError, match="one kernel, got other values in 'head/use"):
        quantize_model(model, configs={"head": config})
    fed = L.Input((4,))
    x = L.Dense(4, name="d/use_2")(L.Dense(4, name="first")(fed))
    dense = L.Dense(4, name="d")
    with pytest.raises(ModelError, match="different paths, got two 'd/use_2'"):
        quantize_model(keras.Model(fed, dense(dense(x))))


def test_equal_calls_are_one() -> None:
    fed, dense = L.Input((4,)), L.Dense(4, name="dense")
    model = keras.Model(fed, L.Add()([dense(fed), L.ReLU()(dense(fed))]))
    assert "dense/use_2" not in policy_space(model).activations
