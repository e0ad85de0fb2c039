"""Multi-bitwidth networks into Keras 3: float layers, weights on a policy's grids."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from matar_tf.errors import ModelError, shown
from matar_tf.keras._compat import KerasLayer, KerasModel, keras, tf
from matar_tf.keras.keras3.arguments import argument_names
from matar_tf.keras.policies import get_policy, set_policy
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import activation_name, kind_of
from matar_tf.keras.rewrite.graph import FreeNames
from matar_tf.keras.shared import SharedLayer
from matar_tf.layer_kinds import LAYER_KINDS
from matar_tf.policy import Policy
from matar_tf.results import Candidate

__all__ = ["to_keras3"]

_BORDERS: Final = ("Dequantize", "InputQuantize", "Quantize")  # which round alone
_SUMS: Final = {"MultiBitAdd": "Add", "MultiBitSubtract": "Subtract"}
_RENAMED: Final = {"alpha": "negative_slope"}  # of LeakyReLU
# Of what Keras 3 lacks, what changes nothing, beside False.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "dtype": ("float32",),
    "groups": (1,),  # of layers that have none
    "implementation": (1, 2),
    "rng_type": ("stateful",),
    "trainable": (True,),
}
_SHAPE: Final = "batch_input_shape"  # of layers that might have begun a network
_OTHER_FUNCTIONS: Final = ("hard_sigmoid",)  # of the same name in Keras 3
_EPSILON: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A layer of Keras 3: its class, what it is made with, and its weights."""

    kind: str
    arguments: Mapping[str, Any]
    weights: tuple[np.ndarray, ...] | None = None  # as they are made if None


def to_keras3(model: KerasModel, policy: Policy | Candidate | str | Path) -> Any:
    """Returns a plain Keras 3 model whose weights lie on the grids of a policy.

    Its layers are those that `quantize_model` laid the network out into, in float: each
    kernel has the values that it has at the policy's width (whole levels times the
    step), each batch norm the statistics of the policy. Nothing rounds activations, so
    that it computes what the network does before these are quantized; biases are not
    on a grid. Training moves weights off the grids. Regularizers of this package are
    left out; whether layers are trained is kept.

    Args:
      model: What `quantize_model` made, or its trainer; the policy that it is under
        stays in force.
      policy: As `set_policy` takes it.

    Raises:
      ModelError: If the model is no multi-bitwidth one, or a layer has no counterpart
        in Keras 3: all of these at once.
      PolicyError: If the policy does not fit the model.
      ModuleNotFoundError: If Keras 3 is not installed.
    """
    network = wrapper.multi_bit_network(model)
    before = get_policy(network)
    set_policy(network, policy)
    try:
        return _built(network)
    finally:
        set_policy(network, before)


def _built(network: KerasModel) -> Any:
    keras3: Any = importlib.import_module("keras")
    calls = [
        call
        for depth in sorted(network._nodes_by_depth, reverse=True)
        for call in network._nodes_by_depth[depth]
    ]
    found: list[str] = []
    names = FreeNames([])
    layers = {call.layer.name: call.layer for call in calls}
    plans = {
        name: _plan(layer, keras3, found, names)
        for name, layer in layers.items()
        if not isinstance(layer, SharedLayer)
    }
    if found:
        title = (
            f"Expected layers that Keras 3 has in {network.name!r}, got {len(found)} "
            "that it has not:"
        )
        raise ModelError("\n  ".join([title, *found]))
    made = {
        name: getattr(keras3.layers, plan.kind)(**plan.arguments)
        for name, plan in plans.items()
        if plan is not None
    }
    tensors: dict[int, Any] = {}
    for call in calls:
        outputs = _called(call, made, tensors)
        ends = zip(tf.nest.flatten(call.outputs), tf.nest.flatten(outputs), strict=True)
        tensors |= {id(one): other for one, other in ends}
    for name, layer in made.items():
        _load(layer, plans[name])
    inputs, results = (
        [tensors[id(one)] for one in tf.nest.flatten(ends)]
        for ends in (network.inputs, network.outputs)
    )
    return keras3.Model(
        inputs[0] if len(inputs) == 1 else inputs,
        results[0] if len(results) == 1 else results,
        name=network.name,
    )


def _called(call: Any, made: Mapping[str, Any], tensors: Mapping[int, Any]) -> Any:
    """Returns what a layer of Keras 3 makes of the tensors that it reads."""
    if isinstance(call.layer, SharedLayer):
        owner = made[call.layer.shared_layer.name]
        return owner(*(tensors[id(one)] for one in wrapper.tensors_read(call)))
    if call.is_input:
        return made[call.layer.name].output
    layer = made.get(call.layer.name)
    arguments, keywords = tf.nest.map_structure(
        lambda value: tensors.get(id(value), value),
        (list(call.call_args), dict(call.call_kwargs)),
    )
    # Without one it quantizes alone.
    return arguments[0] if layer is None else layer(*arguments, **keywords)


def _load(layer: Any, plan: _Plan | None) -> None:
    """Gives a layer its weights."""
    if plan is None or plan.weights is None:
        return
    expected = [tuple(one.shape) for one in layer.weights]
    given = [one.shape for one in plan.weights]
    if given != expected:
        raise ModelError(
            f"Expected weights of {layer.name!r} ({plan.kind}) of the shapes "
            f"{expected} as Keras 3 has them, got {given}; build the network without "
            "it."
        )
    layer.set_weights(plan.weights)


