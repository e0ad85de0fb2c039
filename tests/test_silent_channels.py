"""Channels that a network has switched off, but for their bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matar_tf.keras import calibrate, keras, package, quantize_model, set_policy
from matar_tf.tflite._schema import load_model, tensor_array
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.profiles import PROFILES, largest_count
from matar_tf.tflite.runtime import Runner

L = keras.layers
CHANNEL, BIAS = 2, 0.5
SAMPLES = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)


def net(with_norm: bool, size: float) -> Any:
    """A convolution, one channel of which is multiplied by `size`; 0.5 is added."""
    keras.utils.set_random_seed(1)
    inputs = L.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, use_bias=False)(inputs)))
    x = L.Conv2D(6, 3, use_bias=not with_norm, name="conv")(x)
    x = L.BatchNormalization(name="norm")(x) if with_norm else x
    x = L.GlobalAveragePooling2D()(L.ReLU(name="relu")(x))
    model = keras.Model(inputs, L.Dense(4)(x))
    if with_norm:
        gamma, beta, *statistics = model.get_layer("norm").get_weights()
        gamma[CHANNEL], beta[CHANNEL] = size, BIAS
        model.get_layer("norm").set_weights([gamma, beta, *statistics])
    else:
        kernel, bias = model.get_layer("conv").get_weights()
        kernel[..., CHANNEL] *= size
        bias[CHANNEL] = BIAS
        model.get_layer("conv").set_weights([kernel, bias])
    return model


# From channels that int32 holds easily to those whose unit is too small for any bias.
@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7, 1e-12, 0.0])
@pytest.mark.parametrize("with_norm", [True, False])
def test_their_bias_is_kept_in_every_profile(with_norm: bool, size: float) -> None:
    model = quantize_model(net(with_norm, size))
    calibrate(model, SAMPLES)
    artifact = package(model, include_network=False)
    builder = ModelBuilder(artifact)
    for name in ("w8a8", "w4a4", "w2a2"):
        policy = artifact.space.named(name)
        set_policy(model, policy)
        expected = model.predict(SAMPLES, verbose=0)
        for profile in sorted({*PROFILES} - {"packed-portable"}):
            content = builder.build(policy, profile=profile)
            found = Runner(content).predict(SAMPLES)
            np.testing.assert_array_equal(found, expected)
        assert _bias(builder.build(policy)) == pytest.approx(BIAS, abs=1e-3)


def _bias(content: bytes) -> float:
    """Returns what an int8 file adds to the channel."""
    model = load_model(content)
    graph = model.subgraphs[0]
    kernels = [
        index for index, one in enumerate(graph.tensors) if b"conv/k" in one.name
    ]
    (operator,) = [one for one in graph.operators if kernels[0] in one.inputs]
    bias = graph.tensors[operator.inputs[2]]
    values = tensor_array(model, bias)
    assert values is not None
    return float(values[CHANNEL]) * float(bias.quantization.scale[CHANNEL])


def test_a_bias_fits_int32_as_every_profile_stores_it() -> None:
    # 127 // 2 = 63 times at 2 bits, of which the lowest level is -2; 127 // 7 at 4.
    assert largest_count(2) * 63 <= 2**30 < (largest_count(2) + 1) * 63
    assert largest_count(4) * 18 <= 2**30 < (largest_count(4) + 1) * 18
    assert largest_count(8) == 2**30
