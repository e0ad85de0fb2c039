"""Networks of ``tools/benchmark.py zoo``: ordinary ones, with random weights.

Those of ``tf_keras.applications`` are built as their users build them, softmax and
preprocessing included; batch norms have the statistics of random samples, and the last
kernel is scaled so that outputs use their grid.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.keras import keras
from recipes.models import mlperf_tiny_dscnn, mlperf_tiny_resnet8

__all__ = ["NETWORKS", "Network", "build_float", "kinds_of", "random_samples"]

_L = keras.layers
_CLASSES: Final = 10
_SPREAD: Final = 2.0  # standard deviation of what the last kernel makes
_FEATURE_SIZES: Final = (2, 5, 16)  # pixels, of what random samples show
_NUM_STATISTICS: Final = 32  # samples of batch norms' statistics


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the zoo.

    Attributes:
      build: Returns it as a float model.
      low: Least value of its samples.
      high: Largest one.
      is_classifier: Whether its last axis tells classes apart.
    """

    build: Callable[[], Any]
    low: float = -1.0
    high: float = 1.0
    is_classifier: bool = True


def _application(name: str) -> Any:
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=(96, 96, 3), classes=_CLASSES)


def _norm_relu(x: Any) -> Any:
    return _L.Activation("relu")(_L.BatchNormalization()(x))


def _two_convs(x: Any, channels: int) -> Any:
    for _ in range(2):
        x = _norm_relu(_L.Conv2D(channels, 3, padding="same", use_bias=False)(x))
    return x


def _u_net(grow: str) -> Any:
    """A U-Net of three levels that upsamples by ``transposed`` or an interpolation."""
    inputs = x = _L.Input((64, 64, 3))
    skips = []
    for channels in (16, 32, 64):
        x = _two_convs(x, channels)
        skips.append(x)
        x = _L.MaxPooling2D()(x)
    x = _two_convs(x, 128)
    for channels, skip in zip((64, 32, 16), reversed(skips), strict=True):
        if grow == "transposed":
            x = _L.Conv2DTranspose(channels, 2, strides=2, padding="same")(x)
        else:
            x = _L.UpSampling2D(2, interpolation=grow)(x)
        x = _two_convs(_L.Concatenate()([x, skip]), channels)
    return keras.Model(inputs, _L.Conv2D(4, 1, activation="softmax")(x))


def _conv_1d() -> Any:
    inputs = _L.Input((128, 6))
    x = _L.Conv1D(32, 5, activation="relu")(inputs)
    x = _L.MaxPooling1D()(_L.BatchNormalization()(x))
    x = _L.Conv1D(64, 5, activation="relu")(x)
    x = _L.GlobalAveragePooling1D()(_L.Dropout(0.3)(x))
    return keras.Model(inputs, _L.Dense(_CLASSES, activation="softmax")(x))


def _tcn() -> Any:
    """A temporal convolutional network: causal, dilated, residual.

    Reference:
      Bai et al., An Empirical Evaluation of Generic Convolutional and Recurrent
      Networks for Sequence Modeling, 2018.
    """
    inputs = _L.Input((64, 8))
    x: Any = inputs
    for index, channels in enumerate((24, 24, 32, 32)):
        y = x
        for _ in range(2):
            y = _L.Conv1D(channels, 3, padding="causal", dilation_rate=2**index)(y)
            y = _L.SpatialDropout1D(0.1)(_norm_relu(y))
        x = x if x.shape[-1] == channels else _L.Conv1D(channels, 1)(x)
        x = _L.Activation("relu")(_L.Add()([x, y]))
    x = _L.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, _L.Dense(_CLASSES, activation="softmax")(x))


def _mlp() -> Any:
    inputs = x = _L.Input((32,))
    for units in (128, 64):
        x = _L.BatchNormalization()(_L.Dense(units, activation="relu")(x))
    return keras.Model(inputs, _L.Dense(_CLASSES, activation="softmax")(x))


def _autoencoder() -> Any:
    inputs = x = _L.Input((32, 32, 3))
    conv = functools.partial(
        _L.Conv2D, kernel_size=3, strides=2, padding="same", activation="relu"
    )
    grow = functools.partial(
        _L.Conv2DTranspose, kernel_size=3, strides=2, padding="same", activation="relu"
    )
    x = conv(32)(conv(16)(x))
    x = grow(16)(grow(32)(x))
    outputs = _L.Conv2D(3, 3, padding="same", activation="sigmoid")(x)
    return keras.Model(inputs, outputs)


