"""Replacing the layers of a float model by what the integer graph has instead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.keras._compat import keras, tf
from matar_tf.keras.layers import MultiBitBatchNormalization
from matar_tf.keras.quantizers.configs import activation_name, kernel_attribute
from matar_tf.keras.rewrite.kinds import (
    COMPUTE,
    FUSED_ACTIVATIONS,
    SEPARABLE,
    is_lifted_kind,
    keeps_lifted,
    lifted_axis,
    lifted_layer,
)
from matar_tf.policy import ALL_BITS

__all__ = ["Builder", "Context"]

# Kind, name and widths of policy entries.
Context = Sequence[tuple[str, str, tuple[int, ...]]]

_L = keras.layers


class Builder:
    """Calls the replacement of each layer on new tensors; copies its weights."""

    def __init__(
        self,
        consumers: Mapping[str, list[Any]],
        weight_bits: Mapping[str, tuple[int, ...]],
        contexts: Mapping[str, Context],
        names: Collection[str],
    ) -> None:
        self.consumers = consumers
        self.weight_bits = weight_bits
        self.contexts = contexts
        self.names = set(names)  # of all layers, the model's and those made for it
        self.made: list[str] = []  # names of the layers made since it was cleared
        self.lifted: dict[int, Any] = {}  # tensors of height 1, by id
        self.lifted_of: dict[int, Any] = {}
        self.lowered_of: dict[int, Any] = {}

    def renewed(
        self, layer: Any, args: list[Any], kwargs: dict[str, Any], *, touched: bool
    ) -> Any:
        """Returns the output of what replaces a layer.

        One-dimensional layers become two-dimensional ones of height 1: the converter
        has no integer kernels for the former. Tensors stay *lifted*, with that height,
        as long as layers take them so.

        Args:
          layer: The layer.
          args: Its arguments, new tensors.
          kwargs: Its keyword arguments.
          touched: Whether the layer is to be quantized; others are copied.
        """
        is_lifted = [id(tensor) in self.lifted for tensor in tf.nest.flatten(args)]
        lifts = touched and is_lifted_kind(layer)
        keeps = touched and keeps_lifted(layer) and all(is_lifted)
        if lifts:
            args = tf.nest.map_structure(self._lift, args)
            new = lifted_layer(layer)
        else:
            args = args if keeps else tf.nest.map_structure(self._lower, args)
            new = lifted_axis(layer) if keeps else layer
        expand = self.expansion(new) if touched else self.copied
        outputs = expand(new, *args, **kwargs)
        if keeps or (lifts and len(outputs.shape) == 4):
            self.lifted[id(outputs)] = outputs
        return outputs

    def free_name(self, wanted: str) -> str:
        """Returns a name for a layer that the model has not, and takes it."""
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name

    def lowered(self, tensor: Any) -> Any:
        """Returns an output of the model in its own rank."""
        return self._lower(tensor)

    def _lift(self, tensor: Any) -> Any:
        if id(tensor) in self.lifted:
            return tensor
        if id(tensor) not in self.lifted_of:
            name = self.free_name(f"{tensor.node.outbound_layer.name}_lifted")
            reshape = _L.Reshape((1, *_sizes(tensor.shape[1:])), name=name)
            lifted = self._call(reshape, [], tensor)
            self.lifted[id(lifted)] = lifted
            self.lifted_of[id(tensor)] = lifted
        return self.lifted_of[id(tensor)]

    def _lower(self, tensor: Any) -> Any:
        if id(tensor) not in self.lifted:
            return tensor
        if id(tensor) not in self.lowered_of:
            name = self.free_name(f"{tensor.node.outbound_layer.name}_lowered")
            reshape = _L.Reshape(_sizes(tensor.shape[2:]), name=name)
            self.lowered_of[id(tensor)] = self._call(reshape, [], tensor)
        return self.lowered_of[id(tensor)]

    def expansion(self, layer: Any) -> Callable[..., Any]:
        """Returns the method that replaces a layer."""
        if isinstance(layer, SEPARABLE):
            return self._split_separable
        if isinstance(layer, _L.Add):
            return self._chain_adds
        if isinstance(layer, _L.BatchNormalization):
            return self._make_multi_bit
        if kernel_attribute(layer) is not None:
            return self._single_operation
        return self.copied

    def copied(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the output of a copy of the layer."""
        return self._call(_copy(layer), layer.get_weights(), *args, **kwargs)

    def _call(self, layer: Any, weights: list[Any], *args: Any, **kwargs: Any) -> Any:
        self.made.append(layer.name)
        outputs = layer(*args, **kwargs)
        layer.set_weights(weights)
        return outputs

    def _feeds_norm(self, layer: Any) -> bool:
        below = self.consumers.get(layer.name, [])
        return len(below) == 1 and isinstance(below[0], _L.BatchNormalization)

    def _single_operation(
        self, layer: Any, tensor: Any, weights: list[Any] | None = None, **_: Any
    ) -> Any:
        """A convolution or dense layer, an activation that TFLite cannot fuse apart.

        Batch norm below takes the bias over.
        """
        values: list[Any] = layer.get_weights() if weights is None else weights
        if self._feeds_norm(layer) and layer.use_bias:
            layer, values = _copy(layer, use_bias=False), values[:1]
        name = activation_name(layer)
        if name in FUSED_ACTIVATIONS:
            return self._call(_copy(layer), values, tensor)
        outputs = self._call(_copy(layer, activation="linear"), values, tensor)
        activation = _L.Activation(name, name=self.free_name(f"{layer.name}_{name}"))
        return self._call(activation, [], outputs)

    def _split_separable(self, layer: Any, tensor: Any) -> Any:
        """A depthwise and a pointwise convolution, as tfmot splits it."""
        depthwise = _L.DepthwiseConv2D(
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            depth_multiplier=layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            name=self.free_name(f"{layer.name}_depthwise"),
        )
        pointwise = _L.Conv2D(
            layer.filters,
            1,
            use_bias=layer.use_bias,
            activation=layer.activation,
            name=self.free_name(f"{layer.name}_pointwise"),
        )
        weights = layer.get_weights()
        inner = self._call(depthwise, weights[:1], tensor)
        if self._feeds_norm(layer):
            pointwise, weights = _copy(pointwise, use_bias=False), weights[:2]
        return self._single_operation(pointwise, inner, weights[1:])

    def _chain_adds(self, layer: Any, tensors: list[Any]) -> Any:
        """Sums of more than two tensors become a chain of sums of two."""
        total = tensors[0]
        for index, tensor in enumerate(tensors[1:]):
            last = index == len(tensors) - 2
            name = layer.name if last else self.free_name(f"{layer.name}_{index}")
            total = self._call(_L.Add(name=name), [], [total, tensor])
        return total

    def _make_multi_bit(self, layer: Any, tensor: Any, **_: Any) -> Any:
        """A batch norm bank with every row equal to the float batch norm.

        Scales below 0 go into the kernel: those of the bank count as magnitudes.
        """
        above = layer.inbound_nodes[-1].inbound_layers
        if (
            not isinstance(above, (*COMPUTE, *SEPARABLE))
            or activation_name(above) != "linear"
            or len(self.consumers[above.name]) > 1
        ):
            raise ModelError(
                f"Expected the batch norm {layer.name!r} right after a convolution or "
                "dense layer that has no activation and feeds nothing else, but it "
                f"follows {above.name!r} ({type(above).__name__}); integer kernels can "
                "only fold it there."
            )
        entry = tensor.node.outbound_layer.name
        new = MultiBitBatchNormalization(
            entry,
            self.weight_bits.get(entry, ALL_BITS),
            self.contexts.get(entry, ()),
            momentum=layer.momentum,
            epsilon=layer.epsilon,
            center=layer.center,
            scale=layer.scale,
            name=layer.name,
        )
        mean = np.asarray(layer.moving_mean)
        if above.use_bias:
            mean = mean - np.asarray(above.bias)
        gamma = np.asarray(layer.gamma) if layer.scale else np.ones_like(mean)
        signs = np.where(gamma < 0, np.float32(-1.0), np.float32(1.0))
        _flip_channels(tensor.node.outbound_layer, signs)
        self.made.append(new.name)
        outputs = new(tensor)
        new.gamma.assign(np.abs(gamma))
        if layer.center:
            new.beta.assign(layer.beta)
        # The first term has it all; the others start without effect.
        first = np.arange(new.moving_mean.shape[0])[:, np.newaxis] < new.num_paired_rows
        new.moving_mean.assign(np.where(first, mean * signs, 0.0))
        new.moving_variance.assign(np.where(first, layer.moving_variance, 1.0))
        return outputs


def _flip_channels(layer: Any, signs: np.ndarray) -> None:
    kernel, *rest = layer.get_weights()
    depthwise = "Depthwise" in type(layer).__name__
    channels = kernel.shape[-2:] if depthwise else kernel.shape[-1:]
    layer.set_weights([kernel * signs.reshape(channels), *rest])


def _sizes(shape: Sequence[int | None]) -> tuple[int, ...]:
    """Returns what `Reshape` takes for a shape with at most one unknown size."""
    return tuple(-1 if size is None else size for size in shape)


def _copy(layer: Any, **changes: Any) -> Any:
    return type(layer).from_config({**layer.get_config(), **changes})
