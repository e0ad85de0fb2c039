"""The tables of a target file, each consistent in itself.

Every table carries a ``source`` (where its figures come from) and may list under
``assumed`` the keys whose figures no source gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from matar_tf.targets.fields import (
    MAX_THREADS,
    MULTIPLY_KINDS,
    ActivationWidths,
    Count,
    Kinds,
    NotNegative,
    Positive,
    Section,
    Text,
    Widths,
)
from matar_tf.workload import OpKind

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ActivePowerEnergy",
    "ArrayOps",
    "Bandwidth",
    "Buffers",
    "Clock",
    "Cpu",
    "CpuOps",
    "EventEnergy",
    "LitertBackend",
    "Memory",
    "Ops",
    "Overhead",
    "Validation",
    "VectorOps",
    "VelaBackend",
]


class Validation(BaseModel):
    """What the cost of a target was compared with.

    Attributes:
      kind: ``validation`` against figures that fixed no parameter, ``calibration``
        against figures that did, ``unchecked`` for none at all.
      against: Network and figures, or why there are none.
      max_error_percent: Largest error of a network's latency; None if unchecked.
      source: Where the figures were published.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )

    kind: Literal["validation", "calibration", "unchecked"]
    against: Text
    max_error_percent: NotNegative | None = None
    source: Text | None = None

    @model_validator(mode="after")
    def _check_error(self) -> Self:
        given = (self.max_error_percent is not None, self.source is not None)
        if given != ((False, False) if self.kind == "unchecked" else (True, True)):
            raise ValueError(
                "expected max_error_percent and source, unless kind is 'unchecked'"
            )
        return self


class Clock(Section):
    """The clock that all cycles of the target are counted in.

    Attributes:
      frequency_hz: Cycles per second.
    """

    frequency_hz: Count


class _KindsSection(Section):
    kinds: Kinds
    activation_bits: ActivationWidths

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
    weight_bits: Widths

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
    elems_per_cycle: Positive

    @model_validator(mode="after")
    def _check_elementwise(self) -> Self:
        for kind in self.kinds:
            if kind in MULTIPLY_KINDS:
                raise ValueError(f"{kind.value!r} has weights; use unit 'array'")
            if kind is OpKind.FLOAT:
                raise ValueError("layers in float need a processor; use unit 'cpu'")
        return self


class CpuOps(_KindsSection):
    """Layers that the target hands to the processor of ``[cpu]``.

    Attributes:
      unit: Names this way to run layers.
      kinds: Layer kinds: with weights, or without, or ``float`` alone, which stands for
        all layers that have no integer kernel.
      weight_bits: Widths of the weights; not for kinds without.
      activation_bits: Widths of the input tensors, where these are of integers.
      cycles_per_mac: Processor cycles; for kinds with weights, and `float`.
      cycles_per_elem: Processor cycles; for kinds without weights, and `float`.
    """

    unit: Literal["cpu"]
    weight_bits: Widths | None = None
    cycles_per_mac: Positive | None = None
    cycles_per_elem: Positive | None = None

    @model_validator(mode="after")
    def _check_figures(self) -> Self:
        multiply = {kind in MULTIPLY_KINDS for kind in self.kinds}
        if len(multiply) > 1:
            raise ValueError("expected kinds with weights or without, not both")
        given = (self.weight_bits, self.cycles_per_mac, self.cycles_per_elem)
        present = tuple(value is not None for value in given)
        if OpKind.FLOAT in self.kinds:
            if len(self.kinds) > 1 or not all(present):
                raise ValueError(
                    "expected weight_bits, cycles_per_mac and cycles_per_elem for the "
                    "kind 'float', in an entry of its own"
                )
            return self
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

    frequency_hz: Count
    active_power_mw: Positive | None = None


class Memory(Section):
    """Capacities that a policy must not exceed; None where there is no such limit.

    Attributes:
      weight_capacity_bytes: For weights, biases and scales.
      kernel_capacity_bytes: For weights alone.
      activation_capacity_bytes: For the tensors that are alive at one time.
      weight_cache_bytes: Weights beyond this are loaded anew for every inference.
      reload_bytes_per_cycle: Rate of that; needed if and only if there is a cache.
    """

    weight_capacity_bytes: Count | None = None
    kernel_capacity_bytes: Count | None = None
    activation_capacity_bytes: Count | None = None
    weight_cache_bytes: Count | None = None
    reload_bytes_per_cycle: Positive | None = None

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        if (self.weight_cache_bytes is None) != (self.reload_bytes_per_cycle is None):
            raise ValueError(
                "expected weight_cache_bytes and reload_bytes_per_cycle, or neither"
            )
        return self


class Buffers(Section):
    """On-chip buffers of a fused array; what does not fit is loaded again.

    Widths at which not even the smallest tiles of a layer fit are not taken.

    Attributes:
      weight_bytes: Buffer of weights.
      input_bytes: Buffer of inputs.
      output_bytes: Buffer of sums.
      double_buffered: Whether half of each is filled while the other is used.
      accumulator_bits: Width of a sum in the buffer.
      stores_accumulators: Whether outputs cross the off-chip port as sums, read and
        written, instead of once at their own width.
      pads_weights: Whether kernels are padded to the rows of the array off chip too.
    """

    weight_bytes: Count
    input_bytes: Count
    output_bytes: Count
    double_buffered: bool
    accumulator_bits: Count
    stores_accumulators: bool
    pads_weights: bool


class Bandwidth(Section):
    """Bits moved per cycle; None where the target is not bounded or has none.

    Attributes:
      activation_bits_per_cycle: On-chip, from activation memory to the array.
      weight_bits_per_cycle: On-chip, from weight memory to the array.
      dram_bits_per_cycle: Off-chip; each tensor crosses once per layer.
    """

    activation_bits_per_cycle: Positive | None = None
    weight_bits_per_cycle: Positive | None = None
    dram_bits_per_cycle: Positive | None = None


class VelaBackend(Section):
    """Arm's compiler Vela, whose estimate replaces the model where it is installed.

    Attributes:
      kind: Names this backend.
      accelerator: Value of its ``--accelerator-config``.
      system_config: Value of its ``--system-config``.
      memory_mode: Value of its ``--memory-mode``.
    """

    kind: Literal["vela"]
    accelerator: Text
    system_config: Text
    memory_mode: Text


class LitertBackend(Section):
    """This machine: exported files are run by LiteRT and timed.

    Attributes:
      kind: Names this backend.
      num_threads: Threads of the interpreter.
      num_repeats: Timed runs of each file.
    """

    kind: Literal["litert"]
    num_threads: Annotated[int, Field(gt=0, le=MAX_THREADS)]
    num_repeats: Count


class Overhead(Section):
    """What a layer costs before its first and after its last result.

    Attributes:
      layer_cycles: Cycles added to every layer; of one in float to each operator that
        it is made of.
      network_cycles: Cycles added once per inference.
    """

    layer_cycles: NotNegative
    network_cycles: NotNegative = 0.0


class ActivePowerEnergy(Section):
    """Energy as time times the power of the busy target.

    Attributes:
      kind: Names this rule.
      active_power_mw: Power while a network runs.
    """

    kind: Literal["active_power"]
    active_power_mw: Positive


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
    core_pj_per_cycle: Positive
    dram_pj_per_bit: NotNegative | None = None
    weight_read_pj_per_bit: NotNegative
    weight_write_pj_per_bit: NotNegative
    input_read_pj_per_bit: NotNegative
    input_write_pj_per_bit: NotNegative
    output_read_pj_per_bit: NotNegative
    output_write_pj_per_bit: NotNegative
    accumulator_bits: Count
