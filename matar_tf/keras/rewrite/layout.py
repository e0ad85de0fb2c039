"""Laying a float model out for quantization: one operation a layer.

`lay_out` rebuilds a Functional or Sequential model so that every tensor that the
integer model stores has exactly one place where it can be quantized, as TFLite's
integer kernels have it: activation functions that cannot be fused stand alone,
separable convolutions are split as tfmot splits them, one-dimensional layers become
two-dimensional ones, batch norms become multi-bitwidth ones, inputs are quantized.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from matar_tf.errors import ModelError, did_you_mean
from matar_tf.keras._compat import keras, tf
from matar_tf.keras.layers import InputQuantize
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import activation_name, has_known_activation
from matar_tf.keras.rewrite.kinds import (
    KINDS,
    SEPARABLE,
    SUPPORTED_ACTIVATIONS,
    consumers_of,
    nodes_of,
)
from matar_tf.keras.rewrite.replacements import Builder, Context
from matar_tf.policy import MAX_BITS
from matar_tf.space import PolicySpace

__all__ = ["Layout", "check_model", "lay_out"]

_L = keras.layers


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A laid-out model.

    Attributes:
      model: Functional model with one operation a layer.
      origins: Name of the original layer, by the name of each new layer.
    """

    model: Any
    origins: Mapping[str, str]


