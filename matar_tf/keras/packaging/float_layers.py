"""Float layers in a form that the converter makes plain operators of, and finds again.

The converter brings operators of float layers to integers where they stand beside
quantized ones. So each float layer is put between marks: an operation that the
converter does not know, which it hands on as it is, with a number. The numbers also say
which operators are of which layer. What is quantized for integer layers has a mark of
its own before, or the converter would give the quantized tensor to all other readers.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor, keras, tf
from matar_tf.keras.borders import Dequantize, Quantize
from matar_tf.keras.layers import InputQuantize
from matar_tf.keras.packaging.recurrent import in_steps
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import kind_of
from matar_tf.keras.rewrite.foreign import why_foreign
from matar_tf.layer_kinds import LAYER_KINDS
from matar_tf.tflite._islands import BORDER, mark_number

__all__ = ["FloatCall", "convertible", "float_calls", "float_reasons"]

_SIZES = ("Rank", "Shape", "Size")  # known, of one sample
_BORDERS = (Dequantize, InputQuantize, Quantize)


@dataclass(frozen=True, kw_only=True)
class FloatCall:
    """A call of a layer that computes in float.

    Attributes:
      name: That of the layer, the n-th further call's with ``/use_n``.
      layer: The layer, in its wrapper if it is in one.
      node: Keras' own of the call.
    """

    name: str
    layer: KerasLayer
    node: Any

    @property
    def is_first(self) -> bool:
        """Whether it is the first call of its layer."""
        return self.name == wrapper.inner_layer(self.layer).name


def float_calls(model: KerasModel) -> list[FloatCall]:
    """Returns the calls of layers that compute in float, in the order of execution.

    Of those that read an input as it is, or what another of them makes.

    Args:
      model: A multi-bitwidth model.
    """
    nodes = [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
    ]
    known = set(map(id, nodes))
    in_float: set[int] = set()  # layers, by identity
    found: list[FloatCall] = []
    for node in nodes:
        layer = node.outbound_layer
        is_float = any(
            isinstance(one, (Dequantize, keras.layers.InputLayer))
            or id(one) in in_float
            for one in tf.nest.flatten(node.inbound_layers)
        )
        if is_float and not isinstance(layer, _BORDERS):
            in_float.add(id(layer))
            calls = [id(one) for one in layer.inbound_nodes if id(one) in known]
            name = wrapper.call_name(layer, calls.index(id(node)))
            found.append(FloatCall(name=name, layer=layer, node=node))
    return found


def float_reasons(model: KerasModel) -> dict[str, str]:
    """Returns why layers of a multi-bitwidth model compute in float, by call.

    In one sentence each, that does not depend on what the network was made of.
    """
    found: dict[str, str] = {}
    for call in float_calls(model):
        layer = wrapper.inner_layer(call.layer)
        row = LAYER_KINDS.get(kind_of(layer))
        reason = (
            why_foreign(layer, layer.name)
            if row is None or row.is_float
            else f"{layer.name!r} ({kind_of(layer)}) reads float tensors alone, or has "
            "arguments that no integer kernel computes."
        )
        found.setdefault(call.name, reason)  # not of what bears its name as an output
    return found


@contextlib.contextmanager
def convertible(
    model: KerasModel, *, starts_from_samples: bool = False
) -> Iterator[tuple[FloatCall, ...]]:
    """Lets float layers compute the same in another way, between marks, in this block.

    Recurrent layers step by step instead of in a loop, which would be a subgraph of its
    own. Layer norms by means over their axes, not as the batch norm of an image whose
    batch they are.

    Args:
      model: A multi-bitwidth model.
      starts_from_samples: As for `in_steps`.

    Yields:
      The calls of the float layers, by the numbers of their marks.
    """
    before: list[tuple[KerasLayer, str, object]] = []
    missing = object()

    def change(layer: KerasLayer, **values: object) -> None:
        for name, value in values.items():
            before.append((layer, name, layer.__dict__.get(name, missing)))
            layer.__dict__[name] = value

    calls = float_calls(model)
    numbers: dict[str, list[int]] = {}  # of the calls of each layer, as they run
    for number, call in enumerate(calls):
        numbers.setdefault(call.layer.name, []).append(number)
    for layer in {call.layer.name: call.layer for call in calls}.values():
        for one in layer._flatten_layers():
            change(one, **in_steps(one, starts_from_samples=starts_from_samples))
        places = [(2 * number, 2 * number + 1) for number in numbers[layer.name]]
        change(layer, call=_marked(layer.call, places))
    for layer in model.layers if calls else ():
        if isinstance(layer, Quantize):
            change(layer, call=_marked(layer.call, [(BORDER, None)]))
    try:
        yield tuple(calls)
    finally:
        for layer, name, value in reversed(before):
            if value is missing:
                del layer.__dict__[name]
            else:
                layer.__dict__[name] = value


def _marked(
    compute: Callable[..., Any], places: Sequence[tuple[int, int | None]]
) -> Callable[..., Any]:
    """Returns a function that puts marks around what it computes.

    Args:
      compute: The function.
      places: The numbers of the marks before and after each of its calls, as they come.
    """
    following = itertools.cycle(places)

    def mark(x: Any, place: int) -> Any:
        if not isinstance(x, tf.Tensor) or x.dtype != tf.float32:
            return x
        if not _reads_samples(x):
            return x  # or the converter computes the mark, as it does constants
        marked = tf.math.polygamma(tf.constant(mark_number(place)), x)
        mask = getattr(x, "_keras_mask", None)  # which layers behind look for
        if mask is not None:
            marked._keras_mask = mask
        return marked

    def call(*args: Tensor, **kwargs: Tensor) -> Any:
        before, after = next(following)
        args, kwargs = tf.nest.map_structure(lambda x: mark(x, before), (args, kwargs))
        made = compute(*args, **kwargs)
        if after is None:
            return made
        place = after
        given = tf.nest.flatten((args, kwargs))
        made = tf.nest.map_structure(lambda x: _of_samples(x, given), made)
        return tf.nest.map_structure(lambda x: mark(x, place), made)

    return call


def _of_samples(x: Any, given: Sequence[Any]) -> Any:
    """Returns what a layer makes as something that is computed of samples.

    As a class token is not, of which a file would keep a constant for one sample.

    Args:
      x: What a layer makes of one sample.
      given: What it reads.
    """
    is_constant = (
        isinstance(x, tf.Tensor)
        and x.dtype == tf.float32
        and x.shape[:1] == [1]
        and not _reads_samples(x)
    )
    for one in given if is_constant else ():
        if isinstance(one, tf.Tensor) and one.shape.rank and _reads_samples(one):
            values = tf.abs(tf.cast(one, tf.float32))
            largest = tf.reduce_max(values, axis=list(range(1, one.shape.rank)))
            nothing = tf.minimum(largest, 0.0)
            return x + tf.reshape(nothing, [-1, *[1] * (x.shape.rank - 1)])
    return x


def _reads_samples(x: Tensor) -> bool:
    """Whether a tensor of a graph depends on the values of an input."""
    waiting, seen = [x], set[int]()
    while waiting:
        operation = waiting.pop().op
        if id(operation) in seen or operation.type in _SIZES:
            continue
        seen.add(id(operation))
        if operation.type == "Placeholder":
            if operation.outputs[0].dtype != tf.resource:
                return True
        else:
            waiting += operation.inputs
    return False
