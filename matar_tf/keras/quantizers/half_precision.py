"""Mixed precision: Keras' policies ``mixed_float16`` and ``mixed_bfloat16``.

Half precision has fewer digits than a sum of 8-bit products, so only training takes it,
and there only what costs the time: the products of layers with a kernel. The layer
inside tfmot's wrapper has the policy; in training its input, quantized kernel and bias
are cast, and what it makes is cast back. All else is of float32: wrappers, quantizers,
batch norms, variables, and every evaluation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from matar_tf.keras._compat import KerasLayer, Tensor, call_state, keras, tf
from matar_tf.keras.quantizers import wrapper

__all__ = ["float32_config", "in_float32", "is_mixed", "set_policy", "train_in_half"]

_mixed: Any = keras.mixed_precision
_MIXED: Final = ("mixed_bfloat16", "mixed_float16")


def is_mixed(layer: KerasLayer) -> bool:
    """Whether a layer computes in half precision, with variables of float32."""
    return layer.dtype_policy.name in _MIXED


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Makes layers of float32, whatever Keras' global policy is, in this block."""
    before = _mixed.global_policy()
    _mixed.set_global_policy("float32")
    try:
        yield
    finally:
        _mixed.set_global_policy(before)


def float32_config(layer: KerasLayer) -> dict[str, Any]:
    """Returns the config of a layer, of float32 where it has a mixed policy.

    So are the configs of layers inside of it.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _unmixed(key, plain(one)) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return plain(layer.get_config())


def _unmixed(key: str, value: Any) -> Any:
    inner = value.get("config") if isinstance(value, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else value
    return "float32" if key == "dtype" and name in _MIXED else value


def set_policy(layer: KerasLayer, policy: Any) -> None:
    """Gives a layer inside a wrapper another policy, by which it then trains."""
    wrapper.inner_layer(layer)._set_dtype_policy(policy)
    train_in_half(layer)


def train_in_half(layer: KerasLayer) -> None:
    """Lets the layer inside a wrapper train by its policy, if that is a mixed one.

    Args:
      layer: A wrapped layer with a kernel.
    """
    inner = wrapper.inner_layer(layer)
    kernel = wrapper.row_of(inner).kernel
    if not is_mixed(inner) or kernel is None:
        return
    names = [kernel.attribute, "bias"]
    half, policy, compute = inner.compute_dtype, inner.dtype_policy, inner.call

    def call(inputs: Tensor) -> Tensor:
        if not _is_training():
            # A dense layer casts its input by its policy.
            inner._set_dtype_policy("float32")
            try:
                return compute(inputs)
            finally:
                inner._set_dtype_policy(policy)
        for name in names:  # tensors, put there by the wrapper
            if getattr(inner, name, None) is not None:
                setattr(inner, name, tf.cast(getattr(inner, name), half))
        return tf.cast(compute(tf.cast(inputs, half)), tf.float32)

    inner.call = call


def _is_training() -> bool:
    training = call_state.call_context().training
    return not tf.is_tensor(training) and bool(training)
