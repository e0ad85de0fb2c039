"""Networks of ``tools/benchmark.py zoo``: ordinary ones, with random weights.

Each is built by tf_keras or by Keras 3, whichever it is given. Those of
``applications`` are built as their users build them, softmax and preprocessing
included.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recipes.models import mlperf_tiny_dscnn, mlperf_tiny_resnet8
from tools.benchmarks import zoo_structures

__all__ = ["NETWORKS", "Network", "take_statistics"]

_CLASSES: Final = 10


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the zoo.

    Attributes:
      build: Returns it as a float model of tf_keras, or of Keras 3, as it is given.
      low: Least value of its samples.
      high: Largest one.
      is_classifier: Whether its last axis tells classes apart.
      learns_digits: Whether it is fitted to digits for an epoch, not for a step.
      has_keras3: Whether Keras 3 can build it.
      integer_share: Of its multiply-accumulates that run on integer kernels at least.
    """

    build: Callable[[Any], Any]
    low: float = -1.0
    high: float = 1.0
    is_classifier: bool = True
    learns_digits: bool = False
    has_keras3: bool = True
    integer_share: float = 1.0


def _application(name: str, k: Any) -> Any:
    build = getattr(k.applications, name)
    return build(weights=None, input_shape=(96, 96, 3), classes=_CLASSES)


def _norm_relu(k: Any, x: Any) -> Any:
    return k.layers.Activation("relu")(k.layers.BatchNormalization()(x))


def _two_convs(k: Any, x: Any, channels: int) -> Any:
    for _ in range(2):
        x = _norm_relu(
            k, k.layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        )
    return x


def _u_net(grow: str, k: Any) -> Any:
    """A U-Net of three levels that upsamples by ``transposed`` or an interpolation."""
    inputs = x = k.layers.Input((64, 64, 3))
    skips = []
    for channels in (16, 32, 64):
        x = _two_convs(k, x, channels)
        skips.append(x)
        x = k.layers.MaxPooling2D()(x)
    x = _two_convs(k, x, 128)
    for channels, skip in zip((64, 32, 16), reversed(skips), strict=True):
        if grow == "transposed":
            x = k.layers.Conv2DTranspose(channels, 2, strides=2, padding="same")(x)
        else:
            x = k.layers.UpSampling2D(2, interpolation=grow)(x)
        x = _two_convs(k, k.layers.Concatenate()([x, skip]), channels)
    return k.Model(inputs, k.layers.Conv2D(4, 1, activation="softmax")(x))


def _conv_1d(k: Any) -> Any:
    inputs = k.layers.Input((128, 6))
    x = k.layers.Conv1D(32, 5, activation="relu")(inputs)
    x = k.layers.MaxPooling1D()(k.layers.BatchNormalization()(x))
    x = k.layers.Conv1D(64, 5, activation="relu")(x)
    x = k.layers.GlobalAveragePooling1D()(k.layers.Dropout(0.3)(x))
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))


def _tcn(k: Any) -> Any:
    """A temporal convolutional network: causal, dilated, residual.

    Reference:
      Bai et al., An Empirical Evaluation of Generic Convolutional and Recurrent
      Networks for Sequence Modeling, 2018.
    """
    inputs = k.layers.Input((64, 8))
    x: Any = inputs
    for index, channels in enumerate((24, 24, 32, 32)):
        y = x
        for _ in range(2):
            y = k.layers.Conv1D(channels, 3, padding="causal", dilation_rate=2**index)(
                y
            )
            y = k.layers.SpatialDropout1D(0.1)(_norm_relu(k, y))
        x = x if x.shape[-1] == channels else k.layers.Conv1D(channels, 1)(x)
        x = k.layers.Activation("relu")(k.layers.Add()([x, y]))
    x = k.layers.GlobalAveragePooling1D()(x)
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))


def _mlp(k: Any) -> Any:
    inputs = x = k.layers.Input((32,))
    for units in (128, 64):
        x = k.layers.BatchNormalization()(k.layers.Dense(units, activation="relu")(x))
    return k.Model(inputs, k.layers.Dense(_CLASSES, activation="softmax")(x))


def _autoencoder(k: Any) -> Any:
    inputs = x = k.layers.Input((32, 32, 3))
    conv = functools.partial(
        k.layers.Conv2D, kernel_size=3, strides=2, padding="same", activation="relu"
    )
    grow = functools.partial(
        k.layers.Conv2DTranspose,
        kernel_size=3,
        strides=2,
        padding="same",
        activation="relu",
    )
    x = conv(32)(conv(16)(x))
    x = grow(16)(grow(32)(x))
    outputs = k.layers.Conv2D(3, 3, padding="same", activation="sigmoid")(x)
    return k.Model(inputs, outputs)


def _squeezenet(k: Any) -> Any:
    """SqueezeNet v1.1.

    Reference:
      Iandola et al., SqueezeNet, 2016.
    """
    relu = functools.partial(k.layers.Conv2D, activation="relu", padding="same")
    inputs = k.layers.Input((96, 96, 3))
    x = relu(64, 3, strides=2)(inputs)
    for index, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if index in (0, 2, 4):
            x = k.layers.MaxPooling2D(3, 2)(x)
        x = relu(squeezed, 1)(x)
        x = k.layers.Concatenate()([relu(4 * squeezed, 1)(x), relu(4 * squeezed, 3)(x)])
    x = relu(_CLASSES, 1)(k.layers.Dropout(0.5)(x))
    x = k.layers.GlobalAveragePooling2D()(x)
    return k.Model(inputs, k.layers.Activation("softmax")(x))


