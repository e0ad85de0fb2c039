"""What operators of one tensor without kernels compute; those that move it aside."""

from __future__ import annotations

import math

import numpy as np

from matar_tf.tflite._rounding import (
    multiply_away_from_zero,
    multiply_twice_rounded,
    quantized_multiplier,
    requantize,
)
from matar_tf.tflite._schema import schema
from matar_tf.tflite._site import (
    Site,
    saturate,
    scale_of,
    simulates,
    zero_point_of,
)

__all__ = ["leaky_factors", "reduced_axes"]  # computations register themselves


def reduced_axes(site: Site) -> tuple[int, ...]:
    """Returns the axes of a reduction, counted from the front."""
    axes = np.asarray(site.constant(1)).reshape(-1)
    return tuple(int(axis) % site.x.ndim for axis in axes)


@simulates("MEAN")
def _mean(site: Site) -> np.ndarray:
    axes = reduced_axes(site)
    count = math.prod(site.x.shape[axis] for axis in axes)
    keep = bool(site.options.keepDims)
    acc = site.levels().sum(axis=axes, keepdims=keep)
    if site.kernels == "xnnpack":
        # This kernel sums stored integers and rounds with the zero points added.
        real = scale_of(site.tensor(0)) / scale_of(site.out) / np.float32(count)
        part_of_zero = np.float32(zero_point_of(site.tensor(0)) * count) * real
        total = site.x.sum(axis=axes, keepdims=keep, dtype=np.int32).astype(np.float32)
        stored = total * real + (np.float32(zero_point_of(site.out)) - part_of_zero)
        return np.clip(np.rint(stored), *site.limits()).astype(np.int8)
    if site.kernels == "tflm":
        return _mean_of_microcontrollers(site, acc, count)
    if keep and site.x.ndim == 4 and set(axes) == {1, 2}:
        return _builtin_spatial_mean(site, count)
    ratio = float(scale_of(site.tensor(0))[0]) / float(scale_of(site.out)[0])
    real = np.array([ratio / count])
    return saturate(requantize(acc, real, site.kernels), site)


def _mean_of_microcontrollers(site: Site, acc: np.ndarray, count: int) -> np.ndarray:
    """That of ``internal/reference/reduce.h``: it cuts the factor off."""
    ratio = float(scale_of(site.tensor(0))[0]) / float(scale_of(site.out)[0])
    multiplier, shift = map(int, quantized_multiplier(ratio))
    more = min(count.bit_length() - 1, 32, 31 + shift)
    factor = np.array((multiplier << more) // count), np.array(shift - more)
    return saturate(multiply_away_from_zero(acc, *factor), site)


def _builtin_spatial_mean(site: Site, count: int) -> np.ndarray:
    """The kernel of ``optimized/integer_ops/mean.h``.

    It sums stored integers and rounds the zero point's part by itself. Whole blocks of
    16 channels go through vector code, which rounds halves up, the rest does not.
    """
    scale_in, scale_out = scale_of(site.tensor(0))[0], scale_of(site.out)[0]
    shift_of_zero = np.float32(zero_point_of(site.tensor(0))) * scale_in / scale_out
    half = np.float32(0.5)
    rounded = int(shift_of_zero + (half if shift_of_zero > 0 else -half))
    factor = quantized_multiplier(scale_in / (np.float32(count) * scale_out))
    acc = site.x.astype(np.int64).sum(axis=(1, 2), keepdims=True)
    num_in_blocks = acc.shape[-1] // 16 * 16
    parts = (
        multiply_twice_rounded(acc[..., :num_in_blocks], *factor),
        multiply_away_from_zero(acc[..., num_in_blocks:], *factor),
    )
    return saturate(np.concatenate(parts, axis=-1) - rounded, site)


@simulates("REDUCE_MAX")
def _reduce_max(site: Site) -> np.ndarray:
    return site.x.max(axis=reduced_axes(site), keepdims=bool(site.options.keepDims))


@simulates("RELU")
def _relu(site: Site) -> np.ndarray:
    return _rectify(site, math.inf)


@simulates("RELU6")
def _relu6(site: Site) -> np.ndarray:
    return _rectify(site, 6.0)


def _rectify(site: Site, limit: float) -> np.ndarray:
    """A ReLU on the grid of its input."""
    highest = np.rint(np.float32(limit) / scale_of(site.out))
    return saturate(np.clip(site.levels(), 0, highest), site)


@simulates("LEAKY_RELU")
def _leaky_relu(site: Site) -> np.ndarray:
    """XNNPACK's factors have 8 bits after the point; it takes no others."""
    levels = site.levels().astype(np.int64)
    source, made = scale_of(site.tensor(0))[0], scale_of(site.out)[0]
    factors = leaky_factors(source, made, np.float32(site.options.alpha))
    if site.kernels == "xnnpack" and factors is not None:
        products = levels * np.where(levels < 0, factors[1], factors[0])
        return saturate((products + 128) >> 8, site)
    ratio = source / made
    scaled = source * np.float32(site.options.alpha)
    parts = [
        multiply_away_from_zero(levels, *quantized_multiplier(one))
        for one in (ratio, scaled / made)
    ]
    return saturate(np.where(levels < 0, parts[1], parts[0]), site)


def leaky_factors(
    source: np.float32, made: np.float32, alpha: np.float32
) -> tuple[int, int] | None:
    """Returns what XNNPACK multiplies levels by from 0 on, and below, in 1 / 256.

    Args:
      source: Step of the input.
      made: Step of the output.
      alpha: The slope.

    Returns:
      Two factors; None if XNNPACK does not take the operator.
    """
    low, high = np.float32(1.0 / 256.0), np.float32(128.0)
    ratio = source / made
    below = ratio * alpha
    if not (low <= ratio <= high and low <= abs(below) <= high):
        return None
    return int(np.rint(256 * ratio)), int(np.rint(256 * below))


@simulates("QUANTIZE")
def _quantize(site: Site) -> np.ndarray:
    scale = scale_of(site.out)[0]
    if site.out.type == schema.TensorType.UINT8:
        return (site.x.astype(np.int16) + 128).astype(np.uint8)
    if site.x.dtype == np.uint8:
        return (site.x.astype(np.int16) - 128).astype(np.int8)
    if site.x.dtype == np.int8:
        ratio = scale_of(site.tensor(0)) / scale
        return saturate(requantize(site.levels(), ratio, site.kernels), site)
    if site.kernels == "tflm":
        ratios = (site.x.astype(np.float32) / scale).astype(np.float64)
        halves_away = np.copysign(np.floor(np.abs(ratios) + 0.5), ratios)
        return saturate(np.clip(halves_away, -(2.0**30), 2.0**30).astype(int), site)
    levels = np.rint(site.x * (np.float32(1.0) / scale)).astype(int)
    if site.kernels == "builtin":
        # Whole blocks of 8 go through vector code, the rest rounds halves away from 0.
        flat = levels.reshape(-1)
        start = flat.size // 8 * 8
        rest = site.x.reshape(-1)[start:].astype(np.float64) / scale
        flat[start:] = np.sign(rest) * np.floor(np.abs(rest) + 0.5)
    return saturate(levels, site)


@simulates("DEQUANTIZE")
def _dequantize(site: Site) -> np.ndarray:
    tensor, scale = site.tensor(0), scale_of(site.tensor(0))
    levels = site.levels().astype(np.float32)
    if len(scale) > 1:
        shape = [1] * levels.ndim
        shape[tensor.quantization.quantizedDimension] = -1
        scale = scale.reshape(shape)
    return levels * scale
