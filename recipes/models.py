"""Networks of the recipes, as float models with logits as output.

Built by tf_keras, or by the Keras 3 that is given as `k`.
"""

from __future__ import annotations

import functools
from typing import Any

from matar_tf.keras import keras

__all__ = [
    "cifar_resnet20",
    "digits_chip",
    "digits_resnet",
    "mlperf_tiny_dscnn",
    "mlperf_tiny_resnet8",
]


def mlperf_tiny_resnet8(
    input_shape: tuple[int, ...], num_classes: int, k: Any = keras
) -> Any:
    """ResNet-8 of MLPerf Tiny's image classification, 78,666 parameters.

    Three stacks of 16, 32 and 64 channels; shortcuts of 1x1 convolutions without
    batch norm where the shape changes. The softmax is left to the loss.

    Reference:
      mlcommons/tiny, benchmark/training/image_classification/keras_model.py.
    """
    inputs = k.layers.Input(input_shape, name="image")
    x = _norm_relu(k, _conv(k, inputs, 16, 3, "stem"), "stem")
    for index, channels in enumerate((16, 32, 64), start=1):
        name, strides = f"stack{index}", 1 if index == 1 else 2
        y = _norm_relu(
            k, _conv(k, x, channels, 3, f"{name}_conv1", strides), f"{name}_1"
        )
        y = _conv(k, y, channels, 3, f"{name}_conv2")
        y = k.layers.BatchNormalization(name=f"{name}_2_bn")(y)
        if strides > 1:
            x = _conv(k, x, channels, 1, f"{name}_shortcut", strides)
        x = k.layers.Add(name=f"{name}_add")([x, y])
        x = k.layers.ReLU(name=f"{name}_relu")(x)
    x = k.layers.AveragePooling2D(x.shape[1:3], name="pool")(x)
    x = k.layers.Flatten(name="flatten")(x)
    outputs = k.layers.Dense(
        num_classes, kernel_initializer="he_normal", name="logits"
    )(x)
    return k.Model(inputs, outputs, name="resnet8")


def cifar_resnet20(
    input_shape: tuple[int, ...], num_classes: int, k: Any = keras
) -> Any:
    """ResNet-20 for CIFAR-10: three stacks of three blocks, 274,826 parameters.

    16, 32 and 64 channels; shortcuts of 1x1 convolutions with batch norm where the
    shape changes (option B). Weights decay two and a half times as fast as those of the
    smaller networks.

    Reference:
      He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
    """
    conv = functools.partial(_conv, k, decay=2.5e-4)
    inputs = k.layers.Input(input_shape, name="image")
    x = _norm_relu(k, conv(inputs, 16, 3, "stem"), "stem")
    for stack, channels in enumerate((16, 32, 64), start=1):
        for block in range(1, 4):
            name = f"stack{stack}_block{block}"
            strides = 2 if stack > 1 and block == 1 else 1
            y = _norm_relu(
                k, conv(x, channels, 3, f"{name}_conv1", strides), f"{name}_1"
            )
            y = conv(y, channels, 3, f"{name}_conv2")
            y = k.layers.BatchNormalization(name=f"{name}_2_bn")(y)
            if strides > 1:
                x = conv(x, channels, 1, f"{name}_shortcut", strides)
                x = k.layers.BatchNormalization(name=f"{name}_shortcut_bn")(x)
            x = k.layers.ReLU(name=f"{name}_relu")(
                k.layers.Add(name=f"{name}_add")([x, y])
            )
    x = k.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = k.layers.Dense(
        num_classes, kernel_initializer="he_normal", name="logits"
    )(x)
    return k.Model(inputs, outputs, name="resnet20")


