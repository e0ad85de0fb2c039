"""Networks of ``tools/benchmark.py zoo``: several ends, shared and float layers."""

from __future__ import annotations

from typing import Any, Final

from matar_tf.keras import keras, register_layer_kind

__all__ = [
    "cnn_lstm",
    "conv_3d",
    "conv_next",
    "custom",
    "gru",
    "siamese",
    "ssd",
    "text",
    "two_inputs",
    "two_outputs",
    "vision_transformer",
]

_CLASSES: Final = 10


@keras.utils.register_keras_serializable("zoo")
class GatedDense(keras.layers.Layer):
    """A dense layer with a gate for each unit: a class that Keras has not."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight("kernel", (input_shape[-1], self.units))
        self.gate = self.add_weight("gate", (self.units,), initializer="ones")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        gate = keras.activations.sigmoid(self.gate)
        return keras.backend.dot(inputs, self.kernel) * gate

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


register_layer_kind(GatedDense)


def custom(k: Any) -> Any:
    """A class of one's own between layers of Keras; of tf_keras alone."""
    inputs = k.layers.Input((24,))
    x = k.layers.Dense(48, activation="relu")(inputs)
    x = GatedDense(48)(x)
    x = k.layers.Dense(32, activation="relu")(x)
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))


def siamese(k: Any) -> Any:
    """Whether two images are alike: a tower that both go through, and a verdict."""
    inputs = x = k.layers.Input((32, 32, 3))
    for channels in (16, 32):
        x = k.layers.Conv2D(channels, 3, strides=2, use_bias=False)(x)
        x = k.layers.ReLU()(k.layers.BatchNormalization()(x))
    x = k.layers.Dense(32)(k.layers.GlobalAveragePooling2D()(x))
    tower = k.Model(inputs, x, name="tower")
    left, right = (k.layers.Input((32, 32, 3), name=one) for one in ("left", "right"))
    off = k.layers.Subtract()([tower(left), tower(right)])
    x = k.layers.Dense(16, activation="relu")(k.layers.Multiply()([off, off]))
    return k.Model([left, right], k.layers.Dense(2, activation="softmax")(x))


def two_inputs(k: Any) -> Any:
    """An image and a vector of measurements beside it."""
    image = x = k.layers.Input((32, 32, 3), name="image")
    for channels in (16, 32):
        x = k.layers.Conv2D(channels, 3, strides=2, activation="relu")(x)
    x = k.layers.GlobalAveragePooling2D()(x)
    table = k.layers.Input((12,), name="table")
    y = k.layers.Dense(32, activation="relu")(table)
    x = k.layers.Dense(32, activation="relu")(k.layers.Concatenate()([x, y]))
    return k.Model([image, table], k.layers.Dense(_CLASSES, activation="softmax")(x))


def two_outputs(k: Any) -> Any:
    """A class and a box, from one trunk."""
    inputs = x = k.layers.Input((48, 48, 3))
    for channels in (16, 32, 32):
        x = k.layers.Conv2D(channels, 3, strides=2, use_bias=False)(x)
        x = k.layers.ReLU()(k.layers.BatchNormalization()(x))
    x = k.layers.Flatten()(x)
    label = k.layers.Dense(_CLASSES, activation="softmax", name="label")(x)
    return k.Model(inputs, [label, k.layers.Dense(4, name="box")(x)])


def ssd(k: Any) -> Any:
    """A head of single-shot detection: scores and boxes of two maps of anchors.

    Reference:
      Liu et al., SSD: Single Shot MultiBox Detector, 2016.
    """
    inputs = x = k.layers.Input((64, 64, 3))
    maps: list[Any] = []
    for index, channels in enumerate((16, 32, 64, 64)):
        x = k.layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False)(x)
        x = k.layers.ReLU()(k.layers.BatchNormalization()(x))
        maps += [x] if index >= 2 else []
    ends: list[Any] = []
    for name, size in (("scores", 5), ("boxes", 4)):
        parts = [
            k.layers.Reshape((-1, size))(
                k.layers.Conv2D(3 * size, 3, padding="same")(features)
            )
            for features in maps
        ]
        joined = k.layers.Concatenate(axis=1, name=f"{name}_joined")(parts)
        last = "softmax" if name == "scores" else "linear"
        ends.append(k.layers.Activation(last, name=name)(joined))
    return k.Model(inputs, ends)


def conv_next(k: Any) -> Any:
    """ConvNeXtTiny of Keras' applications; it normalises what it takes itself."""
    build = k.applications.ConvNeXtTiny
    return build(weights=None, input_shape=(64, 64, 3), classes=_CLASSES)


def vision_transformer(k: Any) -> Any:
    """A vision transformer of two blocks over 4 x 4 patches, pooled over its tokens.

    Positions are told by a depthwise convolution.

    Reference:
      Beyer et al., Better plain ViT baselines for ImageNet-1k, 2022; Chu et al.,
      Conditional Positional Encodings for Vision Transformers, 2021.
    """
    width, tokens = 64, 16
    inputs = k.layers.Input((32, 32, 3))
    x = k.layers.Conv2D(width, 8, strides=8)(inputs)
    x = k.layers.Add()([x, k.layers.DepthwiseConv2D(3, padding="same")(x)])
    x = k.layers.Reshape((tokens, width))(x)
    for _ in range(2):
        y = k.layers.LayerNormalization(epsilon=1e-6)(x)
        y = k.layers.MultiHeadAttention(4, width // 4)(y, y)
        x = k.layers.Add()([x, y])
        y = k.layers.LayerNormalization(epsilon=1e-6)(x)
        y = k.layers.Dense(2 * width, activation="gelu")(y)
        x = k.layers.Add()([x, k.layers.Dense(width)(y)])
    x = k.layers.LayerNormalization(epsilon=1e-6)(x)
    x = k.layers.GlobalAveragePooling1D()(x)
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))


def cnn_lstm(k: Any) -> Any:
    """Convolutions over time before an LSTM, as for sensors."""
    inputs = x = k.layers.Input((64, 6))
    for channels in (24, 32):
        x = k.layers.Conv1D(channels, 5, padding="same", activation="relu")(x)
        x = k.layers.MaxPooling1D()(x)
    x = k.layers.LSTM(32)(x)
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))


def gru(k: Any) -> Any:
    """Two GRUs that tell sequences apart."""
    inputs = k.layers.Input((20, 12))
    x = k.layers.GRU(32, return_sequences=True)(inputs)
    x = k.layers.GRU(24)(x)
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))


def text(k: Any) -> Any:
    """The mean of words' embeddings, and a dense network on it."""
    inputs = k.layers.Input((40,), dtype="int32")
    x = k.layers.Embedding(1000, 32)(inputs)
    x = k.layers.GlobalAveragePooling1D()(x)
    x = k.layers.Dense(32, activation="relu")(x)
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))


def conv_3d(k: Any) -> Any:
    """Convolutions over space and time."""
    inputs = x = k.layers.Input((8, 16, 16, 3))
    for channels in (8, 16):
        x = k.layers.Conv3D(channels, 3, padding="same", use_bias=False)(x)
        x = k.layers.ReLU()(k.layers.BatchNormalization()(x))
        x = k.layers.MaxPooling3D()(x)
    x = k.layers.GlobalAveragePooling3D()(x)
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))
