"""The integers in which kernels accumulate, as training reckons with them."""

from __future__ import annotations

import numpy as np

from matar_tf.keras._compat import KerasLayer, Tensor, tf
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.fake_quantize import next_powers_of_two
from matar_tf.keras.quantizers.grids import ActivationGrid
from matar_tf.scales import POWER_OF_TWO
from matar_tf.tflite.profiles import SMALLEST_UNIT, largest_count, largest_factor

__all__ = ["accumulator_levels", "snap_affine", "snap_bias", "zero_point"]

_INT8_MAX = 127
_WIDE_COUNTS = np.float32(largest_count(8, is_wide=True) / largest_count(8))


def snap_bias(bias: Tensor, layer: KerasLayer) -> Tensor:
    """Rounds a bias onto the accumulator grid of a wrapped layer: `snap_affine`."""
    return snap_affine(tf.ones_like(bias), bias, layer)[1]


def snap_affine(
    scale: Tensor, offset: Tensor, layer: KerasLayer
) -> tuple[Tensor, Tensor]:
    """Rounds the offset of a folded batch norm onto the grid of the accumulator.

    Args:
      scale: Factors of the output's channels, ``[channels]``, none below 0.
      offset: What is added to them, ``[channels]``.
      layer: The wrapped convolution or dense layer whose output that is.

    Returns:
      The scale, and the offset on the grid ``s_in * s_w * scale``. Where the scale is
      0, or the grid so small that int32 cannot hold the offset, a scale of 0 and the
      offset on the finest grid that can. Both as they are while the model is being put
      together, or where kernel or input are not quantized.
    """
    kernel, source = wrapper.kernel_quantizer(layer), wrapper.input_quantizer(layer)
    if kernel is None or source is None:
        return scale, offset
    largest = [np.float32(largest_count(bits)) for bits in kernel.bits]
    # In the order in which `matar_tf.tflite.build` does the same.
    step, input_step = tf.reshape(kernel.step(), (-1,)), source.step()
    most = tf.gather(tf.constant(largest), kernel.row)
    most *= tf.where(source.is_wide(), _WIDE_COUNTS, 1.0)
    least = tf.abs(offset) / input_step / most
    least = tf.where(input_step * least < SMALLEST_UNIT, 0.0, least)
    if kernel.scale == POWER_OF_TWO:
        least = next_powers_of_two(least)
    scaled = step * scale
    passes = (scaled >= least) & (input_step * scaled >= SMALLEST_UNIT)
    finest = tf.where(least > 0.0, least, step)
    grid = input_step * tf.where(passes, scaled, finest)
    snapped = tf.floor(offset / grid + 0.5) * grid
    is_ready = source.initialized > 0
    return (
        tf.where(is_ready & ~passes, tf.zeros_like(scale), scale),
        tf.where(is_ready, snapped, offset),
    )


def zero_point(source: ActivationGrid) -> Tensor:
    """Returns the zero point of the file's tensor, a float32 scalar."""
    qmins, qmaxs = source.ranges()
    # A signed tensor has passed a clamp, which moves its range to the bottom of int8.
    zero_points = [
        -128 - qmin if source.signed else 127 - qmax
        for qmin, qmax in zip(qmins, qmaxs, strict=True)
    ]
    return tf.gather(tf.constant([*zero_points, 0], tf.float32), source.row)


def accumulator_levels(
    x: Tensor, layer: KerasLayer, norm: KerasLayer | None, grid: ActivationGrid
) -> Tensor | None:
    """Returns the levels that XNNPACK makes of the accumulators of a layer.

    It multiplies each, a whole number, by ``s_in * s_w / s_out`` in float32 and rounds
    halves to even. A float sum of products has noise that would fall to either side.

    Args:
      x: What the layer makes, ``[num_samples, ..., channels]``, maybe rectified.
      layer: The wrapped convolution or dense layer.
      norm: The batch norm that is folded into it, or None.
      grid: The grid of the output.

    Returns:
      Whole numbers, not cut off, in the shape of `x`; None while the model is being put
      together, or where kernel or input are not quantized.
    """
    kernel, source = wrapper.kernel_quantizer(layer), wrapper.input_quantizer(layer)
    if kernel is None or source is None:
        return None
    step = tf.reshape(kernel.step(), (-1,))
    if norm is not None:
        scale, offset = norm.folded()
        factor, _ = snap_affine(scale, offset, layer)
    elif wrapper.inner_layer(layer).use_bias:
        bias = tf.convert_to_tensor(wrapper.bias_variable(layer))
        factor, _ = snap_affine(tf.ones_like(bias), bias, layer)
    else:
        factor = tf.constant(1.0)
    factors = [largest_factor(bits, _INT8_MAX, kernel.scale) for bits in kernel.bits]
    factor_of_file = tf.gather(tf.constant(factors), kernel.row)
    stored = tf.cast(factor_of_file, tf.float32)
    # In the order in which the file and XNNPACK have them.
    unit = source.step() * (step * factor / stored)
    is_alive = unit > 0.0
    unit = tf.where(is_alive, unit, 1.0)
    # As integers, or TensorFlow's optimizer of graphs would reorder the products.
    counts = tf.cast(tf.round(x / (unit * stored)), tf.int32) * factor_of_file
    levels = tf.round(tf.cast(counts, tf.float32) * (unit / grid.step()))
    # Sums of products of 16 bits are beyond what float32 counts.
    is_whole = is_alive & (source.initialized > 0) & ~source.is_wide()
    return tf.where(is_whole, levels, tf.floor(x / grid.step() + 0.5))
