"""What operators compute that move values, or blend neighbours, in NumPy."""

from __future__ import annotations

import numpy as np

from matar_tf.tflite._site import Site, simulates, zero_point_of
from matar_tf.tflite.bilinear import Blend, blend_of, builtin_blend_of

__all__: list[str] = []  # they register themselves


@simulates("CONCATENATION")
def _concatenate(site: Site) -> np.ndarray:
    return np.concatenate([np.asarray(x) for x in site.inputs], axis=site.options.axis)


@simulates("RESHAPE", "EXPAND_DIMS", "SQUEEZE")
def _reshape(site: Site) -> np.ndarray:
    return site.x.reshape(-1, *(int(size) for size in site.out.shape[1:]))


@simulates("PAD")
def _pad(site: Site) -> np.ndarray:
    widths = np.asarray(site.constant(1)).tolist()
    return np.pad(site.x, widths, constant_values=zero_point_of(site.tensor(0)))


@simulates("STRIDED_SLICE")
def _slice(site: Site) -> np.ndarray:
    begins, ends, steps = (site.setting(place) for place in (1, 2, 3))
    places: list[slice | int] = []
    for axis, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        bit = 1 << axis
        if site.options.shrinkAxisMask & bit:
            places.append(begin)
            continue
        first = None if site.options.beginMask & bit else begin
        last = None if site.options.endMask & bit else end
        places.append(slice(first, last, step))
    return site.x[tuple(places)]


@simulates("GATHER")
def _gather(site: Site) -> np.ndarray:
    table = np.asarray(site.constant(0))
    return table.take(np.asarray(site.inputs[1]), axis=0)


@simulates("TRANSPOSE")
def _transpose(site: Site) -> np.ndarray:
    return site.x.transpose(site.setting(1))


@simulates("TILE")
def _tile(site: Site) -> np.ndarray:
    return np.tile(site.x, site.setting(1))


@simulates("DEPTH_TO_SPACE")
def _depth_to_space(site: Site) -> np.ndarray:
    block = site.options.blockSize
    batch, height, width, channels = site.x.shape
    parts = site.x.reshape(batch, height, width, block, block, -1)
    size = batch, height * block, width * block, channels // block**2
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(size)


@simulates("SPACE_TO_DEPTH")
def _space_to_depth(site: Site) -> np.ndarray:
    block = site.options.blockSize
    batch, height, width, channels = site.x.shape
    size = batch, height // block, block, width // block, block, channels
    parts = site.x.reshape(size).transpose(0, 1, 3, 2, 4, 5)
    return parts.reshape(batch, height // block, width // block, -1)


@simulates("RESIZE_NEAREST_NEIGHBOR")
def _resize_nearest(site: Site) -> np.ndarray:
    rows, columns = (
        _nearest(site.x.shape[axis + 1], size)
        for axis, size in enumerate(site.setting(1))
    )
    return site.x[:, rows][:, :, columns]


def _nearest(size_in: int, size_out: int) -> np.ndarray:
    """Returns which input an output is, along one axis."""
    centres = np.arange(size_out, dtype=np.float32) + np.float32(0.5)
    places = np.floor(centres * (np.float32(size_in) / np.float32(size_out)))
    return np.minimum(places.astype(np.int64), size_in - 1)


@simulates("RESIZE_BILINEAR")
def _resize_bilinear(site: Site) -> np.ndarray:
    """It blends stored integers, along both axes before it rounds."""
    is_builtin = site.kernels != "xnnpack"
    find = builtin_blend_of if is_builtin else blend_of
    total, scale = site.x.astype(np.int64), 1
    for axis, size in enumerate(site.setting(1), start=1):
        blend = find(site.x.shape[axis], size)
        total, scale = _along(total, axis, blend), scale * blend.one
    if is_builtin:
        rounded = np.sign(total) * ((np.abs(total) + scale // 2) // scale)
    else:
        rounded = (total + scale // 2) // scale
    return rounded.astype(site.x.dtype)


def _along(x: np.ndarray, axis: int, blend: Blend) -> np.ndarray:
    """Returns ``blend.one`` times what lies between pairs of values."""
    shape = [1] * x.ndim
    shape[axis] = -1
    first, second = x.take(blend.first, axis), x.take(blend.second, axis)
    return first * blend.one + (second - first) * blend.weight.reshape(shape)
