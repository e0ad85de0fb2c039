"""What operators with kernels compute, in NumPy, and windows over images."""

from __future__ import annotations

from typing import Any

import numpy as np

from matar_tf.tflite._rounding import (
    multiply_away_from_zero,
    quantized_multiplier,
    requantize,
)
from matar_tf.tflite._schema import schema
from matar_tf.tflite._site import Site, saturate, scale_of, simulates, zero_point_of
from matar_tf.tflite._sixteen import multiply_by_15_bits, multiply_by_31_bits
from matar_tf.workload import OpKind

__all__: list[str] = []  # they register themselves


def _accumulator_scale(site: Site) -> np.ndarray:
    product = scale_of(site.tensor()) * scale_of(site.tensor(1))
    is_dense = site.row.cost is OpKind.DENSE
    if site.kernels == "tflm" and is_dense and len(product) == 1:
        return product.astype(np.float64) / scale_of(site.out).astype(np.float64)
    if site.kernels != "xnnpack":
        product = scale_of(site.tensor()).astype(np.float64) * scale_of(site.tensor(1))
        return product / scale_of(site.out).astype(np.float64)
    return product / scale_of(site.out)


def _finish(site: Site, acc: np.ndarray, *, by_reference: bool = False) -> np.ndarray:
    """Returns what an accumulator becomes.

    Args:
      site: The operator.
      acc: Its sums, without the bias.
      by_reference: Whether TFLite has its reference code alone as a builtin kernel.
    """
    bias = site.constant(site.row.bias)
    if site.is_wide:
        return _finish_at_16(site, acc.astype(np.int64) + (0 if bias is None else bias))
    if bias is not None:
        acc = acc + bias
    if site.out.type == schema.TensorType.FLOAT32:
        return _activate(acc.astype(np.float32), site.options)
    scale = _accumulator_scale(site)
    if by_reference and site.kernels == "builtin":
        levels = multiply_away_from_zero(acc, *quantized_multiplier(scale))
        return saturate(levels, site)
    return saturate(requantize(acc, scale, site.kernels), site)


def _finish_at_16(site: Site, acc: np.ndarray) -> np.ndarray:
    scale = _accumulator_scale(site)
    if site.row.cost is not OpKind.DENSE:
        return saturate(multiply_by_15_bits(acc, scale), site)
    if len(scale) == 1:  # of all channels: the kernel multiplies two steps in float32
        scale = np.float64(scale_of(site.tensor()) * scale_of(site.tensor(1)))
        scale = scale / scale_of(site.out)
    return saturate(multiply_by_31_bits(acc, scale), site)


def _activate(values: np.ndarray, options: Any) -> np.ndarray:
    kinds, kind = schema.ActivationFunctionType, options.fusedActivationFunction
    if kind == kinds.NONE:
        return values
    return np.clip(values, 0.0, 6.0 if kind == kinds.RELU6 else None)


