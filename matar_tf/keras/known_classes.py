"""Which classes the config of a saved network may name.

Keras makes whatever class or function a config names, by the path of a module if need
be, and calls it. A file of a stranger may name what Keras itself makes of numbers and
texts, and what this process has registered; nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, Final

from matar_tf.errors import ModelError
from matar_tf.keras._compat import keras

__all__ = ["check_classes"]

_MAX_DEPTH: Final = 100  # a quantized layer's config takes 9
# Public ones that hold code, or read a file that their config names.
_REFUSED: Final = frozenset(
    {"IntegerLookup", "Lambda", "StringLookup", "TextVectorization"}
)
# How Keras stores operators and functions of TensorFlow that are applied to a layer's
# output: by a path that may lead anywhere.
_OPERATIONS: Final = frozenset({"ClassMethod", "SlicingOpLambda", "TFOpLambda"})
_NAMESPACES: Final = (
    "constraints",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "mixed_precision",
    "optimizers",
    "optimizers.legacy",
    "optimizers.schedules",
    "regularizers",
)
_FUNCTIONS: Final = ("activations", "losses", "metrics")
_NETWORKS: Final = {
    "Functional": (
        "keras",
        "keras.models",
        "keras.src.engine.functional",
        "tf_keras.src.engine.functional",
    ),
    "Model": ("keras", "keras.models"),
    "Sequential": ("keras", "keras.models"),
}
# Under this name HDF5 files have it; the optimizer inside it is checked as any other.
_LOSS_SCALING: Final = {"LossScaleOptimizerV3": ("keras.mixed_precision",)}
# How Keras writes values that JSON does not have.
_VALUES: Final = frozenset(
    {"TensorShape", "__bytes__", "__ellipsis__", "__numpy__", "__tensor__", "__tuple__"}
)


def check_classes(
    config: object, where: str, custom_objects: Mapping[str, Any] | None = None
) -> None:
    """Refuses the config of a network that names what could run foreign code.

    Args:
      config: JSON value: the config of a model, or the arguments of ``compile``.
      where: The file that it is from, in errors.
      custom_objects: Classes and functions of the caller's own, by name, beside those
        that are registered with Keras.

    Raises:
      ModelError: If it names a class or function that is neither public in tf_keras nor
        one of the caller's own, one that holds code (``Lambda``) or reads a file, or is
        nested too deeply.
    """
    custom = {**keras.utils.get_custom_objects(), **(custom_objects or {})}
    known = _public_classes()
    own = {name.rpartition(">")[2] for name in custom}
    names = {*known, *custom, *own} - _REFUSED
    for value in _named_values(config, where):
        name = value["class_name"]
        if not _is_known(value, names, known, custom):
            place = value.get("module")
            shown = f"{place}.{name}" if place else name
            is_operation = isinstance(name, str) and name in _OPERATIONS
            remedy = (
                "It stands for an operation on a layer's output, such as x * 2.0; use "
                "a layer (Rescaling, Add, Multiply, Reshape) and save the network again"
                if is_operation
                else "A class of your own goes into custom_objects of load_model; one "
                "with kernels is registered first: matar_tf.register_layer_kind"
            )
            raise ModelError(
                "Expected layers and functions that Keras makes of numbers alone in "
                f"{where}, got {shown!r:.100}, which could run foreign code; matar_tf "
                f"does not load it. {remedy}."
            )


def _named_values(config: object, where: str) -> Iterator[dict[str, Any]]:
    """Yields every object of a JSON value that names a class, at any depth."""
    waiting = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ModelError(
                f"Expected a network of at most {_MAX_DEPTH} levels in {where}, got a "
                "deeper one; matar_tf does not load it."
            )
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            waiting += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list):
            waiting += [(one, depth + 1) for one in value]


def _is_known(
    value: Mapping[str, Any],
    names: Set[str],
    known: Mapping[str, set[str]],
    custom: Mapping[str, Any],
) -> bool:
    """Whether Keras finds nothing foreign under any of the names of a class.

    Files in HDF5 and SavedModels go by ``class_name`` alone, ``.keras`` files by
    ``registered_name`` first, then by the module.
    """
    name, module = value["class_name"], value.get("module")
    registered = value.get("registered_name", name)
    if not all(
        isinstance(one, (str, type(None))) for one in (name, module, registered)
    ):
        return False
    if name == "function":
        return _is_known_function(value.get("config"), module, custom)
    if name in _VALUES:
        return True
    if name not in names:
        return False
    is_own = registered in custom
    return is_own or (module in known.get(name, ()) if module else True)


def _is_known_function(
    name: object, module: str | None, custom: Mapping[str, Any]
) -> bool:
    """Whether a function is one of the caller's, or an activation, loss or metric."""
    if name in custom:
        return True
    places = {"builtins", *(f"keras.{one}" for one in _FUNCTIONS)}
    return module in places and any(
        callable(getattr(getattr(keras, one), str(name), None)) for one in _FUNCTIONS
    )


def _public_classes() -> dict[str, set[str]]:
    """Returns the modules that Keras' public classes may be named with, by class."""
    unlisted = {**_NETWORKS, **_LOSS_SCALING}
    known = {name: set(modules) for name, modules in unlisted.items()}
    for namespace in _NAMESPACES:
        for name in _classes_of(namespace):
            known.setdefault(name, set()).add(f"keras.{namespace}")
    return known


def _classes_of(namespace: str) -> Iterable[str]:
    module: Any = keras
    for part in namespace.split("."):
        module = getattr(module, part)
    return [name for name, one in vars(module).items() if isinstance(one, type)]
