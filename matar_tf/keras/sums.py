"""Sums and differences of tensors, in evaluation as integer kernels count them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from matar_tf.keras._compat import Tensor, keras, tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.fixed_point import fixed_point, multiply
from matar_tf.keras.quantizers.grids import ActivationGrid
from matar_tf.keras.quantizers.rounding import with_values
from matar_tf.keras.quantizers.tracing import FloatTracer, active_tracer

__all__ = ["MultiBitAdd", "MultiBitSubtract"]

# Ratios of steps, of an input over the output, that XNNPACK takes. Below the least, the
# builtin kernels count; beyond the largest, what they count has more than 16 bits.
_LEAST_RATIO, _LARGEST_RATIO = 2.0**-10, 2.0**8
_FACTOR_BITS = 20  # of the larger of both factors
_EXPONENT_OF_ONE = 127  # of a float32
_SUM_BITS = 20  # after the point of what the builtin kernels add

_Pair: TypeAlias = "Sequence[Tensor]"
_Merging: TypeAlias = "Callable[[_Pair], Tensor]"


class _Merge(keras.layers.Layer):
    """A merge of two tensors that in evaluation counts as the integer kernels do.

    A float sum of the two would lie on either side of a half where that lies on it, and
    nearby: of every second level where the output's step is twice that of an input, and
    the other adds next to nothing.
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
        steps, step = [one.step() for one in grids], grid.step()
        ratios = [one / step for one in steps]
        levels = [
            tf.cast(tf.round(x / one), tf.int32)
            for x, one in zip(inputs, steps, strict=True)
        ]
        is_counted = _are_set([*grids, grid]) & ~grid.is_wide()
        is_counted &= tf.maximum(*ratios) < _LARGEST_RATIO
        shifts_once = isinstance(self, keras.layers.Add)

        def counted() -> Tensor:
            found = tf.cond(
                tf.minimum(*ratios) >= _LEAST_RATIO,
                lambda: _of_xnnpack(merge, levels, ratios),
                lambda: _of_builtin(
                    merge, levels, steps, step, shifts_once=shifts_once
                ),
            )
            return tf.cast(found, tf.float32) * step

        return with_values(total, tf.cond(is_counted, counted, lambda: total))


def _of_xnnpack(merge: _Merging, levels: _Pair, ratios: _Pair) -> Tensor:
    """Returns the levels that XNNPACK makes, int32.

    Each input's levels times a whole factor, ``step_in / step_out`` in fixed point, add
    up to an integer that is rounded half up.
    """
    shift = _FACTOR_BITS - _exponent(tf.maximum(*ratios))
    unit = tf.pow(2.0, tf.cast(shift, tf.float32))
    counts = merge(
        [x * _whole(ratio * unit) for x, ratio in zip(levels, ratios, strict=True)]
    )
    half = tf.bitwise.left_shift(1, shift - 1)
    return tf.bitwise.right_shift(counts + half, shift)


def _of_builtin(
    merge: _Merging, levels: _Pair, steps: _Pair, step: Tensor, *, shifts_once: bool
) -> Tensor:
    """Returns the levels that the builtin kernel makes, int32.

    It brings both inputs to ``2**-20`` of twice the larger step, and what it makes of
    them to the output's; see `matar_tf.keras.quantizers.fixed_point`.

    Args:
      merge: Adds or subtracts.
      levels: Those of the inputs, int32.
      steps: Those of the inputs, float32 scalars.
      step: That of the output.
      shifts_once: Whether an input is shifted before it is multiplied alone, as the
        vector code of sums does; that of differences shifts after it, too.
    """
    steps = [tf.cast(one, tf.float64) for one in steps]
    twice, parts = 2.0 * tf.maximum(*steps), list[Tensor]()
    for x, one in zip(levels, steps, strict=True):
        multiplier, shift = fixed_point(one / twice)
        before = _SUM_BITS + (shift if shifts_once else 0 * shift)
        shifted = _shifted(tf.cast(x, tf.int64), before)
        parts.append(multiply(shifted, multiplier, _SUM_BITS + shift - before))
    unit = twice / 2.0**_SUM_BITS
    made = multiply(merge(parts), *fixed_point(unit / tf.cast(step, tf.float64)))
    return tf.cast(made, tf.int32)


def _exponent(x: Tensor) -> Tensor:
    """Returns the exponent of a float32 scalar above 0, an int32: 0 for 1."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int32), 23) - _EXPONENT_OF_ONE


def _whole(x: Tensor) -> Tensor:
    return tf.cast(tf.round(x), tf.int32)


def _are_set(grids: Sequence[ActivationGrid]) -> Tensor:
    return tf.reduce_all([one.initialized > 0 for one in grids])


def _shifted(x: Tensor, bits: Tensor) -> Tensor:
    """Returns whole numbers shifted to the left, or to the right, rounded down."""
    left, right = tf.maximum(bits, 0), tf.maximum(-bits, 0)
    return tf.bitwise.right_shift(tf.bitwise.left_shift(x, left), right)


@keras.utils.register_keras_serializable(package="matar_tf")
class MultiBitAdd(_Merge, keras.layers.Add):
    """``Add`` of two tensors; see `_Merge`."""


@keras.utils.register_keras_serializable(package="matar_tf")
class MultiBitSubtract(_Merge, keras.layers.Subtract):
    """``Subtract``; see `_Merge`."""
