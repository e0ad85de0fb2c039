"""Layers of classes that a user registered: checked, and read as those they equal."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from matar_tf.errors import ModelError
from matar_tf.keras._compat import KerasLayer, tf
from matar_tf.keras.quantizers.configs import class_of
from matar_tf.keras.quantizers.half_precision import float32_config, in_float32
from matar_tf.keras.quantizers.own_kinds import OwnKind, own_kind_of
from matar_tf.layer_kinds import LAYER_KINDS
from matar_tf.layer_rows import KernelLayout

__all__ = ["as_known"]

_TOLERANCE = 1e-4  # of the largest output
_UNKNOWN = 5  # what stands for a size that is not known


def as_known(layer: KerasLayer) -> KerasLayer:
    """Returns a layer of Keras' that does what one of a registered class does.

    Or the layer itself, if its class is not registered, or stays in float.

    Raises:
      ModelError: If it has not what was said of its class.
    """
    own = own_kind_of(layer)
    if own is None:
        return layer
    for name in own.kernels:
        _check_kernel(layer, name)
    if own.like is None:
        return layer
    known = _known(layer, own, own.like)
    shape = [size or _UNKNOWN for size in layer.get_input_shape_at(0)[1:]]
    samples = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected, found = (
        np.asarray(one(samples, training=False)) for one in (layer, known)
    )
    is_same = expected.shape == found.shape and np.allclose(
        found, expected, atol=_TOLERANCE * np.abs(expected).max(initial=0.0)
    )
    if not is_same:
        raise ModelError(
            f"Expected {layer.name!r} ({own.name}) to compute what a {own.like} of its "
            "config and kernel does, got other outputs; register the class without "
            "like, and it stays in float."
        )
    return known


def _check_kernel(layer: KerasLayer, name: str) -> None:
    found: Any = layer
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, tf.Variable) or len(found.shape) < 2:
        raise ModelError(
            f"Expected the layer {layer.name!r} ({type(layer).__name__}) to have a "
            f"variable of two axes or more as its attribute {name!r}, got "
            f"{type(found).__name__}; register the class with the attribute that its "
            "build sets by add_weight."
        )


def _known(layer: KerasLayer, own: OwnKind, like: str) -> KerasLayer:
    kind = class_of(like)
    accepted = inspect.signature(kind.__init__).parameters
    config = {
        key: value for key, value in float32_config(layer).items() if key in accepted
    }
    kernel = np.asarray(getattr(layer, own.kernels[0]))
    bias = getattr(layer, "bias", None)
    config |= {
        **_sizes(like, kernel.shape),
        "activation": getattr(layer, "activation", None),
        "name": layer.name,
        "use_bias": bias is not None,
    }
    try:
        with in_float32():
            known = kind(**config)
            known.build(layer.get_input_shape_at(0))
        known.set_weights([kernel] if bias is None else [kernel, np.asarray(bias)])
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"Expected {layer.name!r} ({own.name}) to have a kernel and a config as a "
            f"{like} has them, got others ({reason:.200}); register the class without "
            "like, and it stays in float."
        ) from error
    known.trainable = layer.trainable
    return known


def _sizes(like: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the arguments of a kind that the shape of its kernel says."""
    storage = LAYER_KINDS[like].kernel
    layout = None if storage is None else storage.layout
    if layout is KernelLayout.DENSE:
        return {"units": shape[-1]}
    window = {"kernel_size": shape[:-2]}
    if layout is KernelLayout.DEPTHWISE:
        return {**window, "depth_multiplier": shape[-1]}
    filters = shape[-2 if layout is KernelLayout.TRANSPOSED else -1]
    return {**window, "filters": filters}
