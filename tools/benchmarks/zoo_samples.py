"""Weights and samples for the networks of ``tools/benchmark.py zoo``.

Weights are random, but for batch norms, which have the statistics of random samples,
and last kernels, which are scaled so that outputs use their grid.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf import keras as matar
from matar_tf.data import load_data
from matar_tf.keras import keras
from tools.benchmarks.zoo_networks import Network, take_statistics

__all__ = [
    "SOURCES",
    "Samples",
    "build_float",
    "digest_of",
    "digits_for",
    "first",
    "kinds_of",
    "random_samples",
    "samples_for",
]

Samples: TypeAlias = "np.ndarray | dict[str, np.ndarray]"

SOURCES: Final = ("tf_keras", "keras3", "keras3_file")
_SPREAD: Final = 2.0  # standard deviation of what the last kernel makes
_FEATURE_SIZES: Final = (2, 5, 16)  # pixels, of what random samples show
_NUM_STATISTICS: Final = 32  # samples of batch norms' statistics


def build_float(
    network: Network, samples: Samples, *, seed: int, source: str = SOURCES[0]
) -> tuple[Any, float]:
    """Returns a float model of tf_keras, and how far it is from what it was made of.

    Args:
      network: What to build.
      samples: ``[num_samples, ...]``, or these by input.
      seed: Of its weights.
      source: One of `SOURCES`: a Keras 3 model is taken as an object, or from a
        ``.keras`` file.

    Returns:
      The model with statistics and last kernels that suit the samples, and the largest
      difference of its outputs from those of the Keras 3 model, before last kernels
      were scaled, over the largest of these; 0 for a model of tf_keras.
    """
    few = first(samples, _NUM_STATISTICS)
    if source == SOURCES[0]:
        keras.utils.set_random_seed(seed)
        model, off = network.build(keras), 0.0
        take_statistics(model, _in_order(model, few))
    else:
        model, off = _from_keras3(network, few, seed, from_file=source == SOURCES[2])
    _scale_last_kernels(model, _in_order(model, few))
    return model, off


def digest_of(model: Any) -> str:
    """Returns the SHA-256 of a model's layers and weights, in hex."""
    digest = hashlib.sha256(model.to_json().encode())
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()


def _from_keras3(
    network: Network, samples: Samples, seed: int, *, from_file: bool
) -> tuple[Any, float]:
    import keras as keras3

    keras3.utils.set_random_seed(seed)
    source: Any = network.build(keras3)
    fed = _in_order(source, samples)
    take_statistics(source, fed)
    if from_file:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.keras"
            source.save(path)
            model = matar.from_keras3(path)
    else:
        model = matar.from_keras3(source)
    made, expected = (
        [np.asarray(one) for one in _flat(each(fed, training=False))]
        for each in (model, source)
    )
    off = max(
        float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-12))
        for one, other in zip(made, expected, strict=True)
    )
    return model, off


def first(samples: Any, number: int) -> Any:
    """Returns the first of some `Samples`."""
    if isinstance(samples, dict):
        return {name: one[:number] for name, one in samples.items()}
    return samples[:number]


def samples_for(model: Any, number: int, network: Network, *, seed: int) -> Samples:
    """Returns random samples for a model, by input if it has several."""
    made: dict[str, np.ndarray] = {}
    for index, (name, tensor) in enumerate(
        zip(model.input_names, model.inputs, strict=True)
    ):
        shape = tuple(tensor.shape)[1:]
        if tensor.dtype.is_integer:
            rng = np.random.default_rng(seed + index)
            made[name] = rng.integers(0, int(network.high), (number, *shape), np.int32)
        else:
            made[name] = random_samples(shape, number, network, seed=seed + index)
    return made if len(made) > 1 else next(iter(made.values()))


def random_samples(
    shape: tuple[int, ...], number: int, network: Network, *, seed: int
) -> np.ndarray:
    """Returns samples of few colours and coarse and fine features, ``[number, ...]``.

    Plain noise would make all samples alike wherever a network takes a mean.
    """
    rng = np.random.default_rng(seed)
    *places, channels = shape
    samples = rng.normal(size=(number, *(1 for _ in places), channels))
    for pixels in _FEATURE_SIZES if places else ():
        sizes = [math.ceil(size / pixels) for size in places]
        coarse = rng.normal(size=(number, *sizes, channels))
        for axis, size in enumerate(places, start=1):
            coarse = coarse.repeat(pixels, axis).take(range(size), axis)
        contrast = rng.uniform(0.1, 1.5, (number, *(1 for _ in shape)))
        samples = samples + contrast * coarse
    middle, half = (network.high + network.low) / 2, (network.high - network.low) / 2
    return (middle + half * np.tanh(0.7 * samples)).astype(np.float32)


def digits_for(model: Any, network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Returns digits to learn as a model takes them, and their labels."""
    images, labels = load_data("digits").training()
    _, height, width, channels = model.input_shape
    for axis, size in ((1, height), (2, width)):
        images = images.repeat(math.ceil(size / images.shape[axis]), axis)
        images = images.take(range(size), axis)
    images = network.low + (network.high - network.low) * images
    return images.repeat(channels, axis=-1).astype(np.float32), labels


def kinds_of(model: Any) -> tuple[str, ...]:
    """Returns the kinds of layers in a model, functions by their name."""
    found: set[str] = set()
    for layer in model._flatten_layers():
        kind = type(layer).__name__
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            kind = layer.get_config()["function"]
        elif kind == "Activation":
            kind = layer.get_config()["activation"]
        found.add(kind)
    networks = {"Functional", "InputLayer", "Sequential"}
    return tuple(sorted(found - networks))


def _in_order(model: Any, samples: Samples) -> Any:
    """Returns samples as a model takes them: those of several inputs in a list."""
    if not isinstance(samples, dict):
        return samples
    names = getattr(model, "input_names", None) or [one.name for one in model.inputs]
    return [samples[name] for name in names]


def _flat(outputs: Any) -> list[Any]:
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _scale_last_kernels(model: Any, samples: Any) -> None:
    """Scales the last kernels, so that what they make has one spread."""
    for layer in _last_with_kernels(model):
        activation, layer.activation = layer.activation, keras.activations.linear
        values = keras.Model(model.inputs, layer.output)(samples, training=False)
        layer.activation = activation
        values = np.reshape(values, (len(values), -1, layer.output_shape[-1]))
        if all(len(one.shape) == 2 for one in model.outputs):
            values = values.mean(axis=1)
        factor = _SPREAD / max(float(values.std()), 1e-12)
        layer.set_weights([factor * one for one in layer.get_weights()])


def _last_with_kernels(model: Any) -> list[Any]:
    """Returns the layers with kernels that no other one follows; no shared ones."""
    found: list[Any] = []
    open_tensors = list(model.outputs)
    seen: set[int] = set()
    while open_tensors:
        layer = open_tensors.pop()._keras_history.layer
        if id(layer) in seen or len(layer.inbound_nodes) > 1:
            continue
        seen.add(id(layer))
        if hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel"):
            found.append(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            inputs = layer.input
            open_tensors += inputs if isinstance(inputs, list) else [inputs]
    return found
