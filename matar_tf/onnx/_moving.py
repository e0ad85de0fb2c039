"""How operators are written that move values, or blend neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from matar_tf.onnx._graph import Value, axes_first, placed
from matar_tf.onnx._place import Place, writes
from matar_tf.tflite.bilinear import Blend, blend_of

__all__: list[str] = []  # they register themselves

_LEAST: Final = 2.0**-15  # of a level: what float32 tells apart


def _axis(value: Value, axis: int) -> int:
    axis %= len(value.shape)
    return axes_first(axis) if value.first else axis


def _integers(place: Place, name: str, values: Sequence[int]) -> str:
    stored = np.array(values, np.int64)
    return place.graph.constant(f"{place.label}/{name}", stored)


@writes("CONCATENATION")
def _concatenate(place: Place) -> Value:
    first = place.read(0)
    values = [
        place.read(position, first=first.first)
        for position in range(len(place.operator.inputs))
    ]
    axis = _axis(first, place.options.axis)
    return place.add("Concat", values, first, axis=axis)


@writes("RESHAPE", "EXPAND_DIMS", "SQUEEZE")
def _reshape(place: Place) -> Value:
    return place.reshaped(place.read())


@writes("PAD")
def _pad(place: Place) -> Value:
    value = place.read()
    widths = np.reshape(place.setting(1), (-1, 2)).tolist()
    widths = placed(widths, first=value.first)
    ends = [before for before, _ in widths] + [after for _, after in widths]
    return place.add("Pad", [value, _integers(place, "widths", ends)], value)


@writes("STRIDED_SLICE")
def _slice(place: Place) -> Value:
    options, value = place.options, place.read()
    rank = len(value.shape)
    shrunk = [axis for axis in range(rank) if options.shrinkAxisMask >> axis & 1]
    if shrunk:
        value = place.read(first=False)
    bounds: list[tuple[int, int, int, int]] = []
    settings = zip(*(place.setting(at) for at in (1, 2, 3)), strict=True)
    shape = list(value.shape)
    for axis, (begin, end, step) in enumerate(settings):
        size = value.shape[axis]
        if axis in shrunk:
            begin %= size
            bounds.append((axis, begin, begin + 1, 1))
        else:
            first = None if options.beginMask >> axis & 1 else begin
            last = None if options.endMask >> axis & 1 else end
            places = range(size)[slice(first, last, step)]
            bounds.append((axis, places.start, places.stop, places.step))
        shape[axis] = len(range(*bounds[-1][1:]))
    bounds = [one for one in bounds if one[0]]  # all samples
    names = "starts", "ends", "axes", "steps"
    columns = (
        [one[1] for one in bounds],
        [one[2] for one in bounds],
        [_axis(value, one[0]) for one in bounds],
        [one[3] for one in bounds],
    )
    inputs = [_integers(place, *one) for one in zip(names, columns, strict=True)]
    made = place.add("Slice", [value, *inputs], value, shape=shape)
    return place.reshaped(made) if shrunk else made


@writes("TRANSPOSE")
def _transpose(place: Place) -> Value:
    value = place.read(first=False)
    return place.add("Transpose", [value], value, perm=place.setting(1))


@writes("TILE")
def _tile(place: Place) -> Value:
    value = place.read()
    times = placed(place.setting(1), first=value.first)
    return place.add("Tile", [value, _integers(place, "times", times)], value)


@writes("DEPTH_TO_SPACE")
def _depth_to_space(place: Place) -> Value:
    value, size = place.read(first=True), place.options.blockSize
    return place.add("DepthToSpace", [value], value, blocksize=size, mode="DCR")


@writes("SPACE_TO_DEPTH")
def _space_to_depth(place: Place) -> Value:
    value, size = place.read(first=True), place.options.blockSize
    return place.add("SpaceToDepth", [value], value, blocksize=size)


@writes("RESIZE_NEAREST_NEIGHBOR")
def _resize_nearest(place: Place) -> Value:
    value = place.read(first=True)
    factors = [
        _factor(size, made)
        for size, made in zip(value.shape[1:3], place.shape[1:3], strict=True)
    ]
    scales = place.graph.number(f"{place.label}/factors", [1.0, 1.0, *factors])
    return place.add(
        "Resize",
        [value, "", scales],
        value,
        mode="nearest",
        coordinate_transformation_mode="half_pixel",
        nearest_mode="round_prefer_ceil",
    )


@writes("RESIZE_BILINEAR")
def _resize_bilinear(place: Place) -> Value:
    """Halves go up: the kernel blends whole numbers, by weights that it rounds."""
    value = place.read(first=True)
    blends = [blend_of(value.shape[axis], place.shape[axis]) for axis in (1, 2)]
    made = _blended(place, value, blends)
    parts = 1
    for blend in blends:
        parts *= blend.one // int(np.gcd.reduce([blend.one, *blend.weight]))
    return place.raised_by(made, max(1 / (4 * parts), _LEAST)) if parts > 1 else made


def _blended(place: Place, value: Value, blends: Sequence[Blend]) -> Value:
    """Returns products with the shares of pixels in each row and column."""
    rows, columns = (
        _shares(blend, value.shape[axis]) for axis, blend in enumerate(blends, start=1)
    )
    at = place.graph.number(f"{place.label}/columns", columns.T)
    shape = (*value.shape[:2], *place.shape[2:])
    wide = place.add("MatMul", [value, at], value, shape=shape)
    at = place.graph.number(f"{place.label}/rows", rows)
    return place.add("MatMul", [at, wide], wide)


def _shares(blend: Blend, size: int) -> np.ndarray:
    """Returns what part of each pixel is in each output, ``[outputs, pixels]``."""
    shares = np.zeros((len(blend.weight), size))
    outputs, weight = np.arange(len(shares)), blend.weight / blend.one
    np.add.at(shares, (outputs, blend.first), 1 - weight)
    np.add.at(shares, (outputs, blend.second), weight)
    return shares


def _factor(size: int, made: int) -> np.float32:
    """Returns by what a size is multiplied, so that no pixel is lost in rounding."""
    factor = np.float32(made) / np.float32(size)
    is_less = int(np.float32(size) * factor) < made
    return np.nextafter(factor, np.float32(np.inf)) if is_less else factor
