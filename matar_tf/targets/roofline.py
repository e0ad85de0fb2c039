"""What a layer costs on a target: cycles of each part of a roofline, and energy.

All of it is modelled. The figures come from the target, the formulas stand in the
docstrings with their origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from matar_tf.targets._sections import (
    ActivePowerEnergy,
    BitParallelCompute,
    BitSerialCompute,
    CpuOps,
    EventEnergy,
    FusedCompute,
    Ops,
    VectorOps,
)
from matar_tf.targets._target import Target
from matar_tf.workload import LayerWorkload, OpKind

__all__ = ["Bound", "LayerDemand", "cycle_terms", "energy_pj"]

_PJ_PER_MW_S: Final = 1e9

Bound: TypeAlias = Literal["compute", "activation_load", "weight_load", "dram"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDemand:
    """What one layer asks of a target at given widths.

    Attributes:
      layer: The layer.
      weight_bits: Width of its weights; None for a layer without.
      activation_bits: Width of its first input.
      num_elems: Elements that a layer without weights handles.
      output_elems: Elements of its output.
      out_channels: Channels of its output.
      reads_network_input: Whether one of its inputs is an input of the network.
      input_bits: Packed bits of its distinct inputs.
      output_bits: Packed bits of its output.
      weight_bytes: Kernel, bias and scales.
    """

    layer: LayerWorkload
    weight_bits: int | None
    activation_bits: int
    num_elems: int
    output_elems: int
    out_channels: int
    reads_network_input: bool
    input_bits: int
    output_bits: int
    weight_bytes: int

    @property
    def dram_bits(self) -> int:
        """Bits over the off-chip port if each tensor crosses once."""
        return self.input_bits + self.output_bits + 8 * self.weight_bytes


def cycle_terms(demand: LayerDemand, ops: Ops, target: Target) -> dict[Bound, float]:
    """Returns the cycles of each part of a layer; the slowest part counts."""
    if isinstance(ops, CpuOps):
        return {"compute": _cpu_cycles(demand, ops, target)}
    terms: dict[Bound, float] = {}
    if isinstance(ops, VectorOps):
        terms["compute"] = demand.num_elems / ops.elems_per_cycle
    else:
        terms["compute"] = _array_cycles(demand, target.compute)
        terms |= _load_cycles(demand, target)
    if target.bandwidth and target.bandwidth.dram_bits_per_cycle:
        terms["dram"] = demand.dram_bits / target.bandwidth.dram_bits_per_cycle
    return terms


def _cpu_cycles(demand: LayerDemand, ops: CpuOps, target: Target) -> float:
    """Returns processor cycles, converted to cycles of the target's clock."""
    if ops.cycles_per_mac is not None:
        cycles = demand.layer.macs * ops.cycles_per_mac
    else:
        cycles = demand.num_elems * (ops.cycles_per_elem or math.inf)
    frequency_hz = target.cpu.frequency_hz if target.cpu else 0
    return cycles * target.clock.frequency_hz / frequency_hz


def _array_cycles(
    demand: LayerDemand, compute: BitParallelCompute | BitSerialCompute | FusedCompute
) -> float:
    """Returns the cycles in which the array multiplies.

    * bit-parallel: ``macs * cycles_per_mac(kind, weight_bits, activation_bits)``
    * bit-serial: ``groups * weight_bits * activation_bits * ceil(reduction / dk)
      * ceil(channels / dm) * ceil(pixels / dn)``
    * fused: ``pixels * kernel * ceil(out_channels / columns)
      * ceil(in_channels / (rows * split))`` with ``split = (max_bits // weight_bits)
      * (max_bits // activation_bits)``; if the first layer is unrolled, ``kernel``
      moves into the second ceiling. One group of a grouped convolution at a time; a
      depthwise one fills the columns with channels and one row of units.

    Reference:
      Bit Fusion: ``get_compute_cycles`` of the authors' simulator. Bit-serial: fitted
      to the latency table that HAQ (Wang et al., CVPR 2019) published for BISMO.
    """
    if isinstance(compute, BitParallelCompute):
        rate = compute.rate(
            demand.layer.kind, demand.weight_bits or 0, demand.activation_bits
        )
        return demand.layer.macs * rate.cycles
    if isinstance(compute, BitSerialCompute):
        num_groups, reduction, channels = _serial_blocks(demand, compute)
        return (
            num_groups
            * (demand.weight_bits or 0)
            * demand.activation_bits
            * _ceil_div(reduction, compute.dk)
            * _ceil_div(channels, compute.dm)
            * _ceil_div(_num_pixels(demand), compute.dn)
        )
    return _fused_cycles(demand, compute)


