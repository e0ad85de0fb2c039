"""The config of a network of Keras 3 -> its description, or all that is in the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from matar_tf.errors import ModelError, shown
from matar_tf.keras.keras3.arguments import (
    COMPOSITES,
    KINDS,
    NAMED,
    call_arguments,
    policy_of,
    translate_argument,
)
from matar_tf.keras.keras3.description import Call, Layer, Network, Ref, refs_in
from matar_tf.keras.keras3.operations import translate_operation

__all__ = ["translate_network"]

_PLACES: Final = ("keras", "keras.layers", "keras.models")
_SOURCES: Final = ("keras.src.applications.", "keras.src.layers.", "keras.src.models.")
_OPERATIONS: Final = "keras.src.ops."
_NETWORKS: Final = ("Functional", "Model", "Sequential")
_RECURRENT: Final = ("GRU", "LSTM", "SimpleRNN")
_WITH_STATISTICS: Final = ("BatchNormalization", "Network")
# Of the arguments of a call, in whose order both agree.
_POSITIONS: Final = {"MultiHeadAttention": 3, **dict.fromkeys(_RECURRENT, 2)}
_INNER: Final = {"layer": "forward_layer", "backward_layer": "backward_layer"}
_Config = Mapping[str, Any]


def translate_network(config: Any, where: str, refusals: Iterable[str] = ()) -> Network:
    """Returns what the config of a Functional or Sequential network says.

    Args:
      config: JSON value: ``class_name`` and ``config`` of the network, as Keras 3
        writes them.
      where: What it is from, in errors.
      refusals: Sentences on what is in the way and not seen here.

    Raises:
      ModelError: If it is no such config, or something in it has no counterpart in
        tf_keras: all of it at once, each on a line of its own.
    """
    found = list(refusals)
    try:
        network = _network(_checked_entry(config, where), "", found)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"Expected a network as Keras 3 writes it in {where}, got a damaged config "
            f"({error!r:.100}); save the network again."
        ) from error
    if found:
        title = (
            f"Expected a network that tf_keras can hold in {where}, got {len(found)} "
            "things that it cannot:"
        )
        raise ModelError("\n  ".join([title, *found]) if found[1:] else found[0])
    return network


def _checked_entry(config: Any, where: str) -> _Config:
    entry = _object(config, "a network")
    if _kind(entry) not in _NETWORKS or not _is_of_keras(entry):
        raise ModelError(
            f"Expected a Functional or Sequential network of Keras 3 in {where}, got "
            f"{_full_name(entry)}; build it with keras.Model(inputs, outputs)."
        )
    return entry


def _network(entry: _Config, path: str, found: list[str]) -> Network:
    config = _object(entry["config"], "a network")
    entries = [_object(one, "a layer") for one in _list(config["layers"], "layers")]
    if _kind(entry) == "Sequential":
        return _sequential(config, entries, path, found)
    layers, used = list[Layer](), dict[str, int]()
    for one in entries:
        calls = tuple(_call(call) for call in _list(one["inbound_nodes"], "calls"))
        layers.append(_layer(one, calls, _place(one, path, used), found))
    # A Functional network has called itself, on its own input, before any other did.
    starts = {
        layer.name: int(layer.network is not None and _kind(of) != "Sequential")
        for layer, of in zip(layers, entries, strict=True)
    }
    return Network(
        name=_text(config["name"], "a name"),
        layers=tuple(_unique(layers)),
        inputs=_ends(config["input_layers"], starts),
        outputs=_ends(config["output_layers"], starts),
        is_trainable=config.get("trainable") is not False,
    )


def _sequential(
    config: _Config, entries: Sequence[_Config], path: str, found: list[str]
) -> Network:
    """Returns a chain of layers as a network of an input and calls."""
    name, used = _text(config["name"], "a name"), dict[str, int]()
    if not entries or _kind(entries[0]) != "InputLayer":
        raise ModelError(
            f"Expected a network that knows the shape of its input, but {name!r} does "
            "not; begin it with keras.Input, or call build, and save it again."
        )
    layers: list[Layer] = []
    for one in entries:
        calls = (Call(arguments=(Ref(layers[-1].name, 0, 0),)),) if layers else ()
        layers.append(_layer(one, calls, _place(one, path, used), found))
    return Network(
        name=name,
        layers=tuple(_unique(layers)),
        inputs=Ref(layers[0].name, 0, 0),
        outputs=Ref(layers[-1].name, 0, 0),
        is_trainable=config.get("trainable") is not False,
    )


def _unique(layers: Sequence[Layer]) -> Sequence[Layer]:
    names = [one.name for one in layers]
    if len(set(names)) < len(names):
        raise ModelError(
            "Expected layers with a name of their own, got one twice; save the network "
            "again."
        )
    return layers


def _place(entry: _Config, path: str, used: dict[str, int]) -> str:
    """Returns where Keras 3 stores a layer of a network, which numbers its classes."""
    if _text(entry.get("module") or "", "a module").startswith(_OPERATIONS):
        return ""
    name = re.sub(r"\W+", "", _kind(entry))
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
    number = used[name] = used.get(name, -1) + 1
    return f"{path}/layers/{name}{f'_{number}' if number else ''}".lstrip("/")


def _layer(
    entry: _Config, calls: tuple[Call, ...], path: str, found: list[str]
) -> Layer:
    """Returns a layer as tf_keras makes it; what is in the way goes into `found`."""
    config = _object(entry["config"], "a layer")
    kind = _kind(entry)
    name = _text(config.get("name", entry.get("name")), "a name")
    plain = Layer(name=name, kind=kind, calls=calls, path=path)

    def refuse(reason: str) -> None:
        found.append(f"{name!r} ({kind}) {reason}.")

    if policy_of(config.get("dtype")) != "float32" and kind != "InputLayer":
        refuse(
            f"has the dtype policy {policy_of(config['dtype'])!r:.100}; build the "
            "network under keras.config.set_dtype_policy('float32')"
        )
    if _text(entry.get("module") or "", "a module").startswith(_OPERATIONS):
        try:
            return translate_operation(replace(plain, arguments=config), kind)
        except ModelError as error:
            refuse(str(error))
        return plain
    if kind in _NETWORKS and _is_of_keras(entry):
        inside: list[str] = []
        network = _network(entry, path, inside)
        found += [f"In {name!r}: {one}" for one in inside]
        return replace(
            _checked_calls(plain, "Network", refuse),
            kind="Network",
            network=network,
            is_trainable=network.is_trainable,
        )
    if kind not in KINDS or not _is_of_keras(entry):
        reason = f"is {_full_name(entry)}, no layer that Keras 3 and tf_keras share"
        reason = "holds code of its own" if kind == "Lambda" else reason
        refuse(f"{reason}; use Keras' layers in its place, or build it in tf_keras")
        return plain
    return _plain_layer(_checked_calls(plain, kind, refuse), config, refuse)


def _plain_layer(layer: Layer, config: _Config, refuse: Any) -> Layer:
    arguments: dict[str, Any] = {}
    activation: Any = None
    parts: list[str] = []
    for key, value in config.items():
        if key == "dtype" and layer.kind != "InputLayer":
            continue
        if key == "activation":
            value, activation = _activation(layer, value, refuse)
        elif key == "recurrent_activation":
            value, _ = _activation(layer, value, refuse)
        elif key in _INNER:
            value, inside = _inner(value, refuse)
            place = _INNER[key] if layer.kind == "Bidirectional" else key
            parts += [f"{place}/{part}" for part in inside]
        try:
            argument = translate_argument(layer.kind, key, value)
        except ModelError as error:
            refuse(str(error).rstrip("."))
            continue
        if argument is not None:
            arguments[argument[0]] = argument[1]
    is_composite_alone = layer.kind == "Activation" and activation is not None
    return replace(
        layer,
        kind="" if is_composite_alone else layer.kind,
        arguments=arguments,
        activation=activation,
        parts=tuple(parts) or KINDS[layer.kind].parts,
        is_trainable=config.get("trainable") is not False,
    )


def _activation(layer: Layer, value: Any, refuse: Any) -> tuple[str, Any]:
    """Returns the name of an activation in tf_keras, and what is to follow instead."""
    if value is None or value in ("linear",):
        return "linear", None
    if isinstance(value, str) and value in NAMED:
        return NAMED[value], None
    is_output = layer.kind not in _RECURRENT
    if isinstance(value, str) and value in COMPOSITES and is_output:
        return "linear", COMPOSITES[value]
    if isinstance(value, dict) and is_output and _kind(value) in KINDS:
        found: list[str] = []
        inner = _layer(value, (), f"{layer.path}/activation", found)
        if not found:
            return "linear", inner
    name = value.get("config") if isinstance(value, dict) else value
    refuse(f"has the activation {shown(name)}, which tf_keras lacks; use another")
    return "linear", None


def _inner(value: Any, refuse: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the config in tf_keras of what a wrapper holds, and its parts."""
    entry = _object(value, "a layer")
    found: list[str] = []
    inner = _layer(entry, (), "", found)
    if inner.network is not None or inner.activation is not None:
        found.append(f"{inner.name!r} is no single layer of tf_keras; put it behind.")
    for reason in found:
        refuse(f"wraps a layer that tf_keras cannot hold: {reason.rstrip('.')}")
    return {"class_name": inner.kind, "config": dict(inner.arguments)}, inner.parts


