"""Trained multi-bitwidth model -> artifact."""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from matar_tf.archive import read_array, read_zip
from matar_tf.artifact import Artifact
from matar_tf.errors import ArtifactError
from matar_tf.json_reader import JsonReader
from matar_tf.keras import graph
from matar_tf.keras._compat import keras, tf
from matar_tf.keras.conversion import check_initialized, make_template
from matar_tf.keras.derived_quantizers import snap_bias
from matar_tf.keras.kinds import KINDS
from matar_tf.keras.layers import MultiBitBatchNormalization
from matar_tf.keras.quantize import get_policy_space, set_policy
from matar_tf.keras.tracing import tracing
from matar_tf.parameters import (
    LayerParameters,
    NormParameters,
    Parameters,
    TensorParameters,
)
from matar_tf.policy import Policy
from matar_tf.tflite.workload import read_workload

__all__ = [
    "extract_parameters",
    "keras_reference",
    "keras_tensors",
    "load_network",
    "package",
    "versions",
]

# What Keras and NumPy raise on a config or arrays that no network has.
_MALFORMED = (
    AttributeError,
    LookupError,
    RuntimeError,  # and RecursionError
    TypeError,
    ValueError,
    tf.errors.OpError,
)
# What the config of a packaged network may name; Keras runs what it finds there.
_LAYERS = frozenset(kind.__name__ for kind in KINDS)
_WRAPPERS = frozenset({"QuantizeWrapperV2"})
_WRAPPERS_MODULE = (
    "tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper"
)
_PARTS = {
    "keras.initializers": keras.initializers,
    "keras.regularizers": keras.regularizers,
    "keras.constraints": keras.constraints,
}


