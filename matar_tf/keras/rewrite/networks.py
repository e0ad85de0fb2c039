"""Keras networks: whether they can be read, and what they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasLayer, KerasModel, keras, tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import kind_of
from matar_tf.keras.quantizers.half_precision import is_mixed
from matar_tf.keras.rewrite.graph import Node
from matar_tf.keras.rewrite.kinds import INPUT

__all__ = [
    "OPERATIONS",
    "calls_in",
    "check_network",
    "dtype_of",
    "is_network",
    "is_plain",
    "layers_by_name",
]

OPERATIONS: Final = ("SlicingOpLambda", "TFOpLambda")  # kept as layers
_LOADED = "load it first, by matar_tf.load_model(path)"
_HINTS: Final = {
    **dict.fromkeys(("PosixPath", "WindowsPath", "str"), _LOADED),
    "function": "call it, and pass the model that it returns",
    "list": "put its layers into tf_keras.Sequential, with an input_shape",
    "type": "make one of the class, and pass that",
}
# What a Functional and a Sequential model compute.
_OWN_CALLS = (keras.Sequential.call, keras.Sequential.__mro__[1].call)


def is_plain(model: KerasModel) -> bool:
    """Whether a network is of layers of float32 alone: no models, no operations."""
    return not any(
        kind_of(layer) in OPERATIONS or is_network(layer) or is_mixed(layer)
        for layer in model.layers
    )


def layers_by_name(model: KerasModel, prefix: str = "") -> dict[str, KerasLayer]:
    """Returns the layers of a network, those of models inside it by their paths."""
    found: dict[str, KerasLayer] = {}
    for layer in model.layers:
        if is_network(layer):
            found |= layers_by_name(layer, f"{prefix}{layer.name}/")
        else:
            found[prefix + layer.name] = layer
    return found


def dtype_of(node: Node, index: int, originals: Mapping[str, KerasLayer]) -> str:
    """Returns the type of an output of a node, by its name.

    Args:
      node: One of a graph.
      index: Which of its outputs.
      originals: The layers that nodes may be copies of, by name.
    """
    if node.kind == INPUT:
        return str(node.attributes["dtype"])
    if not node.is_copy:
        return "float32"
    made = tf.nest.flatten(originals[node.origin].inbound_nodes[0].outputs)
    return made[index].dtype.name


def is_network(layer: KerasLayer) -> bool:
    """Whether a layer is a Functional or Sequential model."""
    is_graph = bool(getattr(layer, "_is_graph_network", False))
    return isinstance(layer, keras.Model) and is_graph and not _calls_otherwise(layer)


def _calls_otherwise(model: KerasModel) -> bool:
    """Whether a model computes something else than the layers that it is of."""
    return type(model).call not in _OWN_CALLS


def calls_in(model: KerasModel) -> Iterator[Any]:
    """Yields the calls of layers in a network, each after what it reads.

    Those of one layer come in the order in which they were made, which copies and files
    keep.
    """
    waiting = [
        call
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for call in model._nodes_by_depth[depth]
    ]
    known = set(map(id, waiting))
    later: dict[int, list[int]] = {}  # calls of each layer that are to come
    for call in waiting:
        if id(call.layer) not in later:
            ids = map(id, call.layer.inbound_nodes)
            later[id(call.layer)] = [one for one in ids if one in known]
    made: set[int] = set()
    while waiting:
        left: list[Any] = []
        for call in waiting:
            is_next = later[id(call.layer)][0] == id(call)
            if is_next and made.issuperset(map(id, call.keras_inputs)):
                later[id(call.layer)].pop(0)
                made.update(map(id, tf.nest.flatten(call.outputs)))
                yield call
            else:
                left.append(call)
        waiting = left


def check_network(model: Any) -> None:
    """Refuses what is no float network of layers.

    Raises:
      ModelError: For a Keras 3 object, or a subclassed, quantized or unbuilt model.
    """
    if not isinstance(model, keras.Model):
        origin = type(model).__module__.split(".")[0]
        hint = (
            "it is a Keras 3 object; pass matar_tf.from_keras3(model), or set "
            "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported"
            if origin == "keras"
            else _HINTS.get(type(model).__name__, "pass a model")
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
    if any(map(wrapper.is_quantized, model._flatten_layers())):
        raise ModelError(
            f"Expected a float model, but {model.name!r} is quantized already; pass "
            "the model that it was made from."
        )
    if not getattr(model, "_is_graph_network", False) or _calls_otherwise(model):
        raise ModelError(
            f"Expected a Functional or Sequential model, got the subclassed "
            f"{type(model).__name__} {model.name!r}; rebuild it with "
            "tf_keras.Model(inputs, outputs)."
        )