def mlperf_tiny_dscnn(
    input_shape: tuple[int, ...], num_classes: int, k: Any = keras
) -> Any:
    """DS-CNN of MLPerf Tiny's keyword spotting: 64 channels, four separable blocks.

    Takes cepstral coefficients ``[frames, coefficients, 1]``, 49 by 10 there.

    Reference:
      mlcommons/tiny, benchmark/training/keyword_spotting/keras_model.py; Zhang et al.,
      Hello Edge, 2017.
    """
    inputs = k.layers.Input(input_shape, name="features")
    x = k.layers.Conv2D(
        64,
        (10, 4),
        strides=2,
        padding="same",
        kernel_initializer="he_normal",
        kernel_regularizer=k.regularizers.l2(1e-4),
        name="stem",
    )(inputs)
    x = k.layers.Dropout(0.2, name="stem_dropout")(_norm_relu(k, x, "stem"))
    for block in range(1, 5):
        y = k.layers.DepthwiseConv2D(
            3, padding="same", use_bias=False, name=f"block{block}_depthwise"
        )(x)
        y = _norm_relu(k, y, f"block{block}_depthwise")
        y = _conv(k, y, 64, 1, f"block{block}_pointwise")
        x = _norm_relu(k, y, f"block{block}_pointwise")
    x = k.layers.Dropout(0.4, name="head_dropout")(x)
    x = k.layers.AveragePooling2D(x.shape[1:3], name="pool")(x)
    x = k.layers.Flatten(name="flatten")(x)
    outputs = k.layers.Dense(
        num_classes, kernel_initializer="he_normal", name="logits"
    )(x)
    return k.Model(inputs, outputs, name="dscnn")


def digits_resnet(
    input_shape: tuple[int, ...], num_classes: int, k: Any = keras
) -> Any:
    """A residual network for 8x8 images: convolutions, a depthwise one, two sums."""
    inputs = k.layers.Input(input_shape, name="image")
    x = _norm_relu(k, _conv(k, inputs, 16, 3, "stem"), "stem")
    y = _norm_relu(k, _conv(k, x, 16, 3, "stack1_conv1"), "stack1_1")
    y = _conv(k, y, 16, 3, "stack1_conv2")
    y = k.layers.BatchNormalization(name="stack1_2_bn")(y)
    x = k.layers.ReLU(name="stack1_relu")(k.layers.Add(name="stack1_add")([x, y]))
    y = k.layers.DepthwiseConv2D(
        3, strides=2, padding="same", use_bias=False, name="stack2_depthwise"
    )(x)
    y = _norm_relu(k, y, "stack2_1")
    y = _conv(k, y, 32, 1, "stack2_pointwise")
    y = k.layers.BatchNormalization(name="stack2_2_bn")(y)
    x = _conv(k, x, 32, 1, "stack2_shortcut", 2)
    x = k.layers.ReLU(name="stack2_relu")(k.layers.Add(name="stack2_add")([x, y]))
    x = _norm_relu(k, _conv(k, x, 32, 3, "head_conv"), "head")
    x = k.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = k.layers.Dense(num_classes, name="logits")(x)
    return k.Model(inputs, outputs, name="digits_resnet")


def digits_chip(input_shape: tuple[int, ...], num_classes: int, k: Any = keras) -> Any:
    """Four convolutions for 8x8 images, as small chips take them.

    One input channel, channels in fours, kernels of 3x3 and 1x1, strides of 1 with max
    pooling, none depthwise, no sums.
    """
    inputs = k.layers.Input(input_shape, name="image")
    x = _norm_relu(k, _conv(k, inputs, 16, 3, "stem"), "stem")
    x = _norm_relu(k, _conv(k, x, 16, 3, "conv1"), "conv1")
    x = k.layers.MaxPooling2D(name="pool1")(x)
    x = _norm_relu(k, _conv(k, x, 32, 3, "conv2"), "conv2")
    x = k.layers.MaxPooling2D(name="pool2")(x)
    x = _norm_relu(k, _conv(k, x, 32, 1, "conv3"), "conv3")
    x = k.layers.Flatten(name="flatten")(x)
    outputs = k.layers.Dense(num_classes, name="logits")(x)
    return k.Model(inputs, outputs, name="digits_chip")


def _conv(
    k: Any,
    x: Any,
    channels: int,
    size: int,
    name: str,
    strides: int = 1,
    *,
    decay: float = 1e-4,
) -> Any:
    return k.layers.Conv2D(
        channels,
        size,
        strides=strides,
        padding="same",
        kernel_initializer="he_normal",
        kernel_regularizer=k.regularizers.l2(decay),
        name=name,
    )(x)


def _norm_relu(k: Any, x: Any, name: str) -> Any:
    return k.layers.ReLU(name=f"{name}_relu")(
        k.layers.BatchNormalization(name=f"{name}_bn")(x)
    )
