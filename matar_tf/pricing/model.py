"""Cost of running a network under a policy on a target: modelled, never measured.

A layer is priced by a roofline: the slowest of its arithmetic, its on-chip loads of
activations and of weights, and its off-chip traffic, plus a constant overhead. The
sum over the layers, and what a network costs once, is the network's.

Not counted: filling and draining of pipelines and overlap between layers; off-chip
refetches on targets without a table ``[buffers]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from matar_tf.errors import ModelError, TargetError
from matar_tf.policy import Policy
from matar_tf.pricing.demand import LayerDemand, demand_of, missing_kind
from matar_tf.pricing.folded import folded_luts
from matar_tf.pricing.layer_checks import check_layer, own_cycles
from matar_tf.pricing.memory import (
    Liveness,
    check_entries,
    decoded_bytes,
    layer_weight_bytes,
    tensor_bits,
)
from matar_tf.pricing.price_table import LayerSums, PriceTable
from matar_tf.pricing.roofline import Bound, energy_pj, terms_of
from matar_tf.targets import Target
from matar_tf.targets.compute import FoldedCompute
from matar_tf.targets.sections import ArrayOps, Ops
from matar_tf.workload import LayerWorkload, OpKind, Workload

__all__ = ["Cost", "CostModel", "LayerCost", "PriceLayer", "estimate"]

Unit: TypeAlias = Literal["array", "vector", "cpu"]
PriceLayer: TypeAlias = Callable[[LayerDemand, Target], float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCost:
    """Modelled cost of one layer for one batch.

    Attributes:
      name: Name of the layer.
      kind: What it computes.
      unit: Part of the target that runs it.
      weight_bits: Width of its weights; None for a layer without.
      activation_bits: Width of its first input.
      macs: Multiply-accumulates.
      bops: ``macs * weight_bits * activation_bits``; 0 for a layer of integers
        without weights, ``macs * 32 * 32`` for one in float.
      cycles: Cycles of the target's clock, overhead included.
      bound: The slowest part, which the cycles are those of.
      energy_pj: Energy in picojoules; None if the target has no figures for it.
      weight_bytes: Kernel as the target stores it (packed at its width, unless the
        target says otherwise), 32-bit bias, one 32-bit scale per output channel.
      luts: Look-up tables of the logic that it has for itself; None on targets where
        layers share an array.
      decoded_bytes: What its kernel takes while it runs; 0 if it is not decoded.
    """

    name: str
    kind: OpKind
    unit: Unit
    weight_bits: int | None
    activation_bits: int
    macs: int
    bops: int
    cycles: float
    bound: Bound
    energy_pj: float | None
    weight_bytes: int
    luts: float | None = None
    decoded_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Modelled cost of a network for one batch.

    Attributes:
      macs: Multiply-accumulates.
      bops: Sum over layers; see `LayerCost`.
      cycles: Sum over layers of cycles of the target's clock, plus `network_cycles`.
      network_cycles: Cycles that belong to no layer: the target's overhead for each
        batch, and weights that its cache does not hold.
      latency_ms: ``cycles`` at the target's clock.
      energy_pj: Sum over layers, plus that of `network_cycles` if the target's energy
        is time times power; None if it is missing for any of them.
      weight_bytes: Sum over layers: kernels as the target stores them, biases as
        32-bit integers, one 32-bit float scale per output channel. The file format,
        the graph and the scales of activations are not counted.
      peak_activation_bytes: Largest sum, over the layers in execution order, of the
        packed bytes of the tensors alive, inputs and output of the layer included, and
        its kernel if that is decoded. Scratch buffers of kernels are not counted.
      mean_weight_bits: Mean over kernel elements; None without any.
      mean_activation_bits: Mean over tensor elements, network inputs included.
      layers: The layers in execution order.
      luts: Sum over layers; None on targets where layers share an array.
    """

    macs: int
    bops: int
    cycles: float
    network_cycles: float
    latency_ms: float
    energy_pj: float | None
    weight_bytes: int
    peak_activation_bytes: int
    mean_weight_bits: float | None
    mean_activation_bits: float
    layers: tuple[LayerCost, ...]
    luts: float | None = None

    @property
    def float_share(self) -> float:
        """Share of the cycles that layers in float take."""
        in_float = (one.cycles for one in self.layers if one.kind is OpKind.FLOAT)
        return sum(in_float) / self.cycles if self.cycles else 0.0


def estimate(
    workload: Workload, policy: Policy, target: Target, *, batch_size: int = 1
) -> Cost:
    """Returns the modelled cost of a network under a policy on a target.

    Capacities are not checked here: `check_policy` names the limits that are broken.

    Raises:
      PolicyError: If policy and network do not have the same entries.
      TargetError: If the target does not run a layer, at all or at these widths.
      ModelError: If a layer that multiplies has no weights or no MACs.
    """
    return CostModel(workload, target, batch_size=batch_size).estimate(policy)