def _checked_calls(layer: Layer, kind: str, refuse: Any) -> Layer:
    """Returns a layer whose calls take what its class in tf_keras takes."""
    known = call_arguments(kind)
    calls: list[Call] = []
    for call in layer.calls:
        kept = {key: one for key, one in call.keywords.items() if one is not None}
        # Keras 3 notes a default here, too, and heeds neither when it runs a network;
        # False is what its guides write to keep statistics as they are.
        if kept.get("training") is not False or kind not in _WITH_STATISTICS:
            kept.pop("training", None)
        for key in sorted(kept.keys() - known):
            if kept.pop(key) is not False:
                refuse(f"is called with {key}, which tf_keras lacks; leave it out")
        if len(call.arguments) > _POSITIONS.get(kind, 1):
            refuse("is called with several arguments; give all but the first by name")
        calls.append(Call(arguments=call.arguments, keywords=kept))
    return replace(layer, calls=tuple(calls))


def _call(value: Any) -> Call:
    call = _object(value, "a call")
    arguments = _value(_list(call["args"], "arguments"))
    keywords = _value(_object(call["kwargs"], "arguments"))
    # What reads constants alone would be computed here and now, at any size.
    if not any(refs_in([arguments, keywords])):
        raise ValueError("a call that reads no tensor")
    return Call(arguments=tuple(arguments), keywords=keywords)