def check_model(model: Any, *, only: Mapping[str, Any] | None = None) -> None:
    """Refuses what cannot be quantized, saying what to do.

    Args:
      model: What is to be quantized.
      only: The layers to be quantized, by name, each with the config that the user
        chose or None; None for all. A layer of any kind may come with a config that
        has an inner one: it says what to quantize.

    Raises:
      ModelError: For a Keras 3 object, a subclassed or unbuilt model, a global policy
        of mixed precision, a layer that is used twice, or a layer kind or activation
        that has no integer kernel here.
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
    if any(wrapper.is_quantized(layer) for layer in model.layers):
        raise ModelError(
            f"Expected a float model, but {model.name!r} is quantized already; pass "
            "the model that it was made from."
        )
    if not getattr(model, "_is_graph_network", False):
        raise ModelError(
            f"Expected a Functional or Sequential model, got the subclassed "
            f"{type(model).__name__} {model.name!r}; rebuild it with "
            "tf_keras.Model(inputs, outputs)."
        )
    if keras.mixed_precision.global_policy().name != "float32":
        raise ModelError(
            "Expected Keras' global policy to be float32, got "
            f"{keras.mixed_precision.global_policy().name!r}; quantized layers would "
            "take it over."
        )
    uses: dict[str, int] = {}
    for node in nodes_of(model):
        layer = node.outbound_layer
        uses[layer.name] = uses.get(layer.name, 0) + 1
        if uses[layer.name] > 1:
            raise ModelError(
                f"Expected each layer to be used once, but {layer.name!r} is shared; "
                "make a second layer, because its inputs differ in scale."
            )
        if only is None or layer.name in only:
            chosen = (only or {}).get(layer.name)
            if chosen is None or chosen.inner is None:
                _check_layer(layer)
                _check_call(node)


def lay_out(
    model: Any,
    *,
    only: Collection[str] | None = None,
    space: PolicySpace | None = None,
    contexts: Mapping[str, Context] = MappingProxyType({}),
    signed_inputs: bool = True,
) -> Layout:
    """Rebuilds a float model with one operation a layer; weights are copied.

    Args:
      model: A float model that passed `check_model`.
      only: Names of the layers to prepare; None for all. Others stay as they are.
      space: Widths of the policy entries; None for a layout that is only planned on.
      contexts: What the statistics of batch norms depend on beside the widths of the
        layer's own weights, by the name of the layer whose output they normalise.
      signed_inputs: Whether the samples have values below 0.

    Returns:
      A new model in which batch norms after convolutions and dense layers have become
      `MultiBitBatchNormalization` and inputs pass through `InputQuantize`.
    """
    consumers = consumers_of(model)
    weights = space.weights if space else {}
    activations = space.activations if space else {}
    names = {layer.name for layer in model.layers}
    builder = Builder(consumers, weights, contexts, names)
    tensors: dict[int, Any] = {}
    origins: dict[str, str] = {}
    for tensor in model.inputs:
        layer = tensor.node.outbound_layer
        new = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=layer.name)
        tensors[id(tensor)] = new
        readers = [other.name for other in consumers.get(layer.name, ())]
        if only is None or any(name in only for name in readers):
            tensors[id(tensor)] = InputQuantize(
                layer.name,
                activations.get(layer.name, (MAX_BITS,)),
                signed_inputs,
                name=builder.free_name(f"{layer.name}_quantize"),
            )(new)

    def renew(value: Any) -> Any:
        return tensors.get(id(value), value)

    for node in nodes_of(model):
        layer = node.outbound_layer
        if isinstance(layer, _L.InputLayer):
            continue
        args, kwargs = tf.nest.map_structure(
            renew, (list(node.call_args), dict(node.call_kwargs))
        )
        touched = only is None or layer.name in only
        builder.made.clear()
        outputs = builder.renewed(layer, args, kwargs, touched=touched)
        origins.update({name: str(layer.name) for name in builder.made})
        for old, new in zip(
            tf.nest.flatten(node.outputs), tf.nest.flatten(outputs), strict=True
        ):
            tensors[id(old)] = new
    builder.made.clear()
    outputs = tf.nest.map_structure(lambda t: builder.lowered(renew(t)), model.outputs)
    origins.update(
        {name: str(model.outputs[0].node.outbound_layer.name) for name in builder.made}
    )
    laid_out = keras.Model(
        [_input_of(tensors[id(tensor)]) for tensor in model.inputs],
        outputs,
        name=model.name,
    )
    return Layout(model=laid_out, origins=origins)


def _check_parts(layer: Any) -> None:
    """Refuses regularizers and constraints that quantizing would lose."""
    if getattr(layer, "activity_regularizer", None) is not None:
        raise ModelError(
            f"Expected no activity_regularizer in {layer.name!r}, got one, which "
            "tfmot's wrapper does not train; leave it out, or penalise the output in "
            "the loss."
        )
    if not isinstance(layer, (_L.BatchNormalization, *SEPARABLE)):
        return
    for key, value in layer.get_config().items():
        if value is not None and key.endswith(("_regularizer", "_constraint")):
            raise ModelError(
                f"Expected no {key} in {layer.name!r}, which is replaced by a layer of "
                "another kind, got one; leave it out of the model to quantize."
            )


def _check_call(node: Any) -> None:
    """Refuses calls that the replacement of a layer cannot take.

    What a batch norm is told where it is called, its replacement is not.
    """
    layer, kwargs = node.outbound_layer, dict(node.call_kwargs)
    if isinstance(layer, (_L.Add, _L.Concatenate)) and len(node.keras_inputs) < 2:
        raise ModelError(
            f"Expected at least two tensors for {layer.name!r} "
            f"({type(layer).__name__}), got one; leave the layer out."
        )
    told = {name: value for name, value in kwargs.items() if value is not None}
    if isinstance(layer, _L.BatchNormalization) and told:
        raise ModelError(
            f"Expected the batch norm {layer.name!r} to be called on a tensor alone, "
            f"got {told}; leave that out, and freeze the quantized model's by "
            "layer.trainable."
        )


def _check_layer(layer: Any) -> None:
    if isinstance(layer, keras.Model):
        raise ModelError(
            f"Expected a flat model, but {layer.name!r} is a model inside the model; "
            "call its layers on the outer model's tensors."
        )
    if type(layer) not in KINDS:
        ours = __name__.partition(".")[0]
        known = {one.__name__ for one in KINDS if not one.__module__.startswith(ours)}
        raise ModelError(
            f"Layer {layer.name!r} is of kind {type(layer).__name__}, which has no "
            f"integer kernel here. {did_you_mean(type(layer).__name__, known)}"
        )
    if layer.weights and not layer.trainable:
        raise ModelError(
            f"Expected a layer that is trained, but {layer.name!r} is frozen; set its "
            "trainable to True, and freeze the quantized model by model.trainable."
        )
    if {layer.dtype, layer.compute_dtype} - {"float32", None}:
        raise ModelError(
            f"Expected a layer in float32, but {layer.name!r} has variables in "
            f"{layer.dtype} and computes in {layer.compute_dtype}; build the model "
            "under keras.mixed_precision.set_global_policy('float32')."
        )
    _check_parts(layer)
    name = activation_name(layer)
    if name not in SUPPORTED_ACTIVATIONS:
        raise ModelError(
            f"Layer {layer.name!r} has the activation {name!r}, which has no integer "
            f"kernel here. {did_you_mean(name, SUPPORTED_ACTIVATIONS)}"
        )
    if not has_known_activation(layer):
        raise ModelError(
            f"Expected the activation {name!r} of tf_keras or tf.nn in layer "
            f"{layer.name!r}, got another function of that name; give it another name "
            "if it computes something else, or pass the name as a string."
        )
    channels_last = getattr(layer, "data_format", None) in (None, "channels_last")
    axis = getattr(layer, "axis", -1)
    axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
    if not channels_last or axis not in (-1, len(layer.output_shape) - 1):
        raise ModelError(
            f"Expected channels on the last axis in layer {layer.name!r}, got "
            f"data_format {getattr(layer, 'data_format', None)!r} and axis {axis!r}."
        )
    if getattr(layer, "padding", None) == "causal":
        raise ModelError(
            f"Expected padding 'same' or 'valid' in layer {layer.name!r}, got "
            "'causal'; put a ZeroPadding1D before it."
        )
    if isinstance(layer, _L.ReLU) and (
        layer.negative_slope or layer.threshold or layer.max_value not in (None, 6.0)
    ):
        raise ModelError(
            f"Expected a ReLU or ReLU6 in layer {layer.name!r}, got max_value "
            f"{layer.max_value}, negative_slope {float(layer.negative_slope)}, "
            f"threshold {float(layer.threshold)}."
        )


def _input_of(tensor: Any) -> Any:
    layer = tensor.node.outbound_layer
    return layer.input if isinstance(layer, InputQuantize) else tensor
