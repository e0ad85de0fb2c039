"""The description of a network -> the network in tf_keras, with its weights."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from matar_tf.errors import MatarError, ModelError
from matar_tf.keras._compat import KerasLayer, KerasModel, keras, tf
from matar_tf.keras.keras3.arguments import layer_class
from matar_tf.keras.keras3.description import Call, Layer, Network, Ref, refs_in
from matar_tf.keras.keras3.operations import FUNCTIONS
from matar_tf.keras.rewrite.graph import FreeNames
from matar_tf.keras.stored import REBUILD_ERRORS

__all__ = ["build_network", "load_weights"]

_Made: TypeAlias = "list[tuple[Layer, KerasLayer]]"
# A fused batch norm adds up in another order than Keras 3 does.
_AS_IN_KERAS3 = {"BatchNormalization": {"fused": False}}
_SEEDS = ("generator", "seed_generator")  # which draw anew


def build_network(network: Network, made: _Made) -> KerasModel:
    """Returns a network of tf_keras, with weights of its own.

    Args:
      network: What it is.
      made: Takes in the layers that are made, each after its network.

    Raises:
      ModelError: If layers wait for each other, or tf_keras cannot make or call one.
    """
    names = FreeNames([layer.name for layer in network.layers])
    layers = {layer.name: layer for layer in network.layers}
    calls: dict[str, Callable[..., Any]] = {}
    tensors: dict[tuple[str, int], Any] = {}
    for layer in network.layers:
        one: Any = _of(layer, lambda layer=layer: _made(layer, names, made))
        if layer.kind == "InputLayer":
            tensors[layer.name, 0] = one.output
        calls[layer.name] = one
    for name, number in _order(network):
        call = layers[name].calls[number]
        tensors[name, number] = _of(
            layers[name],
            lambda name=name, call=call: calls[name](
                *_given(call.arguments, tensors), **_given(call.keywords, tensors)
            ),
        )
    inputs, outputs = (
        _given(one, tensors) for one in (network.inputs, network.outputs)
    )
    model = keras.Model(inputs, outputs, name=network.name)
    # Its layers have flags of their own, which its setter would change.
    model._trainable = network.is_trainable
    return model


def _of(layer: Layer, make: Callable[[], Any]) -> Any:
    """Returns what a function makes; its error names the layer."""
    try:
        return make()
    except MatarError:
        raise
    except REBUILD_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or repr(error)
        raise ModelError(
            f"Expected a layer that tf_keras can make and call, but {layer.name!r} "
            f"({layer.kind or layer.activation}) fails: {reason:.300}; change it, and "
            "save the network again."
        ) from error


def _made(layer: Layer, names: FreeNames, made: _Made) -> Callable[..., Any]:
    """Returns what a layer is called as; an input is the layer itself."""
    if layer.kind in FUNCTIONS:
        return _with_options(FUNCTIONS[layer.kind], layer.arguments)
    call: Callable[..., Any] = _identity
    if layer.network is not None:
        at = len(made)
        call = build_network(layer.network, made)
        made.insert(at, (layer, call))
    elif layer.kind:
        kind = layer_class(layer.kind)
        arguments = {**_AS_IN_KERAS3.get(layer.kind, {}), **layer.arguments}
        arguments["name"] = layer.name
        is_wrapper = "layer" in arguments
        call = kind.from_config(arguments) if is_wrapper else kind(**arguments)
        made.append((layer, call))
    if layer.activation is None:
        return call
    after = _activation(layer, names, made)
    return lambda *arguments, **keywords: after(call(*arguments, **keywords))


def _identity(tensor: Any) -> Any:
    return tensor


def _with_options(
    function: Callable[..., Any], options: Mapping[str, Any]
) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments, **options)


def _activation(layer: Layer, names: FreeNames, made: _Made) -> Callable[[Any], Any]:
    """Returns what follows a layer: layers that make its activation together."""
    given = layer.activation
    if isinstance(given, Layer):
        inner = replace(given, name=names.take(f"{layer.name}_{given.name}"))
        return _made(inner, names, made)
    last = names.take(f"{layer.name}_{given}") if layer.kind else layer.name

    def part(name: str) -> str:
        return names.take(f"{layer.name}_{name}")

    layers = keras.layers
    match given:
        case "relu6":
            return layers.ReLU(6.0, name=last)
        case "leaky_relu":
            return layers.LeakyReLU(0.2, name=last)
        case _:
            steps = [
                layers.Rescaling(1.0, 3.0, name=part("shifted")),
                layers.ReLU(6.0, name=part("clipped")),
            ]
    if given == "hard_sigmoid":
        steps.append(layers.Rescaling(1.0 / 6.0, name=last))
        return lambda tensor: _chain(steps, tensor)
    steps.append(layers.Rescaling(1.0 / 6.0, name=part("gate")))
    product = layers.Multiply(name=last)
    return lambda tensor: product([tensor, _chain(steps, tensor)])


def _chain(steps: Sequence[Callable[[Any], Any]], tensor: Any) -> Any:
    for step in steps:
        tensor = step(tensor)
    return tensor


def _order(network: Network) -> Iterator[tuple[str, int]]:
    """Yields the calls of a network, each after what it reads and the one before it.

    Raises:
      ModelError: If some wait for each other, or for what is not there.
    """
    waits: dict[tuple[str, int], int] = {}
    readers: dict[tuple[str, int], list[tuple[str, int]]] = defaultdict(list)
    inputs = [(one.name, 0) for one in network.layers if one.kind == "InputLayer"]
    for layer in network.layers:
        for number, call in enumerate(layer.calls):
            needs = {(one.layer, one.call) for one in _read(call)}
            needs |= {(layer.name, number - 1)} if number else set()
            waits[layer.name, number] = len(needs)
            for need in needs:
                readers[need].append((layer.name, number))
    ready = deque([*inputs, *(one for one, count in waits.items() if not count)])
    while ready:
        one = ready.popleft()
        if one not in inputs:
            yield one
        for reader in readers[one]:
            waits[reader] -= 1
            if not waits[reader]:
                ready.append(reader)
    ends = {(one.layer, one.call) for one in refs_in([network.inputs, network.outputs])}
    lost = [one for one, count in waits.items() if count]
    lost += sorted(ends.difference(inputs, waits))
    if lost:
        raise ModelError(
            f"Expected layers that read outputs of layers before them, but "
            f"{lost[0][0]!r} waits for what is not there; save the network again."
        )


def _read(call: Call) -> Iterator[Ref]:
    return refs_in([list(call.arguments), dict(call.keywords)])


def _given(value: Any, tensors: Mapping[tuple[str, int], Any]) -> Any:
    """Returns a value with tensors of tf_keras in the places of their names."""
    if isinstance(value, Ref):
        return tf.nest.flatten(tensors[value.layer, value.call])[value.index]
    if isinstance(value, Mapping):
        return {key: _given(one, tensors) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_given(one, tensors) for one in value)
    return value


def load_weights(made: _Made, arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Gives layers their weights.

    Args:
      made: The layers, each after its network.
      arrays: The arrays of the file, by path.
      where: The file, in errors.

    Raises:
      ModelError: If they do not fit the layers, or belong to none: all of these, each
        on a line of its own.
    """
    stored: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for path, array in arrays.items():
        place, _, number = path.rpartition("/vars/")
        if path.startswith("layers/") and number.isdecimal():
            stored[place][int(number)] = array
    found: list[str] = []
    for layer, one in made:
        if layer.network is not None:
            continue
        places = [f"{layer.path}/{part}".rstrip("/") for part in layer.parts]
        given = [
            array
            for place in places
            for _, array in sorted(stored.pop(place, {}).items())
        ]
        expected = [tuple(weight.shape) for weight in one.weights]
        shapes = [array.shape for array in given]
        if shapes == expected:
            one.set_weights(given)
        else:
            found.append(f"{layer.name!r} ({layer.kind}) of {expected}, got {shapes}.")
        if layer.kind == "Normalization":
            one.finalize_state()
    others = [one for one in stored if one.rpartition("/")[2] not in _SEEDS]
    found += [f"no arrays at {one!r}, got some." for one in others]
    if found:
        title = f"Expected arrays in {where} that fit the layers:"
        raise ModelError("\n  ".join([title, *found]))
