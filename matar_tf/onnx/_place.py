"""An operator of a filled template, as the functions that write it see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.onnx._forms import Form, Kernel
from matar_tf.onnx._graph import Graph, Value
from matar_tf.onnx._grids import Grid, Widths, grid_of
from matar_tf.operators import OPERATORS, registrar
from matar_tf.tflite._schema import bias_of, op_name, tensor_array, text_of
from matar_tf.tflite.profiles import largest_factor

__all__ = ["WRITERS", "Network", "Place", "Writer", "writes"]

_INT8_MAX: Final = 127


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network that is being written.

    Attributes:
      model: The filled template, in object form.
      widths: What its policy says.
      form: How it is written.
      graph: What has been written.
      values: What tensors of the template have become, by index.
    """

    model: Any
    widths: Widths
    form: Form
    graph: Graph
    values: dict[int, Value]

    def shape_of(self, index: int) -> tuple[int, ...]:
        """Returns the shape of a tensor as TFLite has it."""
        return tuple(int(size) for size in self.model.subgraphs[0].tensors[index].shape)

    def name_of(self, index: int) -> str:
        """Returns the name of a tensor."""
        return text_of(self.model.subgraphs[0].tensors[index].name) or f"t{index}"

    def grid_of(self, index: int) -> Grid:
        """Returns the grid of a quantized tensor."""
        tensor = self.model.subgraphs[0].tensors[index]
        return grid_of(tensor, self.widths.tensors.get(index))


