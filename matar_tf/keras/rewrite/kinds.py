"""Layer kinds: what each does to a tensor's grid, and how 1-D layers are lifted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matar_tf.keras._compat import keras, tf
from matar_tf.keras.layers import InputQuantize, MultiBitBatchNormalization
from matar_tf.keras.quantizers.configs import (
    GLOBAL_AVERAGES,
    KERNEL_ATTRIBUTES,
    activation_name,
)

__all__ = [
    "AVERAGE_POOLS",
    "COMPUTE",
    "FIXED_GRID_ACTIVATIONS",
    "FUSED_ACTIVATIONS",
    "KINDS",
    "NORMS",
    "SEPARABLE",
    "SUPPORTED_ACTIVATIONS",
    "consumers_of",
    "is_activation",
    "is_identity",
    "is_lifted_kind",
    "is_relu",
    "keeps_grid",
    "keeps_lifted",
    "lifted_axis",
    "lifted_layer",
    "nodes_of",
    "parents_of",
]

_L = keras.layers
FUSED_ACTIVATIONS = {"linear", "relu", "relu6"}
# TFLite fixes the grid of their output: 1/256 or 1/128, 8 bits.
FIXED_GRID_ACTIVATIONS = {"sigmoid", "softmax", "tanh"}
SUPPORTED_ACTIVATIONS = FUSED_ACTIVATIONS | FIXED_GRID_ACTIVATIONS
COMPUTE = tuple(KERNEL_ATTRIBUTES)
SEPARABLE = (_L.SeparableConv1D, _L.SeparableConv2D)
AVERAGE_POOLS = (_L.AveragePooling1D, _L.AveragePooling2D)
_DROPOUTS = (_L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D)
_KEEPS_GRID = (
    *_DROPOUTS,
    _L.MaxPooling1D,
    _L.MaxPooling2D,
    _L.GlobalMaxPooling1D,
    _L.GlobalMaxPooling2D,
    _L.Flatten,
    _L.Reshape,
    _L.ZeroPadding1D,
    _L.ZeroPadding2D,
)
NORMS = (_L.BatchNormalization, MultiBitBatchNormalization)
KINDS = (
    *COMPUTE,
    *SEPARABLE,
    *AVERAGE_POOLS,
    *GLOBAL_AVERAGES,
    *_KEEPS_GRID,
    *NORMS,
    _L.Activation,
    _L.ReLU,
    _L.Softmax,
    _L.Add,
    _L.Concatenate,
    _L.InputLayer,
    InputQuantize,
)
_LIFTED_KINDS = {
    _L.AveragePooling1D: _L.AveragePooling2D,
    _L.Conv1D: _L.Conv2D,
    _L.DepthwiseConv1D: _L.DepthwiseConv2D,
    _L.GlobalAveragePooling1D: _L.GlobalAveragePooling2D,
    _L.GlobalMaxPooling1D: _L.GlobalMaxPooling2D,
    _L.MaxPooling1D: _L.MaxPooling2D,
    _L.SeparableConv1D: _L.SeparableConv2D,
    _L.SpatialDropout1D: _L.SpatialDropout2D,
    _L.ZeroPadding1D: _L.ZeroPadding2D,
}
_KEEPS_LIFTED = (
    *NORMS,
    _L.Activation,
    _L.Add,
    _L.Concatenate,
    _L.Dropout,
    _L.ReLU,
    _L.Softmax,
)


def nodes_of(model: Any) -> Iterator[Any]:
    """Yields the model's nodes in execution order."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def parents_of(layer: Any) -> list[Any]:
    """Returns the layers that a layer reads, in order; none for an input layer."""
    if isinstance(layer, _L.InputLayer):
        return []
    return list(tf.nest.flatten(layer.inbound_nodes[-1].inbound_layers))


def consumers_of(model: Any) -> dict[str, list[Any]]:
    """Returns the layers that read each layer's output, by the latter's name."""
    consumers: dict[str, list[Any]] = {}
    for node in nodes_of(model):
        if isinstance(node.outbound_layer, _L.InputLayer):
            continue
        for above in tf.nest.flatten(node.inbound_layers):
            consumers.setdefault(above.name, []).append(node.outbound_layer)
    return consumers


def is_activation(layer: Any) -> bool:
    """Whether a layer is an activation function by itself."""
    return isinstance(layer, (_L.Activation, _L.ReLU, _L.Softmax))


def is_relu(layer: Any) -> bool:
    """Whether a layer is a ReLU or ReLU6 by itself."""
    return is_activation(layer) and activation_name(layer) in ("relu", "relu6")


def is_identity(layer: Any) -> bool:
    """Whether a layer changes nothing once the network is trained."""
    is_linear = isinstance(layer, _L.Activation) and activation_name(layer) == "linear"
    return is_linear or isinstance(layer, _DROPOUTS)


def keeps_grid(layer: Any) -> bool:
    """Whether what a layer makes lies on the grid of its input as it is."""
    # The converter drops a mean of one pixel.
    is_copy = isinstance(layer, GLOBAL_AVERAGES) and layer.keepdims
    is_copy = is_copy and set(layer.input_shape[1:-1]) == {1}
    return is_copy or is_identity(layer) or isinstance(layer, _KEEPS_GRID)


def is_lifted_kind(layer: Any) -> bool:
    """Whether a layer is one-dimensional and becomes a two-dimensional one."""
    return type(layer) in _LIFTED_KINDS


def keeps_lifted(layer: Any) -> bool:
    """Whether a layer does the same to a tensor with an axis of height 1."""
    # A noise shape counts the axes of the tensor as it was.
    has_shape = getattr(layer, "noise_shape", None) is not None
    return isinstance(layer, _KEEPS_LIFTED) and not has_shape


def lifted_layer(layer: Any) -> Any:
    """Returns the two-dimensional layer of height 1 that does what a 1-D one does."""
    config = layer.get_config()
    for key in ("kernel_size", "pool_size", "dilation_rate", "strides"):
        if key in config:
            length = config[key]
            length = length[0] if isinstance(length, (list, tuple)) else length
            config[key] = (1, length)
    if "depthwise_initializer" in config:
        # Depthwise kernels step equally on both axes; there is one row to step on.
        config["strides"] = (config["strides"][1],) * 2
    if isinstance(layer, _L.ZeroPadding1D):
        config["padding"] = ((0, 0), config["padding"])
    lifted = _LIFTED_KINDS[type(layer)].from_config(config)
    shape = layer.input_shape
    lifted.build((shape[0], 1, *shape[1:]))
    lifted.set_weights(
        [value[None] if value.ndim > 1 else value for value in layer.get_weights()]
    )
    return lifted


def lifted_axis(layer: Any) -> Any:
    """Returns a layer that counts its axis on tensors with an axis of height 1."""
    if not isinstance(layer, _L.Concatenate) or layer.axis < 1:
        return layer
    return _L.Concatenate.from_config({**layer.get_config(), "axis": layer.axis + 1})
