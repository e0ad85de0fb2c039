"""The rules by which an array computes: the table ``[compute]`` of a target file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from matar_tf.targets.fields import (
    ActivationWidth,
    ActivationWidths,
    Count,
    Kinds,
    NotNegative,
    Positive,
    Section,
    Text,
    Width,
    Widths,
)
from matar_tf.workload import OpKind

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "BitParallelCompute",
    "BitSerialCompute",
    "BlockCompute",
    "Compute",
    "FoldedCompute",
    "FusedCompute",
    "NEurekaCompute",
    "Ne16Compute",
    "Rate",
    "TableCompute",
    "TableEntry",
]


class Rate(Section):
    """How fast the multiplier runs for some widths; exactly one of the first figures.

    What is measured rather than specified may say what a layer takes besides, see
    `matar_tf.pricing.rates`.

    Attributes:
      kinds: Layer kinds the rate holds for; None for all that run on the array.
      weight_bits: Weight widths the rate holds for.
      activation_bits: Input widths the rate holds for; each pair is meant.
      macs_per_cycle: Throughput.
      cycles_per_mac: Its inverse, for cores that need several cycles.
      cycles_per_input: Added for each element of the input.
      cycles_per_output: Added for each element of the output.
      cycles_per_weight: Added for each element of the kernel.
      input_step: Input channels that are multiplied together; the last are filled up.
      output_step: The same of output channels.
    """

    source: Text = "see [compute]"
    kinds: Kinds | None = None
    weight_bits: Widths
    activation_bits: ActivationWidths
    macs_per_cycle: Positive | None = None
    cycles_per_mac: Positive | None = None
    cycles_per_input: NotNegative = 0.0
    cycles_per_output: NotNegative = 0.0
    cycles_per_weight: NotNegative = 0.0
    input_step: Count = 1
    output_step: Count = 1

    @model_validator(mode="after")
    def _check_one_figure(self) -> Self:
        if (self.macs_per_cycle is None) == (self.cycles_per_mac is None):
            raise ValueError("expected either macs_per_cycle or cycles_per_mac")
        return self

    @property
    def cycles(self) -> float:
        """Cycles of one multiply-accumulate."""
        if self.cycles_per_mac is not None:
            return self.cycles_per_mac
        return 1.0 / (self.macs_per_cycle or 0.0)

    def covers(self, kind: OpKind, weight_bits: int, activation_bits: int) -> bool:
        """Returns whether the rate holds for this kind and this pair of widths."""
        return (
            (self.kinds is None or kind in self.kinds)
            and weight_bits in self.weight_bits
            and activation_bits in self.activation_bits
        )


class Compute(Section):
    """What all rules of an array share.

    Attributes:
      scale: Factor on the cycles of the rule, if measurements asked for one.
    """

    scale: Positive = 1.0


class BitParallelCompute(Compute):
    """A multiplier with a measured or specified rate for each pair of widths.

    Attributes:
      kind: Names this rule.
      rates: One rate for each kind and pair that the array takes, no more, no less.
    """

    kind: Literal["bit_parallel"]
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)]

    def rate(self, kind: OpKind, weight_bits: int, activation_bits: int) -> Rate:
        """Returns the rate for a pair that the array takes."""
        return next(
            rate
            for rate in self.rates
            if rate.covers(kind, weight_bits, activation_bits)
        )


class BitSerialCompute(Compute):
    """An array of binary dot products: cycles grow with both widths (BISMO).

    Attributes:
      kind: Names this rule.
      dm: Output channels computed in parallel.
      dk: Bits of the dot product consumed per cycle.
      dn: Output pixels computed in parallel.
      depthwise_group: Channels of a depthwise convolution that are packed into one
        dense block; needed if and only if the array runs depthwise layers.
    """

    kind: Literal["bit_serial"]
    dm: Count
    dk: Count
    dn: Count
    depthwise_group: Count | None = None


class FusedCompute(Compute):
    """A systolic array whose multipliers split into narrower ones (Bit Fusion).

    Attributes:
      kind: Names this rule.
      rows: Rows of fusion units; they share the input channels.
      columns: Columns of fusion units; they share the output channels.
      min_bits: Width of the smallest multiplier.
      max_bits: Width of an undivided fusion unit.
      first_layer_im2col: Whether layers that read a network input unroll the
        kernel window into the rows.
    """

    kind: Literal["fused"]
    rows: Count
    columns: Count
    min_bits: Width
    max_bits: Width
    first_layer_im2col: bool

    @property
    def native_bits(self) -> tuple[int, ...]:
        """The widths that a unit splits into: powers of two times ``min_bits``."""
        widths: list[int] = []
        bits = self.min_bits
        while bits <= self.max_bits:
            widths.append(bits)
            bits *= 2
        return tuple(widths)


class BlockCompute(Compute):
    """An array that computes blocks of the output, cycle by cycle (Arm Ethos-U).

    Attributes:
      kind: Names this rule.
      block_height: Rows of a block of the output.
      block_width: Columns of a block of the output.
      block_channels: Output channels of a block.
      input_channels: Input channels consumed per cycle.
      kernel_taps: Taps of a kernel that are handled together.
      depthwise_cycles: Cycles of a depthwise layer for ``depthwise_taps`` taps of the
        kernel and one block; needed if and only if the array runs depthwise layers.
      depthwise_taps: Taps of a depthwise kernel that are handled together; likewise.
      output_cycles_per_elem: Cycles of the output unit, the least that a layer takes.
      wide_scale: Factor on all cycles of layers with 16-bit inputs; needed if and only
        if the array takes them.
    """

    kind: Literal["block"]
    block_height: Count
    block_width: Count
    block_channels: Count
    input_channels: Count
    kernel_taps: Count = 1
    depthwise_cycles: Count | None = None
    depthwise_taps: Count | None = None
    output_cycles_per_elem: Positive
    wide_scale: Positive | None = None


class Ne16Compute(Compute):
    """GreenWaves' NE16: weights bit by bit, inputs of 8 bits; closed form in the code.

    Attributes:
      kind: Names this rule.
    """

    kind: Literal["ne16"]


class NEurekaCompute(Compute):
    """PULP's N-EUREKA: weights bit by bit, inputs of 8 bits.

    Outputs come in tiles of pixels and channels, the inputs in steps of channels; see
    `matar_tf.pricing.arrays.array_cycles`.

    Attributes:
      kind: Names this rule.
      tile_height: Rows of a tile of the output.
      tile_width: Columns of a tile of the output.
      tile_channels: Output channels of a tile; of a depthwise layer `step_channels`.
      step_channels: Input channels that are added up in one step.
      step_cycles: Cycles of a step besides those of its multiplications.
    """

    kind: Literal["n_eureka"]
    tile_height: Count
    tile_width: Count
    tile_channels: Count
    step_channels: Count
    step_cycles: NotNegative


class FoldedCompute(Compute):
    """Logic of its own for each layer, folded: matrix-vector units on an FPGA (FINN).

    Attributes:
      kind: Names this rule.
      max_pe: Most output channels computed in parallel: a layer has the largest divisor
        of its number up to this.
      max_simd: Most inputs multiplied in parallel for each of them; likewise.
      unit_luts: Look-up tables of the control of a unit.
      luts_factor: Factor on those of multipliers, adders and accumulators.
    """

    kind: Literal["folded"]
    max_pe: Count
    max_simd: Count
    unit_luts: NotNegative
    luts_factor: Positive


class TableEntry(BaseModel):
    """One row of a latency table.

    Attributes:
      layer: Name of a layer, or its shape as `layer_shape` writes it.
      weight_bits: Width of the weights; None for a layer without.
      activation_bits: Width of the first input.
      cycles: Value, in cycles of the target's clock.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )

    layer: Text
    weight_bits: Width | None
    activation_bits: ActivationWidth
    cycles: Positive


class TableCompute(Compute):
    """Measured cycles by layer and widths, from a CSV file beside the target.

    Attributes:
      kind: Names this rule.
      file: Path of the CSV, relative to the target file; its columns are layer,
        weight_bits, activation_bits, value and unit.
      entries: Its rows, which the loader fills in.
    """

    kind: Literal["table"]
    file: Text
    entries: Annotated[tuple[TableEntry, ...], Field(min_length=1)]

    def cycles(
        self, names: Sequence[str], weight_bits: int | None, activation_bits: int
    ) -> float | None:
        """Returns the measured cycles of a layer; None without a row.

        Args:
          names: What rows may call the layer; the first that one does counts.
          weight_bits: Width of the weights; None for a layer without.
          activation_bits: Width of the first input.
        """
        for name in names:
            found = self._rows.get((name, weight_bits, activation_bits))
            if found is not None:
                return found
        return None

    @functools.cached_property
    def _rows(self) -> dict[tuple[str, int | None, int], float]:
        return {
            (entry.layer, entry.weight_bits, entry.activation_bits): entry.cycles
            for entry in self.entries
        }
