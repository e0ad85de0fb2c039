"""What a layer costs on a target: cycles of each part of a roofline, and energy.

All of it is modelled. The figures come from the target, the formulas stand in the
docstrings with their origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from matar_tf.errors import TargetError
from matar_tf.pricing.arrays import array_cycles, loop_nest, serial_blocks
from matar_tf.pricing.blocking import best_blocking
from matar_tf.pricing.demand import LayerDemand, layer_shape
from matar_tf.targets.compute import BitSerialCompute, FusedCompute, TableCompute
from matar_tf.targets.sections import (
    ActivePowerEnergy,
    CpuOps,
    EventEnergy,
    Ops,
    VectorOps,
)
from matar_tf.targets.target import Target
from matar_tf.workload import OpKind

__all__ = ["Bound", "LayerTerms", "energy_pj", "terms_of"]

_PJ_PER_MW_S: Final = 1e9

Bound: TypeAlias = Literal[
    "compute", "activation_load", "weight_load", "dram", "measured", "own"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTerms:
    """The parts of a layer on a target.

    Attributes:
      cycles: Cycles of each part; the slowest part counts.
      compute_cycles: Cycles in which the array, the vector unit or the CPU works.
      weight_traffic_bits: Weights, biases and scales over the off-chip port.
      input_traffic_bits: Inputs over the off-chip port.
      output_traffic_bits: Outputs over the off-chip port.
    """

    cycles: dict[Bound, float]
    compute_cycles: float
    weight_traffic_bits: float
    input_traffic_bits: float
    output_traffic_bits: float

    @property
    def dram_bits(self) -> float:
        """All bits over the off-chip port."""
        return (
            self.weight_traffic_bits
            + self.input_traffic_bits
            + self.output_traffic_bits
        )


def terms_of(demand: LayerDemand, ops: Ops, target: Target) -> LayerTerms:
    """Returns the parts of a layer.

    Raises:
      TargetError: If a latency table has no row for it, or buffers are too small.
    """
    once = {
        "weight_traffic_bits": demand.kernel_bits + demand.constant_bits,
        "input_traffic_bits": float(demand.input_bits),
        "output_traffic_bits": float(demand.output_bits),
    }
    measured = _table_cycles(demand, ops, target)
    if measured is not None:
        return LayerTerms(
            cycles={"measured": measured}, compute_cycles=measured, **once
        )
    if isinstance(ops, CpuOps):
        compute = _cpu_cycles(demand, ops, target)
        return LayerTerms(cycles={"compute": compute}, compute_cycles=compute, **once)
    port = target.bandwidth.dram_bits_per_cycle if target.bandwidth else None
    if isinstance(ops, VectorOps):
        compute = demand.num_elems / ops.elems_per_cycle
        cycles: dict[Bound, float] = {"compute": compute}
    else:
        if isinstance(target.compute, FusedCompute) and target.buffers and port:
            return _blocked_terms(demand, target, target.compute, port)
        compute = target.compute.scale * array_cycles(demand, target)
        cycles = {"compute": compute, **_load_cycles(demand, target)}
    if port:
        cycles["dram"] = sum(once.values()) / port
    return LayerTerms(cycles=cycles, compute_cycles=compute, **once)


def _table_cycles(demand: LayerDemand, ops: Ops, target: Target) -> float | None:
    """Returns the measured cycles of a layer; None if the table need not have it."""
    table = target.compute
    if not isinstance(table, TableCompute):
        return None
    layer = demand.layer
    names = (
        layer.name,
        layer_shape(layer, demand.input_shape, demand.output_shape),
    )
    cycles = table.cycles(names, demand.weight_bits, demand.activation_bits)
    if cycles is not None:
        return demand.batch_size * table.scale * cycles
    if isinstance(ops, (CpuOps, VectorOps)):
        return None
    raise TargetError(
        f"Expected a row for layer {names[0]!r} or for its shape {names[1]!r} with "
        f"weights of {demand.weight_bits} and inputs of {demand.activation_bits} bits "
        f"in the latency table {table.file!r} of target {target.name!r}; add one."
    )


def _cpu_cycles(demand: LayerDemand, ops: CpuOps, target: Target) -> float:
    """Returns processor cycles, converted to cycles of the target's clock."""
    layer = demand.layer
    if layer.kind is OpKind.FLOAT:
        cycles = layer.macs * (ops.cycles_per_mac or math.inf)
        cycles += layer.float_elems * (ops.cycles_per_elem or math.inf)
        cycles *= demand.batch_size
    elif ops.cycles_per_mac is not None:
        cycles = demand.batch_size * layer.macs * ops.cycles_per_mac
    else:
        cycles = demand.num_elems * (ops.cycles_per_elem or math.inf)
    frequency_hz = target.cpu.frequency_hz if target.cpu else 0
    return cycles * target.clock.frequency_hz / frequency_hz