class CostModel:
    """The cost of one network on one target, for many policies.

    Each layer is priced once for each combination of widths; `totals` only looks the
    prices up in tables and adds.

    Args:
      workload: The network.
      target: The hardware.
      batch_size: Samples that are run together; all figures are for one batch.
      price_layer: Own cost function of a layer: cycles of the target's clock, or None
        to let the target's rule price the layer. Overhead is added to both.
    """

    def __init__(
        self,
        workload: Workload,
        target: Target,
        *,
        batch_size: int = 1,
        price_layer: PriceLayer | None = None,
    ) -> None:
        if batch_size < 1:
            raise ModelError(f"Expected a batch_size of at least 1, got {batch_size}.")
        self.workload: Final = workload
        self.target: Final = target
        self._layers = tuple(
            _LayerModel(layer, workload, target, batch_size, price_layer)
            for layer in workload.layers
        )
        self.has_floats: Final = any(
            layer.kind is OpKind.FLOAT for layer in workload.layers
        )
        self.has_luts: Final = isinstance(target.compute, FoldedCompute)
        self._batch_size = batch_size
        self._liveness = Liveness(workload, target.storage)
        self._storing = [one for one in workload.layers if one.name in workload.storing]
        self._num_weight_elems = sum(layer.weight_elems for layer in self._storing)
        self._elems = {name: item.elems for name, item in workload.tensors.items()}
        self._num_activation_elems = sum(self._elems.values())
        self._table = PriceTable(
            workload, target.storage, [layer.sums for layer in self._layers]
        )

    def estimate(self, policy: Policy) -> Cost:
        """Returns what the function `estimate` returns for this policy."""
        check_entries(self.workload, policy.weights, policy.activations, "policy")
        bits = tensor_bits(self.workload, policy)
        layers = tuple(
            model.price(
                None if model.weights is None else policy.weights[model.weights],
                tuple(bits[name] for name in model.inputs),
                bits[model.output],
            )
            for model in self._layers
        )
        weight_bytes = sum(layer.weight_bytes for layer in layers)
        peak_bytes = self._liveness.peak_bytes(
            [*bits.values()], [layer.decoded_bytes for layer in layers]
        )
        network_cycles = self._network_cycles(weight_bytes)
        cycles = sum(layer.cycles for layer in layers) + network_cycles
        return Cost(
            macs=sum(layer.macs for layer in layers),
            bops=sum(layer.bops for layer in layers),
            cycles=cycles,
            network_cycles=network_cycles,
            latency_ms=self._latency_ms(cycles),
            energy_pj=self._energy_pj(
                _sum_or_none([layer.energy_pj for layer in layers]), network_cycles
            ),
            weight_bytes=weight_bytes,
            peak_activation_bytes=self._batch_size * peak_bytes,
            mean_weight_bits=self.mean_weight_bits(policy),
            mean_activation_bits=self.mean_activation_bits(policy),
            layers=layers,
            luts=sum(one.luts or 0.0 for one in layers) if self.has_luts else None,
        )

    def totals(self, policy: Policy) -> dict[str, float | None]:
        """Returns what a search can minimize, by its name in `Cost`; fast.

        ``float_share`` only of a network of which layers stay in float, ``luts`` only
        on targets that have logic for each layer.
        """
        sums, peak_bytes = self._table.sums(policy)
        network_cycles = self._network_cycles(sums.weight_bytes)
        cycles = sums.cycles + network_cycles
        energy = None if math.isnan(sums.energy_pj) else sums.energy_pj
        share = {"float_share": sums.float_cycles / cycles} if self.has_floats else {}
        luts = {"luts": sums.luts} if self.has_luts else {}
        return {
            "latency_ms": self._latency_ms(cycles),
            "cycles": cycles,
            "energy_pj": self._energy_pj(energy, network_cycles),
            "weight_bytes": sums.weight_bytes,
            "peak_activation_bytes": self._batch_size * peak_bytes,
            "bops": sums.bops,
            **share,
            **luts,
        }

    def _latency_ms(self, cycles: float) -> float:
        return cycles / self.target.clock.frequency_hz * 1e3

    def _network_cycles(self, weight_bytes: int) -> float:
        memory = self.target.memory
        cycles = self.target.overhead.network_cycles
        if memory and memory.weight_cache_bytes and memory.reload_bytes_per_cycle:
            missing = max(0, weight_bytes - memory.weight_cache_bytes)
            cycles += missing / memory.reload_bytes_per_cycle
        return cycles

    def _energy_pj(self, energy: float | None, network_cycles: float) -> float | None:
        rule = self.target.energy
        if energy is None or rule is None or rule.kind != "active_power":
            return energy
        return energy + self._latency_ms(network_cycles) * rule.active_power_mw * 1e6

    def mean_activation_bits(self, policy: Policy) -> float:
        """Returns the mean over tensor elements, network inputs included."""
        bits = tensor_bits(self.workload, policy)
        total = sum(num_elems * bits[name] for name, num_elems in self._elems.items())
        return total / self._num_activation_elems

    def mean_weight_bits(self, policy: Policy) -> float | None:
        """Returns the mean over kernel elements; None without any."""
        if not self._num_weight_elems:
            return None
        total = sum(
            layer.weight_elems * policy.weights[layer.weights]
            for layer in self._storing
            if layer.weights is not None
        )
        return total / self._num_weight_elems