def _detector(k: Any) -> Any:
    """Boxes and scores of four classes from two maps, joined on the axis of places."""
    inputs = x = k.layers.Input((64, 64, 3))
    for channels in (16, 32, 64):
        x = _norm_relu(k, k.layers.Conv2D(channels, 3, strides=2, padding="same")(x))
    small = _norm_relu(k, k.layers.Conv2D(64, 3, strides=2, padding="same")(x))
    maps = []
    for features in (x, small):
        for _ in ("boxes", "scores"):
            places = k.layers.Conv2D(3 * 4, 3, padding="same")(features)
            maps.append(k.layers.Reshape((-1, 4))(places))
    return k.Model(inputs, k.layers.Concatenate(axis=1)(maps))


def _mlperf_tiny_mobilenet(k: Any) -> Any:
    """MobileNet v1 of MLPerf Tiny's visual wake words, a quarter as wide.

    Reference:
      mlcommons/tiny, benchmark/training/visual_wake_words/vww_model.py.
    """
    inputs = k.layers.Input((96, 96, 3))
    x = _norm_relu(k, k.layers.Conv2D(8, 3, strides=2, padding="same")(inputs))
    widths = (16, 32, 32, 64, 64, *(128,) * 6, 256, 256)
    for index, channels in enumerate(widths):
        strides = 2 if index in (1, 3, 5, 11) else 1
        x = _norm_relu(
            k, k.layers.DepthwiseConv2D(3, strides=strides, padding="same")(x)
        )
        x = _norm_relu(k, k.layers.Conv2D(channels, 1, padding="same")(x))
    x = k.layers.Flatten()(k.layers.AveragePooling2D(x.shape[1:3])(x))
    return k.Model(inputs, k.layers.Dense(2, activation="softmax")(x))


def _mlperf_tiny_autoencoder(k: Any) -> Any:
    """The dense autoencoder of MLPerf Tiny's anomaly detection.

    Reference:
      mlcommons/tiny, benchmark/training/anomaly_detection/keras_model.py.
    """
    inputs = x = k.layers.Input((640,))
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = _norm_relu(k, k.layers.Dense(units)(x))
    return k.Model(inputs, k.layers.Dense(640)(x))


def _transfer(k: Any) -> Any:
    """A new head on a frozen base, as Keras' guide to transfer learning has it."""
    build: Any = k.applications.MobileNetV2
    base = build(weights=None, include_top=False, input_shape=(96, 96, 3))
    rng = np.random.default_rng(0)
    take_statistics(base, rng.uniform(-1.0, 1.0, (8, 96, 96, 3)).astype(np.float32))
    base.trainable = False
    inputs = k.layers.Input((96, 96, 3))
    x = k.Sequential([k.layers.RandomFlip("horizontal"), k.layers.RandomRotation(0.1)])(
        inputs
    )
    x = base(k.layers.Rescaling(1 / 127.5, offset=-1.0)(x), training=False)
    x = k.layers.Dropout(0.2)(k.layers.GlobalAveragePooling2D()(x))
    return k.Model(inputs, k.layers.Dense(_CLASSES)(x))


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
    "u_net_transposed": Network(build=functools.partial(_u_net, "transposed")),
    "u_net_nearest": Network(build=functools.partial(_u_net, "nearest")),
    "u_net_bilinear": Network(build=functools.partial(_u_net, "bilinear")),
    "transfer": Network(build=_transfer, low=0.0, high=255.0, learns_digits=True),
    "conv_1d": Network(build=_conv_1d),
    "tcn": Network(build=_tcn),
    "mlp": Network(build=_mlp),
    "autoencoder": Network(build=_autoencoder, low=0.0, is_classifier=False),
    "squeezenet": Network(build=_squeezenet),
    "detector": Network(build=_detector, is_classifier=False),
    "mlperf_resnet8": Network(build=lambda k: mlperf_tiny_resnet8((32, 32, 3), 10, k)),
    "mlperf_mobilenet": Network(build=_mlperf_tiny_mobilenet),
    "mlperf_dscnn": Network(build=lambda k: mlperf_tiny_dscnn((49, 10, 1), 12, k)),
    "mlperf_autoencoder": Network(build=_mlperf_tiny_autoencoder, is_classifier=False),
    "siamese": Network(build=zoo_structures.siamese),
    "two_inputs": Network(build=zoo_structures.two_inputs),
    "two_outputs": Network(build=zoo_structures.two_outputs, is_classifier=False),
    "ssd": Network(build=zoo_structures.ssd, is_classifier=False),
    "ConvNeXtTiny": Network(
        build=zoo_structures.conv_next, low=0.0, high=255.0, integer_share=0.9
    ),
    "vision_transformer": Network(
        build=zoo_structures.vision_transformer, integer_share=0.9
    ),
    "cnn_lstm": Network(build=zoo_structures.cnn_lstm, integer_share=0.0),
    "gru": Network(build=zoo_structures.gru, integer_share=0.0),
    "text": Network(build=zoo_structures.text, high=1000.0, integer_share=0.0),
    "conv_3d": Network(build=zoo_structures.conv_3d, integer_share=0.0),
    "custom": Network(build=zoo_structures.custom, has_keras3=False, integer_share=0.0),
}


def take_statistics(model: Any, samples: Any) -> None:
    """Gives batch norms the statistics that samples have where they stand.

    One step that forgets everything: each norms by its batch in that very step.
    """
    norms = [
        one
        for one in model._flatten_layers()
        if type(one).__name__ == "BatchNormalization"
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(samples, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
