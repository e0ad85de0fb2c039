"""Layers in float that a network calls several times: one set of weights, one entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.nets import L

from matar_tf.artifact import read_artifact, write_artifact
from matar_tf.errors import ArtifactError, MatarWarning
from matar_tf.keras import (
    PolicyRandomizer,
    calibrate,
    keras,
    load_model,
    package,
    quantize_model,
    set_policy,
    summary,
)
from matar_tf.keras._compat import tf
from matar_tf.keras.packaging.network import load_network
from matar_tf.keras.policies import get_policy_space
from matar_tf.keras.quantizers import wrapper
from matar_tf.tflite._schema import parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import verify


def words(a: Any, b: Any) -> Any:
    """A text tower called on two texts, masks and all."""
    tokens = keras.Input((2,), dtype="int32")
    x = L.Embedding(9, 4, mask_zero=True, name="table")(tokens)
    x = L.SimpleRNN(3, name="steps")(x)
    x = L.Dense(4, activation="relu", name="dense")(x)
    tower = keras.Model(tokens, x, name="tower")
    return L.Subtract()([tower(a), tower(b)])


def states(a: Any, b: Any) -> Any:
    """A layer that goes on with the states of its first call."""
    lstm = L.LSTM(4, return_state=True, name="lstm")
    _, *kept = lstm(a)
    return lstm(b, initial_state=kept)[0]


def norms(a: Any, b: Any) -> Any:
    """A norm on branches, of which one goes through another call of it."""
    norm, dense = L.LayerNormalization(name="norm"), L.Dense(3, name="dense")
    return L.Concatenate()([dense(norm(a)), dense(norm(norm(b)))])


def masked(a: Any, b: Any) -> Any:
    """Attention, and a dense layer of which one call reads a masked tensor."""
    attention = L.MultiHeadAttention(2, 3, name="attention")
    dense, x = L.Dense(3, name="dense"), L.Masking()(a)
    mean = L.GlobalAveragePooling1D()
    x, y = attention(x, x), attention(b, b)
    return L.Concatenate()([mean(dense(x)), mean(dense(b)), mean(y)])


ENTRIES = {
    words: {
        "tower/table",
        "tower/steps/kernel",
        "tower/steps/recurrent_kernel",
        "tower/dense",
    },
    states: {"lstm/kernel", "lstm/recurrent_kernel"},
    norms: {"dense"},
    # The query kernel of a masked attention stays in float.
    masked: {f"attention/{one}/kernel" for one in ("key", "value", "output")}
    | {"dense"},
}


def network(body: Callable[[Any, Any], Any]) -> Any:
    keras.utils.set_random_seed(0)
    shape, dtype = ((2,), "int32") if body is words else ((2, 4), "float32")
    inputs = [keras.Input(shape, dtype=dtype, name=name) for name in "ab"]
    model = keras.Model(inputs, L.Dense(2, name="end")(body(*inputs)))
    for weight in model.weights:
        weight.assign(weight + 0.1)  # biases of zeros are left out of files
    return model


def samples_of(model: Any, number: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (number, *model.inputs[0].shape[1:])
    if model.inputs[0].dtype == "int32":
        return {name: rng.integers(0, 9, shape).astype(np.int32) for name in "ab"}
    return {name: rng.normal(size=shape).astype(np.float32) for name in "ab"}


def calibrated(body: Callable[[Any, Any], Any]) -> tuple[Any, dict[str, np.ndarray]]:
    with pytest.warns(MatarWarning, match="stay in float"):
        model = quantize_model(network(body))
    samples = samples_of(model)
    calibrate(model, samples)
    return model, samples


@pytest.mark.parametrize("body", ENTRIES)
def test_a_layer_in_float_has_one_entry(body: Any, tmp_path: Path) -> None:
    model, samples = calibrated(body)
    space = get_policy_space(model)
    assert set(space.weights) == ENTRIES[body] | {"end"}
    artifact = package(model)
    write_artifact(artifact, tmp_path / "a.matar")
    model.save(tmp_path / "a.h5")
    loaded = load_network(read_artifact(tmp_path / "a.matar"))
    others = [loaded, load_model(tmp_path / "a.h5")]
    builder = ModelBuilder(artifact)
    sizes = FileSizes(builder)
    for name in ("w8a8", "w4a4"):
        policy = space.named(name)
        set_policy(model, policy)
        expected = model.predict(samples, verbose=0)
        content = builder.build(policy)
        assert sizes(policy) == len(content)
        np.testing.assert_allclose(
            Runner(content).predict(samples), expected, rtol=1e-5, atol=1e-6
        )
        for other in others:
            assert len(other.weights) == len(model.weights)
            set_policy(other, policy)
            np.testing.assert_array_equal(other.predict(samples, verbose=0), expected)
    assert verify(content, samples).first_runtime_difference is None


def test_a_kernel_in_float_learns_from_every_call() -> None:
    model, samples = calibrated(states)
    model.compile("adam", "mse")
    draws = [PolicyRandomizer(seed=0)]
    model.fit(samples, np.zeros((16, 2)), verbose=0, callbacks=draws)
    layer = model.get_layer("quant_lstm")
    _, kernel = wrapper.float_kernels(layer)[0]
    probe = keras.Model(model.inputs, [one.outputs[0] for one in layer.inbound_nodes])
    with tf.GradientTape(persistent=True) as tape:
        first, second = map(tf.reduce_sum, probe(samples, training=True))
        both = first + second
    parts = [tape.gradient(one, kernel).numpy() for one in (first, second)]
    assert all(np.abs(one).max() > 0.0 for one in parts)
    np.testing.assert_allclose(tape.gradient(both, kernel), sum(parts), rtol=1e-4)
    assert sum(one is kernel for one in model.trainable_variables) == 1


def test_weights_are_stored_and_counted_once() -> None:
    model, _ = calibrated(words)
    artifact = package(model)
    content = parse_model(ModelBuilder(artifact).build(artifact.space.named("w8a8")))
    tables = [one for one in content.subgraphs[0].tensors if list(one.shape) == [9, 4]]
    assert len({one.buffer for one in tables}) == 1  # and no table of floats
    layers = {one.name: one for one in artifact.workload.layers}
    kernel = "tower/steps/use_2/kernel"
    assert layers[kernel].weights == "tower/steps/kernel"
    assert len({kernel, layers[kernel].weights} & artifact.workload.storing) == 1
    calls = [layers[one] for one in ("tower/steps", "tower/steps/use_2")]
    biases = sorted(one.bias_elems for one in calls)
    assert biases[0] < 3 <= biases[1]
    rows = {one.name: one for one in summary(model).layers}
    first, second = rows["tower/steps"], rows["tower/steps/use_2"]
    assert first.macs == second.macs == 2 * 3 * (4 + 3)
    assert second.quantized == ("kernel of 'tower/steps'",)
    assert (second.weight_bytes, second.is_float) == ({}, True)
    assert {"tower/steps", "tower/steps/use_2"} <= set(artifact.float_layers)


def test_calls_of_a_network_that_wait_for_each_other_are_refused() -> None:
    artifact = package(calibrated(states)[0])
    text = artifact.extras["network.json"].decode()
    first = '[[["a", 0, 0, {}]], '
    assert first in text
    for call in ('[[["quant_lstm", 0, 0, {}]], ', '[[["quant_lstm", 1, 0, {}]], '):
        changed = {"network.json": text.replace(first, call).encode()}
        bad = replace(artifact, extras={**artifact.extras, **changed})
        with pytest.raises(ArtifactError, match="before it make"):
            load_network(bad)
