"""Float layers in a form that the converter makes plain operators of, and finds again.

The converter brings operators of float layers to integers where they stand beside
quantized ones. So each float layer is put between marks: an operation that the
converter does not know, which it hands on as it is, with a number. The numbers also say
which operators are of which layer. What is quantized for integer layers has a mark of
its own before, or the converter would give the quantized tensor to all other readers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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

__all__ = ["convertible", "float_layers", "float_reasons"]

_BORDERS = (Dequantize, InputQuantize, Quantize)


def float_layers(model: KerasModel) -> list[KerasLayer]:
    """Returns the layers of a multi-bitwidth model that compute in float, in order.

    Those that read an input as it is, or what another of them makes.
    """
    found: dict[int, KerasLayer] = {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.outbound_layer
            above = tf.nest.flatten(node.inbound_layers)
            is_float = any(
                isinstance(one, (Dequantize, keras.layers.InputLayer))
                or id(one) in found
                for one in above
            )
            if is_float and not isinstance(layer, _BORDERS):
                found[id(layer)] = layer
    return list(found.values())


def float_reasons(model: KerasModel) -> dict[str, str]:
    """Returns why layers of a multi-bitwidth model compute in float, by their names.

    In one sentence each, that does not depend on what the network was made of.
    """
    found: dict[str, str] = {}
    for layer in map(wrapper.inner_layer, float_layers(model)):
        row = LAYER_KINDS.get(kind_of(layer))
        found[layer.name] = (
            why_foreign(layer, layer.name)
            if row is None or row.is_float
            else f"{layer.name!r} ({kind_of(layer)}) reads float tensors alone, or has "
            "arguments that no integer kernel computes."
        )
    return found


@contextlib.contextmanager
def convertible(
    model: KerasModel, *, starts_from_samples: bool = False
) -> Iterator[tuple[str, ...]]:
    """Lets float layers compute the same in another way, between marks, in this block.

    Recurrent layers step by step instead of in a loop, which would be a subgraph of its
    own. Layer norms by means over their axes, not as the batch norm of an image whose
    batch they are.

    Args:
      model: A multi-bitwidth model.
      starts_from_samples: As for `in_steps`.

    Yields:
      The names of the float layers, by the numbers of their marks.
    """
    before: list[tuple[KerasLayer, str, object]] = []
    missing = object()

    def change(layer: KerasLayer, **values: object) -> None:
        for name, value in values.items():
            before.append((layer, name, layer.__dict__.get(name, missing)))
            layer.__dict__[name] = value

    layers = float_layers(model)
    for number, layer in enumerate(layers):
        for one in layer._flatten_layers():
            change(one, **in_steps(one, starts_from_samples=starts_from_samples))
        change(layer, call=_marked(layer.call, 2 * number, 2 * number + 1))
    for layer in model.layers if layers else ():
        if isinstance(layer, Quantize):
            change(layer, call=_marked(layer.call, BORDER, None))
    try:
        yield tuple(wrapper.inner_layer(one).name for one in layers)
    finally:
        for layer, name, value in reversed(before):
            if value is missing:
                del layer.__dict__[name]
            else:
                layer.__dict__[name] = value


def _marked(
    compute: Callable[..., Any], before: int, after: int | None
) -> Callable[..., Any]:
    def mark(x: Any, place: int) -> Any:
        if not isinstance(x, tf.Tensor) or x.dtype != tf.float32:
            return x
        marked = tf.math.polygamma(tf.constant(mark_number(place)), x)
        mask = getattr(x, "_keras_mask", None)  # which layers behind look for
        if mask is not None:
            marked._keras_mask = mask
        return marked

    def call(*args: Tensor, **kwargs: Tensor) -> Any:
        args, kwargs = tf.nest.map_structure(lambda x: mark(x, before), (args, kwargs))
        made = compute(*args, **kwargs)
        if after is None:
            return made
        place = after
        return tf.nest.map_structure(lambda x: mark(x, place), made)

    return call
