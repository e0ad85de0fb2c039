"""How whole numbers are written in ONNX: two forms of a network.

QONNX carries levels: an ``IntQuant`` node of scale 1 makes them, and a product with
the ratio of two steps stands before it, so that sums are whole numbers as in the file
for LiteRT, and compilers of hardware find integers where the hardware has some. In the
form of onnxruntime a ``QuantizeLinear`` and a ``DequantizeLinear`` stand behind each
operator, which computes with real numbers between them, or is fused with both.

Sources: QONNX, ``docs/qonnx-custom-ops/intquant_op.md``; ONNX operators
``QuantizeLinear`` and ``DequantizeLinear``, version 21.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from onnx import TensorProto

from matar_tf.onnx._graph import Graph, Value
from matar_tf.onnx._grids import Grid, bits_for
from matar_tf.parameters import activation_range, weight_range

__all__ = ["FORMS", "Form", "Kernel"]

QUANT_DOMAIN: Final = "qonnx.custom_op.general"
_INT4_BITS: Final = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """A kernel of a filled template.

    Attributes:
      name: That of its layer.
      bits: Its width.
      levels: Whole numbers of that width, as ONNX has the axes.
      axis: That of the output channels.
      factor: What levels are multiplied by in the file for LiteRT.
      scale: Step of these products, float32, one or one for each channel.
      counts: The bias in steps of the sum of ``factor * level``, or None.
    """

    name: str
    bits: int
    levels: np.ndarray
    axis: int
    factor: int
    scale: np.ndarray
    counts: np.ndarray | None


class Form(Protocol):
    """A way of writing a network.

    Attributes:
      name: Its name.
      opsets: Versions of operators, by domain.
      ir_version: Version of the format.
      carries_levels: Whether tensors hold levels; else they hold real numbers.
    """

    name: str
    ir_version: int
    carries_levels: bool

    @property
    def opsets(self) -> Mapping[str, int]: ...

    def ends(self, grid: Grid) -> tuple[int, int]:
        """Returns the levels at which rounding onto a grid cuts off."""
        ...

    def levels(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        """Returns a value that lies on a grid as levels, exact ones."""
        ...

    def scaled(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        """Returns a value in the unit in which it is rounded onto a grid."""
        ...

    def rounded(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        """Returns what `scaled` made, rounded onto the grid.

        Args:
          graph: Where to.
          value: What is rounded.
          grid: The grid.
          name: That of whole numbers, which `Graph.unique` returned.
        """
        ...

    def kernel(self, graph: Graph, kernel: Kernel) -> str:
        """Adds a kernel; returns the name of what is multiplied with."""
        ...

    def bias(self, graph: Graph, kernel: Kernel, scale: np.float32) -> str:
        """Adds a bias in the unit of the sum; returns its name.

        Args:
          graph: Where to.
          kernel: The kernel beside it.
          scale: Step of what the kernel is multiplied with.
        """
        ...

    def product_unit(self, kernel: Kernel, value: Value) -> Any:
        """Returns the unit of a value's product with a kernel."""
        ...


