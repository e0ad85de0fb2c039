"""The tables of a target file, each consistent in itself.

Every table carries a ``source`` (where its figures come from) and may list under
``assumed`` the keys whose figures no source gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from matar_tf.policy import MAX_BITS, MIN_BITS
from matar_tf.workload import OpKind

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "MULTIPLY_KINDS",
    "ActivePowerEnergy",
    "ArrayOps",
    "Bandwidth",
    "BitParallelCompute",
    "BitSerialCompute",
    "Clock",
    "Cpu",
    "CpuOps",
    "EventEnergy",
    "FusedCompute",
    "Memory",
    "Ops",
    "Overhead",
    "Rate",
    "Section",
    "Text",
    "VectorOps",
]

MULTIPLY_KINDS: Final = frozenset({OpKind.CONV, OpKind.DEPTHWISE_CONV, OpKind.DENSE})

Text: TypeAlias = Annotated[str, Field(min_length=1)]


def _check_width(bits: int) -> int:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(
            f"expected a number of bits in {MIN_BITS}..{MAX_BITS}, got {bits}"
        )
    return bits


def _check_distinct(widths: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(widths)) != len(widths):
        raise ValueError(f"expected distinct widths, got {list(widths)}")
    return widths


_Width: TypeAlias = Annotated[int, AfterValidator(_check_width)]
_Widths: TypeAlias = Annotated[
    tuple[_Width, ...], Field(min_length=1), AfterValidator(_check_distinct)
]
_Kinds: TypeAlias = Annotated[tuple[OpKind, ...], Field(min_length=1)]
_Count: TypeAlias = Annotated[int, Field(gt=0)]
_Positive: TypeAlias = Annotated[float, Field(gt=0)]
_NotNegative: TypeAlias = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A table of a target file.

    Attributes:
      source: Where the figures of this table come from.
      assumed: Keys of this table whose figures are assumptions.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )

    source: Text
    assumed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_assumed(self) -> Self:
        for key in self.assumed:
            if key not in self.model_fields_set - {"source", "assumed"}:
                raise ValueError(f"assumed names {key!r}, which is not set here")
        return self


class Clock(Section):
    """The clock that all cycles of the target are counted in.

    Attributes:
      frequency_hz: Cycles per second.
    """

    frequency_hz: _Count


class Rate(Section):
    """How fast the multiplier runs for some widths; exactly one of the two figures.

    Attributes:
      kinds: Layer kinds the rate holds for; None for all that run on the array.
      weight_bits: Weight widths the rate holds for.
      activation_bits: Input widths the rate holds for; each pair is meant.
      macs_per_cycle: Throughput.
      cycles_per_mac: Its inverse, for cores that need several cycles.
    """

    source: Text = "see [compute]"
    kinds: _Kinds | None = None
    weight_bits: _Widths
    activation_bits: _Widths
    macs_per_cycle: _Positive | None = None
    cycles_per_mac: _Positive | None = None

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


class BitParallelCompute(Section):
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


class BitSerialCompute(Section):
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
    dm: _Count
    dk: _Count
    dn: _Count
    depthwise_group: _Count | None = None


class FusedCompute(Section):
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
    rows: _Count
    columns: _Count
    min_bits: _Width
    max_bits: _Width
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


class _KindsSection(Section):
    kinds: _Kinds
    activation_bits: _Widths

    @model_validator(mode="after")
    def _check_kinds(self) -> Self:
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("expected distinct kinds")
        return self


class ArrayOps(_KindsSection):
    """Layers that the multiplier array of ``[compute]`` runs.

    Several such tables may name one kind: its pairs are then their union.

    Attributes:
      unit: Names this way to run layers.
      kinds: Layer kinds, among those with weights.
      weight_bits: Widths of the weights.
      activation_bits: Widths of the input tensor; each pair is meant.
    """

    unit: Literal["array"]
    weight_bits: _Widths

    @model_validator(mode="after")
    def _check_multiply(self) -> Self:
        for kind in self.kinds:
            if kind not in MULTIPLY_KINDS:
                raise ValueError(
                    f"{kind.value!r} has no weights: unit 'array' runs "
                    f"{sorted(known.value for known in MULTIPLY_KINDS)}; use unit "
                    "'vector' or 'cpu'"
                )
        return self


class VectorOps(_KindsSection):
    """Layers without weights that the target itself runs, element by element.

    Attributes:
      unit: Names this way to run layers.
      kinds: Layer kinds, among those without weights.
      activation_bits: Widths of the input tensors.
      elems_per_cycle: Elements handled per cycle.
    """

    unit: Literal["vector"]
    elems_per_cycle: _Positive

    @model_validator(mode="after")
    def _check_elementwise(self) -> Self:
        for kind in self.kinds:
            if kind in MULTIPLY_KINDS:
                raise ValueError(f"{kind.value!r} has weights; use unit 'array'")
        return self


class CpuOps(_KindsSection):
    """Layers that the target hands to the processor of ``[cpu]``.

    Attributes:
      unit: Names this way to run layers.
      kinds: Layer kinds, either with or without weights.
      weight_bits: Widths of the weights; for kinds with weights only.
      activation_bits: Widths of the input tensors.
      cycles_per_mac: Processor cycles; for kinds with weights only.
      cycles_per_elem: Processor cycles; for kinds without weights only.
    """

    unit: Literal["cpu"]
    weight_bits: _Widths | None = None
    cycles_per_mac: _Positive | None = None
    cycles_per_elem: _Positive | None = None

    @model_validator(mode="after")
    def _check_figures(self) -> Self:
        multiply = {kind in MULTIPLY_KINDS for kind in self.kinds}
        if len(multiply) > 1:
            raise ValueError("expected kinds with weights or without, not both")
        given = (self.weight_bits, self.cycles_per_mac, self.cycles_per_elem)
        present = tuple(value is not None for value in given)
        if present != ((True, True, False) if True in multiply else (0, 0, 1)):
            raise ValueError(
                "expected weight_bits and cycles_per_mac for kinds with weights, "
                "cycles_per_elem for kinds without"
            )
        return self


Ops: TypeAlias = ArrayOps | VectorOps | CpuOps


class Cpu(Section):
    """The processor that runs the layers of unit ``cpu``.

    Attributes:
      frequency_hz: Its clock.
      active_power_mw: Its power while it runs them; None if no source gives it.
    """

    frequency_hz: _Count
    active_power_mw: _Positive | None = None


class Memory(Section):
    """Capacities that a policy must not exceed; None where there is no such limit.

    Attributes:
      weight_capacity_bytes: For weights, biases and scales.
      activation_capacity_bytes: For the tensors that are alive at one time.
    """

    weight_capacity_bytes: _Count | None = None
    activation_capacity_bytes: _Count | None = None


class Bandwidth(Section):
    """Bits moved per cycle; None where the target is not bounded or has none.

    Attributes:
      activation_bits_per_cycle: On-chip, from activation memory to the array.
      weight_bits_per_cycle: On-chip, from weight memory to the array.
      dram_bits_per_cycle: Off-chip; each tensor crosses once per layer.
    """

    activation_bits_per_cycle: _Positive | None = None
    weight_bits_per_cycle: _Positive | None = None
    dram_bits_per_cycle: _Positive | None = None


class Overhead(Section):
    """What a layer costs before its first and after its last result.

    Attributes:
      layer_cycles: Cycles added to every layer.
    """

    layer_cycles: _NotNegative


class ActivePowerEnergy(Section):
    """Energy as time times the power of the busy target.

    Attributes:
      kind: Names this rule.
      active_power_mw: Power while a network runs.
    """

    kind: Literal["active_power"]
    active_power_mw: _Positive


class EventEnergy(Section):
    """Energy as a sum over cycles and memory accesses.

    Attributes:
      kind: Names this rule.
      core_pj_per_cycle: For each cycle in which the array or vector unit works.
      dram_pj_per_bit: For each bit over the off-chip port; needed if and only if
        there is one.
      weight_read_pj_per_bit: On-chip weight buffer, towards the array.
      weight_write_pj_per_bit: On-chip weight buffer, filling it.
      input_read_pj_per_bit: On-chip input buffer, towards the array.
      input_write_pj_per_bit: On-chip input buffer, filling it.
      output_read_pj_per_bit: On-chip output buffer.
      output_write_pj_per_bit: On-chip output buffer.
      accumulator_bits: Width of a sum in the output buffer.
    """

    kind: Literal["events"]
    core_pj_per_cycle: _Positive
    dram_pj_per_bit: _NotNegative | None = None
    weight_read_pj_per_bit: _NotNegative
    weight_write_pj_per_bit: _NotNegative
    input_read_pj_per_bit: _NotNegative
    input_write_pj_per_bit: _NotNegative
    output_read_pj_per_bit: _NotNegative
    output_write_pj_per_bit: _NotNegative
    accumulator_bits: _Count
