"""Networks of Keras 3 into tf_keras: objects, and ``.keras`` files of anyone."""

from __future__ import annotations

import json
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import ModelError
from matar_tf.io.json_reader import JsonReader
from matar_tf.keras._compat import KerasModel, keras
from matar_tf.keras.build_limits import building_within
from matar_tf.keras.config_rules import check_config
from matar_tf.keras.keras3.building import build_network, load_weights
from matar_tf.keras.keras3.description import Layer, Network
from matar_tf.keras.keras3.translate import translate_network
from matar_tf.keras.stored import naming, read_archive, read_weights

__all__ = ["from_keras3"]

_NETWORKS: Final = "keras.src.models."
_CHARS: Final = 4  # a call takes so many times as many as in a config of tf_keras


def from_keras3(model_or_path: Any) -> KerasModel:
    """Returns a network of Keras 3 as one of tf_keras that computes the same.

    Of a ``.keras`` file the config and the arrays are read, without Keras 3 and without
    any code of the file. Networks within the network stay networks, layers keep their
    names and whether they are trained; a Sequential network becomes a Functional one of
    the same layers. Activations that tf_keras lacks (hard-sigmoid, hard-swish and
    leaky ReLU as Keras 3 computes them, ReLU6) become layers of their own. What belongs
    to ``compile`` (optimizer and its state, losses, metrics) is not taken: compile the
    new model. Nor are seeds that have drawn.

    Args:
      model_or_path: A built Functional or Sequential model of Keras 3, on any backend,
        in float32; or the path of a ``.keras`` file that Keras 3 saved.

    Raises:
      ModelError: If it is none of these, or something in it has no counterpart in
        tf_keras (Lambda, classes of one's own, other types than float32, arguments
        that tf_keras lacks): all of it at once, a line each.
    """
    if isinstance(model_or_path, (str, Path)):
        path = Path(model_or_path)
        return _converted(*read_archive(path, "Keras 3"), str(path))
    _check_is_keras3(model_or_path)
    return _converted_object(model_or_path)


def _converted(
    content: bytes, weights: bytes, where: str, refusals: Iterable[str] = ()
) -> KerasModel:
    with naming(where, by="Keras 3"):
        config = JsonReader(ModelError).parse(content, where)
        network = translate_network(config, where, refusals)
        check_config({"layers": list(_configs(network))}, where)
        stored = read_weights(weights, where)
        made: list[tuple[Layer, Any]] = []
        with building_within(stored.num_bytes, len(content) // _CHARS, where):
            model = build_network(network, made)
            load_weights(made, stored.arrays, where)
    return model


def _configs(network: Network) -> Iterator[dict[str, Any]]:
    """Yields the configs of the layers that tf_keras makes."""
    for layer in network.layers:
        yield {"class_name": layer.kind, "config": dict(layer.arguments)}
        if layer.network is not None:
            yield from _configs(layer.network)


def _check_is_keras3(model: Any) -> None:
    if isinstance(model, keras.Model):
        raise ModelError(
            f"Expected a model of Keras 3, got {model.name!r}, which is one of "
            "tf_keras; pass it to quantize_model as it is."
        )
    keras3: Any = sys.modules.get("keras")  # there if someone has made such a model
    if keras3 is None or not isinstance(model, getattr(keras3, "Model", ())):
        raise ModelError(
            "Expected a model of Keras 3, or the path of a .keras file, got "
            f"{type(model).__module__}.{type(model).__name__}; pass one."
        )
    if not type(model).__module__.startswith(_NETWORKS):
        raise ModelError(
            f"Expected a Functional or Sequential model, got the subclassed "
            f"{type(model).__name__} {model.name!r}; rebuild it with "
            "keras.Model(inputs, outputs)."
        )
    if not model.built:
        raise ModelError(
            f"Expected a built model, but {model.name!r} has no input shape yet; begin "
            "it with keras.Input, or call build."
        )


def _converted_object(model: Any) -> KerasModel:
    """Writes a model as Keras 3 does, and reads that: one way for both."""
    where = f"the model {model.name!r}"
    with naming(where, by="Keras 3"), tempfile.TemporaryDirectory() as folder:
        kind = type(model)
        entry = {
            "module": kind.__module__,
            "class_name": kind.__name__,
            "config": model.get_config(),
        }
        content = json.dumps(entry).encode()
        path = Path(folder) / "model.weights.h5"
        model.save_weights(path)
        weights = path.read_bytes()
    return _converted(content, weights, where, _own_functions(model))


def _own_functions(model: Any) -> Iterator[str]:
    """Yields what a config would not tell from Keras' own: functions of that name."""
    for layer in model._flatten_layers():
        for key in ("activation", "recurrent_activation"):
            function = getattr(layer, key, None)
            place = getattr(function, "__module__", "")
            is_plain = isinstance(function, types.FunctionType)
            if is_plain and not place.startswith("keras.src."):
                yield (
                    f"{layer.name!r} has the {key} {place}.{function.__name__}, a "
                    "function of your own; use one of Keras, by its name."
                )