def _fused_cycles(demand: LayerDemand, compute: FusedCompute) -> int:
    """Returns the cycles of a fused array, see `_array_cycles`."""
    split = (compute.max_bits // max(demand.weight_bits or 0, compute.min_bits)) * (
        compute.max_bits // max(demand.activation_bits, compute.min_bits)
    )
    layer = demand.layer
    kernel = math.prod(layer.kernel_size)
    num_groups, channels = layer.groups, demand.out_channels // layer.groups
    if layer.kind is OpKind.DEPTHWISE_CONV:
        num_groups, channels = 1, demand.out_channels
    reduction = _reduction(demand)
    rows = compute.rows * split
    if compute.first_layer_im2col and demand.reads_network_input:
        steps = _ceil_div(reduction, rows)
    else:
        steps = kernel * _ceil_div(reduction // kernel, rows)
    column_steps = _ceil_div(channels, compute.columns)
    return num_groups * _num_pixels(demand) * column_steps * steps


def _load_cycles(demand: LayerDemand, target: Target) -> dict[Bound, float]:
    """Returns the cycles of the on-chip loads of an array layer.

    Bit-serial arrays stream one vector of ``dk`` bits for each pixel (or weight
    channel) and each bit of the operand; other arrays load each element once.
    """
    terms: dict[Bound, float] = {}
    if target.bandwidth is None:
        return terms
    weight_bits = demand.weight_bits or 0
    activation_load = demand.input_bits
    weight_load = demand.layer.weight_elems * weight_bits
    if isinstance(target.compute, BitSerialCompute):
        num_groups, reduction, channels = _serial_blocks(demand, target.compute)
        words = num_groups * _ceil_div(reduction, target.compute.dk) * target.compute.dk
        activation_load = words * demand.activation_bits * _num_pixels(demand)
        weight_load = words * weight_bits * channels
    if target.bandwidth.activation_bits_per_cycle:
        terms["activation_load"] = (
            activation_load / target.bandwidth.activation_bits_per_cycle
        )
    if target.bandwidth.weight_bits_per_cycle:
        terms["weight_load"] = weight_load / target.bandwidth.weight_bits_per_cycle
    return terms


def _serial_blocks(
    demand: LayerDemand, compute: BitSerialCompute
) -> tuple[int, int, int]:
    """Returns matrix products, their reduction length, their output channels.

    A depthwise layer becomes dense blocks of ``depthwise_group`` channels.
    """
    layer = demand.layer
    if layer.kind is OpKind.DEPTHWISE_CONV:
        group = compute.depthwise_group or 1
        num_groups = _ceil_div(layer.groups, group)
        multiplier = demand.out_channels // layer.groups
        return num_groups, _reduction(demand) * group, group * multiplier
    return layer.groups, _reduction(demand), demand.out_channels // layer.groups


def _reduction(demand: LayerDemand) -> int:
    """Returns the multiply-accumulates behind one output: kernel window * inputs."""
    return demand.layer.weight_elems // demand.out_channels


def _num_pixels(demand: LayerDemand) -> int:
    return demand.output_elems // demand.out_channels


def energy_pj(
    demand: LayerDemand,
    ops: Ops,
    target: Target,
    cycles: float,
    compute_cycles: float,
) -> float | None:
    """Returns the energy of a layer; None if the target has no figures for it.

    * active power: ``cycles / frequency * power``, memory included in the power
    * events: cycles at work, each on-chip bit written once, inputs and weights read
      once per multiply-accumulate, sums written and read once (output-stationary, as
      in the Bit Fusion simulator), off-chip traffic. Stalls cost nothing.
    """
    energy = target.energy
    if energy is None:
        return None
    seconds = cycles / target.clock.frequency_hz
    if isinstance(ops, CpuOps):
        power = target.cpu.active_power_mw if target.cpu else None
        return None if power is None else seconds * power * _PJ_PER_MW_S
    if isinstance(energy, ActivePowerEnergy):
        return seconds * energy.active_power_mw * _PJ_PER_MW_S
    return _event_energy_pj(demand, energy, compute_cycles)


def _event_energy_pj(
    demand: LayerDemand, energy: EventEnergy, compute_cycles: float
) -> float:
    weight_bits = demand.weight_bits or 0
    input_reads, sums = demand.input_bits, demand.output_bits
    if weight_bits:
        input_reads = demand.layer.macs * demand.activation_bits
        sums = demand.output_elems * energy.accumulator_bits
    return (
        compute_cycles * energy.core_pj_per_cycle
        + demand.layer.weight_elems * weight_bits * energy.weight_write_pj_per_bit
        + demand.layer.macs * weight_bits * energy.weight_read_pj_per_bit
        + demand.input_bits * energy.input_write_pj_per_bit
        + input_reads * energy.input_read_pj_per_bit
        + sums * (energy.output_write_pj_per_bit + energy.output_read_pj_per_bit)
        + demand.dram_bits * (energy.dram_pj_per_bit or 0.0)
    )


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
