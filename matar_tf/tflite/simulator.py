"""The integer graph in NumPy: an oracle that shares no code with any runtime.

Both ways of requantizing an accumulator are reproduced (`_rounding`). Sums of two
tensors, and the builtin mean over the pixels, follow each kernel's own fixed-point
recipe. Convolutions with INT4 kernels run on the builtin kernels, whatever the others
run on: XNNPACK takes none. Float convolutions between packed kernels are summed in
double precision, so that a level may differ where a sum lies within the runtime's
float32 rounding of a half.

Sources: XNNPACK, ``src/microparams-init.c`` and ``src/qs8-*``; TensorFlow Lite,
``kernels/internal/common.h`` and ``kernels/internal/reference/integer_ops``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.tflite._rounding import (
    multiply_away_from_zero,
    multiply_twice_rounded,
    quantized_multiplier,
    requantize,
)
from matar_tf.tflite._schema import load_model, op_name, schema, tensor_array

__all__ = ["KERNELS", "simulate", "simulate_tensors"]

KERNELS: Final = ("xnnpack", "builtin")


def simulate(content: bytes, samples: np.ndarray, *, kernels: str = "xnnpack") -> Any:
    """Returns the float outputs of a ``.tflite`` file for float samples.

    Args:
      content: The file, as `matar_tf.tflite.build` makes it.
      samples: Shape ``[num_samples, ...]``.
      kernels: ``xnnpack`` or ``builtin``.

    Raises:
      ExportError: If the file has an operator that is not simulated.
    """
    tensors = simulate_tensors(content, samples, kernels=kernels)
    model = load_model(content)
    return tensors[int(model.subgraphs[0].outputs[0])]


def simulate_tensors(
    content: bytes, samples: np.ndarray, *, kernels: str = "xnnpack"
) -> dict[int, np.ndarray]:
    """Returns every computed tensor of a file, by tensor index; see `simulate`."""
    if kernels not in KERNELS:
        raise ExportError(f"Expected kernels among {list(KERNELS)}, got {kernels!r}.")
    model = load_model(content)
    graph = model.subgraphs[0]
    values: dict[int, np.ndarray] = {int(graph.inputs[0]): samples}
    for operator in graph.operators:
        name = op_name(model, operator)
        if name not in _OPERATIONS:
            raise ExportError(
                f"The simulator does not know the operator {name}. Known: "
                f"{sorted(_OPERATIONS)}."
            )
        site = _Site(model, operator, values, _kernels_of(model, operator, kernels))
        values[int(operator.outputs[0])] = _OPERATIONS[name](site)
    return values


def _kernels_of(model: Any, operator: Any, kernels: str) -> str:
    if op_name(model, operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return kernels
    kernel = model.subgraphs[0].tensors[operator.inputs[1]]
    return "builtin" if kernel.type == schema.TensorType.INT4 else kernels


class _Site:
    """An operator with its tensors."""

    def __init__(
        self, model: Any, operator: Any, values: dict[int, np.ndarray], kernels: str
    ) -> None:
        self.graph = model.subgraphs[0]
        self.model = model
        self.operator = operator
        self.options = operator.builtinOptions
        self.kernels = kernels
        self.inputs = [values.get(int(i)) for i in operator.inputs]
        self.x: np.ndarray = self.inputs[0]  # type: ignore[assignment]
        self.out = self.graph.tensors[operator.outputs[0]]

    def tensor(self, position: int) -> Any:
        """Returns the tensor at an input position."""
        return self.graph.tensors[self.operator.inputs[position]]

    def constant(self, position: int) -> np.ndarray | None:
        """Returns the constant at an input position, or None."""
        inputs = self.operator.inputs
        if position >= len(inputs) or inputs[position] < 0:
            return None
        return tensor_array(self.model, self.tensor(position))

    def levels(self, position: int = 0) -> np.ndarray:
        """Returns an input with its zero point taken off, int32."""
        value = self.inputs[position]
        if value is None:
            value = self.constant(position)
        return np.asarray(value, np.int32) - _zero_point(self.tensor(position))

    def operand(self, position: int) -> np.ndarray:
        """Returns an input as it is multiplied: its levels, or double precision."""
        if self.tensor(position).type == schema.TensorType.FLOAT32:
            return np.asarray(self.inputs[position], np.float64)
        return self.levels(position)

    def limits(self) -> tuple[int, int]:
        """Returns the int8 range of the output under its fused activation."""
        scale, zero_point = _scale(self.out)[0], _zero_point(self.out)
        activation = getattr(self.options, "fusedActivationFunction", 0)
        kinds = schema.ActivationFunctionType
        low, high = -128, 127
        if activation in (kinds.RELU, kinds.RELU6):
            low = max(low, zero_point)
        if activation == kinds.RELU6:
            high = min(high, zero_point + int(np.rint(np.float32(6.0) / scale)))
        return low, high


def _scale(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.quantization.scale, np.float32)


def _zero_point(tensor: Any) -> int:
    return int(tensor.quantization.zeroPoint[0])


def _saturate(levels: np.ndarray, site: _Site) -> np.ndarray:
    low, high = site.limits()
    return np.clip(levels + _zero_point(site.out), low, high).astype(np.int8)


def _accumulator_scale(site: _Site) -> np.ndarray:
    product = _scale(site.tensor(0)) * _scale(site.tensor(1))
    if site.kernels == "builtin":
        product = _scale(site.tensor(0)).astype(np.float64) * _scale(site.tensor(1))
        return product / _scale(site.out).astype(np.float64)
    return product / _scale(site.out)


def _finish(site: _Site, acc: np.ndarray) -> np.ndarray:
    bias = site.constant(2)
    if bias is not None:
        acc = acc + bias
    if site.out.type == schema.TensorType.FLOAT32:
        return _activate(acc.astype(np.float32), site.options)
    return _saturate(requantize(acc, _accumulator_scale(site), site.kernels), site)


def _activate(values: np.ndarray, options: Any) -> np.ndarray:
    kinds, kind = schema.ActivationFunctionType, options.fusedActivationFunction
    if kind == kinds.NONE:
        return values
    return np.clip(values, 0.0, 6.0 if kind == kinds.RELU6 else None)


def _windows(
    site: _Site, size: tuple[int, int], fill: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the input into windows.

    Returns:
      Levels ``[n, oh, ow, kh, kw, c]``, padding filled, and which of a window's places
      are inside the input, ``[oh, ow, kh, kw]``.
    """
    x = site.operand(0)
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


