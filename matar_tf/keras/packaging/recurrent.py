"""Recurrent layers and norms, computed as the converter needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor, keras, tf

__all__ = ["in_steps", "is_recurrent"]


def is_recurrent(model: KerasModel) -> bool:
    """Whether a network has layers that go in steps."""
    return any(isinstance(one, keras.layers.RNN) for one in model._flatten_layers())


def in_steps(layer: KerasLayer, *, starts_from_samples: bool) -> dict[str, object]:
    """Returns the attributes by which a layer computes the same, step by step.

    Args:
      layer: A layer, or one inside it.
      starts_from_samples: Whether first states are computed, if only to be 0, so that
        nothing is made of kernels and such constants beforehand.
    """
    if isinstance(layer, keras.layers.LayerNormalization):
        return {"_fused": False}
    if isinstance(layer, keras.layers.GRUCell) and not layer.reset_after:
        return {"implementation": 1}  # the other splits off a tensor of no values
    if not isinstance(layer, keras.layers.RNN):
        return {}
    changed: dict[str, object] = {"unroll": True, "_could_use_gpu_kernel": False}
    if isinstance(layer, _CONVOLVED):
        changed = {"call": _convolved(layer)}
    elif layer.go_backwards and layer.return_sequences and layer.zero_output_for_mask:
        changed |= {"call": _zeroed(layer), "zero_output_for_mask": False}
    if starts_from_samples:
        changed["get_initial_state"] = _of_samples(layer.get_initial_state)
    return changed


_CONVOLVED = (
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)


def _of_samples(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a function that makes first states of 0, for which samples are read."""

    def states(inputs: Any) -> Any:
        first = tf.reshape(tf.nest.flatten(inputs)[0], [-1])[:1]
        nothing = tf.minimum(tf.abs(first), 0.0)
        return tf.nest.map_structure(lambda one: one + nothing, compute(inputs))

    return states


def _zeroed(layer: KerasLayer) -> Callable[..., Any]:
    """Returns what a layer computes backwards, with 0 for steps that are masked.

    Keras itself, where it goes in steps, takes the mask of the step at the other end.
    """
    compute = layer.call

    def call(inputs: Any, mask: Any = None, training: Any = None, **others: Any) -> Any:
        made = compute(inputs, mask=mask, training=training, **others)
        if mask is None:
            return made
        every, *states = made if layer.return_state else [made]
        kept = tf.stack(tf.unstack(mask, axis=1)[::-1], axis=1)
        every = tf.where(kept[..., tf.newaxis], every, tf.zeros_like(every))
        return [every, *states] if layer.return_state else every

    return call


def _convolved(layer: KerasLayer) -> Callable[..., Any]:
    """Returns what a layer of `_CONVOLVED` computes, without a loop of TensorFlow's."""

    def call(
        inputs: Tensor,
        mask: Any = None,
        training: Any = None,
        initial_state: Any = None,
    ) -> Any:
        del training  # which Keras' wrappers look for by its name
        inputs, states, _ = layer._process_inputs(inputs, initial_state, None)
        last, every, states = keras.backend.rnn(
            layer.cell.call,
            inputs,
            states,
            go_backwards=layer.go_backwards,
            mask=mask,
            unroll=True,
        )
        made = every if layer.return_sequences else last
        return [made, *states] if layer.return_state else made

    return call
