"""Laying a float model out for quantization: one operation a layer, then a plan.

`lay_out` rebuilds a Functional or Sequential model so that every tensor that the
integer model stores has exactly one place where it is quantized, as TFLite's integer
kernels have it: activation functions that cannot be fused stand alone, separable
convolutions are split as tfmot splits them, batch norms become multi-bitwidth ones,
inputs are quantized. The plan says which layers carry which quantizers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from matar_tf.errors import ModelError, PolicyError, did_you_mean
from matar_tf.keras._compat import keras, tf
from matar_tf.keras.layers import InputQuantize, MultiBitBatchNormalization
from matar_tf.keras.quantize_configs import (
    KERNEL_ATTRIBUTES,
    MatarQuantizeConfig,
    activation_name,
    is_nonnegative,
    kernel_attribute,
)
from matar_tf.policy import ALL_BITS, MAX_BITS, PolicySpace

__all__ = ["Layout", "Plan", "apply_space", "check_model", "lay_out", "plan_layout"]

_L = keras.layers
_FUSED_ACTIVATIONS = {"linear", "relu", "relu6"}
_SUPPORTED_ACTIVATIONS = _FUSED_ACTIVATIONS | {"sigmoid", "softmax", "tanh"}
_COMPUTE = tuple(KERNEL_ATTRIBUTES)
_SEPARABLE = (_L.SeparableConv1D, _L.SeparableConv2D)
_AVERAGE_POOLS = (_L.AveragePooling1D, _L.AveragePooling2D)
_GLOBAL_AVERAGES = (_L.GlobalAveragePooling1D, _L.GlobalAveragePooling2D)
# Layers whose output lies on the grid of their input.
_KEEPS_GRID = (
    _L.MaxPooling1D,
    _L.MaxPooling2D,
    _L.GlobalMaxPooling1D,
    _L.GlobalMaxPooling2D,
    _L.Flatten,
    _L.Reshape,
    _L.Dropout,
    _L.SpatialDropout1D,
    _L.SpatialDropout2D,
    _L.ZeroPadding2D,
)
_NORMS = (_L.BatchNormalization, MultiBitBatchNormalization)
_KINDS = (
    *_COMPUTE,
    *_SEPARABLE,
    *_AVERAGE_POOLS,
    *_GLOBAL_AVERAGES,
    *_KEEPS_GRID,
    *_NORMS,
    _L.Activation,
    _L.ReLU,
    _L.Softmax,
    _L.Add,
    _L.Concatenate,
    _L.InputLayer,
    InputQuantize,
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A laid-out model.

    Attributes:
      model: Functional model with one operation a layer.
      origins: Name of the original layer, by the name of each new layer.
    """

    model: Any
    origins: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a laid-out model is quantized.

    Attributes:
      configs: The config of each layer that tfmot is to wrap, by layer name.
      space: The widths of each policy entry.
    """

    configs: Mapping[str, MatarQuantizeConfig]
    space: PolicySpace


def check_model(model: Any, *, only: Collection[str] | None = None) -> None:
    """Refuses what cannot be quantized, saying what to do.

    Args:
      model: What is to be quantized.
      only: Names of the layers to be quantized; None for all.

    Raises:
      ModelError: For a Keras 3 object, a subclassed or unbuilt model, a layer that is
        used twice, or a layer kind or activation that has no integer kernel here.
    """
    if not isinstance(model, keras.Model):
        origin = type(model).__module__.split(".")[0]
        hint = (
            "it is a Keras 3 object; build it with tf_keras, or set "
            "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported"
            if origin == "keras"
            else "pass a model"
        )
        raise ModelError(
            f"Expected a tf_keras model, got {type(model).__module__}."
            f"{type(model).__name__}: {hint}."
        )
    if isinstance(model, keras.Sequential) and not model.built:
        raise ModelError(
            f"Expected a built model, but {model.name!r} has no input shape yet; give "
            "its first layer an input_shape or call build()."
        )
    if not getattr(model, "_is_graph_network", False):
        raise ModelError(
            f"Expected a Functional or Sequential model, got the subclassed "
            f"{type(model).__name__} {model.name!r}; rebuild it with "
            "tf_keras.Model(inputs, outputs)."
        )
    uses: dict[str, int] = {}
    for node in _nodes(model):
        layer = node.outbound_layer
        uses[layer.name] = uses.get(layer.name, 0) + 1
        if uses[layer.name] > 1:
            raise ModelError(
                f"Expected each layer to be used once, but {layer.name!r} is shared; "
                "make a second layer, because its inputs differ in scale."
            )
        if only is None or layer.name in only:
            _check_layer(layer)


def lay_out(
    model: Any,
    *,
    only: Collection[str] | None = None,
    space: PolicySpace | None = None,
    signed_inputs: bool = True,
) -> Layout:
    """Rebuilds a float model with one operation a layer; weights are copied.

    Args:
      model: A float model that passed `check_model`.
      only: Names of the layers to prepare; None for all. Others stay as they are.
      space: Widths of the policy entries; None for a layout that is only planned on.
      signed_inputs: Whether the samples have values below 0.

    Returns:
      A new model in which batch norms after convolutions and dense layers have become
      `MultiBitBatchNormalization` and inputs pass through `InputQuantize`.
    """
    consumers = _consumers(model)
    weights = space.weights if space else {}
    activations = space.activations if space else {}
    builder = _Builder(consumers, weights)
    tensors: dict[int, Any] = {}
    origins: dict[str, str] = {}
    for tensor in model.inputs:
        layer = tensor.node.outbound_layer
        new = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=layer.name)
        tensors[id(tensor)] = new
        names = [other.name for other in consumers.get(layer.name, ())]
        if only is None or any(name in only for name in names):
            tensors[id(tensor)] = InputQuantize(
                layer.name,
                activations.get(layer.name, (MAX_BITS,)),
                signed_inputs,
                name=f"{layer.name}_quantize",
            )(new)

    def renew(value: Any) -> Any:
        return tensors.get(id(value), value)

    for node in _nodes(model):
        layer = node.outbound_layer
        if isinstance(layer, _L.InputLayer):
            continue
        args, kwargs = tf.nest.map_structure(
            renew, (list(node.call_args), dict(node.call_kwargs))
        )
        touched = only is None or layer.name in only
        expand = builder.expansion(layer) if touched else builder.copied
        builder.made.clear()
        outputs = expand(layer, *args, **kwargs)
        origins.update({name: str(layer.name) for name in builder.made})
        for old, new in zip(
            tf.nest.flatten(node.outputs), tf.nest.flatten(outputs), strict=True
        ):
            tensors[id(old)] = new
    laid_out = keras.Model(
        [_input_of(tensors[id(tensor)]) for tensor in model.inputs],
        tf.nest.map_structure(renew, model.outputs),
        name=model.name,
    )
    return Layout(model=laid_out, origins=origins)


def plan_layout(
    layout: Layout,
    *,
    given: Mapping[str, MatarQuantizeConfig | None] | None = None,
    signed_inputs: bool = True,
) -> Plan:
    """Decides where a laid-out model is quantized, and the default policy space.

    First and last compute layer, network input, the last compute layer's input and
    the output stay at 8 bits; everything else may take 2..8.

    Args:
      layout: What `lay_out` returned.
      given: The layers to quantize, by original name, each with a config that the
        user chose for it or None; None for all layers.
      signed_inputs: Whether the samples have values below 0.

    Returns:
      The plan.
    """
    return _Planner(layout.model, layout.origins, given, signed_inputs).plan()


@dataclass
class _Planner:
    model: Any
    origins: Mapping[str, str]
    given: Mapping[str, MatarQuantizeConfig | None] | None
    signed_inputs: bool
    order: list[Any] = field(default_factory=list)
    nonnegative: dict[str, bool] = field(default_factory=dict)

    def plan(self) -> Plan:
        self.consumers = _consumers(self.model)
        self.order = [node.outbound_layer for node in _nodes(self.model)]
        quantized = [layer for layer in self.order if self._is_quantized(layer)]
        fixed_weights, fixed_tensors = self._fixed(quantized)
        configs: dict[str, MatarQuantizeConfig] = {}
        weights: dict[str, tuple[int, ...]] = {}
        activations: dict[str, tuple[int, ...]] = {}
        for layer in quantized:
            placement = self._placement(layer)
            if isinstance(layer, InputQuantize):
                activations[layer.entry] = (MAX_BITS,)
                continue
            chosen = (self.given or {}).get(self.origins[layer.name])
            has_kernel = kernel_attribute(layer) is not None
            if not has_kernel and placement is False and chosen is None:
                continue
            weight_bits = (MAX_BITS,) if layer.name in fixed_weights else ALL_BITS
            tensor_bits = (MAX_BITS,) if layer.name in fixed_tensors else ALL_BITS
            if chosen is not None:
                weight_bits = chosen.weight_bits
                tensor_bits = chosen.activation_bits
            if has_kernel:
                weights[layer.name] = weight_bits
            if placement is True:
                activations[layer.name] = tensor_bits
            configs[layer.name] = MatarQuantizeConfig(
                None if chosen is None else chosen.inner,
                weight_bits=weight_bits,
                activation_bits=tensor_bits,
                quantize_output=placement,
                signed=not self.nonnegative[layer.name],
            )
        return Plan(
            configs=configs,
            space=PolicySpace(weights=weights, activations=activations),
        )

    def _is_quantized(self, layer: Any) -> bool:
        self.nonnegative[layer.name] = self._is_nonnegative(layer)
        if isinstance(layer, _L.InputLayer):
            return False
        if self.given is None or isinstance(layer, InputQuantize):
            return True
        return self.origins[layer.name] in self.given

    def _is_nonnegative(self, layer: Any) -> bool:
        if isinstance(layer, InputQuantize):
            return not self.signed_inputs
        if is_nonnegative(layer):
            return True
        if isinstance(layer, (*_COMPUTE, *_NORMS, _L.InputLayer)):
            return False
        if activation_name(layer) not in {"linear"}:
            return False
        return all(self.nonnegative[above.name] for above in self._inputs(layer))

    def _placement(self, layer: Any) -> bool | str:
        """Returns whether the output of `layer` is quantized here."""
        if isinstance(layer, _KEEPS_GRID):
            return False
        if isinstance(layer, _AVERAGE_POOLS):
            return "input_grid"
        if isinstance(layer, _L.Activation) and activation_name(layer) == "linear":
            return False
        below = self.consumers.get(layer.name, ())
        if not below:
            # A final softmax or sigmoid has a fixed integer output range.
            return activation_name(layer) in _FUSED_ACTIVATIONS
        if len(below) > 1:
            return True
        consumer = below[0]
        if isinstance(consumer, MultiBitBatchNormalization):
            return False
        if isinstance(consumer, _L.Concatenate):
            # The concatenation's grid is that of its parts.
            return False
        fusable = isinstance(layer, (*_COMPUTE, *_NORMS, _L.Add))
        fuses = (
            isinstance(consumer, (_L.ReLU, _L.Activation))
            and activation_name(consumer) in {"relu", "relu6"}
            and activation_name(layer) == "linear"
        )
        return not (fusable and fuses)

    def _fixed(self, quantized: list[Any]) -> tuple[set[str], set[str]]:
        """Returns the layers and the tensors that stay at 8 bits."""
        compute = [layer for layer in quantized if isinstance(layer, _COMPUTE)]
        first = {
            layer.name
            for layer in compute
            if isinstance(self._tensor_above(layer), InputQuantize)
        }
        outputs = [t.node.outbound_layer for t in self.model.outputs]
        tensors = {self._tensor(layer).name for layer in outputs}
        last: set[str] = set()
        for layer in outputs:
            above = layer
            while above is not None and not isinstance(above, _COMPUTE):
                inputs = self._inputs(above)
                above = inputs[0] if len(inputs) == 1 else None
            if above is not None:
                last.add(above.name)
                tensors.add(self._tensor_above(above).name)
            ends = activation_name(layer) not in _FUSED_ACTIVATIONS
            if ends:
                tensors.add(self._tensor_above(layer).name)
        return first | last, tensors

    def _inputs(self, layer: Any) -> list[Any]:
        if isinstance(layer, _L.InputLayer):
            return []
        return _parents(layer)

    def _tensor(self, layer: Any) -> Any:
        """Returns the layer that quantizes the tensor which `layer` passes on."""
        while self._placement(layer) is not True:
            inputs = self._inputs(layer)
            if isinstance(layer, InputQuantize) or len(inputs) != 1:
                break
            layer = inputs[0]
        return layer

    def _tensor_above(self, layer: Any) -> Any:
        inputs = self._inputs(layer)
        return self._tensor(inputs[0]) if inputs else layer


def apply_space(plan: Plan, space: PolicySpace) -> Plan:
    """Returns the plan with the widths of a space.

    Raises:
      PolicyError: If the entries of the space are not those of the model.
    """
    for field_name in ("weights", "activations"):
        here = getattr(plan.space, field_name)
        there = getattr(space, field_name)
        for name in there:
            if name not in here:
                raise PolicyError(
                    f"The policy space has the {field_name} entry {name!r}, which "
                    f"matches nothing in this model. {did_you_mean(name, here)}"
                )
        for name in here:
            if name not in there:
                raise PolicyError(
                    f"The policy space has no {field_name} entry for {name!r} of this "
                    "model; start from matar_tf.policy_space(model)."
                )
    configs = {
        name: MatarQuantizeConfig(
            config.inner,
            weight_bits=space.weights.get(name, config.weight_bits),
            activation_bits=space.activations.get(name, config.activation_bits),
            quantize_output=config.quantize_output,
            signed=config.signed,
        )
        for name, config in plan.configs.items()
    }
    return Plan(configs=configs, space=space)


def _check_layer(layer: Any) -> None:
    if isinstance(layer, keras.Model):
        raise ModelError(
            f"Expected a flat model, but {layer.name!r} is a model inside the model; "
            "call its layers on the outer model's tensors."
        )
    if type(layer) not in _KINDS:
        known = {kind.__name__ for kind in _KINDS if kind.__module__ != __name__}
        raise ModelError(
            f"Layer {layer.name!r} is of kind {type(layer).__name__}, which has no "
            f"integer kernel here. {did_you_mean(type(layer).__name__, known)}"
        )
    name = activation_name(layer)
    if name not in _SUPPORTED_ACTIVATIONS:
        raise ModelError(
            f"Layer {layer.name!r} has the activation {name!r}, which has no integer "
            f"kernel here. {did_you_mean(name, _SUPPORTED_ACTIVATIONS)}"
        )
    channels_last = getattr(layer, "data_format", None) in (None, "channels_last")
    axis = getattr(layer, "axis", -1)
    axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
    if not channels_last or axis not in (-1, len(layer.output_shape) - 1):
        raise ModelError(
            f"Expected channels on the last axis in layer {layer.name!r}, got "
            f"data_format {getattr(layer, 'data_format', None)!r} and axis {axis!r}."
        )
    if isinstance(layer, _L.ReLU) and (
        layer.negative_slope or layer.threshold or layer.max_value not in (None, 6.0)
    ):
        raise ModelError(
            f"Expected a ReLU or ReLU6 in layer {layer.name!r}, got max_value "
            f"{layer.max_value}, negative_slope {float(layer.negative_slope)}, "
            f"threshold {float(layer.threshold)}."
        )


def _nodes(model: Any) -> Iterator[Any]:
    """Yields the model's nodes in execution order."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def _parents(layer: Any) -> list[Any]:
    return list(tf.nest.flatten(layer.inbound_nodes[-1].inbound_layers))