def _conv(site: _Site) -> np.ndarray:
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
    return _finish(site, np.concatenate(parts, axis=-1))


def _depthwise(site: _Site) -> np.ndarray:
    kernel = site.operand(1)[0]
    windows, _ = _windows(site, (kernel.shape[0], kernel.shape[1]), 0)
    windows = np.repeat(windows, kernel.shape[2] // windows.shape[-1], axis=-1)
    return _finish(site, np.einsum("nhwijc,ijc->nhwc", windows, kernel))


def _dense(site: _Site) -> np.ndarray:
    x, kernel = site.operand(0), site.operand(1)
    if not site.options.keepNumDims:
        x = x.reshape(-1, kernel.shape[1])
    return _finish(site, x @ kernel.T)


def _add(site: _Site) -> np.ndarray:
    a, b = site.levels(0), site.levels(1)
    scale_a, scale_b = _scale(site.tensor(0))[0], _scale(site.tensor(1))[0]
    scale = _scale(site.out)[0]
    if site.kernels == "xnnpack":
        ratios = (scale_a / scale, scale_b / scale)
        shift = 20 - (math.frexp(float(max(ratios)))[1] - 1)
        factors = [int(np.rint(float(ratio) * 2.0**shift)) for ratio in ratios]
        acc = a.astype(np.int64) * factors[0] + b.astype(np.int64) * factors[1]
        return _saturate(((acc + (1 << (shift - 1))) >> shift).astype(np.int32), site)
    twice = 2.0 * max(float(scale_a), float(scale_b))
    parts = [
        multiply_twice_rounded(
            x.astype(np.int64) << 20, *quantized_multiplier(np.float64(one) / twice)
        )
        for x, one in ((a, scale_a), (b, scale_b))
    ]
    final = quantized_multiplier(np.float64(twice / ((1 << 20) * float(scale))))
    return _saturate(multiply_twice_rounded(parts[0] + parts[1], *final), site)


def _average_pool(site: _Site) -> np.ndarray:
    size = (site.options.filterHeight, site.options.filterWidth)
    windows, inside = _windows(site, size, 0)
    counts = inside.sum(axis=(2, 3))[None, :, :, None]
    # The kernel averages stored integers, zero point included.
    total = windows.sum(axis=(3, 4)) + counts * _zero_point(site.tensor(0))
    stored = np.sign(total) * ((np.abs(total) + counts // 2) // counts)
    low, high = site.limits()
    return np.clip(stored, low, high).astype(np.int8)


def _max_pool(site: _Site) -> np.ndarray:
    size = (site.options.filterHeight, site.options.filterWidth)
    windows, _ = _windows(site, size, -(2**30))
    return _saturate(windows.max(axis=(3, 4)), site)


def _reduced_axes(site: _Site) -> tuple[int, ...]:
    axes = np.asarray(site.constant(1)).reshape(-1)
    return tuple(int(axis) % site.x.ndim for axis in axes)


def _mean(site: _Site) -> np.ndarray:
    axes = _reduced_axes(site)
    count = math.prod(site.x.shape[axis] for axis in axes)
    keep = bool(site.options.keepDims)
    acc = site.levels().sum(axis=axes, keepdims=keep)
    if site.kernels == "xnnpack":
        # This kernel sums stored integers and rounds with the zero points added.
        real = _scale(site.tensor(0)) / _scale(site.out) / np.float32(count)
        part_of_zero = np.float32(_zero_point(site.tensor(0)) * count) * real
        total = site.x.sum(axis=axes, keepdims=keep, dtype=np.int32).astype(np.float32)
        stored = total * real + (np.float32(_zero_point(site.out)) - part_of_zero)
        return np.clip(np.rint(stored), *site.limits()).astype(np.int8)
    if keep and site.x.ndim == 4 and set(axes) == {1, 2}:
        return _builtin_spatial_mean(site, count)
    ratio = float(_scale(site.tensor(0))[0]) / float(_scale(site.out)[0])
    real = np.array([ratio / count])
    return _saturate(requantize(acc, real, site.kernels), site)


def _builtin_spatial_mean(site: _Site, count: int) -> np.ndarray:
    """The kernel of ``optimized/integer_ops/mean.h``.

    It sums stored integers and rounds the zero point's part by itself. Whole blocks of
    16 channels go through vector code, which rounds halves up, the rest does not.
    """
    scale_in, scale_out = _scale(site.tensor(0))[0], _scale(site.out)[0]
    shift_of_zero = np.float32(_zero_point(site.tensor(0))) * scale_in / scale_out
    half = np.float32(0.5)
    rounded = int(shift_of_zero + (half if shift_of_zero > 0 else -half))
    factor = quantized_multiplier(scale_in / (np.float32(count) * scale_out))
    acc = site.x.astype(np.int64).sum(axis=(1, 2), keepdims=True)
    num_in_blocks = acc.shape[-1] // 16 * 16
    parts = (
        multiply_twice_rounded(acc[..., :num_in_blocks], *factor),
        multiply_away_from_zero(acc[..., num_in_blocks:], *factor),
    )
    return _saturate(np.concatenate(parts, axis=-1) - rounded, site)


def _reduce_max(site: _Site) -> np.ndarray:
    return site.x.max(axis=_reduced_axes(site), keepdims=bool(site.options.keepDims))


def _rectify(site: _Site, limit: float = math.inf) -> np.ndarray:
    """A ReLU on the grid of its input."""
    highest = np.rint(np.float32(limit) / _scale(site.out))
    return _saturate(np.clip(site.levels(), 0, highest), site)


def _quantize(site: _Site) -> np.ndarray:
    scale = _scale(site.out)[0]
    if site.x.dtype == np.int8:
        ratio = _scale(site.tensor(0)) / scale
        return _saturate(requantize(site.levels(), ratio, site.kernels), site)
    if site.kernels == "xnnpack":
        return _saturate(np.rint(site.x * (np.float32(1.0) / scale)).astype(int), site)
    x = site.x / scale
    return _saturate((np.sign(x) * np.floor(np.abs(x) + 0.5)).astype(int), site)


def _dequantize(site: _Site) -> np.ndarray:
    tensor, scale = site.tensor(0), _scale(site.tensor(0))
    levels = site.levels().astype(np.float32)
    if len(scale) > 1:
        shape = [1] * levels.ndim
        shape[tensor.quantization.quantizedDimension] = -1
        scale = scale.reshape(shape)
    return levels * scale


def _concatenate(site: _Site) -> np.ndarray:
    return np.concatenate([np.asarray(x) for x in site.inputs], axis=site.options.axis)


def _reshape(site: _Site) -> np.ndarray:
    return site.x.reshape(-1, *(int(size) for size in site.out.shape[1:]))


def _pad(site: _Site) -> np.ndarray:
    widths = np.asarray(site.constant(1)).tolist()
    return np.pad(site.x, widths, constant_values=_zero_point(site.tensor(0)))


def _through_float(
    function: Callable[[np.ndarray], np.ndarray],
) -> Callable[[_Site], np.ndarray]:
    """A kernel given by a table or in higher precision: exact to one level."""

    def operation(site: _Site) -> np.ndarray:
        x = site.levels().astype(np.float64) * float(_scale(site.tensor(0))[0])
        levels = np.rint(function(x) / float(_scale(site.out)[0]))
        return _saturate(levels.astype(np.int32), site)

    return operation


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


_OPERATIONS: Final[dict[str, Callable[[_Site], np.ndarray]]] = {
    "ADD": _add,
    "AVERAGE_POOL_2D": _average_pool,
    "CONCATENATION": _concatenate,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _dequantize,
    "EXPAND_DIMS": _reshape,
    "FULLY_CONNECTED": _dense,
    "LOGISTIC": _through_float(lambda x: 1.0 / (1.0 + np.exp(-x))),
    "MAX_POOL_2D": _max_pool,
    "MEAN": _mean,
    "PAD": _pad,
    "QUANTIZE": _quantize,
    "REDUCE_MAX": _reduce_max,
    "RELU": _rectify,
    "RELU6": lambda site: _rectify(site, 6.0),
    "RESHAPE": _reshape,
    "SOFTMAX": _through_float(_softmax),
    "SQUEEZE": _reshape,
    "TANH": _through_float(np.tanh),
}