def _blocked_terms(
    demand: LayerDemand, target: Target, compute: FusedCompute, port: float
) -> LayerTerms:
    """Returns the parts of a layer that is cut into tiles, see `best_blocking`."""
    num_groups, nest = loop_nest(demand, compute)
    if target.buffers is None:
        raise TargetError("Expected a table [buffers].")
    widths = (demand.weight_bits or 0, demand.activation_bits, demand.result_bits)
    found = best_blocking(
        nest,
        widths,
        compute,  # pyright: ignore[reportArgumentType]  # frozen, so hashable
        target.buffers,  # pyright: ignore[reportArgumentType]  # frozen, so hashable
        port,
    )
    cycles = num_groups * found.compute_cycles * compute.scale
    fill = num_groups * found.fill_cycles
    constants = demand.constant_bits
    return LayerTerms(
        cycles={
            "compute": cycles + fill,
            "dram": num_groups * found.dram_cycles + constants / port + fill,
        },
        compute_cycles=cycles,
        weight_traffic_bits=num_groups * found.weight_bits + constants,
        input_traffic_bits=num_groups * found.input_bits,
        output_traffic_bits=num_groups * found.output_bits,
    )


def _load_cycles(demand: LayerDemand, target: Target) -> dict[Bound, float]:
    """Returns the cycles of the on-chip loads of an array layer.

    Bit-serial arrays stream one vector of ``dk`` bits for each pixel (or weight
    channel) and each bit of the operand, for every sample; other arrays load each
    element once.
    """
    terms: dict[Bound, float] = {}
    if target.bandwidth is None:
        return terms
    activation_load = float(demand.input_bits)
    weight_load = demand.kernel_bits
    if isinstance(target.compute, BitSerialCompute):
        num_groups, reduction, channels = serial_blocks(demand, target.compute)
        words = num_groups * -(-reduction // target.compute.dk) * target.compute.dk
        words *= demand.batch_size
        pixels = math.prod(demand.output_size)
        activation_load = float(words * demand.activation_bits * pixels)
        weight_load = float(words * (demand.weight_bits or 0) * channels)
    if target.bandwidth.activation_bits_per_cycle:
        terms["activation_load"] = (
            activation_load / target.bandwidth.activation_bits_per_cycle
        )
    if target.bandwidth.weight_bits_per_cycle:
        terms["weight_load"] = weight_load / target.bandwidth.weight_bits_per_cycle
    return terms


def energy_pj(
    demand: LayerDemand,
    ops: Ops,
    target: Target,
    cycles: float,
    terms: LayerTerms | None,
) -> float | None:
    """Returns the energy of a layer; None if the target has no figures for it.

    Args:
      demand: The layer.
      ops: What runs it.
      target: The hardware.
      cycles: What it takes, overhead included.
      terms: Its parts; None if they are unknown, as in a measured or an own price.

    * active power: ``cycles / frequency * power``, memory included in the power
    * events: cycles at work, off-chip traffic, what of it is written into the buffers
      of weights and inputs, both read once per multiply-accumulate, sums written and
      read once (output-stationary, as in the Bit Fusion simulator). Stalls cost
      nothing.
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
    if terms is None or "measured" in terms.cycles:
        return None
    return _event_energy_pj(demand, energy, terms)


def _event_energy_pj(
    demand: LayerDemand, energy: EventEnergy, terms: LayerTerms
) -> float:
    input_reads, sums = float(demand.input_bits), float(demand.output_bits)
    macs = demand.batch_size * demand.layer.macs
    if demand.weight_bits:
        input_reads = float(macs * demand.activation_bits)
        num_outputs = demand.batch_size * math.prod(demand.output_shape)
        sums = float(num_outputs * energy.accumulator_bits)
    weight_writes = terms.weight_traffic_bits - demand.constant_bits
    return (
        terms.compute_cycles * energy.core_pj_per_cycle
        + weight_writes * energy.weight_write_pj_per_bit
        + macs * (demand.weight_bits or 0) * energy.weight_read_pj_per_bit
        + terms.input_traffic_bits * energy.input_write_pj_per_bit
        + input_reads * energy.input_read_pj_per_bit
        + sums * (energy.output_write_pj_per_bit + energy.output_read_pj_per_bit)
        + terms.dram_bits * (energy.dram_pj_per_bit or 0.0)
    )
