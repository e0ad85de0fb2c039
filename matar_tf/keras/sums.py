"""Sums and differences of tensors, in evaluation as integer kernels count them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matar_tf.keras._compat import Tensor, keras, tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.grids import ActivationGrid
from matar_tf.keras.quantizers.rounding import with_values
from matar_tf.keras.quantizers.tracing import FloatTracer, active_tracer

__all__ = ["MultiBitAdd", "MultiBitSubtract"]

# Ratios of steps, of an input over the output, that XNNPACK takes.
_LEAST_RATIO, _LARGEST_RATIO = 2.0**-10, 2.0**8
_FACTOR_BITS = 20  # of the larger of both factors
_EXPONENT_OF_ONE = 127  # of a float32


class _Merge(keras.layers.Layer):
    """A merge of two tensors that in evaluation counts as XNNPACK does.

    Each input's levels times a whole factor, ``step_in / step_out`` in fixed point, add
    up to an integer that is rounded half up. A float sum of the two would lie on either
    side of a half where that lies on it, and nearby.
    """

    def call(self, inputs: Sequence[Tensor], training: Any = None) -> Tensor:
        """Returns the sum, in evaluation on the grid it is put on, not cut off."""
        merge = super().call
        total = merge(inputs)
        if training is None:
            training = keras.backend.learning_phase()
        if training or isinstance(active_tracer(), FloatTracer) or len(inputs) != 2:
            return total
        sources = [wrapper.input_quantizer(self, place) for place in (0, 1)]
        grid = wrapper.grid_below(self)
        if grid is None or None in sources:
            return total
        grids = [one for one in sources if one is not None]
        ratios = [one.step() / grid.step() for one in grids]
        shift = _FACTOR_BITS - _exponent(tf.maximum(*ratios))
        unit = tf.pow(2.0, tf.cast(shift, tf.float32))
        counts = merge(
            [
                tf.cast(tf.round(x / one.step()), tf.int32) * _whole(ratio * unit)
                for x, one, ratio in zip(inputs, grids, ratios, strict=True)
            ]
        )
        half = tf.bitwise.left_shift(1, shift - 1)
        levels = tf.bitwise.right_shift(counts + half, shift)
        is_taken = _are_set([*grids, grid]) & _are_taken(ratios) & ~grid.is_wide()
        values = tf.cast(levels, tf.float32) * grid.step()
        return tf.where(is_taken, with_values(total, values), total)


def _exponent(x: Tensor) -> Tensor:
    """Returns the exponent of a float32 scalar above 0, an int32: 0 for 1."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - _EXPONENT_OF_ONE


def _whole(x: Tensor) -> Tensor:
    return tf.cast(tf.round(x), tf.int32)


def _are_set(grids: Sequence[ActivationGrid]) -> Tensor:
    return tf.reduce_all([one.initialized > 0 for one in grids])


def _are_taken(ratios: Sequence[Tensor]) -> Tensor:
    fit = [(one >= _LEAST_RATIO) & (one < _LARGEST_RATIO) for one in ratios]
    return tf.reduce_all(fit)


@keras.utils.register_keras_serializable(package="matar_tf")
class MultiBitAdd(_Merge, keras.layers.Add):
    """``Add`` of two tensors; see `_Merge`."""


@keras.utils.register_keras_serializable(package="matar_tf")
class MultiBitSubtract(_Merge, keras.layers.Subtract):
    """``Subtract``; see `_Merge`."""
