"""What a row of `matar_tf.layer_kinds` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from matar_tf.operators import Grid

__all__ = [
    "Activation",
    "KernelLayout",
    "KernelStorage",
    "LayerKind",
    "Rounding",
]


class Rounding(Enum):
    """By which rule a kernel brings new values onto a grid, if not to the nearest."""

    BLEND = "blend"
    CONVERT = "convert"
    POOL = "pool"
    MEAN = "mean"
    PRODUCT = "product"
    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    TABLE = "table"


class KernelLayout(Enum):
    """How Keras stores a kernel, channels last."""

    DENSE = "dense"  # [in, out]
    CONV = "conv"  # [h, w, in, out]
    TRANSPOSED = "transposed"  # [h, w, out, in]
    DEPTHWISE = "depthwise"  # [h, w, in, multiplier]
    TABLE = "table"  # [rows, out], of which rows are looked up


@dataclass(frozen=True, kw_only=True)
class KernelStorage:
    """The weights of a layer that multiplies.

    Attributes:
      attribute: Under which name the Keras layer has them; a path, with dots, to those
        of a layer inside it.
      layout: How they are stored there.
    """

    attribute: str
    layout: KernelLayout

    @property
    def num_channel_axes(self) -> int:
        """Number of last axes that make up the output channels.

        After the last two are swapped, of a transposed kernel.
        """
        return 2 if self.layout is KernelLayout.DEPTHWISE else 1

    @property
    def is_transposed(self) -> bool:
        """Whether the output channels are on the last axis but one."""
        return self.layout is KernelLayout.TRANSPOSED


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation function.

    Attributes:
      operator: What computes it alone; None for one that changes nothing.
      grid: On which grid its values lie when it is computed alone; None for a function
        that no integer kernel computes.
      is_fused: Whether the operator before it can compute it.
      is_nonnegative: Whether it leaves no values below 0.
      is_function: Whether layers take it by this name.
      is_composite: Whether other layers compute it together.
      rounding: How its kernel rounds.
    """

    operator: str | None = None
    grid: Grid | None = None
    is_fused: bool = False
    is_nonnegative: bool = False
    is_function: bool = True
    is_composite: bool = False
    rounding: Rounding | None = None


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """A kind of layer.

    Attributes:
      operators: What the converter makes of it; none for a layer of training, for one
        that is laid out as others, and for one that is its activation function.
      grid: On which grid its values lie, before an activation function.
      kernel: Its weights, if it multiplies.
      rounding: How its kernel rounds where it writes onto the grid of its input.
      activation: The activation function that it is, by name; ``""`` for the one that
        its arguments name.
      lifted: The two-dimensional kind that does the same on a height of 1.
      keeps_lifted: Whether it does the same to a tensor with an axis of height 1.
      can_fuse: Whether its operator can compute an activation function as well.
      folds_norm: Whether a batch norm after it can be folded into it.
      can_go_negative: Whether it makes values below 0 of values that are not.
      is_constant: Whether its weights are constants, one a channel.
      is_identity: Whether it changes nothing once the network is trained.
      joins: Whether its kernel wants all its inputs on the grid of its output.
      may_be_frozen: Whether its float layer may be frozen; then the quantized one is.
      min_inputs: Number of tensors that it reads at least.
      ranges: Least and largest value of an argument that its kernel takes, by name.
      counted_by: The kind of this package that is laid out in its place, which
        evaluates as its kernel counts.
      reads_masks: Whether it may read a mask of true and false beside its tensors.
      is_ours: Whether the class is of this package, not of Keras.
      is_float: Whether no integer kernel computes it: it stays as it is.
      float_kernels: Weights that are quantized where it stays in float, if not `kernel`
        alone.
      inner: Attributes that hold layers inside it, whose kernels count as its own.
    """

    operators: tuple[str, ...] = ()
    grid: Grid = Grid.OWN
    kernel: KernelStorage | None = None
    rounding: Rounding | None = None
    activation: str | None = None
    lifted: str | None = None
    keeps_lifted: bool = False
    can_fuse: bool = False
    folds_norm: bool = False
    can_go_negative: bool = False
    is_constant: bool = False
    is_identity: bool = False
    joins: bool = False
    may_be_frozen: bool = False
    min_inputs: int = 1
    ranges: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )
    counted_by: str | None = None
    reads_masks: bool = False
    is_ours: bool = False
    is_float: bool = False
    float_kernels: tuple[KernelStorage, ...] = ()
    inner: tuple[str, ...] = ()
