"""Small float networks, one for each thing that the integer graph must get right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from matar_tf.keras import keras, policy_space
from matar_tf.policy import ALL_BITS
from matar_tf.space import PolicySpace

L = keras.layers
IMAGE, SEQUENCE = (8, 8, 3), (16, 3)


def chain(*layers: Any) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return apply


def conv(filters: int = 4, size: int = 3, **kwargs: Any) -> Any:
    return L.Conv2D(filters, size, **{"padding": "same", **kwargs})


def on_relu(body: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: body(L.ReLU()(conv()(x)))


def concat_shared(x: Any) -> Any:
    a, b = conv(activation="relu")(x), conv()(x)
    return L.Add()([conv()(L.Concatenate()([a, b])), a])


def concat_of_concat(x: Any) -> Any:
    inner = L.Concatenate()([x, conv(2, activation="relu")(x)])
    return conv()(L.Concatenate()([inner, conv(2)(inner)]))


def norm(**kwargs: Any) -> Callable[[Any], Any]:
    return chain(conv(**kwargs), L.BatchNormalization())


def concat_of_pools(x: Any) -> Any:
    both = [L.MaxPooling2D()(norm()(x)), norm(strides=2)(x)]
    return conv()(L.Concatenate()(both))


def concat_of_sum(x: Any) -> Any:
    x = norm()(x)
    return conv()(L.Concatenate()([L.Add()([x, conv()(x)]), x]))


def concat_global(x: Any) -> Any:
    pools = [L.GlobalAveragePooling2D(), L.GlobalMaxPooling2D()]
    x = conv(8)(x)  # signed
    return L.Dense(6, activation="relu")(L.Concatenate()([one(x) for one in pools]))


def preactivation(x: Any) -> Any:
    x = conv()(x)
    for _ in range(2):
        x = L.Add()([x, conv()(L.ReLU()(conv()(L.ReLU()(x))))])
    return L.ReLU()(x)


def rectified_concat(x: Any) -> Any:
    a = conv()(x)
    both = L.Concatenate()([a, L.ReLU()(a)])
    return conv()(L.ReLU(6.0)(L.Concatenate()([conv()(both), conv()(both)])))


NETS: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "conv": (IMAGE, chain(conv(strides=2, padding="valid"), conv(dilation_rate=2))),
    "conv_groups": ((8, 8, 4), chain(conv(4, groups=2), L.ReLU())),
    "conv_bn_relu6": (
        IMAGE,
        chain(conv(), L.BatchNormalization(), L.ReLU(6.0), conv()),
    ),
    "depthwise": (
        IMAGE,
        chain(
            conv(),
            L.DepthwiseConv2D(3, padding="same"),
            L.BatchNormalization(),
            L.ReLU(),
            L.DepthwiseConv2D(3, strides=2, depth_multiplier=2),
        ),
    ),
    "separable": (
        IMAGE,
        chain(
            conv(),
            L.SeparableConv2D(6, 3),
            L.BatchNormalization(),
            L.ReLU(),
            L.SeparableConv2D(6, 3, activation="relu"),
        ),
    ),
    "dense": (
        (12,),
        chain(
            L.Dense(8),
            L.BatchNormalization(),
            L.ReLU(),
            L.Dense(8, activation="relu"),
            L.Dropout(0.5),
        ),
    ),
    "no_bias": (
        (12,),
        chain(
            L.Dense(8, activation="relu", use_bias=False),
            L.Dense(6, use_bias=False),
            L.Dense(6, use_bias=False, activation="tanh"),
        ),
    ),
    "dense_rank3": (IMAGE, chain(conv(), L.Reshape((64, 4)), L.Dense(3))),
    "add_three": (IMAGE, on_relu(lambda x: L.Add()([conv()(x) for _ in range(3)]))),
    "residual_bn": (
        IMAGE,
        on_relu(lambda x: L.Add()([x, L.BatchNormalization()(conv()(x))])),
    ),
    "concat": (
        IMAGE,
        on_relu(
            lambda x: conv()(L.Concatenate()([conv(activation="relu")(x), conv()(x)]))
        ),
    ),
    "concat_shared": (IMAGE, on_relu(concat_shared)),
    "concat_pool": (
        IMAGE,
        on_relu(
            lambda x: conv()(
                L.Concatenate()([L.MaxPooling2D(3, 1, padding="same")(x), conv()(x)])
            )
        ),
    ),
    "concat_norms": (
        IMAGE,
        on_relu(lambda x: conv()(L.Concatenate()([norm()(x), norm()(x), x]))),
    ),
    "concat_of_pools": (IMAGE, on_relu(concat_of_pools)),
    "concat_of_sum": (IMAGE, concat_of_sum),
    "concat_global": ((4, 4, 3), on_relu(concat_global)),
    "concat_of_concat": (IMAGE, on_relu(concat_of_concat)),
    "average_pool": (
        IMAGE,
        chain(conv(), L.ReLU(), L.AveragePooling2D(), conv(), L.AveragePooling2D()),
    ),
    "average_pool_same": (
        IMAGE,
        chain(conv(), L.ReLU(), L.AveragePooling2D(3, 2, padding="same"), conv()),
    ),
    "max_pool": (IMAGE, chain(conv(), L.MaxPooling2D(), conv())),
    "global_average": (
        IMAGE,
        chain(conv(), L.ReLU(), L.GlobalAveragePooling2D(keepdims=True), conv(4, 1)),
    ),
    "global_max": (IMAGE, chain(conv(), L.GlobalMaxPooling2D())),
    "zero_padding": (
        IMAGE,
        chain(L.ZeroPadding2D(1), conv(padding="valid"), L.ZeroPadding2D(1), conv()),
    ),
    "fixed_grids": (
        IMAGE,
        chain(conv(activation="sigmoid"), conv(), L.Activation("tanh"), conv()),
    ),
    "inner_softmax": (IMAGE, chain(conv(), L.Softmax(), conv())),
    "conv1d": (
        SEQUENCE,
        chain(
            L.Conv1D(4, 3, padding="same", strides=2),
            L.BatchNormalization(),
            L.ReLU(),
            L.Conv1D(4, 3, activation="relu"),
        ),
    ),
    "separable1d": (
        SEQUENCE,
        chain(
            L.Conv1D(4, 3),
            L.DepthwiseConv1D(3),
            L.SeparableConv1D(4, 3),
            L.BatchNormalization(),
            L.ReLU(),
        ),
    ),
    "pools1d": (
        SEQUENCE,
        chain(
            L.Conv1D(4, 3, activation="relu"),
            L.MaxPooling1D(),
            L.AveragePooling1D(),
            L.ZeroPadding1D(1),
            L.Conv1D(4, 3),
            L.GlobalAveragePooling1D(),
        ),
    ),
    "dropout_relu": (
        IMAGE,
        chain(
            conv(),
            L.Dropout(0.1),
            L.ReLU(),
            conv(),
            L.BatchNormalization(),
            L.SpatialDropout2D(0.1),
            L.Activation("linear"),
            L.ReLU(6.0),
        ),
    ),
    "free_relus": (
        IMAGE,
        chain(
            L.ReLU(),
            conv(),
            L.MaxPooling2D(),
            L.ReLU(6.0),
            conv(activation="tanh"),
            L.ReLU(),
            conv(),
            L.GlobalAveragePooling2D(),
            L.ReLU(),
            L.Dense(4, activation="relu"),
            L.Activation("relu"),
        ),
    ),
    "preactivation": (IMAGE, preactivation),
    "rectified_concat": (IMAGE, rectified_concat),
    "one_pixel": (
        IMAGE,
        chain(conv(strides=8), L.GlobalAveragePooling2D(keepdims=True), conv(4, 1)),
    ),
}


def build_net(name: str) -> Any:
    """Returns a float network with random batch norms and biases, logits as output."""
    return keras_model(*NETS[name])


def free_space(network: Any) -> PolicySpace:
    """Returns the default space with every tensor inside a network free as well."""
    space = policy_space(network)
    inside = [name for name in space.activations if name not in ("samples", "logits")]
    return space.with_choices(activations=dict.fromkeys(inside, ALL_BITS))


def keras_model(shape: tuple[int, ...], body: Callable[[Any], Any]) -> Any:
    """Returns a float network around a body; see `build_net`."""
    keras.backend.reset_uids()
    keras.utils.set_random_seed(1)
    inputs = L.Input(shape, name="samples")
    x = body(inputs)
    if len(x.shape) > 2:
        x = L.Flatten()(x)
    model = keras.Model(inputs, L.Dense(5, name="logits")(x))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        if isinstance(layer, L.BatchNormalization):
            size = weights[0].shape
            layer.set_weights(
                [
                    rng.normal(size=size),  # scales of both signs
                    rng.normal(size=size) * 0.3,
                    rng.normal(size=size) * 0.1,
                    rng.uniform(0.3, 1.5, size),
                ]
            )
        elif getattr(layer, "use_bias", False):
            weights[-1] = rng.normal(size=weights[-1].shape) * 0.1
            layer.set_weights(weights)
    return model


def all_kernels(full: Any) -> Any:
    """Pointwise, depthwise, full and dense kernels; even and odd channel counts.

    Args:
      full: A convolution that reads four channels.
    """
    return keras_model(
        (8, 8, 3),
        chain(
            conv(8, activation="relu"),
            conv(6, 1, activation="relu"),
            L.DepthwiseConv2D(3, activation="relu"),
            conv(5, 1, activation="relu"),
            conv(4, 1, activation="relu"),
            full,
            L.GlobalAveragePooling2D(),
            L.Dense(8, activation="relu"),
        ),
    )


def samples_for(name: str, count: int = 32) -> np.ndarray:
    shape, _ = NETS[name]
    return np.random.default_rng(2).normal(size=(count, *shape)).astype(np.float32)