def _value(value: Any) -> Any:
    """Returns an argument of a call, with `Ref` for tensors of the network."""
    if isinstance(value, list):
        return [_value(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "class_name" not in value:
        return {key: _value(one) for key, one in value.items()}
    config = _object(value.get("config", {}), "a value")
    match value["class_name"]:
        case "__keras_tensor__":
            name, call, index = _list(config["keras_history"], "an output")
            sizes = tuple(
                None if one is None else _number(one)
                for one in _list(config["shape"], "a shape")
            )
            return Ref(_text(name, "a name"), _number(call), _number(index), sizes)
        case "__tensor__" | "__numpy__":
            dtype = np.dtype(_text(config["dtype"], "a type"))
            if dtype.kind not in "biuf":
                raise ValueError(f"an array of {dtype!r:.50}")
            return np.array(config["value"], dtype)
        case "__slice__":
            return slice(*(_value(config[key]) for key in ("start", "stop", "step")))
        case "__ellipsis__":
            return Ellipsis
        case other:
            raise ValueError(f"a value of {other!r:.50}")


def _ends(value: Any, starts: Mapping[str, int]) -> Any:
    """Returns the inputs or outputs of a network.

    Args:
      value: A tensor as a list, or a list or an object of such.
      starts: From which number on the calls of each layer are counted.
    """
    if isinstance(value, dict):
        return {key: _ends(one, starts) for key, one in value.items()}
    match value:
        case [str(name), int(call), int(index)]:
            return Ref(name, call - starts[name], index)
        case _:
            return [_ends(one, starts) for one in _list(value, "outputs")]


def _is_of_keras(entry: _Config) -> bool:
    module, registered = entry.get("module"), entry.get("registered_name")
    if registered not in (None, entry.get("class_name")) or not module:
        return False
    text = _text(module, "a module")
    return text in _PLACES or text.startswith(_SOURCES)


def _full_name(entry: _Config) -> str:
    return f"{str(entry.get('module'))!s:.100}.{_kind(entry)!s:.100}"


def _kind(entry: _Config) -> str:
    return _text(entry["class_name"], "a class")


def _object(value: Any, what: str) -> _Config:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} that is no object")
    return value


def _list(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} that are no list")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} that is no text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a number that is none")
    return value
