"""Integer networks with random weights, drawn operator by operator, as files.

They are for timing alone: what a network answers means nothing. None of it needs
TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from matar_tf.template_map import KernelPlace
from matar_tf.tflite._graph_rules import check_model
from matar_tf.tflite._schema import (
    find_operator_code,
    quantization,
    schema,
    set_buffer,
    write_model,
)
from matar_tf.tflite.template import Template

__all__ = ["Drawing", "Tensor"]

_TYPES: Final = schema.TensorType
_SAME: Final = schema.Padding.SAME
_INPUT: Final = "input"
_GRID: Final = (0.05, 0)  # step and zero point
_FIXED_GRIDS: Final = {
    "LOGISTIC": (1 / 256, -128),
    "SOFTMAX": (1 / 256, -128),
    "TANH": (1 / 128, 0),
}
_WEIGHT_STEP: Final = 1 / 64
_BIAS: Final = 100  # levels, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A tensor of a drawing.

    Attributes:
      index: Its index in the file.
      shape: Its shape, with the axis of samples.
      grid: Step and zero point.
    """

    index: int
    shape: tuple[int, ...]
    grid: tuple[float, int] = _GRID

    @property
    def elems(self) -> int:
        """Number of its elements, of one byte each."""
        return math.prod(self.shape)