def package(
    model: Any,
    *,
    accuracy: Mapping[str, Mapping[str, float]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    include_network: bool = True,
) -> Artifact:
    """Packages a trained multi-bitwidth model.

    Args:
      model: What `quantize_model` made, trained.
      accuracy: Metrics to put on record, by name (``float``, ``w8a8``).
      provenance: JSON object that says how the model was made.
      include_network: Whether to add the Keras network, to compare with or to train
        on.

    Raises:
      ModelError: If the model is not wholly quantized, or not trained.
    """
    check_initialized(model)
    template = make_template(model)
    extras = _network_members(model) if include_network else {}
    return Artifact(
        space=get_policy_space(model),
        workload=read_workload(template),
        parameters=extract_parameters(model),
        template=template.content,
        template_map=template.map_to_json(),
        accuracy=accuracy or {},
        provenance=provenance or {},
        extras=extras,
    )


def extract_parameters(model: Any) -> Parameters:
    """Returns the trained numbers of a multi-bitwidth model."""
    norms = {
        inner.entry: inner
        for inner in map(graph.inner_layer, model.layers)
        if isinstance(inner, MultiBitBatchNormalization)
    }
    layers: dict[str, LayerParameters] = {}
    tensors: dict[str, TensorParameters] = {}
    for layer in model.layers:
        kernel = graph.kernel_quantizer(layer)
        if kernel is not None:
            layers[kernel.entry] = _layer_parameters(layer, kernel, norms)
        for quantizer in graph.all_quantizers(layer):
            if quantizer.kind == "activations":
                tensors[quantizer.entry] = TensorParameters(
                    bits=quantizer.bits,
                    step=quantizer.all_steps(),
                    signed=quantizer.signed,
                )
    return Parameters(layers=layers, tensors=tensors)


def versions() -> dict[str, str]:
    """Returns the versions of what decides a training, for the record."""
    names = ("numpy", "tensorflow", "tf_keras", "tensorflow-model-optimization")
    return {name: importlib.metadata.version(name) for name in names}


def load_network(artifact: Artifact) -> Any:
    """Rebuilds the Keras network of an artifact, to compare with or to train on.

    Raises:
      ArtifactError: If the artifact holds no network, one whose weights do not fit its
        layers, or one with a layer that could run foreign code.
    """
    for name in ("network.json", "network.npz"):
        if name not in artifact.extras:
            raise ArtifactError(
                f"The artifact holds no Keras network ({name} is missing); package the "
                "model with include_network=True."
            )
    config = JsonReader(ArtifactError).parse(
        artifact.extras["network.json"], "network.json"
    )
    arrays = read_zip(
        artifact.extras["network.npz"],
        "network.npz",
        lambda name: name.endswith(".npy"),
    )
    try:
        _check_classes(config)
        model = keras.Model.from_config(config)
        weights = [read_array(arrays[f"{index}.npy"]) for index in range(len(arrays))]
    except ArtifactError:
        raise
    except _MALFORMED as error:
        raise ArtifactError(
            f"The Keras network of the artifact is malformed: {error!r}; package the "
            "model again."
        ) from error
    try:
        model.set_weights(weights)
    except ValueError as error:
        raise ArtifactError(
            "Expected weights of the shapes that the network's layers have here, got "
            f"others ({error}); load the artifact with the version that wrote it."
        ) from error
    return model


def keras_reference(artifact: Artifact) -> Callable[[Policy, np.ndarray], np.ndarray]:
    """Returns a function that runs the artifact's Keras network under a policy.

    Raises:
      ArtifactError: If the artifact holds no network.
    """
    model = load_network(artifact)

    def predict(policy: Policy, samples: np.ndarray) -> np.ndarray:
        set_policy(model, policy)
        return model.predict(samples, batch_size=256, verbose=0)

    return predict


class _Recorder:
    """A tracer that evaluates as usual and keeps every quantized activation."""

    def __init__(self) -> None:
        self.tensors: dict[str, np.ndarray] = {}

    def weights(self, quantizer: Any, x: Any) -> Any:
        return quantizer.fake_quantize(x)

    def bias(self, quantizer: Any, x: Any) -> Any:
        return snap_bias(x, quantizer.layer)

    def activation(self, quantizer: Any, x: Any) -> Any:
        quantized = quantizer.fake_quantize(x)
        self.tensors.setdefault(quantizer.entry, quantized.numpy())
        return quantized

    def fixed_grid(self, quantizer: Any, x: Any) -> Any:
        return quantizer.fake_quantize(x)

    def average_pool(self, quantizer: Any, x: Any) -> Any:
        return quantizer.round_to_grid(x)

    def batch_norm(self, layer: Any, x: Any) -> Any:
        return layer.evaluate(x)


def keras_tensors(
    artifact: Artifact, policy: Policy, samples: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the Keras network's quantized activations, by activation entry.

    Raises:
      ArtifactError: If the artifact holds no network.
    """
    model = load_network(artifact)
    set_policy(model, policy)
    recorder = _Recorder()
    with tracing(recorder):
        model.call(tf.constant(samples), training=False)
    return recorder.tensors


def _network_members(model: Any) -> dict[str, bytes]:
    buffer = io.BytesIO()
    weights = model.get_weights()
    np.savez_compressed(buffer, **{str(i): value for i, value in enumerate(weights)})
    config = json.dumps(model.get_config(), default=keras.utils.serialize_keras_object)
    return {"network.json": config.encode(), "network.npz": buffer.getvalue()}


def _check_classes(value: Any) -> None:
    """Refuses every class but those that a quantized network consists of.

    Keras imports what a config names, and calls it: an operation of TensorFlow that
    stands as a layer may write files.
    """
    if isinstance(value, list):
        for item in value:
            _check_classes(item)
    if value == "_CONSTANT_VALUE":
        raise ArtifactError(
            "The network of the artifact passes constants to layers, which no packaged "
            "network does; matar_tf does not load it."
        )
    if not isinstance(value, dict):
        return
    for item in value.values():
        _check_classes(item)
    if {"class_name", "module", "registered_name"}.isdisjoint(value):
        return
    name, module = value.get("class_name"), value.get("module")
    registered = value.get("registered_name")
    if not _is_known_class(name, module, registered):
        raise ArtifactError(
            f"The network of the artifact asks for {module}.{name}, which could run "
            "foreign code; matar_tf does not load it."
        )


def _is_known_class(name: Any, module: Any, registered: Any) -> bool:
    own = keras.utils.get_custom_objects()
    if registered is not None and registered not in {*_WRAPPERS, *own}:
        return False
    if module in _PARTS:
        return isinstance(getattr(_PARTS[module], str(name), None), type)
    if module in (None, "keras.layers"):
        own_name = isinstance(name, str) and name.startswith("matar_tf>")
        return name in {*_LAYERS, *_WRAPPERS} or (own_name and name in own)
    if module == _WRAPPERS_MODULE:
        return name in _WRAPPERS
    return f"matar_tf>{name}" in own and module == own[f"matar_tf>{name}"].__module__


def _layer_parameters(
    layer: Any, kernel: Any, norms: Mapping[str, Any]
) -> LayerParameters:
    inner = graph.inner_layer(layer)
    values, channel_axis = _tflite_layout(inner, graph.kernel_variable(layer).numpy())
    step = kernel.all_steps().reshape(len(kernel.bits), -1)
    norm = norms.get(kernel.entry)
    return LayerParameters(
        kernel=values,
        channel_axis=channel_axis,
        bits=kernel.bits,
        step=step,
        bias=_bias(layer) if norm is None and inner.use_bias else None,
        norm=None if norm is None else _norm_parameters(norm),
    )


def _norm_parameters(norm: Any) -> NormParameters:
    return NormParameters(
        entries=norm.entries,
        gamma=norm.gamma.numpy(),
        beta=norm.beta.numpy(),
        mean=norm.moving_mean.numpy(),
        variance=norm.moving_variance.numpy(),
        epsilon=norm.epsilon,
    )


def _bias(layer: Any) -> np.ndarray:
    return layer._weight_vars[-1][0].numpy()


def _tflite_layout(layer: Any, kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns a kernel as TFLite stores it, and its channel axis."""
    if isinstance(layer, keras.layers.Dense):
        return kernel.T.copy(), 0
    if isinstance(layer, (keras.layers.Conv1D, keras.layers.DepthwiseConv1D)):
        kernel = kernel[np.newaxis]
    if "Depthwise" in type(layer).__name__:
        height, width = kernel.shape[:2]
        return kernel.reshape(1, height, width, -1), 3
    return np.transpose(kernel, (3, 0, 1, 2)).copy(), 0
