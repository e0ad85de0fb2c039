"""The one place that imports TensorFlow, tf_keras and tfmot.

tfmot works on Keras 2 (`tf_keras`) and decides at its own import, by the variable
``TF_USE_LEGACY_KERAS``; so the variable is set here, before anything touches
``tf.keras``, and a process where that comes too late is refused.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _install_command() -> str:
    """Returns what installs the requirements of training that the package declares."""
    try:
        declared = importlib.metadata.requires("matar_tf") or []
    except importlib.metadata.PackageNotFoundError:
        declared = []
    found = [one for one in declared if re.search(r"extra == .train\b", one)]
    names = [one.partition(";")[0].strip() for one in found]
    # Not by the name of the package, which nobody holds in the public index.
    return f"pip install {shlex.join(names or ['.[train]'])}"


try:
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras
    from tensorflow.core.protobuf import tensor_bundle_pb2, trackable_object_graph_pb2
    from tf_keras.protobuf import saved_metadata_pb2
    from tf_keras.src.applications import convnext, inception_resnet_v2
    from tf_keras.src.engine import base_layer_utils as call_state
    from tf_keras.src.layers.rnn import base_conv_lstm
    from tf_keras.src.saving import serialization_lib
    from tf_keras.src.saving.legacy import saving_utils
    from tf_keras.src.saving.legacy.saved_model import json_utils
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Expected TensorFlow 2.21, tf_keras and tensorflow-model-optimization for "
        f"training, but {error.name!r} is not installed; run {_install_command()}.",
        name=error.name,
    ) from error

__all__ = [
    "APPLICATION_CLASSES",
    "KerasLayer",
    "KerasModel",
    "Shape",
    "Tensor",
    "call_state",
    "in_keras_format",
    "infer",
    "json_utils",
    "keras",
    "saved_metadata_pb2",
    "saving_utils",
    "tensor_bundle_pb2",
    "tf",
    "tfmot",
    "trackable_object_graph_pb2",
]

# TensorFlow and tf_keras make their classes at run time, so that type checkers know
# little of them; these names say what a function takes.
KerasLayer: TypeAlias = Any
KerasModel: TypeAlias = Any
Tensor: TypeAlias = Any  # also a variable, or an array where Keras takes one
Shape: TypeAlias = Any  # of a tensor, None for a size that the batch tells

# Layers that Keras keeps beside its own networks or layers, not in `keras.layers`.
APPLICATION_CLASSES: Mapping[str, Any] = MappingProxyType(
    {
        "ConvLSTMCell": base_conv_lstm.ConvLSTMCell,
        "CustomScaleLayer": inception_resnet_v2.CustomScaleLayer,
        "LayerScale": convnext.LayerScale,
        "StochasticDepth": convnext.StochasticDepth,
    }
)

if not issubclass(tfmot.quantization.keras.QuantizeWrapperV2, keras.layers.Layer):
    raise ImportError(
        "Expected tensorflow_model_optimization to use tf_keras, but it was imported "
        "for Keras 3; set TF_USE_LEGACY_KERAS=1, or import matar_tf.keras before "
        "anything touches tf.keras."
    )


def infer(model: KerasModel, inputs: Any) -> Tensor:
    """Returns what a model computes outside of training, in no name scope of its own.

    Layers that work in training by default, such as random ones, ask the context.
    """
    context = call_state.call_context()
    with context.enter(model, inputs, True, {"training": False}):
        return model.call(inputs, training=False)


def in_keras_format() -> bool:
    """Returns whether a ``.keras`` file is being written or read right now."""
    return bool(getattr(serialization_lib.SHARED_OBJECTS, "enabled", False))
