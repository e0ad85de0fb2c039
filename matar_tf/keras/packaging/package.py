"""Trained multi-bitwidth model -> artifact."""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from matar_tf.artifact import Artifact
from matar_tf.errors import ArtifactError
from matar_tf.io.archive import read_arrays
from matar_tf.io.json_reader import JsonReader
from matar_tf.keras._compat import keras, tf, tfmot
from matar_tf.keras.layers import MultiBitBatchNormalization
from matar_tf.keras.packaging.convert import make_template
from matar_tf.keras.quantize import get_policy_space, set_policy
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.rewrite.kinds import KINDS
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
    "load_network",
    "package",
    "versions",
]

# Keras makes of a config whatever class or function its names ask for; here only the
# classes that a multi-bitwidth network is made of may be named.
_MAX_DEPTH: Final = 50  # a quantized layer's config takes 9
_PACKAGE: Final = "matar_tf>"
_KERAS_CLASSES: Final = {
    "keras.layers": {
        kind.__name__ for kind in KINDS if not kind.__module__.startswith("matar_tf.")
    },
    "keras.initializers": {
        "Constant",
        "GlorotNormal",
        "GlorotUniform",
        "HeNormal",
        "HeUniform",
        "Identity",
        "LecunNormal",
        "LecunUniform",
        "Ones",
        "Orthogonal",
        "RandomNormal",
        "RandomUniform",
        "TruncatedNormal",
        "VarianceScaling",
        "Zeros",
    },
    "keras.regularizers": {"L1", "L1L2", "L2", "OrthogonalRegularizer"},
    "keras.constraints": {"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"},
    "keras.mixed_precision": {"Policy"},
}
_REBUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,  # RecursionError and NotImplementedError too
    TypeError,
    ValueError,
    tf.errors.OpError,
)


