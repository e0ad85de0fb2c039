"""Layers in which the samples of a batch meet, found by a trial.

Keras computes batches, a file one sample at a time: what mixes samples would compute
something else there. A layer is run on invented samples, together and each alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.keras._compat import KerasLayer, keras, tf
from matar_tf.keras.quantizers.configs import kind_of
from matar_tf.keras.rewrite.graph import Node
from matar_tf.keras.rewrite.networks import OPERATIONS

__all__ = ["Trials"]

_NUMBER: Final = 3  # of samples: few sizes are multiples of it
_MAX_VALUES: Final = 1 << 24  # of a tensor's sample, else it is not tried
_MAX_DEPTH: Final = 16  # of what is computed of sizes
_TOLERANCE: Final = {"float16": 5e-2, "bfloat16": 5e-2}
_FLOAT_TOLERANCE: Final = 1e-3  # of the largest value
_FAILS: Final = f"it computes one and fails on {_NUMBER}"
_FAILS_ALONE: Final = f"it computes {_NUMBER} and fails on one"
_FEW: Final = 0.01  # of values that rounding may have moved to another level
_AXES: Final = ("axis", "axes", "attention_axes", "_attention_axes")
_SAFE: Final = ("matar_tf.", "tf_keras.")
_SAFE_FUNCTIONS: Final = (*_SAFE, "tensorflow.", "keras.")
_Arrays: TypeAlias = "list[np.ndarray]"
_Draw: TypeAlias = "Callable[[list[int | None], str, np.random.Generator], np.ndarray]"


@dataclass(frozen=True)
class _Tensors:
    """What is known of the tensors of a network, by identity.

    Attributes:
      led: Those with a row for each sample.
      same: Of a tensor of a model inside the model, that of the outer one.
    """

    led: set[int] = field(default_factory=set[int])
    same: dict[int, Any] = field(default_factory=dict[int, Any])


class Trials:
    """Tries the calls of a network, which are told in order.

    Args:
      sizes: The sizes that the batch has by the network's inputs, None for any.
    """

    def __init__(self, sizes: Iterable[int | None]) -> None:
        self._sizes = frozenset(sizes)
        self._tensors = _Tensors()
        self._lost: set[int] = set()  # what was made of several samples

    def link(self, tensor: Any, same: Any) -> None:
        """Notes that a tensor is the same as one of another model."""
        if tensor is same:  # a model that was made on the outer one's inputs
            return
        led = self._tensors.led
        self._tensors.same[id(tensor)] = same
        (led.add if id(same) in led else led.discard)(id(tensor))

    def note(self, call: Any) -> None:
        """Notes which outputs of a call have a row for each sample."""
        is_input = isinstance(call.outbound_layer, keras.layers.InputLayer)
        if is_input or self._reads_samples(call):
            found = tf.nest.flatten(call.outputs)
            self._tensors.led.update(map(id, filter(self._may_be_led, found)))
        if any(id(one) in self._lost for one in call.keras_inputs):
            self._lose(call)

    def _reads_samples(self, call: Any) -> bool:
        return any(id(one) in self._tensors.led for one in call.keras_inputs)

    def _lose(self, call: Any) -> None:
        found = map(id, tf.nest.flatten(call.outputs))
        self._lost.update(one for one in found if one not in self._tensors.led)

    def _may_be_led(self, tensor: Any) -> bool:
        sizes = _sizes(tensor)
        # A fixed size may also be the number of some tensor's axes.
        return sizes[:1] == [None] or (len(sizes) > 1 and sizes[0] in self._sizes)

    def why_mixing(self, call: Any, node: Node) -> str:
        """Returns why no file can compute a call, or "" if it keeps samples apart.

        Also if that cannot be tried.
        """
        is_clear = self._reads_samples(call) and not any(
            id(one) in self._lost for one in call.keras_inputs
        )
        if not (is_clear and _may_mix(call, node)) or self._sizes == {1}:
            return ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reason = self._found(call)
        if not reason:
            return ""
        self._lose(call)
        layer = call.outbound_layer
        symbol = getattr(layer, "symbol", None)
        return (
            "Expected layers that compute each sample by itself, as files do, got "
            f"{node.name!r} ({f'tf.{symbol}' if symbol else kind_of(layer)}), which "
            f"mixes the samples of a batch: {reason}; keep the first axis, that of "
            "samples, and compute along others."
        )

    def _found(self, call: Any) -> str:
        for draw in (_normal, _positive):
            found = self._tried(call, draw)
            if found is not None:
                return found
        return ""

    def _tried(self, call: Any, draw: _Draw) -> str | None:
        """Returns how samples meet, "" if they do not; None if that is not known."""
        first, second = (
            _Inputs(self._tensors, draw, np.random.default_rng(seed))
            for seed in range(2)
        )
        tried = [first.outputs(call, slice(i, i + 1)) for i in range(_NUMBER)]
        alone = [one for one in tried if one is not None]
        together = first.outputs(call, slice(_NUMBER))
        if together is None:
            return _FAILS if len(alone) == _NUMBER else None
        if len(alone) < _NUMBER:
            return _FAILS_ALONE
        again = first.outputs(call, slice(_NUMBER))
        if not _are_near(together, again):
            return ""  # it draws anew
        others = second.outputs(call, slice(_NUMBER))
        for index, tensor in enumerate(tf.nest.flatten(call.outputs)):
            whole, apart = together[index], [one[index] for one in alone]
            if id(tensor) in self._tensors.led or tensor.shape.rank is None:
                found = _difference(whole, apart)
            elif others is None or _is_of_sizes(whole, others[index], apart):
                found = ""
            else:
                found = "what it makes has no row for each"
            if found:
                return found
        return "" if all(map(_is_finite, together)) else None


class _Inputs:
    """What a call may be given: invented rows, and what is computed of their sizes."""

    def __init__(
        self, tensors: _Tensors, draw: _Draw, rng: np.random.Generator
    ) -> None:
        self._tensors, self._draw, self._rng = tensors, draw, rng
        self._rows: dict[int, np.ndarray] = {}

    def outputs(self, call: Any, rows: slice) -> _Arrays | None:
        """Returns what a call makes of some of the samples; None if it fails."""
        try:
            return [np.asarray(one) for one in self._run(call, rows, 0)]
        except Exception:  # noqa: BLE001 of code that may be anyone's
            return None

    def _run(self, call: Any, rows: slice, depth: int) -> list[Any]:
        large = [*call.keras_inputs, *tf.nest.flatten(call.outputs)]
        if depth > _MAX_DEPTH or any(_num_values(one) > _MAX_VALUES for one in large):
            raise ValueError("a call that is not tried")
        arguments, keywords = tf.nest.map_structure(
            lambda value: (
                self._value(value, rows, depth)
                if hasattr(value, "_keras_history")
                else value
            ),
            (list(call.call_args), dict(call.call_kwargs)),
        )
        return _called(call.outbound_layer, arguments, keywords)

    def _value(self, tensor: Any, rows: slice, depth: int) -> Any:
        seen: set[int] = set()
        while id(tensor) in self._tensors.same and id(tensor) not in seen:
            seen.add(id(tensor))
            tensor = self._tensors.same[id(tensor)]
        if id(tensor) not in self._tensors.led:
            made = self._run(tensor.node, rows, depth + 1)
            return made[tensor._keras_history.tensor_index]
        if id(tensor) not in self._rows:
            sizes = _sizes(tensor)[1:]
            self._rows[id(tensor)] = self._draw(sizes, tensor.dtype.name, self._rng)
        return tf.constant(self._rows[id(tensor)][rows], tensor.dtype)


def _called(layer: KerasLayer, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """Returns what a layer makes in evaluation, which it leaves as it was."""
    is_told = keywords.get("training") is not None or layer._call_spec.arg_was_passed(
        "training", arguments, keywords, inputs_in_args=True
    )
    if layer._expects_training_arg and not is_told:
        keywords["training"] = False
    states = [one for one in layer.non_trainable_variables if not one.trainable]
    before = [(one, one.numpy()) for one in states]
    try:
        return tf.nest.flatten(layer(*arguments, **keywords))
    finally:
        for variable, value in before:
            variable.assign(value)
        layer._clear_losses()


def _normal(
    sizes: list[int | None], dtype: str, rng: np.random.Generator
) -> np.ndarray:
    shape = (_NUMBER, *(size or 5 for size in sizes))
    if tf.as_dtype(dtype).is_floating:
        return rng.normal(size=shape)
    return rng.integers(0, 2, shape)


def _positive(
    sizes: list[int | None], dtype: str, rng: np.random.Generator
) -> np.ndarray:
    """Returns what logarithms, long kernels and short tables take."""
    shape = (_NUMBER, *(size or 32 for size in sizes))
    if tf.as_dtype(dtype).is_floating:
        return rng.uniform(0.5, 1.5, shape)
    return np.zeros(shape, int)


def _sizes(tensor: Any) -> list[int | None]:
    shape = tensor.shape
    return [] if shape.rank is None else shape.as_list()


def _num_values(tensor: Any) -> float:
    return math.prod(float(size or 1) for size in _sizes(tensor))


def _difference(together: np.ndarray, apart: _Arrays) -> str:
    """Returns how a batch differs from its samples alone, if it does."""
    rows = {one.shape[:1] for one in apart}
    if together.shape[:1] != (_NUMBER,) or rows != {(1,)}:
        shape = together.shape
        made = f"{shape[0]} rows" if shape else "one number"
        return f"of {_NUMBER} it makes {made}"
    pairs = zip(together, (one[0] for one in apart), strict=True)
    is_same = all(_is_near(one, other) for one, other in pairs)
    return "" if is_same else "one alone gives other numbers"


def _is_of_sizes(whole: np.ndarray, other: np.ndarray, apart: _Arrays) -> bool:
    """Whether a tensor follows no values of the samples, but their number at most.

    Args:
      whole: What is made of some samples.
      other: Of as many others.
      apart: Of one sample each.
    """
    return _is_near(whole, other) and all(_is_near(one, apart[0]) for one in apart)


def _are_near(some: _Arrays, others: _Arrays | None) -> bool:
    return others is not None and all(map(_is_near, some, others))


def _is_near(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fV":
        return _share(one != other) <= _FEW
    tolerance = _TOLERANCE.get(one.dtype.name, _FLOAT_TOLERANCE)
    one, other = one.astype(np.float64), other.astype(np.float64)
    largest = np.abs(other[np.isfinite(other)]).max(initial=0.0)
    near = np.isclose(one, other, rtol=0.0, atol=tolerance * largest, equal_nan=True)
    return _share(~near) <= _FEW


def _share(differs: Any) -> float:
    return float(np.mean(differs)) if np.size(differs) else 0.0


def _is_finite(values: np.ndarray) -> bool:
    return values.dtype.kind not in "fV" or bool(
        np.isfinite(values.astype(float)).all()
    )


def _may_mix(call: Any, node: Node) -> bool:
    """Whether samples might meet in a call, by what is known of its layer."""
    layer = call.outbound_layer
    if node.kind == "Concatenate":
        return False  # which has a check of its own
    if kind_of(layer) not in OPERATIONS:
        return any(map(_is_doubtful, layer._flatten_layers()))
    if node.is_copy or node.kind == "Reshape":
        return True
    ranks = {tensor.shape.rank for tensor in call.keras_inputs}
    return len(ranks) > 1  # then a batch may meet another axis


def _is_doubtful(layer: KerasLayer) -> bool:
    if isinstance(layer, keras.layers.Lambda):
        return True
    if not type(layer).__module__.startswith(_SAFE):
        return True
    if getattr(layer, "time_major", False):
        return True  # samples are on the second axis then
    axes = tf.nest.flatten([vars(layer).get(name) for name in _AXES])
    if any(isinstance(one, int) and (one == 0 or one < -1) for one in axes):
        return True
    equation = getattr(layer, "equation", None)
    if isinstance(equation, str) and equation[:1] != equation.partition("->")[2][:1]:
        return True
    return any(map(_is_own_function, vars(layer).values()))


def _is_own_function(value: Any) -> bool:
    """Whether a value is a function of others, or an object that is called as one."""
    if not callable(value) or isinstance(value, type):
        return False
    return not str(getattr(value, "__module__", "")).startswith(_SAFE_FUNCTIONS)
