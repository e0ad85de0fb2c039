"""A kernel as whole numbers, and the channels that it has."""

from __future__ import annotations

import numpy as np

from matar_tf.parameters import LayerParameters, weight_range
from matar_tf.scales import FREE, POWER_OF_TWO, next_powers_of_two
from matar_tf.tflite.profiles import SMALLEST_UNIT

__all__ = ["passing_channels", "quantize_kernel"]


def passing_channels(
    step: np.ndarray,
    factor: np.ndarray,
    offset: np.ndarray | None,
    input_scale: np.float32,
    largest: int,
    scales: str = FREE,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which channels pass their input on, and the scales of their levels.

    In float32, as `matar_tf.keras.quantizers.derived.snap_affine`.

    Args:
      step: Steps of the kernel, ``[out]`` or ``[1]``.
      factor: What the batch norm multiplies by, ``[out]``.
      offset: What is added, ``[out]``, or None.
      input_scale: Step of the layer's input.
      largest: Largest bias that is stored, in accumulator units.
      scales: Which ones the network has, ``free`` or ``power_of_two``.
    """
    least = np.zeros_like(step)
    if offset is not None:
        least = np.abs(offset) / input_scale / np.float32(largest)
        least = np.where(input_scale * least < SMALLEST_UNIT, np.float32(0), least)
        if scales == POWER_OF_TWO:
            least = np.where(least > 0, next_powers_of_two(least), least)
    scale = (step * factor).astype(np.float32)
    passes = (scale >= least) & (input_scale * scale >= SMALLEST_UNIT)
    if len(scale) == 1 and passes.all():
        return passes, scale  # of all channels
    return passes, np.where(passes, scale, np.where(least > 0, least, step))


def quantize_kernel(
    layer: LayerParameters, bits: int, passes: np.ndarray
) -> np.ndarray:
    """Returns a kernel as levels of n bits.

    Args:
      layer: The trained layer.
      bits: One of its widths.
      passes: Whether an output channel passes anything on, ``[out]``; the levels of
        others are 0.

    Returns:
      int8 levels in the layout of ``layer.kernel``.
    """
    row = layer.bits.index(bits)
    qmin, qmax = weight_range(bits)
    shape = [1] * layer.kernel.ndim
    shape[layer.channel_axis] = -1
    step = layer.step[row].reshape(shape)
    levels = np.floor(
        np.clip(layer.kernel / step, qmin, qmax) + np.float32(0.5), dtype=np.float32
    )
    return np.where(passes.reshape(shape), levels, np.float32(0.0)).astype(np.int8)