def package(
    model: Any,
    *,
    accuracy: Mapping[str, Mapping[str, float]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    include_network: bool = True,
) -> Artifact:
    """Packages a trained multi-bitwidth model.

    Args:
      model: What `quantize_model` made, trained, or its trainer.
      accuracy: Metrics to put on record, by name (``float``, ``w8a8``).
      provenance: JSON object that says how the model was made.
      include_network: Whether to add the Keras network, to compare with or to train
        on.

    Raises:
      ModelError: If the model is not wholly quantized, not trained, or its training
        diverged.
    """
    model = wrapper.multi_bit_network(model)
    wrapper.check_initialized(model)
    wrapper.check_finite_weights(model)
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
        for inner in map(wrapper.inner_layer, model.layers)
        if isinstance(inner, MultiBitBatchNormalization)
    }
    layers: dict[str, LayerParameters] = {}
    tensors: dict[str, TensorParameters] = {}
    for layer in model.layers:
        kernel = wrapper.kernel_quantizer(layer)
        if kernel is not None:
            layers[kernel.entry] = _layer_parameters(layer, kernel, norms)
        for quantizer in wrapper.all_quantizers(layer):
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
    _check_network(config)
    arrays = read_arrays(artifact.extras["network.npz"], "network.npz")
    try:
        model = keras.Model.from_config(config)
        weights = [arrays[str(i)] for i in range(len(arrays))]
    except _REBUILD_ERRORS as error:
        raise ArtifactError(
            "Expected a Keras network that can be rebuilt here, got one that cannot "
            f"({error!r}); load the artifact with the version that wrote it."
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


def _network_members(model: Any) -> dict[str, bytes]:
    buffer = io.BytesIO()
    weights = model.get_weights()
    np.savez_compressed(buffer, **{str(i): value for i, value in enumerate(weights)})
    config = json.dumps(model.get_config(), default=keras.utils.serialize_keras_object)
    return {"network.json": config.encode(), "network.npz": buffer.getvalue()}


def _check_network(config: Any) -> None:
    """Refuses a config of which Keras could make more than a known network.

    Args:
      config: JSON value, as from ``model.get_config()``.

    Raises:
      ArtifactError: If it names a class or a node that no multi-bitwidth network has.
    """
    _check_classes(config, _allowed_classes(), 0)
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        raise ArtifactError(
            "Expected a network with a list of layers in network.json, got none; "
            "package the model again."
        )
    num_nodes: dict[str, int] = {}
    for layer in config["layers"]:
        _check_layer(layer, num_nodes)


def _allowed_classes() -> set[tuple[str, str]]:
    """Returns module ("" for one that is not named) and name of the known classes."""
    allowed = {
        (module, name) for module, names in _KERAS_CLASSES.items() for name in names
    }
    for name, kind in keras.utils.get_custom_objects().items():
        if name.startswith(_PACKAGE) and kind.__module__.startswith("matar_tf."):
            allowed |= {(kind.__module__, kind.__name__), ("", name)}
    for objects in tfmot.quantization.keras.quantize_scope().custom_objects:
        for name, kind in objects.items():
            if kind.__module__.startswith("tensorflow_model_optimization."):
                allowed |= {(kind.__module__, name)}
    return allowed | {("", name) for _, name in allowed}


def _check_classes(value: Any, allowed: set[tuple[str, str]], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ArtifactError(
            f"Expected a network.json of at most {_MAX_DEPTH} levels, got a deeper "
            "one; package the model again."
        )
    if isinstance(value, dict):
        if "class_name" in value and not _is_allowed(value, allowed):
            raise ArtifactError(
                "Expected classes of a multi-bitwidth network in network.json, got "
                f"{value.get('module')}.{value['class_name']}, which could run foreign "
                "code; matar_tf does not load it."
            )
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_classes(item, allowed, depth + 1)


def _is_allowed(value: dict[str, Any], allowed: set[tuple[str, str]]) -> bool:
    name, module = value["class_name"], value.get("module") or ""
    # Keras prefers the registered name.
    registered = value.get("registered_name") or name
    return (
        all(isinstance(text, str) for text in (name, module, registered))
        and (module, name) in allowed
        and registered in (name, _PACKAGE + name)
        and "compile_config" not in value
    )


def _check_layer(layer: Any, num_nodes: dict[str, int]) -> None:
    """Checks that a layer reads outputs of layers before it, and adds it to them."""
    nodes = layer.get("inbound_nodes") if isinstance(layer, dict) else None
    if (
        not isinstance(nodes, list)
        or "class_name" not in layer
        or not isinstance(layer.get("name"), str)
        or layer["name"] in num_nodes
    ):
        raise ArtifactError(
            "Expected layers with a class, a name of their own and inbound nodes in "
            "network.json, got another; package the model again."
        )
    for node in nodes:
        sources = node if isinstance(node, list) and node else [None]
        if not all(_is_known_output(source, num_nodes) for source in sources):
            raise ArtifactError(
                f"Expected inputs of {layer['name']!r} in network.json that layers "
                f"before it make, got {str(node)[:80]}; package the model again."
            )
    num_nodes[layer["name"]] = len(nodes) or 1


def _is_known_output(source: Any, num_nodes: dict[str, int]) -> bool:
    if not isinstance(source, list) or not 3 <= len(source) <= 4:
        return False
    name, node, tensor, *arguments = source
    return (
        isinstance(name, str)
        and name in num_nodes
        and type(node) is int
        and type(tensor) is int
        and 0 <= node < num_nodes[name]
        and not any(arguments)
    )


def _layer_parameters(
    layer: Any, kernel: Any, norms: Mapping[str, Any]
) -> LayerParameters:
    inner = wrapper.inner_layer(layer)
    values, channel_axis = _tflite_layout(inner, wrapper.kernel_variable(layer).numpy())
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
    if "Depthwise" in type(layer).__name__:
        height, width = kernel.shape[:2]
        return kernel.reshape(1, height, width, -1), 3
    return np.transpose(kernel, (3, 0, 1, 2)).copy(), 0