def _plan(
    layer: KerasLayer, keras3: Any, found: list[str], names: FreeNames
) -> _Plan | None:
    inner = wrapper.inner_layer(layer)
    # Keras 3 takes no paths as names.
    kind, name = kind_of(inner), names.take(inner.name.replace("/", "_"))
    common = {"name": name, "trainable": layer.trainable}
    if kind in _BORDERS:
        return None
    if kind == "InputLayer":
        shape = inner.get_config()["batch_input_shape"]
        return _Plan(
            kind=kind,
            arguments={"batch_shape": shape, "dtype": inner.dtype, "name": name},
        )
    if kind == "MultiBitBatchNormalization":
        return _Plan(
            kind="BatchNormalization",
            arguments={**common, "momentum": inner.momentum, "epsilon": inner.epsilon},
            weights=_statistics(inner),
        )
    if kind == "ChannelScale":
        return _scale(layer, inner, common)
    known = _SUMS.get(kind, kind)
    is_same = kind in _SUMS or getattr(keras.layers, kind, None) is type(inner)
    if not is_same or not hasattr(keras3.layers, known):
        found.append(f"{name!r} ({kind}); build the network without it.")
        return None
    config = {**inner.get_config(), **common}
    if "activation" in config:
        config["activation"] = activation_name(inner)
    arguments, faults = _arguments(known, config, keras3)
    found.extend(f"{name!r} ({kind}) has {fault}" for fault in faults)
    if faults:
        return None
    return _Plan(kind=known, arguments=arguments, weights=_weights(layer, inner))


def _arguments(
    kind: str, config: Mapping[str, Any], keras3: Any
) -> tuple[dict[str, Any], list[str]]:
    """Returns with what Keras 3 makes a layer of a kind, and what it cannot take."""
    arguments: dict[str, Any] = {}
    faults: list[str] = []
    accepted = argument_names(getattr(keras3.layers, kind), keras3.layers.Layer)
    for key, value in config.items():
        new = _RENAMED.get(key, key) if kind == "LeakyReLU" else key
        if key.endswith("activation") and value in _OTHER_FUNCTIONS:
            other = "which Keras 3 computes otherwise; use another"
            faults.append(f"{key}={shown(value)}, {other}.")
        elif new in accepted:
            arguments[new] = _counterpart(value, keras3, faults)
        elif value not in (None, False, *_NEUTRAL.get(key, ())) and key != _SHAPE:
            faults.append(f"{key}={shown(value)}; leave it out.")
    return arguments, faults


def _counterpart(value: Any, keras3: Any, faults: list[str]) -> Any:
    """Returns a value of a config: its layers made, classes of this package left out.

    What Keras 3 cannot have in those layers is added to the faults.
    """
    if isinstance(value, (list, tuple)):
        made = [_counterpart(one, keras3, faults) for one in value]
        return made if isinstance(value, list) else tuple(made)
    if not isinstance(value, dict):
        return value
    if str(value.get("registered_name")).startswith("matar_tf>"):
        return None
    kind = value.get("class_name")
    if value.get("module") != "keras.layers":
        return value
    if not hasattr(keras3.layers, str(kind)):
        faults.append(f"a {kind} inside; build the network without it.")
        return None
    arguments, inside = _arguments(str(kind), value["config"], keras3)
    faults.extend(f"a {kind} inside, with {fault}" for fault in inside)
    return None if inside else getattr(keras3.layers, str(kind))(**arguments)


def _weights(layer: KerasLayer, inner: KerasLayer) -> tuple[np.ndarray, ...] | None:
    row = LAYER_KINDS.get(kind_of(inner))
    if row is not None and row.is_identity:
        return None  # but random states
    quantizer = wrapper.kernel_quantizer(layer)
    if quantizer is None:
        return tuple(_float_weights(layer, inner))
    kernel = quantizer.fake_quantize(wrapper.kernel_variable(layer)).numpy()
    # Not `inner.bias`, which is what the wrapper put there last.
    return (
        (kernel, wrapper.bias_variable(layer).numpy()) if inner.use_bias else (kernel,)
    )


def _float_weights(layer: KerasLayer, inner: KerasLayer) -> Iterator[np.ndarray]:
    """Yields the weights of a layer in float, its kernels on their grids."""
    grids = {id(kernel): one for one, kernel in wrapper.float_kernels(layer)}
    # The layer has quantized tensors in the place of kernels; the wrapper knows them.
    known = grids.keys() | set(map(id, inner.weights))
    wrapped = layer._trainable_weights if grids else []
    variables = {id(one): one for one in (*wrapped, *inner.weights)}
    for number, one in variables.items():
        if number in known:
            grid = grids.get(number)
            yield (one if grid is None else grid.fake_quantize(one)).numpy()


def _statistics(norm: KerasLayer) -> tuple[np.ndarray, ...]:
    """Returns scale, shift, mean and variance of a batch norm under the policy."""
    mean, variance = (one.numpy().astype(np.float32) for one in norm.statistics())
    return np.abs(norm.gamma.numpy()), norm.beta.numpy(), mean, variance


def _scale(layer: KerasLayer, inner: KerasLayer, common: Mapping[str, Any]) -> _Plan:
    """Returns a batch norm that multiplies by a constant and adds one."""
    kernel = wrapper.kernel_variable(layer)
    quantizer = wrapper.kernel_quantizer(layer)
    factor = (kernel if quantizer is None else quantizer.fake_quantize(kernel)).numpy()
    size = factor.size
    shift = np.zeros(size, np.float32)
    if inner.use_bias:
        shift = wrapper.bias_variable(layer).numpy()
    return _Plan(
        kind="BatchNormalization",
        arguments={**common, "trainable": False, "epsilon": _EPSILON},
        weights=(
            factor.reshape(-1),
            shift,
            np.zeros(size, np.float32),
            np.full(size, 1.0 - _EPSILON, np.float32),
        ),
    )