def _squeezenet() -> Any:
    """SqueezeNet v1.1.

    Reference:
      Iandola et al., SqueezeNet, 2016.
    """
    relu = functools.partial(_L.Conv2D, activation="relu", padding="same")
    inputs = _L.Input((96, 96, 3))
    x = relu(64, 3, strides=2)(inputs)
    for index, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if index in (0, 2, 4):
            x = _L.MaxPooling2D(3, 2)(x)
        x = relu(squeezed, 1)(x)
        x = _L.Concatenate()([relu(4 * squeezed, 1)(x), relu(4 * squeezed, 3)(x)])
    x = relu(_CLASSES, 1)(_L.Dropout(0.5)(x))
    x = _L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, _L.Activation("softmax")(x))


def _detector() -> Any:
    """Boxes and scores of four classes from two maps, joined on the axis of places."""
    inputs = x = _L.Input((64, 64, 3))
    for channels in (16, 32, 64):
        x = _norm_relu(_L.Conv2D(channels, 3, strides=2, padding="same")(x))
    small = _norm_relu(_L.Conv2D(64, 3, strides=2, padding="same")(x))
    maps = []
    for features in (x, small):
        for _ in ("boxes", "scores"):
            places = _L.Conv2D(3 * 4, 3, padding="same")(features)
            maps.append(_L.Reshape((-1, 4))(places))
    return keras.Model(inputs, _L.Concatenate(axis=1)(maps))


def _mlperf_tiny_mobilenet() -> Any:
    """MobileNet v1 of MLPerf Tiny's visual wake words, a quarter as wide.

    Reference:
      mlcommons/tiny, benchmark/training/visual_wake_words/vww_model.py.
    """
    inputs = _L.Input((96, 96, 3))
    x = _norm_relu(_L.Conv2D(8, 3, strides=2, padding="same")(inputs))
    widths = (16, 32, 32, 64, 64, *(128,) * 6, 256, 256)
    for index, channels in enumerate(widths):
        strides = 2 if index in (1, 3, 5, 11) else 1
        x = _norm_relu(_L.DepthwiseConv2D(3, strides=strides, padding="same")(x))
        x = _norm_relu(_L.Conv2D(channels, 1, padding="same")(x))
    x = _L.Flatten()(_L.AveragePooling2D(x.shape[1:3])(x))
    return keras.Model(inputs, _L.Dense(2, activation="softmax")(x))


def _mlperf_tiny_autoencoder() -> Any:
    """The dense autoencoder of MLPerf Tiny's anomaly detection.

    Reference:
      mlcommons/tiny, benchmark/training/anomaly_detection/keras_model.py.
    """
    inputs = x = _L.Input((640,))
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = _norm_relu(_L.Dense(units)(x))
    return keras.Model(inputs, _L.Dense(640)(x))


def _transfer() -> Any:
    """A new head on a frozen base, as Keras' guide to transfer learning has it."""
    build: Any = keras.applications.MobileNetV2
    base = build(weights=None, include_top=False, input_shape=(96, 96, 3))
    rng = np.random.default_rng(0)
    _take_statistics(base, rng.uniform(-1.0, 1.0, (8, 96, 96, 3)).astype(np.float32))
    base.trainable = False
    inputs = _L.Input((96, 96, 3))
    x = keras.Sequential([_L.RandomFlip("horizontal"), _L.RandomRotation(0.1)])(inputs)
    x = base(_L.Rescaling(1 / 127.5, offset=-1.0)(x), training=False)
    x = _L.Dropout(0.2)(_L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, _L.Dense(_CLASSES)(x))


def _applications(
    *names: str, low: float = -1.0, high: float = 1.0
) -> dict[str, Network]:
    return {
        name: Network(build=functools.partial(_application, name), low=low, high=high)
        for name in names
    }