class Place:
    """An operator with its tensors.

    Args:
      network: The network.
      number: The operator's place in it.
    """

    def __init__(self, network: Network, number: int) -> None:
        self.network = network
        self.number = number
        self.graph = network.graph
        self.form = network.form
        self.operator = network.model.subgraphs[0].operators[number]
        self.options = self.operator.builtinOptions
        self.name = op_name(network.model, self.operator)
        self.row = OPERATORS[self.name]
        self.output = int(self.operator.outputs[0])
        self.shape = network.shape_of(self.output)
        self.label = network.name_of(self.output)

    @property
    def grid(self) -> Grid:
        """The grid of the output."""
        return self.network.grid_of(self.output)

    def input_grid(self, position: int | None = None) -> Grid:
        """Returns the grid of an input; of what is read for None."""
        return self.network.grid_of(self._index(position))

    def read(self, position: int | None = None, *, first: bool | None = None) -> Value:
        """Returns an input.

        Args:
          position: Which; what is read for None.
          first: Where the channels of an image are wanted; None for either.
        """
        index = self._index(position)
        value = self.network.values.get(index)
        if value is None:
            value = self.network.values[index] = self._stored(index)
        return value if first is None else self.graph.moved(value, first=first)

    def setting(self, position: int) -> list[int]:
        """Returns the integers of an input that is a setting."""
        return [int(one) for one in np.ravel(self._constant(position))]

    def kernel(self, order: Sequence[int], axis: int) -> Kernel:
        """Returns the kernel of an operator that multiplies.

        Args:
          order: Axes of TFLite's kernel in the order in which ONNX has them.
          axis: That of the output channels then.
        """
        model = self.network.model
        tensor = model.subgraphs[0].tensors[self.operator.inputs[1]]
        fallback = self.label, 8
        name, bits = self.network.widths.kernels.get(self.number, fallback)
        factor = largest_factor(bits, _INT8_MAX, self.network.widths.scale)
        stored = np.asarray(tensor_array(model, tensor))
        at = bias_of(model, self.operator)
        bias = model.subgraphs[0].tensors[at] if at >= 0 else None
        return Kernel(
            name=name,
            bits=bits,
            levels=(stored // factor).astype(np.int8).transpose(order),
            axis=axis,
            factor=factor,
            scale=np.asarray(tensor.quantization.scale, np.float32),
            counts=None if bias is None else tensor_array(model, bias),
        )

    def multiply(
        self,
        operator: str,
        value: Value,
        kernel: Kernel,
        *,
        has_bias_input: bool = True,
        **attributes: Any,
    ) -> Value:
        """Adds a product with a kernel, and its bias; returns the sum.

        Args:
          operator: The operator in ONNX.
          value: What is multiplied.
          kernel: The kernel.
          has_bias_input: Whether the operator adds the bias.
          **attributes: Of the operator.
        """
        unit = self.form.product_unit(kernel, value)
        unit = unit.reshape(()) if np.size(unit) == 1 else unit
        inputs = [value.name, self.form.kernel(self.graph, kernel)]
        bias = None
        if kernel.counts is not None:
            bias = self.form.bias(self.graph, kernel, self.input_grid().scale)
        if bias is not None and has_bias_input:
            inputs.append(bias)
        made = self.add(operator, inputs, value, unit=unit, **attributes)
        if bias is None or has_bias_input:
            return made
        return self.add("Add", [made, bias], made)

    def add(
        self,
        operator: str,
        inputs: Sequence[Value | str],
        like: Value,
        *,
        shape: Sequence[int] | None = None,
        first: bool | None = None,
        unit: Any = None,
        **attributes: Any,
    ) -> Value:
        """Adds a node; returns its output.

        Args:
          operator: The operator in ONNX.
          inputs: Values, or names of constants.
          like: What the output is like, but for what follows.
          shape: As TFLite has it; default: that of the operator's output.
          first: Whether it is an image with its channels first.
          unit: Of the output.
          **attributes: Of the node.
        """
        result = replace(
            like,
            name=f"{self.label}/{operator}",
            shape=self.shape if shape is None else tuple(shape),
            first=like.first if first is None else first,
            unit=like.unit if unit is None else unit,
        )
        names = [one if isinstance(one, str) else one.name for one in inputs]
        return self.graph.add(operator, names, result, **attributes)

    def with_number(self, operator: str, value: Value, number: Any) -> Value:
        """Adds an operation with a number; returns its result."""
        at = self.graph.number(f"{self.label}/number", number)
        return self.add(operator, [value, at], value, shape=value.shape)

    def levels(self, value: Value) -> Value:
        """Returns what is read as levels, which sums and halves are exact of."""
        return self.form.levels(self.graph, value, self.input_grid(), self.label)

    def real(self, value: Value) -> Value:
        """Returns a value as real numbers."""
        return self.in_unit(value, np.float64(1.0))

    def in_unit(self, value: Value, unit: Any) -> Value:
        """Returns a value in another unit, of which there is one for all channels."""
        ratio = np.float32(value.unit / unit)
        if ratio != 1:
            value = self.with_number("Mul", value, ratio)
        return replace(value, unit=unit)

    def scaled(self, value: Value, factor: float) -> Value:
        """Returns a value times a factor, in the unit of the output."""
        unit = np.float64(self.grid.scale) if self.form.carries_levels else value.unit
        return self.in_unit(replace(value, unit=value.unit * factor), unit)

    def raised_by(self, value: Value, levels: float) -> Value:
        """Returns a value with levels of the output added.

        Where it is less than the next fraction, halves go that way then.
        """
        return self.with_number("Add", value, levels * self.grid.scale / value.unit)

    def reshaped(self, value: Value, shape: Sequence[int] | None = None) -> Value:
        """Returns a value in another shape, its channels last."""
        shape = self.shape if shape is None else tuple(shape)
        is_pixel = value.is_image and value.shape[1:3] == (1, 1)
        if not is_pixel:
            value = self.graph.moved(value, first=False)
        sizes = [-1, *shape[1:]]
        at = self.graph.constant(f"{self.label}/shape", np.array(sizes, np.int64))
        return self.add("Reshape", [value, at], value, shape=shape, first=False)

    def _index(self, position: int | None) -> int:
        return int(
            self.operator.inputs[self.row.source if position is None else position]
        )

    def _constant(self, position: int) -> np.ndarray:
        tensor = self.network.model.subgraphs[0].tensors[self._index(position)]
        return np.asarray(tensor_array(self.network.model, tensor))

    def _stored(self, index: int) -> Value:
        """Writes a constant of int8 that an operator reads beside its input."""
        model, grid = self.network.model, self.network.grid_of(index)
        stored = np.asarray(tensor_array(model, model.subgraphs[0].tensors[index]))
        levels = stored.astype(np.float32) - np.float32(grid.zero_point)
        unit = np.float64(grid.scale) if self.form.carries_levels else np.float64(1.0)
        values = levels if self.form.carries_levels else levels * grid.scale
        name = self.graph.number(self.network.name_of(index), values)
        return Value(name=name, shape=tuple(stored.shape), unit=unit)


Writer: TypeAlias = "Callable[[Place], Value]"
WRITERS: Final[dict[str, Writer]] = {}  # by the operator's name
writes = registrar(WRITERS)
