"""A tiny network for scikit-learn's digits, and what tests make of it once."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from matar_tf.artifact import Artifact, write_artifact
from matar_tf.data import Data, load_data


@functools.cache
def few_digits() -> Data:
    """600 digits to train on, 200 to evaluate on."""
    data = load_data("digits")
    x, y = data.training()
    return replace(data.head(200), x_train=x[:600], y_train=y[:600])


def build_net(input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Two convolutions with batch norm and a dense layer, 4,106 parameters."""
    from matar_tf.keras import keras

    layers = keras.layers
    inputs = layers.Input(input_shape, name="image")
    x = inputs
    for name, channels in (("stem", 8), ("conv", 16)):
        x = layers.Conv2D(channels, 3, strides=2, padding="same", name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(32, name="hidden")(x)
    x = layers.ReLU(name="hidden_relu")(x)
    outputs = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="digits_net")


@functools.cache
def trained_pair() -> tuple[Any, Any]:
    """The float network and its multi-bitwidth copy, trained; do not change them."""
    from matar_tf.keras import Schedule, train_float, train_multi_bit

    data = few_digits()
    network = train_float(
        build_net, data, Schedule(epochs=6, learning_rate=1e-2, batch_size=32)
    )
    quantized = train_multi_bit(
        network, data, Schedule(epochs=8, learning_rate=1e-2, batch_size=32)
    )
    return network, quantized


@functools.cache
def digits_artifact() -> Artifact:
    """The trained network, packaged."""
    from matar_tf.keras import package

    return package(trained_pair()[1])


def write_digits(folder: Path) -> None:
    """Writes the artifact as net.matar, the digits to evaluate on as data.npz."""
    write_artifact(digits_artifact(), folder / "net.matar")
    data = few_digits()
    np.savez(folder / "data.npz", x_test=data.x_test, y_test=data.y_test)