NETWORKS: Final[dict[str, Network]] = {
    **_applications("MobileNet", "MobileNetV2"),
    # These rescale what they take themselves.
    **_applications(
        *("MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0"), low=0.0, high=255.0
    ),
    **_applications("ResNet50", "ResNet50V2", "DenseNet121", "InceptionV3"),
    **_applications("Xception", "NASNetMobile", "VGG16"),
    "u_net_transposed": Network(build=lambda: _u_net("transposed")),
    "u_net_nearest": Network(build=lambda: _u_net("nearest")),
    "u_net_bilinear": Network(build=lambda: _u_net("bilinear")),
    "transfer": Network(build=_transfer, low=0.0, high=255.0),
    "conv_1d": Network(build=_conv_1d),
    "tcn": Network(build=_tcn),
    "mlp": Network(build=_mlp),
    "autoencoder": Network(build=_autoencoder, low=0.0, is_classifier=False),
    "squeezenet": Network(build=_squeezenet),
    "detector": Network(build=_detector, is_classifier=False),
    "mlperf_resnet8": Network(build=lambda: mlperf_tiny_resnet8((32, 32, 3), 10)),
    "mlperf_mobilenet": Network(build=_mlperf_tiny_mobilenet),
    "mlperf_dscnn": Network(build=lambda: mlperf_tiny_dscnn((49, 10, 1), 12)),
    "mlperf_autoencoder": Network(build=_mlperf_tiny_autoencoder, is_classifier=False),
}


def build_float(network: Network, samples: np.ndarray, *, seed: int) -> Any:
    """Returns a float model with statistics and a last kernel that suit samples.

    Args:
      network: What to build.
      samples: ``[num_samples, ...]``.
      seed: Of its weights.
    """
    keras.utils.set_random_seed(seed)
    model = network.build()
    _take_statistics(model, samples[:_NUM_STATISTICS])
    _scale_last_kernel(model, samples[:_NUM_STATISTICS])
    return model


def random_samples(
    shape: tuple[int, ...], number: int, network: Network, *, seed: int
) -> np.ndarray:
    """Returns samples of few colours and coarse and fine features, ``[number, ...]``.

    Plain noise would make all samples alike wherever a network takes a mean.
    """
    rng = np.random.default_rng(seed)
    *places, channels = shape
    samples = rng.normal(size=(number, *(1 for _ in places), channels))
    for pixels in _FEATURE_SIZES if places else ():
        sizes = [math.ceil(size / pixels) for size in places]
        coarse = rng.normal(size=(number, *sizes, channels))
        for axis, size in enumerate(places, start=1):
            coarse = coarse.repeat(pixels, axis).take(range(size), axis)
        contrast = rng.uniform(0.1, 1.5, (number, *(1 for _ in shape)))
        samples = samples + contrast * coarse
    middle, half = (network.high + network.low) / 2, (network.high - network.low) / 2
    return (middle + half * np.tanh(0.7 * samples)).astype(np.float32)


def kinds_of(model: Any) -> tuple[str, ...]:
    """Returns the kinds of layers in a model, functions by their name."""
    found: set[str] = set()
    for layer in model._flatten_layers():
        kind = type(layer).__name__
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            kind = layer.get_config()["function"]
        elif kind == "Activation":
            kind = layer.get_config()["activation"]
        found.add(kind)
    networks = {"Functional", "InputLayer", "Sequential"}
    return tuple(sorted(found - networks))


def _take_statistics(model: Any, samples: np.ndarray) -> None:
    """Gives batch norms the statistics that samples have where they stand.

    One step that forgets everything: each norms by its batch in that very step.
    """
    norms = [one for one in model.layers if isinstance(one, _L.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(samples, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _scale_last_kernel(model: Any, samples: np.ndarray) -> None:
    """Scales the last kernels, so that what they make has one spread."""
    for layer in _last_with_kernels(model):
        activation, layer.activation = layer.activation, keras.activations.linear
        values = keras.Model(model.input, layer.output)(samples, training=False)
        layer.activation = activation
        values = np.reshape(values, (len(values), -1, layer.output_shape[-1]))
        if len(model.output_shape) == 2:
            values = values.mean(axis=1)
        factor = _SPREAD / max(float(values.std()), 1e-12)
        layer.set_weights([factor * one for one in layer.get_weights()])


def _last_with_kernels(model: Any) -> list[Any]:
    """Returns the layers with kernels that no other one follows."""
    found: list[Any] = []
    open_tensors = [model.output]
    seen: set[int] = set()
    while open_tensors:
        layer = open_tensors.pop()._keras_history.layer
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel"):
            found.append(layer)
        elif not isinstance(layer, _L.InputLayer):
            inputs = layer.input
            open_tensors += inputs if isinstance(inputs, list) else [inputs]
    return found