class _LayerModel:
    """One layer on one target; remembers the price of each combination of widths."""

    def __init__(
        self,
        layer: LayerWorkload,
        workload: Workload,
        target: Target,
        batch_size: int,
        price_layer: PriceLayer | None,
    ) -> None:
        check_layer(layer, workload.tensors[layer.output])
        reason = missing_kind(layer, workload, target)
        if reason:
            raise TargetError(reason)
        self._layer = layer
        self._workload = workload
        self._target = target
        self._batch_size = batch_size
        self._price_layer = price_layer
        self._prices: dict[tuple[int | None, tuple[int, ...], int], LayerCost] = {}
        self.weights: Final = layer.weights
        self.inputs: Final = tuple(dict.fromkeys(layer.inputs))
        self.output: Final = layer.output

    def price(
        self, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int
    ) -> LayerCost:
        """Returns the cost at these widths; of weights, distinct inputs, output."""
        key = (weight_bits, input_bits, output_bits)
        found = self._prices.get(key)
        if found is None:
            found = self._prices[key] = self._compute_price(*key)
        return found

    def sums(
        self, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int
    ) -> LayerSums:
        """Returns the figures of `price` that are added up."""
        price = self.price(weight_bits, input_bits, output_bits)
        energy = math.nan if price.energy_pj is None else price.energy_pj
        in_float = price.cycles if price.kind is OpKind.FLOAT else 0.0
        return LayerSums(
            cycles=price.cycles,
            energy_pj=energy,
            weight_bytes=price.weight_bytes,
            bops=price.bops,
            float_cycles=in_float,
            luts=price.luts or 0.0,
            decoded_bytes=price.decoded_bytes,
        )

    def _compute_price(
        self, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int
    ) -> LayerCost:
        layer, target = self._layer, self._target
        for bits in input_bits:
            if not target.takes(layer.kind, weight_bits, bits):
                raise TargetError(
                    f"Target {target.name!r} does not run layer {layer.name!r} of kind "
                    f"{layer.kind.value!r} with weights of {weight_bits} and inputs of "
                    f"{bits} bits; check_policy names the limit, legal_space the "
                    "widths that it takes."
                )
        demand = demand_of(
            layer,
            self._workload,
            (weight_bits, input_bits, output_bits),
            storage=target.storage,
            batch_size=self._batch_size,
        )
        ops = target.ops_at(layer.kind, demand.activation_bits)
        own = self._price_layer(demand, target) if self._price_layer else None
        if own is None:
            terms = terms_of(demand, ops, target)
            bound = max(terms.cycles, key=lambda name: terms.cycles[name])
            cycles = terms.cycles[bound]
        else:
            terms, bound, cycles = None, "own", own_cycles(own, layer)
        cycles += target.overhead.layer_cycles * max(layer.float_ops, 1)
        decoded = decoded_bytes(layer, weight_bits, target.storage)
        if decoded and target.storage and target.storage.decoding:
            cycles += decoded * target.storage.decoding.cycles_per_weight
        return LayerCost(
            name=layer.name,
            kind=layer.kind,
            unit=ops.unit,
            weight_bits=weight_bits,
            activation_bits=demand.activation_bits,
            macs=self._batch_size * layer.macs,
            bops=self._batch_size * layer.macs * demand.product_bits,
            cycles=cycles,
            bound=bound,
            energy_pj=energy_pj(demand, ops, target, cycles, terms),
            weight_bytes=layer_weight_bytes(
                layer, self._workload, weight_bits, target.storage
            ),
            luts=_luts(demand, ops, target),
            decoded_bytes=decoded,
        )


def _luts(demand: LayerDemand, ops: Ops, target: Target) -> float | None:
    """Returns the look-up tables of a layer; None where it has no logic of its own."""
    if not isinstance(target.compute, FoldedCompute):
        return None
    is_unit = isinstance(ops, ArrayOps)
    return folded_luts(demand, target.compute) if is_unit else 0.0


def _sum_or_none(values: list[float | None]) -> float | None:
    return None if None in values else sum(one for one in values if one is not None)
