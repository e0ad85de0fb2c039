"""Limits on what a network may make while it is rebuilt from its config.

A config of some kilobytes can ask for layers of any size, and for any number of calls
(a network in a network, each called eight times). Keras makes and fills weights before
it compares them with the stored ones, and some layers loop over the places of their
input, or hold an array of its size, while they are built.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasLayer, call_state, keras, tf

__all__ = ["MAX_CONSTANTS", "building_within"]

MAX_CONSTANTS: Final = 1 << 24  # of a normalization; 34 bytes each meanwhile
_FREE_BYTES: Final = 1 << 24  # metrics, seeds and counters, which are not stored
# Of processor time each is about a millisecond: a layer that is called takes one.
_FREE_STEPS: Final = 1000
_CHARS_PER_STEP: Final = 20  # a call takes as many where a config lists it
_RECURRENT_STEPS: Final = 50
_PLACES_PER_STEP: Final = 100
_MAX_PLACES: Final = 1 << 17  # along an axis, each a tensor of its own


@contextlib.contextmanager
def building_within(num_bytes: int, num_chars: int, where: str) -> Iterator[None]:
    """Lets this thread make variables of so many bytes, and some small ones.

    Args:
      num_bytes: What the weights take that are stored with the config.
      num_chars: Of the config, which justify calls of layers.
      where: The file that it is from, in errors.

    Raises:
      ModelError: In the block, before a variable is filled that is too much, or a layer
        is called that is too large, or too often.
    """
    limits = _Limits(num_bytes, num_chars, where)
    before = call_state.call_context()
    call_state._call_context.call_context = _Watched(limits)
    try:
        with tf.variable_creator_scope(limits.make):
            yield
    except Exception as error:
        if limits.refusal is not None:  # which Keras has put into another
            raise limits.refusal from error
        raise
    finally:
        call_state._call_context.call_context = before


class _Limits:
    """Counts what is made, and refuses what is too much."""

    def __init__(self, num_bytes: int, num_chars: int, where: str) -> None:
        self.refusal: ModelError | None = None
        self._where = where
        self._num_bytes = num_bytes
        self._num_made = 0
        self._max_steps = _FREE_STEPS + num_chars // _CHARS_PER_STEP
        self._num_steps = 0

    def make(self, next_creator: Callable[..., Any], **options: Any) -> Any:
        """Makes a variable, for `tf.variable_creator_scope`."""
        self._num_made += _size(options)
        if self._num_made > self._num_bytes + _FREE_BYTES:
            raise self._refused(
                f"layers whose weights take about the {self._num_bytes} bytes that are "
                f"stored in {self._where}, got more than {self._num_made}"
            )
        return next_creator(**options)

    def call(self, layer: KerasLayer, inputs: Any) -> None:
        """Counts a call of a layer, before it is built."""
        shapes = [_sizes(one) for one in tf.nest.flatten(inputs)]
        longest = max((max(one, default=1) for one in shapes), default=1)
        num_values = max(map(math.prod, shapes), default=1)
        for one in _with_inner(layer):
            num_places = _num_places(one, longest)
            if num_places > _MAX_PLACES:
                raise self._refused(
                    f"layers that are built for at most {_MAX_PLACES} places one by "
                    f"one in {self._where}, got {one.name!r} for {num_places}"
                )
            if num_values > MAX_CONSTANTS and _has_constants(one):
                raise self._refused(
                    f"a normalization of at most {MAX_CONSTANTS} values in "
                    f"{self._where}, got {one.name!r} of {num_values}"
                )
            is_recurrent = isinstance(one, keras.layers.RNN)
            self._num_steps += _RECURRENT_STEPS if is_recurrent else 1
            self._num_steps += num_places // _PLACES_PER_STEP
        if self._num_steps > self._max_steps:
            raise self._refused(
                f"a network in {self._where} that calls its layers as often as its "
                f"config says, at most {self._max_steps} times, got more calls, of "
                "networks in networks or of an unrolled layer"
            )

    def _refused(self, what: str) -> ModelError:
        self.refusal = ModelError(f"Expected {what}; matar_tf does not load it.")
        return self.refusal


class _Watched(call_state.CallContext):
    """Keras' state of the calls of a thread, which every call of a layer enters."""

    def __init__(self, limits: _Limits) -> None:
        super().__init__()
        self._limits = limits

    def enter(self, layer: KerasLayer, inputs: Any, *args: Any, **options: Any) -> Any:
        """Enters a call, unless it is too much."""
        self._limits.call(layer, inputs)
        return super().enter(layer, inputs, *args, **options)


def _with_inner(layer: KerasLayer) -> Iterator[KerasLayer]:
    """Yields a layer and what it wraps."""
    while isinstance(layer, keras.layers.Layer):
        yield layer
        layer = getattr(layer, "layer", None)


def _sizes(tensor: Any) -> list[int]:
    """Returns the known sizes of a tensor's axes."""
    shape: Any = tf.TensorShape(getattr(tensor, "shape", ()))
    return [] if shape.rank is None else [size or 1 for size in shape]


def _num_places(layer: KerasLayer, longest: int) -> int:
    """Returns for how many places on an axis a layer makes a tensor each, or 0."""
    if isinstance(layer, (keras.layers.UpSampling1D, keras.layers.UpSampling3D)):
        return longest * max(tf.nest.flatten(layer.size))
    return longest if getattr(layer, "unroll", False) else 0


def _has_constants(layer: KerasLayer) -> bool:
    """Whether a layer holds given numbers as an array of its input's size."""
    is_one = isinstance(layer, keras.layers.Normalization)
    return is_one and layer.input_mean is not None


def _size(options: dict[str, Any]) -> int:
    """Returns the bytes of a variable with these arguments of `tf.Variable`."""
    shape, value = options.get("shape"), options.get("initial_value")
    if shape is None:
        shape = getattr(value, "shape", ())  # of an initializer none is known
    sizes = tf.TensorShape(shape).as_list() if shape is not None else []
    dtype = options.get("dtype") or getattr(value, "dtype", tf.float64)
    return math.prod(size or 1 for size in sizes) * tf.as_dtype(dtype).size
