"""Kinds of layers of a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from matar_tf.errors import ModelError, did_you_mean
from matar_tf.keras._compat import keras
from matar_tf.layer_kinds import LAYER_KINDS, add_kind
from matar_tf.layer_rows import KernelLayout, KernelStorage, LayerKind

__all__ = ["OwnKind", "own_kind_of", "register_layer_kind"]

# By the axis of the channels, of which each has a step of its own.
_LAYOUTS: Final[Mapping[int | None, KernelLayout]] = {
    -1: KernelLayout.CONV,
    -2: KernelLayout.TRANSPOSED,
    None: KernelLayout.TABLE,
}
_ADVICE: Final = (
    "name the attributes that hold kernels, as kernels='w' or kernels={'w': -1}, the "
    "axis of their channels"
)


@dataclass(frozen=True, kw_only=True)
class OwnKind:
    """What a user said of a class of layers.

    Attributes:
      name: Of the kind.
      kernels: Attributes that hold kernels.
      like: The kind of Keras' that computes the same; None for one that stays in float.
    """

    name: str
    kernels: tuple[str, ...]
    like: str | None


_OWN: Final[dict[type, OwnKind]] = {}


def own_kind_of(layer: Any) -> OwnKind | None:
    """Returns what a user said of the class of a layer, or None."""
    return _OWN.get(type(layer))


def register_layer_kind(
    kind: type,
    kernels: str | Iterable[str] | Mapping[str, int | None] = "kernel",
    *,
    like: str | None = None,
) -> None:
    """Says which weights of a layer class of your own are kernels to be quantized.

    The layer itself is computed in float; each of its kernels is multi-bitwidth all the
    same: one policy entry, n bits in the file, dequantized there. Call it before
    `quantize_model`, and before `load_model` of a network that holds such a layer:
    loading needs the class, too. A layer of a class that nobody registered stays in
    float with float weights. Where a layer computes just what one of Keras' does, say
    so with `like`: then integer kernels compute it, as they do that one::

        @tf_keras.utils.register_keras_serializable("mine")
        class Gated(tf_keras.layers.Layer):  # a kernel of the last axis, and a gate
            def build(self, input_shape):
                shape = (input_shape[-1], 8)
                self.w = self.add_weight("w", shape)
                self.gate = self.add_weight("gate", (8,), initializer="ones")

            def call(self, inputs):
                return tf.matmul(inputs, self.w) * tf.sigmoid(self.gate)

        matar_tf.register_layer_kind(Gated, "w")
        model = matar_tf.quantize_model(network)  # policy entry "gated": 2..8 bits

    Args:
      kind: A class derived from ``tf_keras.layers.Layer``, whose ``call`` reads each
        kernel as an attribute, and which Keras can rebuild from ``get_config``.
      kernels: Attributes that hold a variable of two axes or more once the layer is
        built; ``"part.kernel"`` for that of a layer inside. Or for each the axis of its
        channels, of which each has a step of its own: -1, the last, or -2; None for one
        step in all, as of a table whose rows are looked up.
      like: A kind of Keras' with a kernel (``Dense``, ``Conv2D``) that the layer
        equals, with its one kernel stored alike, an attribute ``bias`` if it has one,
        and the same arguments in its config. It is replaced by that kind, after their
        outputs were compared.

    Raises:
      ModelError: If `kind` is no such class, or has the name of one of Keras', if
        `kernels` names none or another axis, or `like` is no such kind.
    """
    _check_class(kind)
    axes = _axes(kernels)
    if like is not None:
        known = sorted(
            name
            for name, row in LAYER_KINDS.items()
            if row.kernel is not None and not row.is_ours
        )
        if like not in known:
            raise ModelError(
                f"Expected a kind of layer with an integer kernel as like, got "
                f"{like!r}. {did_you_mean(str(like), known)}"
            )
        if len(axes) > 1:
            raise ModelError(
                f"Expected one kernel of a class that is like {like}, got "
                f"{list(axes)}; name that one."
            )
    stored = tuple(
        KernelStorage(attribute=name, layout=_LAYOUTS[axis])
        for name, axis in axes.items()
    )
    name = kind.__name__
    add_kind(name, LayerKind(is_float=True, float_kernels=stored))
    _OWN[kind] = OwnKind(name=name, kernels=tuple(axes), like=like)
    keras.utils.get_custom_objects()[name] = kind


def _check_class(kind: Any) -> None:
    is_layer = inspect.isclass(kind) and issubclass(kind, keras.layers.Layer)
    if not is_layer or issubclass(kind, keras.Model):
        raise ModelError(
            "Expected a class derived from tf_keras.layers.Layer, got "
            f"{kind!r:.100}; pass the class itself, of tf_keras, not of Keras 3."
        )
    name, home = kind.__name__, kind.__module__
    known = [
        one
        for one in _OWN
        if one.__name__ == name
        and (one.__module__, one.__qualname__) != (home, kind.__qualname__)
    ]
    if hasattr(keras.layers, name) or known or _is_built_in(name):
        other = f"{known[0].__module__}.{name}" if known else f"the {name} of Keras"
        raise ModelError(
            f"Expected a class with a name of its own, got {home}.{name}, which would "
            f"be taken for {other} in files; rename it."
        )


def _is_built_in(name: str) -> bool:
    return name in LAYER_KINDS and all(own.name != name for own in _OWN.values())


def _axes(kernels: Any) -> dict[str, int | None]:
    """Returns the axis of the channels of each kernel, by attribute."""
    if isinstance(kernels, str):
        kernels = (kernels,)
    if not isinstance(kernels, Mapping):
        names = list(kernels) if isinstance(kernels, Iterable) else [kernels]
        kernels = dict.fromkeys(names, -1)
    found = dict(kernels)
    is_named = all(
        isinstance(one, str) and all(part.isidentifier() for part in one.split("."))
        for one in found
    )
    if not found or not is_named or not {*found.values()} <= {*_LAYOUTS}:
        raise ModelError(
            "Expected names of attributes, each with the axis of its channels (-1, -2 "
            f"or None), got {kernels!r:.100} as kernels; {_ADVICE}."
        )
    return found
