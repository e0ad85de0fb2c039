"""Operators of a file, one row each, named as TFLite's schema does.

Modules that act on operators read these rows, and register their functions by the
names here: what one computes (`matar_tf.tflite.simulator`), when one is sound
(`matar_tf.tflite._operator_rules`). Some are known in float alone: what a layer is made
of that has no integer kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, TypeVar

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
      num_outputs: How many outputs it has at least and at most.
      settings: Positions of inputs that are int32 constants, such as axes.
      source: Position of what it reads; one that multiplies has its kernel at 1.
      options: Names of the options that it may have in TFLite's schema.
      is_float: Whether it is known in float alone.
      has_16_bits: Whether LiteRT computes it on tensors of 16 bits.
    """

    cost: OpKind | None
    grid: Grid = Grid.OWN
    shape: CostShape = CostShape.TENSORS
    is_product: bool = False
    num_inputs: tuple[int, int] = (1, 1)
    num_outputs: tuple[int, int] = (1, 1)
    may_lack: tuple[int, ...] = ()
    settings: tuple[int, ...] = ()
    source: int = 0
    options: tuple[str, ...] = ("NONE",)
    is_float: bool = False
    has_16_bits: bool = True

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
    has_16_bits: bool = True,
) -> Operator:
    return Operator(
        cost=OpKind.RESHAPE,
        grid=Grid.KEPT,
        num_inputs=num_inputs,
        settings=settings,
        options=("NONE", option) if may_lack_options else (option,),
        has_16_bits=has_16_bits,
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


_MANY: Final = 1024  # tensors of one operator


def _float(
    *options: str, num_inputs: tuple[int, int] = (1, 1), **others: Any
) -> Operator:
    """Returns the row of an operator with options that say nothing, or none."""
    return _float_by(*options, "NONE", num_inputs=num_inputs, **others)


def _float_by(
    *options: str, num_inputs: tuple[int, int] = (1, 1), **others: Any
) -> Operator:
    """Returns the row of an operator whose options matter."""
    return Operator(
        cost=OpKind.FLOAT,
        num_inputs=num_inputs,
        options=options,
        is_float=True,
        **others,
    )


def _float_pair(*options: str) -> Operator:
    return _float(*options, num_inputs=(2, 2))


def _float_set(*options: str) -> Operator:
    """One with a constant of integers, as of axes, after what it reads."""
    return _float(*options, num_inputs=(2, 2), settings=(1,))


def _float_set_by(option: str) -> Operator:
    """The same of one whose options matter."""
    return _float_by(option, num_inputs=(2, 2), settings=(1,))


_FLOAT_OPERATORS: Final = {
    "ABS": _float("AbsOptions"),
    "ARG_MAX": _float_set_by("ArgMaxOptions"),
    "ARG_MIN": _float_set_by("ArgMinOptions"),
    "BATCH_MATMUL": _float_by("BatchMatMulOptions", num_inputs=(2, 2)),
    "BROADCAST_TO": _float_set("BroadcastToOptions"),
    "CAST": _float("CastOptions"),
    "CEIL": _float(),
    "CONV_3D": _float_by(
        "Conv3DOptions", num_inputs=(2, 3), may_lack=(2,), shape=CostShape.KERNEL
    ),
    "CONV_3D_TRANSPOSE": _float_by(
        "Conv3DOptions",
        num_inputs=(3, 4),
        may_lack=(3,),
        settings=(0,),
        source=2,
        shape=CostShape.KERNEL,
    ),
    "COS": _float("CosOptions"),
    "CUMSUM": _float_set("CumsumOptions"),
    "DIV": _float_pair("DivOptions"),
    "EQUAL": _float_pair("EqualOptions"),
    "FLOOR": _float(),
    "FLOOR_DIV": _float_pair("FloorDivOptions"),
    "FLOOR_MOD": _float_pair("FloorModOptions"),
    "GREATER": _float_pair("GreaterOptions"),
    "GREATER_EQUAL": _float_pair("GreaterEqualOptions"),
    "HARD_SWISH": _float("HardSwishOptions"),
    "L2_NORMALIZATION": _float("L2NormOptions"),
    "LESS": _float_pair("LessOptions"),
    "LESS_EQUAL": _float_pair("LessEqualOptions"),
    "LOG": _float(),
    "LOGICAL_AND": _float_pair("LogicalAndOptions"),
    "LOGICAL_NOT": _float("LogicalNotOptions"),
    "LOGICAL_OR": _float_pair("LogicalOrOptions"),
    "LOG_SOFTMAX": _float("LogSoftmaxOptions"),
    "MIRROR_PAD": _float_set_by("MirrorPadOptions"),
    "NEG": _float("NegOptions"),
    "NOT_EQUAL": _float_pair("NotEqualOptions"),
    "ONE_HOT": _float_by("OneHotOptions", num_inputs=(4, 4), settings=(1,)),
    "PACK": _float_by("PackOptions", num_inputs=(1, _MANY)),
    "PADV2": _float("PadV2Options", num_inputs=(3, 3), settings=(1,)),
    "POW": _float_pair("PowOptions"),
    "PRELU": _float_pair(),
    "REDUCE_ALL": _float_set_by("ReducerOptions"),
    "REDUCE_ANY": _float_set_by("ReducerOptions"),
    "REDUCE_MIN": _float_set_by("ReducerOptions"),
    "REDUCE_PROD": _float_set_by("ReducerOptions"),
    "RELU_0_TO_1": _float(),
    "RELU_N1_TO_1": _float(),
    "REVERSE_V2": _float_set("ReverseV2Options"),
    "ROUND": _float(),
    "RSQRT": _float(),
    "SELECT": _float("SelectOptions", num_inputs=(3, 3)),
    "SELECT_V2": _float("SelectV2Options", num_inputs=(3, 3)),
    "SIGN": _float("SignOptions"),
    "SIN": _float(),
    "SLICE": _float("SliceOptions", num_inputs=(3, 3), settings=(1, 2)),
    "SPLIT": _float_by(
        "SplitOptions",
        num_inputs=(2, 2),
        num_outputs=(1, _MANY),
        settings=(0,),
        source=1,
    ),
    "SPLIT_V": _float_by(
        "SplitVOptions", num_inputs=(3, 3), num_outputs=(1, _MANY), settings=(1, 2)
    ),
    "SQRT": _float(),
    "SQUARE": _float("SquareOptions"),
    "SQUARED_DIFFERENCE": _float_pair("SquaredDifferenceOptions"),
    "SUM": _float_set_by("ReducerOptions"),
    "TOPK_V2": _float(
        "TopKV2Options", num_inputs=(2, 2), num_outputs=(2, 2), settings=(1,)
    ),
    "UNPACK": _float_by("UnpackOptions", num_outputs=(1, _MANY)),
}

OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        **_FLOAT_OPERATORS,
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
        "DEPTH_TO_SPACE": _moves("DepthToSpaceOptions", has_16_bits=False),
        "DEQUANTIZE": Operator(cost=None, options=("NONE", "DequantizeOptions")),
        "ELU": Operator(cost=OpKind.TABLE, has_16_bits=False),
        "EXP": Operator(cost=OpKind.TABLE, options=("NONE", "ExpOptions")),
        "EXPAND_DIMS": _reshapes("ExpandDimsOptions", (2, 2), (1,)),
        "FULLY_CONNECTED": _multiplication(
            OpKind.DENSE, "FullyConnectedOptions", may_lack=(2,)
        ),
        # Rows of a table, which is stored, by integers.
        "GATHER": Operator(
            cost=OpKind.RESHAPE,
            grid=Grid.KEPT,
            num_inputs=(2, 2),
            options=("GatherOptions",),
            has_16_bits=False,
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
        "SPACE_TO_DEPTH": _moves("SpaceToDepthOptions", has_16_bits=False),
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
