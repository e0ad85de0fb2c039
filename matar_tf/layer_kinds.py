"""Layer kinds: what each becomes in the integer graph, one row a kind.

A layer kind is named as Keras names its class, an operator as TFLite's schema does
(`matar_tf.operators`). Modules that act on kinds read these rows, and register their
functions by the names here: how a kind is laid out
(`matar_tf.keras.rewrite.replacements`), how values round
(`matar_tf.keras.quantizers.rounding`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from matar_tf.float_kinds import FLOAT_KINDS
from matar_tf.layer_rows import (
    Activation,
    KernelLayout,
    KernelStorage,
    LayerKind,
    Rounding,
)
from matar_tf.operators import Grid

__all__ = [
    "ACTIVATIONS",
    "GRID_OF",
    "LAYER_KINDS",
    "Activation",
    "KernelLayout",
    "KernelStorage",
    "LayerKind",
    "Rounding",
    "add_kind",
    "rounding_of",
]


GRID_OF: Final = "grid_of:"  # in configs, before the name of the grid's owner


_RESHAPES = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")
_CONV = KernelStorage(attribute="kernel", layout=KernelLayout.CONV)
# Where it stays in float; the converter folds a factor into the kernel of queries.
_PROJECTIONS = ("_key_dense", "_value_dense", "_output_dense")
_DENSE = KernelStorage(attribute="kernel", layout=KernelLayout.DENSE)
_TRANSPOSED = KernelStorage(attribute="kernel", layout=KernelLayout.TRANSPOSED)
_DEPTHWISE = KernelStorage(attribute="depthwise_kernel", layout=KernelLayout.DEPTHWISE)


def _multiplies(
    operator: str, kernel: KernelStorage, lifted: str | None = None
) -> LayerKind:
    return LayerKind(
        operators=(operator,),
        kernel=kernel,
        lifted=lifted,
        can_fuse=True,
        folds_norm=True,
        can_go_negative=True,
    )


def _keeps(*operators: str, lifted: str | None = None) -> LayerKind:
    return LayerKind(operators=operators, grid=Grid.KEPT, lifted=lifted)


def _average(lifted: str | None = None) -> LayerKind:
    return LayerKind(
        operators=("AVERAGE_POOL_2D",),
        grid=Grid.INPUT,
        rounding=Rounding.POOL,
        lifted=lifted,
    )


def _mean(lifted: str | None = None) -> LayerKind:
    return LayerKind(operators=("MEAN",), rounding=Rounding.MEAN, lifted=lifted)


def _norm(*, is_ours: bool) -> LayerKind:
    return LayerKind(
        keeps_lifted=True,
        can_fuse=True,
        can_go_negative=True,
        may_be_frozen=True,
        is_ours=is_ours,
    )


def _separable(lifted: str | None = None) -> LayerKind:
    pointwise = KernelStorage(attribute="pointwise_kernel", layout=KernelLayout.CONV)
    return LayerKind(
        lifted=lifted,
        folds_norm=True,
        can_go_negative=True,
        float_kernels=(_DEPTHWISE, pointwise),
    )


def _joins(operator: str) -> LayerKind:
    return LayerKind(operators=(operator,), joins=True, keeps_lifted=True, min_inputs=2)


def _merges(
    operator: str,
    rounding: Rounding | None = None,
    *,
    can_go_negative: bool = False,
    counted_by: str | None = None,
    is_ours: bool = False,
) -> LayerKind:
    return LayerKind(
        operators=(operator,),
        rounding=rounding,
        keeps_lifted=True,
        can_fuse=True,
        can_go_negative=can_go_negative,
        min_inputs=2,
        counted_by=counted_by,
        is_ours=is_ours,
    )


def _drops(lifted: str | None = None, *, keeps_lifted: bool = False) -> LayerKind:
    return LayerKind(
        grid=Grid.KEPT, is_identity=True, lifted=lifted, keeps_lifted=keeps_lifted
    )


_ROWS: Final[dict[str, LayerKind]] = {
    **FLOAT_KINDS,
    "Activation": LayerKind(activation="", keeps_lifted=True),
    "Add": _merges("ADD", counted_by="MultiBitAdd"),
    "AlphaDropout": _drops(keeps_lifted=True),
    "AttentionCore": LayerKind(min_inputs=3, can_go_negative=True, is_ours=True),
    "Average": LayerKind(min_inputs=2),
    "AveragePooling1D": _average("AveragePooling2D"),
    "AveragePooling2D": _average(),
    "BatchNormalization": _norm(is_ours=False),
    "ChannelScale": LayerKind(
        operators=("DEPTHWISE_CONV_2D",),
        kernel=_DEPTHWISE,
        lifted="ChannelScale",
        can_fuse=True,
        folds_norm=True,
        can_go_negative=True,
        is_constant=True,
        is_ours=True,
    ),
    "Concatenate": _joins("CONCATENATION"),
    "Conv1D": _multiplies("CONV_2D", _CONV, "Conv2D"),
    "Conv1DTranspose": _multiplies("TRANSPOSE_CONV", _TRANSPOSED, "Conv2DTranspose"),
    "Conv2D": _multiplies("CONV_2D", _CONV),
    "Conv2DTranspose": _multiplies("TRANSPOSE_CONV", _TRANSPOSED),
    "Cropping1D": _keeps("STRIDED_SLICE", lifted="Cropping2D"),
    "Cropping2D": _keeps("STRIDED_SLICE"),
    "CustomScaleLayer": LayerKind(min_inputs=2, can_go_negative=True),
    "Dense": _multiplies("FULLY_CONNECTED", _DENSE),
    "DepthwiseConv1D": _multiplies("DEPTHWISE_CONV_2D", _DEPTHWISE, "DepthwiseConv2D"),
    "DepthwiseConv2D": _multiplies("DEPTHWISE_CONV_2D", _DEPTHWISE),
    "Dequantize": LayerKind(is_ours=True),
    "Dropout": _drops(keeps_lifted=True),
    "ELU": LayerKind(
        activation="elu", keeps_lifted=True, ranges={"alpha": (1e-6, 1e3)}
    ),
    "EinsumDense": LayerKind(can_go_negative=True, float_kernels=(_CONV,)),
    "Flatten": _keeps(*_RESHAPES),
    "GaussianDropout": _drops(keeps_lifted=True),
    "GaussianNoise": _drops(keeps_lifted=True),
    "GlobalAveragePooling1D": _mean("GlobalAveragePooling2D"),
    "GlobalAveragePooling2D": _mean(),
    "GlobalMaxPooling1D": _keeps("REDUCE_MAX", lifted="GlobalMaxPooling2D"),
    "GlobalMaxPooling2D": _keeps("REDUCE_MAX"),
    "Identity": _drops(keeps_lifted=True),
    "InputLayer": LayerKind(min_inputs=0, can_go_negative=True),
    "InputQuantize": LayerKind(
        operators=("QUANTIZE",), rounding=Rounding.CONVERT, is_ours=True
    ),
    "LayerScale": LayerKind(can_go_negative=True),
    "LeakyReLU": LayerKind(
        activation="leaky_relu",
        keeps_lifted=True,
        ranges={"alpha": (1e-6, math.inf)},  # 0 is a ReLU
    ),
    "MaxPooling1D": _keeps("MAX_POOL_2D", lifted="MaxPooling2D"),
    "MaxPooling2D": _keeps("MAX_POOL_2D"),
    "Maximum": _joins("MAXIMUM"),
    "Minimum": _joins("MINIMUM"),
    "MultiBitAdd": _merges("ADD", is_ours=True),
    "MultiBitBatchNormalization": _norm(is_ours=True),
    "MultiBitSubtract": _merges("SUB", can_go_negative=True, is_ours=True),
    "MultiHeadAttention": LayerKind(
        can_go_negative=True, reads_masks=True, inner=_PROJECTIONS
    ),
    "Multiply": _merges("MUL", Rounding.PRODUCT),
    "Normalization": LayerKind(can_go_negative=True),
    "PReLU": LayerKind(can_go_negative=True),
    "Permute": _keeps("TRANSPOSE"),
    "Quantize": LayerKind(
        operators=("QUANTIZE",), rounding=Rounding.CONVERT, is_ours=True
    ),
    "RandomBrightness": _drops(),
    "RandomContrast": _drops(),
    "RandomFlip": _drops(),
    "RandomHeight": _drops(),
    "RandomRotation": _drops(),
    "RandomTranslation": _drops(),
    "RandomWidth": _drops(),
    "RandomZoom": _drops(),
    "ReLU": LayerKind(
        activation="relu", keeps_lifted=True, ranges={"threshold": (0.0, 0.0)}
    ),
    "RepeatVector": LayerKind(),
    "Rescaling": LayerKind(can_go_negative=True),
    "Reshape": _keeps(*_RESHAPES),
    "SeparableConv1D": _separable("SeparableConv2D"),
    "SeparableConv2D": _separable(),
    "Slice": LayerKind(operators=("STRIDED_SLICE",), grid=Grid.KEPT, is_ours=True),
    "SharedLayer": LayerKind(is_ours=True),
    "Softmax": LayerKind(activation="softmax", keeps_lifted=True),
    "SpatialDropout1D": _drops("SpatialDropout2D"),
    "SpatialDropout2D": _drops(),
    "StochasticDepth": _drops(),
    "Subtract": _merges("SUB", can_go_negative=True, counted_by="MultiBitSubtract"),
    "TimeDistributed": LayerKind(can_go_negative=True, inner=("layer",)),
    "UpSampling1D": _keeps("RESIZE_NEAREST_NEIGHBOR", lifted="UpSampling2D"),
    "UpSampling2D": LayerKind(
        operators=("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
        grid=Grid.INPUT,
        rounding=Rounding.BLEND,
    ),
    "ZeroPadding1D": _keeps("PAD", lifted="ZeroPadding2D"),
    "ZeroPadding2D": _keeps("PAD"),
}
LAYER_KINDS: Final[Mapping[str, LayerKind]] = MappingProxyType(_ROWS)

ACTIVATIONS: Final[Mapping[str, Activation]] = MappingProxyType(
    {
        "elu": Activation(operator="ELU", grid=Grid.OWN, rounding=Rounding.TABLE),
        "exponential": Activation(operator="EXP", grid=Grid.OWN, is_nonnegative=True),
        "gelu": Activation(operator="GELU", grid=Grid.OWN),
        "hard_sigmoid": Activation(is_composite=True, is_nonnegative=True),
        "leaky_relu": Activation(
            operator="LEAKY_RELU",
            grid=Grid.OWN,
            is_function=False,
            rounding=Rounding.LEAKY_RELU,
        ),
        "linear": Activation(grid=Grid.KEPT, is_fused=True),
        "relu": Activation(
            operator="RELU",
            grid=Grid.INPUT,
            is_fused=True,
            is_nonnegative=True,
            rounding=Rounding.RELU,
        ),
        "relu6": Activation(
            operator="RELU6",
            grid=Grid.INPUT,
            is_fused=True,
            is_nonnegative=True,
            rounding=Rounding.RELU,
        ),
        "selu": Activation(is_composite=True),
        "sigmoid": Activation(
            operator="LOGISTIC", grid=Grid.FIXED, is_nonnegative=True
        ),
        "silu": Activation(is_composite=True),
        "softmax": Activation(operator="SOFTMAX", grid=Grid.FIXED, is_nonnegative=True),
        "swish": Activation(is_composite=True),
        "tanh": Activation(operator="TANH", grid=Grid.FIXED),
    }
)


def add_kind(name: str, row: LayerKind) -> None:
    """Adds the row of a kind of a user's own, which stays in float."""
    _ROWS[name] = row


def rounding_of(kind: str, activation: str) -> Rounding | None:
    """Returns how a layer's kernel rounds.

    Args:
      kind: Its kind, maybe an unknown one.
      activation: Its activation function, maybe an unknown one.
    """
    for rows, name in ((LAYER_KINDS, kind), (ACTIVATIONS, activation)):
        row = rows.get(name)
        if row is not None and row.rounding is not None:
            return row.rounding
    return None