def _windows(
    site: Site, size: tuple[int, int], fill: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the input into windows.

    Returns:
      Levels ``[n, oh, ow, kh, kw, c]``, padding filled, and which of a window's places
      are inside the input, ``[oh, ow, kh, kw]``.
    """
    x = site.operand()
    strides = (site.options.strideH, site.options.strideW)
    dilations = (
        getattr(site.options, "dilationHFactor", 1),
        getattr(site.options, "dilationWFactor", 1),
    )
    same = site.options.padding == schema.Padding.SAME
    padded, inside, indices = x, np.ones(x.shape[1:3], bool), []
    for axis in (0, 1):
        extent, length = (size[axis] - 1) * dilations[axis] + 1, x.shape[axis + 1]
        count = (
            -(-length // strides[axis])
            if same
            else (length - extent) // strides[axis] + 1
        )
        total = max((count - 1) * strides[axis] + extent - length, 0)
        before = total // 2 if same else 0
        after = total - before
        widths = [(0, 0)] * 4
        widths[axis + 1] = (before, after)
        padded = np.pad(padded, widths, constant_values=fill)
        inside = np.pad(inside, widths[1:3], constant_values=False)
        starts = np.arange(count) * strides[axis]
        indices.append(starts[:, None] + np.arange(size[axis]) * dilations[axis])
    rows, columns = indices[0][:, None, :, None], indices[1][None, :, None, :]
    return padded[:, rows, columns], inside[rows, columns]


@simulates("CONV_2D")
def _conv(site: Site) -> np.ndarray:
    kernel = site.operand(1)
    windows, _ = _windows(site, (kernel.shape[1], kernel.shape[2]), 0)
    groups = site.x.shape[-1] // kernel.shape[3]
    parts = [
        np.tensordot(part, weights, axes=((3, 4, 5), (1, 2, 3)))
        for part, weights in zip(
            np.split(windows, groups, axis=-1),
            np.split(kernel, groups, axis=0),
            strict=True,
        )
    ]
    return _finish(site, np.concatenate(parts, axis=-1), by_reference=groups > 1)


@simulates("DEPTHWISE_CONV_2D")
def _depthwise(site: Site) -> np.ndarray:
    kernel = site.operand(1)[0]
    windows, _ = _windows(site, (kernel.shape[0], kernel.shape[1]), 0)
    windows = np.repeat(windows, kernel.shape[2] // windows.shape[-1], axis=-1)
    return _finish(site, np.einsum("nhwijc,ijc->nhwc", windows, kernel))


@simulates("TRANSPOSE_CONV")
def _transposed_conv(site: Site) -> np.ndarray:
    """Each input adds a window to the image; what sticks out is cut off."""
    x, kernel = site.operand(), site.operand(1)
    size = [int(one) for one in site.out.shape[1:3]]
    strides = (site.options.strideH, site.options.strideW)
    same = site.options.padding == schema.Padding.SAME
    extents, before = [], []
    for axis in (0, 1):
        reach = (x.shape[axis + 1] - 1) * strides[axis] + kernel.shape[axis + 1]
        before.append(max(reach - size[axis], 0) // 2 if same else 0)
        extents.append(max(reach, before[axis] + size[axis]))
    acc = np.zeros((len(x), *extents, len(kernel)), np.int64)
    for row, column in np.ndindex(*kernel.shape[1:3]):
        products = np.tensordot(x, kernel[:, row, column], axes=((3,), (1,)))
        rows, columns = (
            slice(start, start + count * stride, stride)
            for start, count, stride in zip(
                (row, column), x.shape[1:3], strides, strict=True
            )
        )
        acc[:, rows, columns] += products.astype(np.int64)
    acc = acc[:, before[0] :, before[1] :][:, : size[0], : size[1]]
    return _finish(site, acc, by_reference=True)


@simulates("FULLY_CONNECTED")
def _dense(site: Site) -> np.ndarray:
    x, kernel = site.operand(), site.operand(1)
    if not site.options.keepNumDims:
        x = x.reshape(-1, kernel.shape[1])
    return _finish(site, x @ kernel.T)


@simulates("AVERAGE_POOL_2D")
def _average_pool(site: Site) -> np.ndarray:
    size = (site.options.filterHeight, site.options.filterWidth)
    windows, inside = _windows(site, size, 0)
    counts = inside.sum(axis=(2, 3))[None, :, :, None]
    # The kernel averages stored integers, zero point included.
    total = windows.sum(axis=(3, 4)) + counts * zero_point_of(site.tensor(0))
    stored = np.sign(total) * ((np.abs(total) + counts // 2) // counts)
    low, high = site.limits()
    return np.clip(stored, low, high).astype(site.x.dtype)


@simulates("MAX_POOL_2D")
def _max_pool(site: Site) -> np.ndarray:
    size = (site.options.filterHeight, site.options.filterWidth)
    windows, _ = _windows(site, size, -(2**30))
    return saturate(windows.max(axis=(3, 4)), site)