class _Qonnx:
    """Levels between ``IntQuant`` nodes."""

    name = "qonnx"
    opsets: Mapping[str, int] = MappingProxyType({"": 13, QUANT_DOMAIN: 1})
    ir_version = 8
    carries_levels = True

    def ends(self, grid: Grid) -> tuple[int, int]:
        return activation_range(grid.bits, signed=grid.signed)

    def levels(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        del graph, grid, name
        return value

    def scaled(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        return _in_steps(graph, value, grid, name)

    def rounded(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        made = graph.add(
            "IntQuant",
            [value.name, *_quant_inputs(graph, name, grid.bits)],
            replace(value, name=f"{name}/IntQuant"),
            domain=QUANT_DOMAIN,
            **_quant_options(signed=grid.signed, narrow=False),
        )
        return graph.named(made, name)

    def kernel(self, graph: Graph, kernel: Kernel) -> str:
        narrow = weight_range(kernel.bits)[0] != -(2 ** (kernel.bits - 1))
        name = f"{kernel.name}/kernel"
        values = graph.number(f"{name}/levels", kernel.levels)
        return graph.constant_node(
            "IntQuant",
            [values, *_quant_inputs(graph, name, kernel.bits)],
            name,
            kernel.levels.shape,
            domain=QUANT_DOMAIN,
            **_quant_options(signed=True, narrow=narrow),
        )

    def bias(self, graph: Graph, kernel: Kernel, scale: np.float32) -> str:
        del scale  # the sum's unit is that of its counts
        counts = _counts(kernel)
        name = f"{kernel.name}/bias"
        values = graph.number(f"{name}/levels", counts)
        bits = bits_for(min(int(counts.min()), -1), max(int(counts.max()), 0))
        return graph.constant_node(
            "IntQuant",
            [values, *_quant_inputs(graph, name, max(bits, 2))],
            name,
            counts.shape,
            domain=QUANT_DOMAIN,
            **_quant_options(signed=True, narrow=False),
        )

    def product_unit(self, kernel: Kernel, value: Value) -> Any:
        # Rounded as XNNPACK rounds it, which has the factor in its levels.
        product = np.float32(value.unit) * kernel.scale
        return product.astype(np.float64) * kernel.factor


def _in_steps(graph: Graph, value: Value, grid: Grid, name: str) -> Value:
    """Returns levels of another grid as levels of this one, not rounded."""
    ratio = (value.unit / np.float64(grid.scale)).astype(np.float32)
    unit = np.float64(grid.scale)
    if not (ratio != 1).any():
        return replace(value, unit=unit)
    result = replace(value, name=f"{name}/scaled", unit=unit)
    at = graph.number(f"{name}/ratio", ratio)
    if not (ratio.ndim and value.first):
        return graph.add("Mul", [value.name, at], result)
    # hls4ml 1.3 takes a factor for each channel of an image in this form alone.
    ends = [np.zeros(len(ratio)), np.zeros(len(ratio)), np.ones(len(ratio))]
    named = zip(("offset", "mean", "variance"), ends, strict=True)
    others = [graph.number(f"{name}/{what}", values) for what, values in named]
    inputs = [value.name, at, *others]
    return graph.add("BatchNormalization", inputs, result, epsilon=0.0)


def _quant_inputs(graph: Graph, name: str, bits: int) -> list[str]:
    values = ("scale", 1.0), ("zero_point", 0.0), ("bits", bits)
    return [graph.number(f"{name}/{what}", value) for what, value in values]


def _quant_options(*, signed: bool, narrow: bool) -> dict[str, Any]:
    return {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}


def _counts(kernel: Kernel) -> np.ndarray:
    """Returns a bias in steps of a sum of levels, which the file's is a multiple of."""
    return np.asarray(kernel.counts, np.int64) // kernel.factor


class _Qdq:
    """Real numbers between pairs of nodes that quantize and dequantize."""

    name = "onnx"
    opsets: Mapping[str, int] = MappingProxyType({"": 21})
    ir_version = 10
    carries_levels = False

    def ends(self, grid: Grid) -> tuple[int, int]:
        return grid.stored

    def scaled(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        # Real numbers are rounded as they are.
        return value if value.unit == 1 else _in_steps(graph, value, grid, name)

    def rounded(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        step = graph.number(f"{name}/scale", grid.scale)
        zero = self._zero_point(graph, grid, name)
        unit = step if value.unit == 1 else graph.number(f"{name}/one", 1.0)
        stored = self._stored(graph, value, grid, (unit, zero), name)
        stored = graph.named(stored, name)
        real = replace(stored, name=f"{name}/real", unit=np.float64(1.0))
        return graph.add("DequantizeLinear", [stored.name, step, zero], real)

    def levels(self, graph: Graph, value: Value, grid: Grid, name: str) -> Value:
        step = graph.number(f"{name}/scale", grid.scale)
        zero = self._zero_point(graph, grid, name)
        stored = self._stored(graph, value, grid, (step, zero), name)
        one = graph.number(f"{name}/one", 1.0)
        levels = replace(value, name=f"{name}/levels", unit=np.float64(grid.scale))
        return graph.add("DequantizeLinear", [stored.name, one, zero], levels)

    @staticmethod
    def _zero_point(graph: Graph, grid: Grid, name: str) -> str:
        # onnxruntime rewrites int8 as uint8 on x86, and fails to in some graphs.
        kind, shift = (np.int16, 0) if grid.is_wide else (np.uint8, 128)
        value = np.array(grid.zero_point + shift, kind)
        return graph.constant(f"{name}/zero_point", value)

    @staticmethod
    def _stored(
        graph: Graph, value: Value, grid: Grid, to: tuple[str, str], name: str
    ) -> Value:
        """Adds a ``QuantizeLinear`` by a step and a zero point."""
        return graph.add(
            "QuantizeLinear",
            [value.name, *to],
            replace(value, name=f"{name}/stored"),
            kind=TensorProto.INT16 if grid.is_wide else TensorProto.UINT8,
        )

    def kernel(self, graph: Graph, kernel: Kernel) -> str:
        name = f"{kernel.name}/kernel"
        if kernel.bits <= _INT4_BITS:
            kind, levels = TensorProto.INT4, kernel.levels
            scale = kernel.scale.astype(np.float64) * kernel.factor
        else:
            kind, levels = None, kernel.levels * np.int8(kernel.factor)
            scale = kernel.scale
        values = graph.constant(f"{name}/levels", levels, kind)
        return self._dequantized(graph, values, scale, name, levels.shape, kernel.axis)

    def bias(self, graph: Graph, kernel: Kernel, scale: np.float32) -> str:
        name = f"{kernel.name}/bias"
        counts = np.asarray(kernel.counts)
        kind = np.int32 if np.abs(counts).max() < 2**31 else None
        if kind is None:  # of 16-bit activations, which onnxruntime has no integers for
            return graph.number(name, counts * (scale * kernel.scale))
        values = graph.constant(f"{name}/levels", counts.astype(kind))
        step = scale * kernel.scale
        return self._dequantized(graph, values, step, name, counts.shape, 0)

    def product_unit(self, kernel: Kernel, value: Value) -> Any:
        del kernel
        return value.unit

    @staticmethod
    def _dequantized(
        graph: Graph,
        values: str,
        scale: np.ndarray,
        name: str,
        shape: tuple[int, ...],
        axis: int,
    ) -> str:
        one = scale[0] if len(scale) == 1 else scale
        step = graph.number(f"{name}/scale", one)
        return graph.constant_node(
            "DequantizeLinear", [values, step], name, shape, axis=axis
        )


FORMS: Final[dict[str, Form]] = {one.name: one for one in (_Qonnx(), _Qdq())}
