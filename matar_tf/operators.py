"""Operators of the integer graph, one row each, named as TFLite's schema does.

Modules that act on operators read these rows, and register their functions by the
names here: what one computes (`matar_tf.tflite.simulator`), when one is sound
(`matar_tf.tflite._operator_rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeVar

from matar_tf.workload import OpKind

__all__ = ["OPERATORS", "CostShape", "Grid", "Operator", "registrar"]

_Function = TypeVar("_Function")


class Grid(str, Enum):
    """On which grid an output lies; two of the values are saved in configs."""

    OWN = "own_grid"  # of a step of its own
    KEPT = "kept_grid"  # the input's values as they are, or a choice of them
    INPUT = "input_grid"  # new values on the grid of the input
    SHARED = "shared_grid"  # that of a tensor which it is joined with
    FIXED = "fixed_grid"  # one that TFLite fixes: 8 bits, 1/256 or 1/128


class CostShape(Enum):
    """What the cost of an operator depends on beside its tensors."""

    TENSORS = "tensors"  # nothing
    WINDOW = "window"  # the window and strides of its options
    NEIGHBOURS = "neighbours"  # four, which it blends
    REDUCED = "reduced"  # how many elements it makes one of
    KERNEL = "kernel"  # its kernel: it multiplies


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator of TFLite.

    Attributes:
      cost: As what it is priced; None for one that costs nothing.
      grid: On which grid it writes; ``OWN`` for any.
      shape: What its cost depends on.
      is_product: Whether it multiplies its inputs with each other.
      num_inputs: How many inputs it has at least and at most.
      may_lack: Positions of inputs that may be left out (-1).
      settings: Positions of inputs that are int32 constants, such as axes.
      source: Position of what it reads; one that multiplies has its kernel at 1.
      options: Names of the options that it may have in TFLite's schema.
    """

    cost: OpKind | None
    grid: Grid = Grid.OWN
    shape: CostShape = CostShape.TENSORS
    is_product: bool = False
    num_inputs: tuple[int, int] = (1, 1)
    may_lack: tuple[int, ...] = ()
    settings: tuple[int, ...] = ()
    source: int = 0
    options: tuple[str, ...] = ("NONE",)

    @property
    def bias(self) -> int:
        """Position of the bias of an operator that multiplies."""
        return max(self.source, 1) + 1


def _moves(
    option: str,
    num_inputs: tuple[int, int] = (1, 1),
    settings: tuple[int, ...] = (),
    *,
    may_lack_options: bool = False,
) -> Operator:
    return Operator(
        cost=OpKind.RESHAPE,
        grid=Grid.KEPT,
        num_inputs=num_inputs,
        settings=settings,
        options=("NONE", option) if may_lack_options else (option,),
    )


def _reshapes(
    option: str, num_inputs: tuple[int, int] = (1, 1), settings: tuple[int, ...] = ()
) -> Operator:
    return _moves(option, num_inputs, settings, may_lack_options=True)


def _multiplication(
    cost: OpKind, option: str, may_lack: tuple[int, ...] = ()
) -> Operator:
    return Operator(
        cost=cost,
        shape=CostShape.KERNEL,
        num_inputs=(2 if may_lack else 3, 3),
        may_lack=may_lack,
        options=(option,),
    )


def _window(cost: OpKind, grid: Grid) -> Operator:
    return Operator(
        cost=cost, grid=grid, shape=CostShape.WINDOW, options=("Pool2DOptions",)
    )


def _reduction(cost: OpKind, grid: Grid, shape: CostShape) -> Operator:
    return Operator(
        cost=cost,
        grid=grid,
        shape=shape,
        num_inputs=(2, 2),
        settings=(1,),
        options=("ReducerOptions",),
    )


def _pair(
    cost: OpKind, option: str, grid: Grid = Grid.OWN, *, is_product: bool = False
) -> Operator:
    return Operator(
        cost=cost,
        grid=grid,
        is_product=is_product,
        num_inputs=(2, 2),
        options=(option,) if grid is Grid.OWN else ("NONE", option),
    )


OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "ADD": _pair(OpKind.ADD, "AddOptions"),
        "AVERAGE_POOL_2D": _window(OpKind.AVERAGE_POOL, Grid.INPUT),
        "CONCATENATION": Operator(
            cost=OpKind.CONCAT,
            grid=Grid.KEPT,
            num_inputs=(1, 1024),
            options=("ConcatenationOptions",),
        ),
        "CONV_2D": _multiplication(OpKind.CONV, "Conv2DOptions"),
        "DEPTHWISE_CONV_2D": _multiplication(
            OpKind.DEPTHWISE_CONV, "DepthwiseConv2DOptions"
        ),
        "DEPTH_TO_SPACE": _moves("DepthToSpaceOptions"),
        "DEQUANTIZE": Operator(cost=None, options=("NONE", "DequantizeOptions")),
        "ELU": Operator(cost=OpKind.TABLE),
        "EXP": Operator(cost=OpKind.TABLE, options=("NONE", "ExpOptions")),
        "EXPAND_DIMS": _reshapes("ExpandDimsOptions", (2, 2), (1,)),
        "FULLY_CONNECTED": _multiplication(
            OpKind.DENSE, "FullyConnectedOptions", may_lack=(2,)
        ),
        "GELU": Operator(cost=OpKind.TABLE, options=("GeluOptions",)),
        "LEAKY_RELU": Operator(cost=OpKind.ACTIVATION, options=("LeakyReluOptions",)),
        "LOGISTIC": Operator(cost=OpKind.ACTIVATION, grid=Grid.FIXED),
        # One with a constant is a clamp, which becomes a QUANTIZE.
        "MAXIMUM": _pair(OpKind.MAXIMUM, "MaximumMinimumOptions", Grid.KEPT),
        "MAX_POOL_2D": _window(OpKind.MAX_POOL, Grid.KEPT),
        "MEAN": _reduction(OpKind.MEAN, Grid.OWN, CostShape.TENSORS),
        "MINIMUM": _pair(OpKind.MAXIMUM, "MaximumMinimumOptions", Grid.KEPT),
        "MUL": _pair(OpKind.MUL, "MulOptions", is_product=True),
        "PAD": Operator(
            cost=OpKind.PAD,
            grid=Grid.KEPT,
            num_inputs=(2, 2),
            settings=(1,),
            options=("NONE", "PadOptions"),
        ),
        "QUANTIZE": Operator(
            cost=OpKind.ACTIVATION, options=("NONE", "QuantizeOptions")
        ),
        "REDUCE_MAX": _reduction(OpKind.MAX_POOL, Grid.KEPT, CostShape.REDUCED),
        "RELU": Operator(cost=OpKind.ACTIVATION, grid=Grid.INPUT),
        "RELU6": Operator(cost=OpKind.ACTIVATION, grid=Grid.INPUT),
        "RESHAPE": _reshapes("ReshapeOptions", (1, 2), (1,)),
        "RESIZE_BILINEAR": Operator(
            cost=OpKind.RESIZE,
            grid=Grid.INPUT,
            shape=CostShape.NEIGHBOURS,
            num_inputs=(2, 2),
            settings=(1,),
            options=("ResizeBilinearOptions",),
        ),
        "RESIZE_NEAREST_NEIGHBOR": _moves("ResizeNearestNeighborOptions", (2, 2), (1,)),
        "SOFTMAX": Operator(
            cost=OpKind.SOFTMAX, grid=Grid.FIXED, options=("SoftmaxOptions",)
        ),
        "SPACE_TO_DEPTH": _moves("SpaceToDepthOptions"),
        "SQUEEZE": _reshapes("SqueezeOptions"),
        "STRIDED_SLICE": _moves("StridedSliceOptions", (4, 4), (1, 2, 3)),
        "SUB": _pair(OpKind.ADD, "SubOptions"),
        "TANH": Operator(cost=OpKind.ACTIVATION, grid=Grid.FIXED),
        "TILE": _reshapes("TileOptions", (2, 2), (1,)),
        "TRANSPOSE": _reshapes("TransposeOptions", (2, 2), (1,)),
        "TRANSPOSE_CONV": Operator(
            cost=OpKind.TRANSPOSED_CONV,
            shape=CostShape.KERNEL,
            num_inputs=(3, 4),
            may_lack=(3,),
            settings=(0,),
            source=2,
            options=("TransposeConvOptions",),
        ),
    }
)


def registrar(
    functions: dict[str, _Function],
) -> Callable[..., Callable[[_Function], _Function]]:
    """Returns a decorator, called with operators' names, that fills a table.

    Args:
      functions: The table, by the operator's name.
    """

    def names(*operators: str) -> Callable[[_Function], _Function]:
        def register(function: _Function) -> _Function:
            functions.update(dict.fromkeys(operators, function))
            return function

        return register

    return names
