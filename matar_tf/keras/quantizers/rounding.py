"""By which rule the kernel of a layer rounds, in evaluation.

A rule takes what a layer makes, with the noise of float32, and returns the levels that
XNNPACK's kernel makes of the same integers: whole numbers, not cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.keras._compat import KerasLayer, Tensor, tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.accumulators import accumulator_levels, zero_point
from matar_tf.keras.quantizers.fixed_point import fixed_point, multiply
from matar_tf.keras.quantizers.grids import ActivationGrid
from matar_tf.layer_kinds import ACTIVATIONS, Rounding
from matar_tf.operators import Grid

__all__ = ["as_kernels_round", "with_values"]

_NORM: Final = "MultiBitBatchNormalization"
_INT8_MAX: Final = 127.0
_CEILING: Final = 6.0


def as_kernels_round(x: Tensor, layer: KerasLayer, grid: ActivationGrid) -> Tensor:
    """Returns a tensor with the values that the integer kernel leaves, not cut off.

    Args:
      x: What a layer makes, without rounding.
      layer: The layer, in its wrapper.
      grid: The grid that it is to be put on, that of any layer.

    Returns:
      Multiples of the grid's step; `x` where no rule is known, or while the model is
      being put together. The gradient is that of `x`.
    """
    levels = _levels(x, layer, grid)
    if levels is None:
        return x
    if _has_ceiling(wrapper.inner_layer(layer)):
        # Where no accumulator lies, kernels cut off on the level nearest to it.
        highest = tf.round(_CEILING / grid.step())
        is_cut = x >= _CEILING
        levels = tf.where(is_cut, highest, tf.minimum(levels, highest))
    return with_values(x, levels * grid.step())


@tf.custom_gradient
def with_values(_x: Tensor, values: Tensor) -> Any:
    """Returns values with the gradient of what they stand for.

    Not as ``x + (values - x)``: TensorFlow's optimizer of graphs reorders sums.
    """
    return values, lambda upstream: (upstream, None)


def _levels(x: Tensor, layer: KerasLayer, grid: ActivationGrid) -> Tensor | None:
    maker = _maker(layer)
    if maker is None:
        return None
    inner = wrapper.inner_layer(maker)
    if wrapper.kernel_quantizer(maker) is not None:
        return accumulator_levels(x, maker, None, grid)
    if type(inner).__name__ == _NORM:
        above = wrapper.multiplier(maker)
        return None if above is None else accumulator_levels(x, above, inner, grid)
    row = wrapper.row_of(inner)
    function = ACTIVATIONS.get(_function(inner))
    rounding = row.rounding or (function.rounding if function else None)
    rule = None if rounding is None else _RULES.get(rounding)
    return None if rule is None else rule(x, maker, grid)


def _has_ceiling(layer: KerasLayer) -> bool:
    """Whether a layer cuts off at 6."""
    function = getattr(getattr(layer, "activation", None), "__name__", "")
    return function == "relu6" or bool(getattr(layer, "max_value", None))


def _function(layer: KerasLayer) -> str:
    """Returns the name of the function that a layer is, by itself; "" for none."""
    name = wrapper.row_of(layer).activation
    return getattr(layer.activation, "__name__", "") if name == "" else name or ""


def _maker(layer: KerasLayer) -> KerasLayer | None:
    """Returns the layer whose kernel makes what a layer makes.

    None where a quantize config of the user's own says what is quantized.
    """
    while True:
        config = getattr(layer, "quantize_config", None)
        if getattr(config, "inner", None) is not None:
            return None
        function = ACTIVATIONS.get(_function(wrapper.inner_layer(layer)))
        if function is None or function.grid is not Grid.INPUT:
            return layer
        above = wrapper.multiplier(layer)
        # A ReLU of a tensor on a grid keeps that.
        if above is None or wrapper.output_quantizer(above) is not None:
            return None
        layer = above


def _convert(x: Tensor, _layer: KerasLayer, grid: ActivationGrid) -> Tensor:
    """Samples: times the reciprocal of the step."""
    return tf.round(x * (1.0 / grid.step()))


def _product(x: Tensor, layer: KerasLayer, grid: ActivationGrid) -> Tensor | None:
    """A product of levels, a whole number, times a factor; halves go to even.

    Of a square XNNPACK makes a table.
    """
    if wrapper.reads_one_tensor(layer):
        return _table(x, layer, grid)
    sources = [wrapper.input_quantizer(layer, place) for place in (0, 1)]
    if None in sources:
        return None
    unit = math.prod(source.step() for source in sources if source is not None)
    counts = tf.cast(tf.round(x / unit), tf.int32)  # an order that stays, as sums have
    return tf.round(tf.cast(counts, tf.float32) * (unit / grid.step()))


def _table(x: Tensor, _layer: KerasLayer, grid: ActivationGrid) -> Tensor:
    """A table of stored integers: the zero point is added before halves go to even."""
    zero = _before_clamp(grid)
    return tf.round(x * (1.0 / grid.step()) + zero) - zero


def _mean(x: Tensor, layer: KerasLayer, grid: ActivationGrid) -> Tensor | None:
    """A mean over all places: the sum of stored integers, zero points added after."""
    source = wrapper.input_quantizer(layer)
    if source is None:
        return None
    sizes = layer.input_shape[1:-1]
    if None in sizes:  # cannot be packaged
        return None
    count = np.float32(math.prod(sizes))
    real = source.step() / grid.step() / count
    offset, zero = zero_point(source) * count, _before_clamp(grid)
    total = tf.round(x / source.step() * count) + offset
    return tf.round(total * real + (zero - offset * real)) - zero


def _before_clamp(grid: ActivationGrid) -> Tensor:
    """Returns the zero point of a grid where nothing is cut off yet."""
    zero_points = [*(_INT8_MAX - high for high in grid.ranges()[1]), 0.0]
    return tf.gather(tf.constant(zero_points, tf.float32), grid.row)


def _leaky_relu(x: Tensor, layer: KerasLayer, grid: ActivationGrid) -> Tensor | None:
    """Levels times the ratio of the steps, below 0 also times the slope.

    Both factors are rounded to multiples of ``1 / 256``, and halves go up. Factors
    outside of ``1 / 256 .. 128`` go to the builtin kernel, which rounds twice.
    """
    source = wrapper.input_quantizer(layer)
    if source is None:
        return None
    slope = np.float32(wrapper.inner_layer(layer).alpha)
    step, ratio = source.step(), source.step() / grid.step()
    below = ratio * slope
    levels = tf.round(x / tf.where(x < 0.0, step * slope, step))
    coarse = tf.round(256.0 * tf.where(x < 0.0, below, ratio))
    is_taken = (tf.minimum(ratio, below) >= 1.0 / 256.0) & (
        tf.maximum(ratio, below) <= 128.0
    )
    is_taken &= ~source.is_wide()
    return tf.where(
        is_taken,
        tf.floor((levels * coarse + 128.0) / 256.0),
        tf.where(
            x < 0.0,
            _multiply_twice_rounded(levels, below),
            _multiply_twice_rounded(levels, ratio),
        ),
    )


def _multiply_twice_rounded(levels: Tensor, factor: Tensor) -> Tensor:
    """Multiplies as the builtin kernel does, by a fixed-point number."""
    fixed = fixed_point(tf.cast(factor, tf.float64))
    return tf.cast(multiply(tf.cast(levels, tf.int64), *fixed), tf.float32)


_Rule: TypeAlias = "Callable[[Tensor, KerasLayer, ActivationGrid], Tensor | None]"
_RULES: Final[Mapping[Rounding, _Rule]] = MappingProxyType(
    {
        Rounding.CONVERT: _convert,
        Rounding.PRODUCT: _product,
        Rounding.LEAKY_RELU: _leaky_relu,
        Rounding.MEAN: _mean,
        Rounding.TABLE: _table,
    }
)