def _consumers(model: Any) -> dict[str, list[Any]]:
    """Returns the layers that read each layer's output, by the latter's name."""
    consumers: dict[str, list[Any]] = {}
    for node in _nodes(model):
        if isinstance(node.outbound_layer, _L.InputLayer):
            continue
        for above in tf.nest.flatten(node.inbound_layers):
            consumers.setdefault(above.name, []).append(node.outbound_layer)
    return consumers


def _input_of(tensor: Any) -> Any:
    layer = tensor.node.outbound_layer
    return layer.input if isinstance(layer, InputQuantize) else tensor


class _Builder:
    """Calls the replacement of each layer on new tensors; copies its weights."""

    def __init__(
        self,
        consumers: Mapping[str, list[Any]],
        weight_bits: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.consumers = consumers
        self.weight_bits = weight_bits
        self.made: list[str] = []  # names of the layers made since it was cleared

    def expansion(self, layer: Any) -> Callable[..., Any]:
        """Returns the method that replaces a layer."""
        if isinstance(layer, _SEPARABLE):
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
        if name in _FUSED_ACTIVATIONS:
            return self._call(_copy(layer), values, tensor)
        outputs = self._call(_copy(layer, activation="linear"), values, tensor)
        activation = _L.Activation(name, name=f"{layer.name}_{name}")
        return self._call(activation, [], outputs)

    def _split_separable(self, layer: Any, tensor: Any) -> Any:
        """A depthwise and a pointwise convolution, as tfmot splits it."""
        one_dimensional = isinstance(layer, _L.SeparableConv1D)
        depthwise_kind, pointwise_kind = (
            (_L.DepthwiseConv1D, _L.Conv1D)
            if one_dimensional
            else (_L.DepthwiseConv2D, _L.Conv2D)
        )
        first = (lambda value: value[0]) if one_dimensional else (lambda value: value)
        depthwise = depthwise_kind(
            first(layer.kernel_size),
            strides=first(layer.strides),
            padding=layer.padding,
            depth_multiplier=layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            name=f"{layer.name}_depthwise",
        )
        pointwise = pointwise_kind(
            layer.filters,
            1,
            use_bias=layer.use_bias,
            activation=layer.activation,
            name=f"{layer.name}_pointwise",
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
            name = layer.name if last else f"{layer.name}_{index}"
            total = self._call(_L.Add(name=name), [], [total, tensor])
        return total

    def _make_multi_bit(self, layer: Any, tensor: Any, **_: Any) -> Any:
        """A batch norm bank with every row equal to the float batch norm."""
        above = layer.inbound_nodes[-1].inbound_layers
        if (
            not isinstance(above, (*_COMPUTE, *_SEPARABLE))
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
            momentum=layer.momentum,
            epsilon=layer.epsilon,
            center=layer.center,
            scale=layer.scale,
            name=layer.name,
        )
        mean = np.asarray(layer.moving_mean)
        if above.use_bias:
            mean = mean - np.asarray(above.bias)
        rows = (
            np.asarray(layer.gamma) if layer.scale else np.ones_like(mean),
            np.asarray(layer.beta) if layer.center else np.zeros_like(mean),
            mean,
            np.asarray(layer.moving_variance),
        )
        self.made.append(new.name)
        outputs = new(tensor)
        banks = (new.gamma, new.beta, new.moving_mean, new.moving_variance)
        for bank, row in zip(banks, rows, strict=True):
            bank.assign(np.tile(row, (len(new.bits), 1)))
        return outputs


def _copy(layer: Any, **changes: Any) -> Any:
    return type(layer).from_config({**layer.get_config(), **changes})
