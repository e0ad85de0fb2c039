"""How operators with kernels are written, and windows over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from matar_tf.onnx._graph import Value
from matar_tf.onnx._place import Place, writes
from matar_tf.tflite._schema import schema

__all__: list[str] = []  # they register themselves

_CONV_ORDER: Final = (0, 3, 1, 2)  # out, in, height, width
_TRANSPOSED_ORDER: Final = (3, 0, 1, 2)  # in, out, height, width
_DEPTHWISE_ORDER: Final = (3, 0, 1, 2)  # out, 1, height, width


def _window(place: Place, value: Value, size: Sequence[int]) -> dict[str, Any]:
    """Returns attributes of windows over an image."""
    options = place.options
    strides = [options.strideH, options.strideW]
    dilations = [
        getattr(options, "dilationHFactor", 1),
        getattr(options, "dilationWFactor", 1),
    ]
    before, after = [0, 0], [0, 0]
    if options.padding == schema.Padding.SAME:
        for axis in (0, 1):
            extent = (size[axis] - 1) * dilations[axis] + 1
            reach = (place.shape[axis + 1] - 1) * strides[axis] + extent
            total = max(reach - value.shape[axis + 1], 0)
            before[axis], after[axis] = total // 2, total - total // 2
    given = {
        "kernel_shape": list(size),
        "strides": strides,
        "pads": [*before, *after],
    }
    is_pool = not hasattr(options, "dilationHFactor")
    return given if is_pool else {**given, "dilations": dilations}


@writes("CONV_2D")
def _conv(place: Place) -> Value:
    value = place.read(first=True)
    kernel = place.kernel(_CONV_ORDER, 0)
    groups = value.shape[3] // kernel.levels.shape[1]
    window = _window(place, value, kernel.levels.shape[2:])
    return place.multiply("Conv", value, kernel, group=groups, **window)


@writes("DEPTHWISE_CONV_2D")
def _depthwise(place: Place) -> Value:
    value = place.read(first=True)
    kernel = place.kernel(_DEPTHWISE_ORDER, 0)
    window = _window(place, value, kernel.levels.shape[2:])
    return place.multiply("Conv", value, kernel, group=value.shape[3], **window)


@writes("TRANSPOSE_CONV")
def _transposed(place: Place) -> Value:
    """What sticks out of the image is cut off; what lacks is 0 and the bias."""
    value = place.read(first=True)
    kernel = place.kernel(_TRANSPOSED_ORDER, 1)
    size = kernel.levels.shape[2:]
    strides = [place.options.strideH, place.options.strideW]
    is_same = place.options.padding == schema.Padding.SAME
    before, after, lacking = [0, 0], [0, 0], [0, 0]
    for axis in (0, 1):
        reach = (value.shape[axis + 1] - 1) * strides[axis] + size[axis]
        rest = reach - place.shape[axis + 1]
        before[axis] = max(rest, 0) // 2 if is_same else 0
        after[axis] = max(rest - before[axis], 0)
        lacking[axis] = max(-rest, 0)
    return place.multiply(
        "ConvTranspose",
        value,
        kernel,
        kernel_shape=list(size),
        strides=strides,
        pads=[*before, *after],
        output_padding=lacking,
    )


@writes("FULLY_CONNECTED")
def _dense(place: Place) -> Value:
    kernel = place.kernel((1, 0), 1)
    value = place.read(first=False)
    if not place.options.keepNumDims and len(value.shape) != 2:
        depth = kernel.levels.shape[0]
        value = place.read()
        rows = int(np.prod(value.shape)) // depth
        value = place.reshaped(value, (rows, depth))
    return place.multiply("MatMul", value, kernel, has_bias_input=False)


@writes("AVERAGE_POOL_2D")
def _average_pool(place: Place) -> Value:
    """The kernel averages stored integers and rounds halves away from zero."""
    value = place.levels(place.read(first=True))
    size = place.options.filterHeight, place.options.filterWidth
    window = _window(place, value, size)
    made = place.add("AveragePool", [value], value, **window)
    return _rounded_away(place, made, size[0] * size[1])


def _rounded_away(place: Place, mean: Value, count: int) -> Value:
    """Returns a mean of levels, moved so that rounding sends halves where they go.

    What is stored of a narrow grid has one sign, so that halves go one way. On others
    a factor moves stored numbers away from zero, by less than the next fraction is.
    """
    grid = place.grid
    offset = grid.zero_point
    if grid.low + offset >= 0 or grid.high + offset < 0:
        way = 1 if grid.low + offset >= 0 else -1
        return place.raised_by(mean, way / (4 * count))
    factor = 1 + 1 / (512 * count)
    if not offset:
        return place.with_number("Mul", mean, factor)
    stored = place.with_number("Mul", place.raised_by(mean, offset), factor)
    as_stored = replace(grid, low=-128, high=127, zero_point=0)
    label = place.graph.unique(f"{place.label}/stored")
    stored = place.form.rounded(place.graph, stored, as_stored, label)
    return place.raised_by(stored, -offset)


@writes("MAX_POOL_2D")
def _max_pool(place: Place) -> Value:
    value = place.read(first=True)
    size = place.options.filterHeight, place.options.filterWidth
    return place.add("MaxPool", [value], value, **_window(place, value, size))
