"""What Keras alone can tell of whether a layer fits: refused, in float, or neither."""

from __future__ import annotations

import re
from typing import Any, Final

from matar_tf.keras._compat import KerasLayer, keras, tf
from matar_tf.keras.quantizers.configs import (
    activation_name,
    has_known_activation,
    kind_of,
)
from matar_tf.keras.quantizers.half_precision import float32_config, is_mixed
from matar_tf.keras.rewrite.foreign import why_foreign
from matar_tf.layer_kinds import ACTIVATIONS, LAYER_KINDS

__all__ = ["config_of", "float_reason_of", "refusal_of"]


_INPUT_TYPES: Final = ("float32", "int32")
_NAME: Final = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")  # as of scopes in graphs


def config_of(layer: KerasLayer) -> dict[str, Any]:
    """Returns a layer's arguments; none where Keras cannot write them down."""
    try:
        return float32_config(layer)
    except (NotImplementedError, TypeError, ValueError):
        return {}


def refusal_of(layer: KerasLayer, name: str, *, is_known: bool) -> str:
    """Returns why a layer can be of no form, if Keras alone can tell."""
    if isinstance(layer, keras.Model):
        return (
            f"Expected models inside the model to be Functional or Sequential, got the "
            f"subclassed {type(layer).__name__} {name!r}; rebuild it with "
            "tf_keras.Model(inputs, outputs)."
        )
    if not config_of(layer):
        return (
            f"Expected arguments of {name!r} that Keras can write down, got others, "
            "such as a functools.partial, or a class without get_config; use a "
            "function of tf_keras by its name, or write get_config."
        )
    if isinstance(layer, keras.layers.InputLayer):
        return _why_no_input(layer, name)
    if _keeps_states(layer):
        return (
            f"Expected layers that begin anew with each sample, got {name!r} "
            f"({kind_of(layer)}) with stateful=True, whose states a file does not "
            "keep; leave that out, or hand the states over: return_state=True makes "
            "them outputs, initial_state= takes them as inputs."
        )
    if not is_known:
        return ""
    if {layer.dtype, layer.compute_dtype} - {"float32", None} and not is_mixed(layer):
        return (
            f"Expected a layer in float32, but {name!r} has variables in "
            f"{layer.dtype} and computes in {layer.compute_dtype}; build the model "
            "under the global policy float32, mixed_float16 or mixed_bfloat16."
        )
    if getattr(layer, "activity_regularizer", None) is not None:
        return (
            f"Expected no activity_regularizer in {name!r}, got one, which "
            "tfmot's wrapper does not train; leave it out, or penalise the output in "
            "the loss."
        )
    return ""


def _keeps_states(layer: KerasLayer) -> bool:
    recurrent = (keras.layers.RNN, keras.layers.Bidirectional)
    return any(
        isinstance(one, recurrent) and one.stateful for one in layer._flatten_layers()
    )


def _why_no_input(layer: KerasLayer, name: str) -> str:
    is_key = name != layer.name  # which becomes the name of a layer
    if is_key and not _NAME.fullmatch(name):
        return (
            f"Expected keys of inputs of letters, digits and _.-/ alone, got {name!r};"
            " rename it."
        )
    if layer.dtype in _INPUT_TYPES:
        return ""
    return (
        f"Expected samples in float32, or tokens in int32, but the input {name!r} "
        f"takes {layer.dtype}; leave the dtype out of keras.Input, and scale the "
        "samples before (integers become float32 unchanged), or write dtype='int32' "
        "for numbers that an Embedding looks up."
    )


def float_reason_of(layer: KerasLayer, call: Any, name: str, *, is_known: bool) -> str:
    """Returns why no integer kernel computes a layer, if Keras alone can tell."""
    if not is_known:
        return why_foreign(layer, name)
    if isinstance(layer, keras.layers.InputLayer):
        return ""
    if activation_name(layer) in ACTIVATIONS and not has_known_activation(layer):
        return (
            f"Expected the activation {activation_name(layer)!r} of tf_keras or tf.nn "
            f"in layer {name!r}, got another function of that name; give it "
            "another name if it computes something else, or pass the name as a string."
        )
    for tensor in tf.nest.flatten(call.keras_inputs):
        is_mask = (
            tensor.dtype.name == "bool" and LAYER_KINDS[kind_of(layer)].reads_masks
        )
        if tensor.dtype != "float32" and not (is_mask or is_mixed(layer)):
            return (
                f"Expected tensors in float32 for {name!r} ({kind_of(layer)}), got one "
                f"in {tensor.dtype.name}; cast it (keras.Input without a dtype takes "
                "whole numbers, too)."
            )
        if getattr(tensor, "_keras_mask", None) is not None:
            return (
                f"Expected tensors without a mask for {name!r} ({kind_of(layer)}), got "
                "a masked one, which integer kernels do not know; leave mask_zero or "
                "Masking out."
            )
    return ""
