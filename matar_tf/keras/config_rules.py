"""What the config of a network may ask of Keras, apart from the classes that it names.

Keras puts a Functional network together in rounds over its layers, for as long as some
wait for others: for ever, if they wait for each other, or for an output that no layer
has. It lists as many thresholds of a metric, or places of a layer, as it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from matar_tf.errors import ModelError
from matar_tf.keras.build_limits import MAX_CONSTANTS

__all__ = ["check_config"]

# Keras builds them place by place, or by a mask that is as large as their weights
# squared; it has left them out since.
_SLOW: Final = ("LocallyConnected1D", "LocallyConnected2D")
_INPUT: Final = "InputLayer"
_MAX_COUNTS: Final = {
    "num_classes": 1 << 20,
    "num_thresholds": 1 << 20,
    "power_iterations": 1000,
}
_MAX_LAYERS: Final = 5000  # NASNetLarge has 1,039
_FREE_ATTEMPTS: Final = 10_000
_ATTEMPTS_PER_CALL: Final = 10  # layers that are shared wait for some rounds
_Config = dict[str, Any]


def check_config(config: object, where: str) -> None:
    """Refuses a config that Keras would not be done with.

    Args:
      config: JSON value: the config of a model, or the arguments of ``compile``.
      where: The file that it is from, in errors.

    Raises:
      ModelError: If layers wait for each other or for what is not there, or one is of
        a kind or has a number that takes Keras out of proportion.
    """
    num_layers = 0
    for value in _objects(config):
        _check_counts(value, where)
        _check_built(value, where)
        layers = value.get("layers")
        if isinstance(layers, dict):  # Keras makes lists of some
            raise ModelError(
                f"Expected a list of layers in {where}, got an object; save the "
                "network again."
            )
        if isinstance(layers, list) and all(isinstance(one, dict) for one in layers):
            num_layers += len(layers)
            _check_layers(layers, where)
    if num_layers > _MAX_LAYERS:
        raise ModelError(
            f"Expected a network of at most {_MAX_LAYERS} layers in {where}, got "
            f"{num_layers}; matar_tf does not load it."
        )


def _objects(config: object) -> Iterator[_Config]:
    """Yields every object of a JSON value."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
        waiting += _inside(value)


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _check_counts(value: _Config, where: str) -> None:
    if value.get("class_name") in _SLOW:
        raise ModelError(
            f"Expected layers that are built at once in {where}, got "
            f"{value['class_name']!r}, which Keras builds place by place; use a "
            "convolution."
        )
    for key, most in _MAX_COUNTS.items():
        number = value.get(key)
        if isinstance(number, (int, float)) and number > most:
            raise ModelError(
                f"Expected at most {most} for {key!r} in {where}, got {number}; "
                "matar_tf does not load it."
            )


def _check_built(value: _Config, where: str) -> None:
    """Checks for which shape a layer is built before it is called."""
    sizes = _numbers(value.get("build_config"))
    if math.prod(sizes) > MAX_CONSTANTS and any(
        one.get("class_name") == "Normalization" for one in _objects(value)
    ):
        raise ModelError(
            f"Expected a normalization of at most {MAX_CONSTANTS} values in {where}, "
            "got one that is built for more; matar_tf does not load it."
        )


def _numbers(value: object) -> Iterator[float]:
    """Yields all numbers in a JSON value that are not below 1."""
    if isinstance(value, (int, float)):
        # Whose product is quick, and may be infinite.
        yield float(min(max(value, 1), MAX_CONSTANTS + 1))
    for one in _inside(value):
        yield from _numbers(one)


def _check_layers(layers: list[_Config], where: str) -> None:
    """Checks that every call of a layer in a network has its inputs at some time."""
    if not any(one.get("inbound_nodes") for one in layers):
        return
    named: dict[str, _Config] = {}
    shared: set[Any] = set()
    for layer in layers:
        name, number = layer.get("name"), layer.get("shared_object_id")
        is_own = isinstance(name, str) and name not in named
        if not is_own or str(number) in shared:
            raise ModelError(
                f"Expected layers with a name of their own in {where}, got "
                f"{str(name)!r:.100} without one, or twice; save the network again."
            )
        if not isinstance(layer.get("inbound_nodes"), list):
            raise ModelError(
                f"Expected a list of the calls of {name!r:.100} in {where}, got none; "
                "save the network again."
            )
        named[str(name)] = layer
        if number is not None:
            shared.add(str(number))
    waiting = never_called(named)
    if waiting is not None:
        raise ModelError(
            f"Expected layers in {where} that read outputs of layers before them, but "
            f"{waiting!r:.100} waits for one that waits for it, that is far behind it, "
            "or that is not there; save the network again."
        )


def never_called(layers: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Returns a layer that Keras would wait for, if there is one.

    Goes in rounds over the layers as Keras does: a layer stops at its first call whose
    inputs are not there.

    Args:
      layers: Of a network's config, by name; each with a list of inbound nodes.
    """
    kinds = {name: _kind(one) for name, one in layers.items()}
    calls = {
        name: [_reads(call, layers) for call in layer["inbound_nodes"]]
        for name, layer in layers.items()
    }
    num_made = dict.fromkeys(calls, 0)
    left = _FREE_ATTEMPTS + _ATTEMPTS_PER_CALL * sum(map(len, calls.values()))
    waiting = list(calls)
    while waiting:
        made, still = 0, list[str]()
        for name in waiting:
            while num_made[name] < len(calls[name]):
                left -= 1
                reads = calls[name][num_made[name]]
                if not all(_is_made(one, kinds, num_made) for one in reads):
                    still.append(name)
                    break
                num_made[name] += 1
                made += 1
        if still and (not made or left < 0):
            return still[0]
        waiting = still
    return None


def _reads(call: object, named: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the outputs that a call of a layer reads: a layer's name, its call."""
    found: list[tuple[str, Any]] = []
    waiting = [call]
    while waiting:
        value = waiting.pop()
        waiting += _inside(value)
        match value:
            case [str(name), number, _, *_] if name in named:
                found.append((name, number))
            case _:
                pass
    return found


def _kind(layer: Mapping[str, Any]) -> str:
    """Returns by which rule the calls of a layer are numbered.

    A network begins with 1, as it has called itself once, on its own input. Where it
    does not begin with an input, it may have done so or not.
    """
    config = layer.get("config")
    if layer.get("class_name") == _INPUT:
        return "input"
    if layer.get("class_name") == "Sequential":
        inner = config.get("layers") if isinstance(config, dict) else config
        first = inner[0] if isinstance(inner, list) and inner else None
        is_sure = isinstance(first, dict) and first.get("class_name") == _INPUT
        return "network" if is_sure else "unsure"
    is_network = isinstance(config, dict) and "input_layers" in config
    return "network" if is_network else "layer"


def _is_made(
    output: tuple[str, Any], kinds: Mapping[str, str], num_made: Mapping[str, int]
) -> bool:
    """Whether an output is there after so many calls of each layer."""
    name, number = output
    made = num_made[name]
    readable = {
        "input": (number,),
        "layer": range(made),
        "network": range(1, made + 1),
        "unsure": range(1, made),
    }
    return number in readable[kinds[name]]
