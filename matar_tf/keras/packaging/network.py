"""The Keras network beside an artifact: written by registered names, read by a list.

Keras makes of a config whatever class its names ask for, by the path of a module if
need be. Here only the classes that a multi-bitwidth network is made of may be named,
and those that are not Keras' own go by the name that they are registered under, so
that it does not matter where their code lies.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from matar_tf.artifact import Artifact
from matar_tf.errors import ArtifactError, ModelError
from matar_tf.io.archive import parse_arrays
from matar_tf.io.json_reader import JsonReader
from matar_tf.keras._compat import KerasModel, keras, tf, tfmot
from matar_tf.keras.build_limits import building_within
from matar_tf.keras.config_rules import never_called
from matar_tf.keras.packaging.common_arrays import common_arrays
from matar_tf.keras.policies import set_policy
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.stored import REBUILD_ERRORS
from matar_tf.layer_kinds import LAYER_KINDS
from matar_tf.parameters import Parameters
from matar_tf.policy import Policy

__all__ = ["keras_reference", "load_network", "network_members", "why_unstored"]

_MAX_DEPTH: Final = 50  # a quantized layer's config takes 9
_PACKAGE: Final = "matar_tf>"
_Config = dict[str, Any]
# Where version 0.1.0 wrote that classes lie. Frozen: its artifacts stay as they are.
_MODULES_OF_0_1: Final = {
    "matar_tf.keras.layers": ("InputQuantize", "MultiBitBatchNormalization"),
    "matar_tf.keras.statistics": ("KurtosisRegularizer",),
    "tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper": (
        "QuantizeWrapperV2",
    ),
}
_KERAS_CLASSES: Final = {
    "keras.layers": {name for name, row in LAYER_KINDS.items() if not row.is_ours},
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


def network_members(model: KerasModel) -> dict[str, bytes]:
    """Returns the files of an artifact that hold a multi-bitwidth network.

    Weights that the artifact's parameters have are left out.
    """
    buffer = io.BytesIO()
    common = {id(variable) for variable, _ in common_arrays(model)}
    own = {
        str(number): variable.numpy()
        for number, variable in enumerate(model.weights)
        if id(variable) not in common
    }
    np.savez_compressed(buffer, **own)
    return {
        "network.json": json.dumps(_config_of(model)).encode(),
        "network.npz": buffer.getvalue(),
    }


def why_unstored(model: KerasModel) -> str:
    """Returns why an artifact cannot hold a network's Keras form; "" if it can.

    A Lambda, an operation of TensorFlow or a class of the user's own is code, which
    reading an artifact never runs.
    """
    try:
        _checked(_config_of(model))
    except ArtifactError as error:
        return str(error)
    except TypeError as error:  # of Keras: a function that is not Python's own
        return f"Expected layers whose configuration Keras can write, got one: {error}"
    return ""


def _config_of(model: KerasModel) -> Any:
    text = json.dumps(model.get_config(), default=keras.utils.serialize_keras_object)
    return _with_classes(json.loads(text), _unplaced)


def load_network(artifact: Artifact) -> KerasModel:
    """Rebuilds the Keras network of an artifact, to compare with or to train on.

    Raises:
      ArtifactError: If the artifact holds no network, one whose weights do not fit its
        layers, layers of more weights than it holds, or one with a layer that could
        run foreign code.
    """
    for name in ("network.json", "network.npz"):
        if name not in artifact.extras:
            raise ArtifactError(
                f"The artifact holds no Keras network ({name} is missing); package the "
                "model with include_network=True."
            )
    text = artifact.extras["network.json"]
    config = _checked(JsonReader(ArtifactError).parse(text, "network.json"))
    arrays = parse_arrays(artifact.extras["network.npz"], "network.npz")
    num_bytes = sum(array.nbytes for array in arrays.values())
    num_bytes += _num_bytes(artifact.parameters)
    try:
        with building_within(num_bytes, len(text), "network.npz"):
            model = keras.Model.from_config(config)
    except ModelError as error:
        raise ArtifactError(str(error)) from error
    except REBUILD_ERRORS as error:
        raise ArtifactError(
            "Expected a Keras network that can be rebuilt here, got one that cannot "
            f"({error!r}); load the artifact with the version that wrote it."
        ) from error
    try:
        model.set_weights(_weights(model, arrays, artifact.parameters))
    except (LookupError, ValueError) as error:
        raise ArtifactError(
            "Expected weights of the shapes that the network's layers have here, got "
            f"others ({error}); load the artifact with the version that wrote it."
        ) from error
    return model


def _num_bytes(parameters: Parameters) -> int:
    """Returns the bytes of the arrays that a network may have in common with them."""
    layers = parameters.layers.values()
    norms = [layer.norm for layer in layers if layer.norm is not None]
    arrays = [layer.kernel for layer in layers]
    arrays += [one for norm in norms for one in (norm.mean, norm.variance, norm.gamma)]
    return 2 * sum(array.nbytes for array in arrays)


def _weights(
    model: KerasModel, arrays: Mapping[str, np.ndarray], parameters: Parameters
) -> list[np.ndarray]:
    """Returns the weights of a network, those that are stored once from parameters."""
    sources = {id(variable): source for variable, source in common_arrays(model)}
    names = [str(number) for number in range(len(model.weights))]
    unknown = sorted(set(arrays) - set(names))
    if unknown:
        raise ValueError(f"{len(names)} weights, but also {unknown[:3]}")
    return [
        arrays[name] if name in arrays else sources[id(variable)](parameters)
        for name, variable in zip(names, model.weights, strict=True)
    ]


def keras_reference(artifact: Artifact) -> Callable[[Policy, Any], Any]:
    """Returns a function that runs the artifact's Keras network under a policy.

    From samples to outputs: arrays, of several inputs and outputs mappings by names.

    Raises:
      ArtifactError: If the artifact holds no network.
    """
    model = load_network(artifact)

    def predict(policy: Policy, samples: Any) -> Any:
        set_policy(model, policy)
        found = tf.nest.flatten(model.predict(samples, batch_size=256, verbose=0))
        if len(found) == 1:
            return found[0]
        return dict(zip(wrapper.output_names(model), found, strict=True))

    return predict


def _checked(config: Any) -> Any:
    """Returns a config with classes by registered names, if all of it is known.

    Args:
      config: JSON value, as from ``model.get_config()``.

    Raises:
      ArtifactError: If it names a class or a node that no multi-bitwidth network has.
    """
    known = _known_classes()
    config = _with_classes(config, lambda value: _allowed(value, known))
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        raise ArtifactError(
            "Expected a network with a list of layers in network.json, got none; "
            "package the model again."
        )
    layers = _by_name(config["layers"])
    num_nodes = {name: len(one["inbound_nodes"]) or 1 for name, one in layers.items()}
    for name, layer in layers.items():
        _check_layer(name, layer["inbound_nodes"], num_nodes)
    waiting = never_called(layers)
    if waiting is not None:
        raise ArtifactError(_not_made(waiting, layers[waiting]["inbound_nodes"]))
    return config


def _with_classes(
    value: Any, change: Callable[[_Config], _Config], depth: int = 0
) -> Any:
    """Returns a JSON value in which every object that names a class is changed."""
    if depth > _MAX_DEPTH:
        raise ArtifactError(
            f"Expected a network.json of at most {_MAX_DEPTH} levels, got a deeper "
            "one; package the model again."
        )
    if isinstance(value, dict):
        changed = change(value) if "class_name" in value else value
        return {
            key: _with_classes(one, change, depth + 1) for key, one in changed.items()
        }
    if isinstance(value, list):
        return [_with_classes(one, change, depth + 1) for one in value]
    return value


def _unplaced(value: _Config) -> _Config:
    """Returns a class without the path of its module, if it is a registered one."""
    name = value.get("registered_name")
    return _registered(value, name) if name in _registered_names() else value


def _registered(value: _Config, name: str) -> _Config:
    if "module" not in value:  # Keras' older form, which has the registered name alone
        return value
    return {**value, "module": None, "class_name": name, "registered_name": name}


def _allowed(value: _Config, known: Mapping[tuple[str, str], str | None]) -> _Config:
    """Returns a class by its registered name, if it is known.

    Raises:
      ArtifactError: If it is not.
    """
    name, module = value["class_name"], value.get("module") or ""
    registered = value.get("registered_name") or name
    if (
        not all(isinstance(text, str) for text in (name, module, registered))
        or (module, name) not in known
        # Keras prefers the registered name.
        or registered not in (name, known[module, name])
        or "compile_config" in value
    ):
        raise ArtifactError(
            "Expected classes of a multi-bitwidth network in network.json, got "
            f"{value.get('module')}.{name}, which could run foreign code; matar_tf "
            "does not load it."
        )
    own_name = known[module, name]
    return value if own_name is None else _registered(value, own_name)


def _known_classes() -> dict[tuple[str, str], str | None]:
    """Returns the registered name, None for Keras' own, by module and class.

    The module is "" for a class that is named without one.
    """
    known: dict[tuple[str, str], str | None] = {}
    for module, names in _KERAS_CLASSES.items():
        for name in names:
            known |= {(module, name): None, ("", name): None}
    registered = _registered_names()
    known |= {("", name): name for name in registered}
    for module, names in _MODULES_OF_0_1.items():
        for name in names:
            own = _PACKAGE + name
            known[module, name] = own if own in registered else name
    return known


def _registered_names() -> set[str]:
    """Returns the names under which our classes and tfmot's are registered."""
    objects = keras.utils.get_custom_objects()
    names = {
        name
        for name, kind in objects.items()
        if name.startswith(_PACKAGE) and kind.__module__.startswith("matar_tf.")
    }
    for scope in tfmot.quantization.keras.quantize_scope().custom_objects:
        names |= {
            name
            for name, kind in scope.items()
            if kind.__module__.startswith("tensorflow_model_optimization.")
        }
    return names


