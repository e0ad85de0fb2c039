"""Networks that make images larger: one number in Keras, file and simulator."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from fixtures.nets import calibrated, chain, conv

from matar_tf.artifact import Artifact
from matar_tf.errors import ModelError
from matar_tf.keras import keras, keras_tensors, package, quantize_model
from matar_tf.tflite._schema import op_name, parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.profiles import PROFILES
from matar_tf.tflite.runtime import Runner
from matar_tf.tflite.verify import verify

L = keras.layers
SHAPE = (8, 8, 3)


def normed(*layers: Any) -> Any:
    return chain(*layers, L.BatchNormalization(), L.ReLU())


def unet(x: Any) -> Any:
    """Transposed, grouped and dilated convolutions; a bilinear resize, cropped."""
    skip = normed(conv(8))(x)
    x = normed(conv(8, groups=4), L.DepthwiseConv2D(3, padding="same", dilation_rate=2))
    x = x(L.MaxPooling2D()(skip))
    x = normed(L.Conv2DTranspose(6, 3, strides=2, padding="same", use_bias=False))(x)
    x = normed(conv(4, dilation_rate=2))(L.Concatenate()([skip, x]))
    x = L.UpSampling2D(2, interpolation="bilinear")(x)
    return conv(4)(L.Cropping2D(((1, 2), (0, 3)))(x))


def moved(x: Any) -> Any:
    """A fused and a signed transposed convolution; rows joined, copied, exchanged."""
    x = normed(conv(4))(x)
    small = L.Conv2DTranspose(4, (1, 2), strides=(1, 2), activation="relu")(x)
    x = L.Concatenate(axis=2)([L.UpSampling2D((1, 3))(x), small])
    x = L.ZeroPadding2D(((0, 1), (2, 0)))(L.Conv2DTranspose(6, 3)(x))
    return conv(4)(L.Permute((2, 1, 3))(x))


def sequence(x: Any) -> Any:
    """A vector that is repeated, made longer twice, cropped, and seen from its past."""
    x = L.RepeatVector(5)(L.Dense(8, activation="relu")(x))
    x = normed(L.Conv1DTranspose(6, 3, strides=2, padding="same"))(x)
    x = L.Cropping1D((1, 2))(L.UpSampling1D(3)(x))
    return L.Conv1D(4, 3, padding="causal", dilation_rate=4)(x)


NETWORKS = {
    "unet": (SHAPE, unet),
    "moved": (SHAPE, moved),
    "sequence": ((6,), sequence),
}


@functools.cache
def samples(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(48, *NETWORKS[name][0])).astype(np.float32)


@functools.cache
def artifact(name: str) -> Artifact:
    keras.utils.set_random_seed(0)
    shape, make = NETWORKS[name]
    inputs = L.Input(shape)
    return package(calibrated(keras.Model(inputs, make(inputs)), samples(name)))


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w2a2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_is_that_of_keras(name: str, bits: str) -> None:
    found = artifact(name)
    policy = found.space.named(bits)
    inputs = samples(name)
    expected = keras_tensors(found, policy, inputs)
    builder = ModelBuilder(found)
    for profile in PROFILES:
        content = builder.build(policy, profile=profile)
        verified = verify(content, inputs, expected, runtime=PROFILES[profile].runtime)
        assert verified.first_runtime_difference is None, profile
        if not PROFILES[profile].exact:
            continue  # its kernels round by themselves
        for layer in verified.layers:
            assert (layer.keras_levels or 0) <= 1, layer
            assert (layer.keras_share or 0.0) < 1e-3, layer


def test_operators_are_those_that_were_meant() -> None:
    names: list[str] = []
    for name in NETWORKS:
        model = parse_model(artifact(name).template)
        names += [op_name(model, one) for one in model.subgraphs[0].operators]
    assert names.count("TRANSPOSE_CONV") == 4
    moves = {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "STRIDED_SLICE", "TRANSPOSE"}
    assert moves <= set(names)


def test_files_run_in_batches_of_any_size() -> None:
    found = artifact("unet")
    runner = Runner(ModelBuilder(found).build(found.space.named("w4a4")))
    together = runner.predict(samples("unet"))
    alone = runner.predict(samples("unet"), batch_size=1)
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(("padding", "fits"), [("same", False), ("valid", True)])
def test_gaps_between_windows(padding: str, fits: bool) -> None:
    """XNNPACK takes no transposed convolution of same padding that leaves gaps."""
    inputs = L.Input(SHAPE)
    outputs = L.Conv2DTranspose(4, (3, 1), strides=2, padding=padding)(inputs)
    model = keras.Model(inputs, outputs)
    if fits:
        quantize_model(model)
    else:
        with pytest.raises(ModelError, match="at least the strides"):
            quantize_model(model)
