"""Samples beside the grid of a network's input: whether they were scaled for it.

A grid cuts off what is outside of its range and cannot tell apart what is within one
step, so that wrongly scaled samples give figures, but those of another task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import INSIST, DataError, OddDataError
from matar_tf.packaged import Artifact
from matar_tf.parameters import activation_range
from matar_tf.tflite._schema import op_name, parse_model, schema
from matar_tf.tflite.ends import inputs_of

__all__ = ["InputGrid", "grids_of_artifact", "grids_of_file", "range_note"]

_MOST_OUTSIDE: Final = 0.25  # share of the values; from here on they are refused
_MANY_OUTSIDE: Final = 0.01
_MOST_FAR: Final = 0.05  # of the values that are not 0, beyond the grid by its range
_NEAR: Final = 1.5  # steps: what is no further off the ends is not outside
_LITTLE_USED: Final = 1 / 16  # of the range of the grid
_LITTLE_USED_BY_BYTES: Final = 1 / 8  # which have a range of their own
_BYTES: Final = 255  # what unsigned bytes are divided by
_ROUNDING: Final = 1e-3  # of a byte in float32
_INTEGERS: Final = {
    schema.TensorType.INT8: np.iinfo(np.int8),
    schema.TensorType.UINT8: np.iinfo(np.uint8),
    schema.TensorType.INT16: np.iinfo(np.int16),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class InputGrid:
    """The values that a network's input can have.

    Attributes:
      step: Distance of two of them.
      low: The lowest one.
      high: The highest one.
    """

    step: float
    low: float
    high: float


def grids_of_artifact(artifact: Artifact) -> dict[str, InputGrid | None]:
    """Returns the grid of each input of a packaged network at its widest, by name.

    None for one that is not quantized.
    """
    names = [one.name for one in inputs_of(artifact.template)]
    tensors = [artifact.workload.tensors[one] for one in artifact.workload.inputs]
    return {
        name: _entry_grid(artifact, tensor.activation)
        for name, tensor in zip(names, tensors, strict=True)
    }


def _entry_grid(artifact: Artifact, entry: str | None) -> InputGrid | None:
    tensor = artifact.parameters.tensors.get(entry or "")
    if tensor is None:
        return None
    index = int(np.argmax(tensor.bits))
    levels = activation_range(tensor.bits[index], signed=tensor.signed)
    return _grid(float(tensor.step[index]), *levels)


def grids_of_file(content: bytes) -> dict[str, InputGrid | None]:
    """Returns the grid of each input of a ``.tflite`` file; None if it stays float.

    It is that of the input itself, or of what its only reader, a QUANTIZE, makes of it.
    """
    model = parse_model(content)
    graph = model.subgraphs[0]
    found: dict[str, InputGrid | None] = {}
    for one in inputs_of(model):
        index = one.index
        readers = [reader for reader in graph.operators if index in reader.inputs]
        if len(readers) == 1 and op_name(model, readers[0]) == "QUANTIZE":
            index = int(readers[0].outputs[0])
        found[one.name] = _tensor_grid(graph.tensors[index])
    return found


def _tensor_grid(tensor: Any) -> InputGrid | None:
    integers = _INTEGERS.get(tensor.type)
    quantization = tensor.quantization
    if integers is None or quantization is None:
        return None
    scales, zero_points = quantization.scale, quantization.zeroPoint
    if scales is None or zero_points is None:
        return None
    if len(scales) != 1 or len(zero_points) != 1:  # a grid for each channel, or damage
        return None
    zero_point = int(zero_points[0])
    return _grid(float(scales[0]), integers.min - zero_point, integers.max - zero_point)


def _grid(step: float, lowest: int, highest: int) -> InputGrid | None:
    if not 0.0 < step < math.inf:
        return None
    return InputGrid(step=step, low=lowest * step, high=highest * step)


def range_note(data: Data, grid: InputGrid | None) -> str | None:
    """Returns what is odd about the samples of a network's input, in one sentence.

    A value is outside of a grid if it is more than one and a half steps away from it:
    the grid of samples 0..1 may well end one level below 1. It is far outside if it is
    away by more than the range of the grid, as 255 is from 0..1.

    Args:
      data: Its evaluation samples count, those of this input.
      grid: That of the input, or None if it has none.

    Returns:
      The sentence if a hundredth of the values or more are outside, if the samples use
      less than a sixteenth of the grid's range, or if all of them are equal; else None.

    Raises:
      OddDataError: If a quarter of the values or more are outside; if more than a
        twentieth of those that are not 0 are far outside, since most of a picture may
        be 0 on every scale; if they are unsigned bytes that use less than an eighth of
        the range; or if they would fill it 255 times as large.
      DataError: If the samples are integers of another kind.
    """
    samples: Any = data.x_test
    if grid is not None and samples.dtype.kind != "f":
        raise DataError(
            f"Expected floats or unsigned bytes in x_test of {data.name!r} for an "
            f"input that is quantized, got integers; give x.astype('float32'), scaled "
            "as at training, or x.astype('uint8')."
        )
    if len(samples) > 1 and bool((samples == samples[:1]).all()):
        return f"All {len(samples)} samples of {data.name!r} are equal; check them."
    if grid is None:
        return None
    low, high = float(samples.min()), float(samples.max())
    width = grid.high - grid.low
    outside = _num_beyond(samples, grid, _NEAR * grid.step) / samples.size
    far = _num_beyond(samples, grid, width) if outside else 0
    is_far = far > _MOST_FAR * np.count_nonzero(samples)
    theirs, ours = f"{low:.4g}..{high:.4g}", f"{grid.low:.4g}..{grid.high:.4g}"
    expected = f"Expected samples in the range of this network's input grid, {ours}"
    if outside >= _MOST_OUTSIDE or is_far:
        raise OddDataError(
            f"{expected}, got {theirs} in {data.name!r}, {outside:.1%} of the values "
            "outside; scale them as at training, clip them with np.clip if that is "
            f"meant, or {INSIST}."
        )
    if outside >= _MANY_OUTSIDE:
        return (
            f"{outside:.1%} of the values of {data.name!r}, which has {theirs}, are "
            f"outside of the range of this network's input grid, {ours}, and count as "
            "its ends; scale the samples as at training."
        )
    used = max(min(high, grid.high) - max(low, grid.low), 0.0) / width
    if used < _LITTLE_USED_BY_BYTES and _are_bytes(samples, low, high):
        raise OddDataError(
            f"{expected}, got unsigned bytes of {_BYTES * low:.0f}.."
            f"{_BYTES * high:.0f} in {data.name!r}, which count as {theirs}, "
            f"{used:.1%} of it; give floats, scaled as at training, or {INSIST}."
        )
    if low >= 0.0 and grid.high / 2.0 <= _BYTES * high <= grid.high + _NEAR * grid.step:
        raise OddDataError(
            f"{expected}, got {theirs} in {data.name!r}, {used:.1%} of it, as if they "
            f"had been divided by {_BYTES} once too often; multiply them by that, or "
            f"{INSIST}."
        )
    if used < _LITTLE_USED:
        return (
            f"The samples of {data.name!r}, {theirs}, use {used:.1%} of the range of "
            f"this network's input grid, {ours}; scale them as at training."
        )
    return None


def _num_beyond(samples: np.ndarray, grid: InputGrid, distance: float) -> int:
    """Returns how many values are further than a distance from a grid."""
    below, above = samples < grid.low - distance, samples > grid.high + distance
    return int(np.count_nonzero(below | above))


def _are_bytes(samples: np.ndarray, low: float, high: float) -> bool:
    """Whether samples are unsigned bytes divided by 255; whole numbers are not."""
    if low < 0.0 or high > 1.0 or low == high:
        return False
    stored = _BYTES * samples
    is_whole = bool((np.abs(stored - np.rint(stored)) < _ROUNDING).all())
    return is_whole and not bool((samples == np.rint(samples)).all())