def _by_name(layers: list[Any]) -> dict[str, _Config]:
    """Returns the layers of a network by name."""
    found: dict[str, _Config] = {}
    for layer in layers:
        if (
            not isinstance(layer, dict)
            or not isinstance(layer.get("inbound_nodes"), list)
            or "class_name" not in layer
            or not isinstance(layer.get("name"), str)
            or layer["name"] in found
        ):
            raise ArtifactError(
                "Expected layers with a class, a name of their own and inbound nodes "
                "in network.json, got another; package the model again."
            )
        found[layer["name"]] = layer
    return found


def _check_layer(name: str, nodes: list[Any], num_nodes: Mapping[str, int]) -> None:
    """Checks that a layer reads outputs of layers of the network."""
    for node in nodes:
        sources = node if isinstance(node, list) and node else [None]
        if not all(_is_known_output(source, num_nodes) for source in sources):
            raise ArtifactError(_not_made(name, node))


def _not_made(name: str, node: Any) -> str:
    return (
        f"Expected inputs of {name!r} in network.json that layers before it make, got "
        f"{str(node)[:80]}; package the model again."
    )


def _is_known_output(source: Any, num_nodes: Mapping[str, int]) -> bool:
    if not isinstance(source, list) or not 3 <= len(source) <= 4:
        return False
    name, node, tensor, *arguments = source
    return (
        isinstance(name, str)
        and name in num_nodes
        and type(node) is int
        and type(tensor) is int
        and 0 <= node < num_nodes[name]
        and all(_are_known(one, num_nodes) for one in arguments)
    )


def _are_known(value: Any, num_nodes: Mapping[str, int]) -> bool:
    """Whether what a layer is called with by name is of known outputs and switches."""
    if isinstance(value, dict):
        return all(_are_known(one, num_nodes) for one in value.values())
    if isinstance(value, list):
        return _is_known_output(value, num_nodes) or all(
            _are_known(one, num_nodes) for one in value
        )
    return value is None or isinstance(value, bool)