@dataclass
class Drawing:
    """A network in the making: from a float input of one sample to a float output.

    Attributes:
      rng: What weights are drawn from.
      model: Object form of the file.
      kernels: Operators that multiply, by their names.
    """

    rng: np.random.Generator
    model: Any = field(default_factory=lambda: _empty_model())
    kernels: dict[str, KernelPlace] = field(default_factory=dict[str, KernelPlace])

    def input(self, *shape: int) -> Tensor:
        """Returns the quantized input of a network; once for each drawing."""
        source = self._add((1, *shape), _TYPES.FLOAT32)
        self.model.subgraphs[0].inputs = [source]
        return self._apply("QUANTIZE", [source], (1, *shape))

    def conv(self, x: Tensor, channels: int, size: int, stride: int) -> Tensor:
        """Returns a convolution with square windows."""
        options = _options("Conv2D", strideH=stride, strideW=stride, padding=_SAME)
        kernel = (channels, size, size, x.shape[3])
        shape = (*_strided(x.shape, stride), channels)
        return self._multiply("CONV_2D", x, kernel, shape, options)

    def depthwise(self, x: Tensor, size: int, stride: int) -> Tensor:
        """Returns a depthwise convolution with square windows."""
        options = _options(
            "DepthwiseConv2D",
            strideH=stride,
            strideW=stride,
            padding=_SAME,
            depthMultiplier=1,
        )
        kernel = (1, size, size, x.shape[3])
        shape = (*_strided(x.shape, stride), x.shape[3])
        return self._multiply("DEPTHWISE_CONV_2D", x, kernel, shape, options, axis=3)

    def transposed(self, x: Tensor, channels: int, size: int) -> Tensor:
        """Returns a transposed convolution of strides 2."""
        options = _options("TransposeConv", strideH=2, strideW=2, padding=_SAME)
        kernel = (channels, size, size, x.shape[3])
        shape = (1, 2 * x.shape[1], 2 * x.shape[2], channels)
        made = self._multiply("TRANSPOSE_CONV", x, kernel, shape, options)
        operator = self.model.subgraphs[0].operators[-1]
        operator.inputs = [self._setting(shape), *operator.inputs[1:2], x.index]
        operator.inputs.append(made.index - 1)
        return made

    def dense(self, x: Tensor, units: int) -> Tensor:
        """Returns a dense layer over all that a sample has."""
        options = _options("FullyConnected")
        kernel = (units, x.elems)
        return self._multiply("FULLY_CONNECTED", x, kernel, (1, units), options)

    def pair(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """Returns ADD, MUL or MAXIMUM of two tensors, of which the second may be 1."""
        if name == "MAXIMUM":
            options = _options("MaximumMinimum")
        else:
            options = _options(name.capitalize())
        return self._apply(name, [x.index, y.index], x.shape, options)

    def concat(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the channels of two images."""
        shape = (*x.shape[:-1], x.shape[-1] + y.shape[-1])
        options = _options("Concatenation", axis=len(shape) - 1)
        return self._apply("CONCATENATION", [x.index, y.index], shape, options)

    def pool(self, name: str, x: Tensor, size: int, stride: int) -> Tensor:
        """Returns AVERAGE_POOL_2D or MAX_POOL_2D with square windows."""
        options = _options(
            "Pool2D",
            filterHeight=size,
            filterWidth=size,
            strideH=stride,
            strideW=stride,
            padding=_SAME,
        )
        shape = (*_strided(x.shape, stride), x.shape[3])
        return self._apply(name, [x.index], shape, options, grid=x.grid)

    def mean(self, x: Tensor) -> Tensor:
        """Returns the mean over an image."""
        options = _options("Reducer", keepDims=True)
        inputs = [x.index, self._setting([1, 2])]
        return self._apply("MEAN", inputs, (1, 1, 1, x.shape[3]), options)

    def pointwise(self, name: str, x: Tensor) -> Tensor:
        """Returns a function of each element, or SOFTMAX over the last axis."""
        options = {
            "GELU": lambda: _options("Gelu"),
            "LEAKY_RELU": lambda: _options("LeakyRelu", alpha=0.1),
            "SOFTMAX": lambda: _options("Softmax", beta=1.0),
        }.get(name, lambda: None)()
        grid = _FIXED_GRIDS.get(name, _GRID)
        return self._apply(name, [x.index], x.shape, options, grid=grid)

    def transpose(self, x: Tensor) -> Tensor:
        """Returns an image with height and width exchanged."""
        shape = (1, x.shape[2], x.shape[1], x.shape[3])
        inputs = [x.index, self._setting([0, 2, 1, 3])]
        return self._apply("TRANSPOSE", inputs, shape, grid=x.grid)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Returns the same elements in another shape."""
        whole = (1, *shape)
        options = _options("Reshape", newShape=list(whole))
        inputs = [x.index, self._setting(whole)]
        return self._apply("RESHAPE", inputs, whole, options, grid=x.grid)

    def pad(self, x: Tensor) -> Tensor:
        """Returns an image with a border of one pixel."""
        inputs = [x.index, self._setting([[0, 0], [1, 1], [1, 1], [0, 0]])]
        shape = (1, x.shape[1] + 2, x.shape[2] + 2, x.shape[3])
        return self._apply("PAD", inputs, shape, _options("Pad"), grid=x.grid)

    def resize(self, x: Tensor) -> Tensor:
        """Returns an image of twice the height and width, interpolated."""
        shape = (1, 2 * x.shape[1], 2 * x.shape[2], x.shape[3])
        inputs = [x.index, self._setting(shape[1:3])]
        options = _options("ResizeBilinear", halfPixelCenters=True)
        return self._apply("RESIZE_BILINEAR", inputs, shape, options, grid=x.grid)

    def requantized(self, x: Tensor) -> Tensor:
        """Returns a tensor on the usual grid."""
        return x if x.grid == _GRID else self._apply("QUANTIZE", [x.index], x.shape)

    def finish(self, x: Tensor) -> Template:
        """Returns the network that ends in a tensor.

        Raises:
          ExportError: If it is none that a runtime takes.
        """
        graph = self.model.subgraphs[0]
        output = self._add(x.shape, _TYPES.FLOAT32)
        self._operator("DEQUANTIZE", [x.index], output)
        graph.outputs = [output]
        first = int(graph.operators[0].outputs[0])
        return Template(
            content=check_model(write_model(self.model)),
            tensors={first: _INPUT},
            kernels=self.kernels,
            clamps={},
            before_clamps=(),
        )

    def _multiply(
        self,
        name: str,
        x: Tensor,
        kernel: tuple[int, ...],
        shape: tuple[int, ...],
        options: Any,
        *,
        axis: int = 0,
    ) -> Tensor:
        channels = kernel[axis]
        step = np.full(channels, _WEIGHT_STEP, np.float32)
        levels = self.rng.integers(-127, 128, kernel).astype(np.int8)
        biases = self.rng.integers(-_BIAS, _BIAS, channels).astype(np.int32)
        inputs = [
            x.index,
            self._add(kernel, _TYPES.INT8, step, axis=axis, values=levels),
            self._add(
                (channels,),
                _TYPES.INT32,
                step * np.float32(x.grid[0]),
                values=biases,
            ),
        ]
        place = len(self.model.subgraphs[0].operators)
        made = self._apply(name, inputs, shape, options)
        self.kernels[f"{name.lower()}_{place}"] = KernelPlace(
            operator=place, input=None
        )
        return made

    def _apply(
        self,
        name: str,
        inputs: Sequence[int],
        shape: tuple[int, ...],
        options: Any = None,
        *,
        grid: tuple[float, int] = _GRID,
    ) -> Tensor:
        index = self._add(shape, _TYPES.INT8, [grid[0]], zero_point=grid[1])
        self._operator(name, inputs, index, options)
        return Tensor(index=index, shape=shape, grid=grid)

    def _operator(
        self, name: str, inputs: Sequence[int], output: int, options: Any = None
    ) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = find_operator_code(self.model, name, 1)
        operator.inputs, operator.outputs = list(inputs), [output]
        operator.builtinOptions = options
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        self.model.subgraphs[0].operators.append(operator)

    def _setting(self, values: Any) -> int:
        stored = np.array(values, np.int32)
        return self._add(stored.shape, _TYPES.INT32, values=stored)

    def _add(
        self,
        shape: Sequence[int],
        kind: int,
        scale: Any = (),
        *,
        zero_point: int = 0,
        axis: int = 0,
        values: np.ndarray | None = None,
    ) -> int:
        tensors = self.model.subgraphs[0].tensors
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer = f"t{len(tensors)}", kind, 0
        tensor.shape, tensor.hasRank = np.array(shape, np.int32), True
        if len(scale):
            tensor.quantization = quantization(scale, [zero_point] * len(scale), axis)
        if values is not None:
            set_buffer(self.model, tensor, values)
        tensors.append(tensor)
        return len(tensors) - 1


def _empty_model() -> Any:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.operatorCodes = 3, []
    model.subgraphs, model.buffers = [graph], [schema.BufferT()]
    graph.tensors, graph.operators = [], []
    return model


def _options(kind: str, **values: Any) -> Any:
    options = getattr(schema, f"{kind}OptionsT")()
    for name, value in values.items():
        setattr(options, name, value)
    return options


def _strided(shape: tuple[int, ...], stride: int) -> tuple[int, int, int]:
    return 1, -(-shape[1] // stride), -(-shape[2] // stride)
