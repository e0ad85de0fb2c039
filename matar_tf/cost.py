"""Cost of running a network under a policy on a target: modelled, never measured.

A layer is priced by a roofline: the slowest of its arithmetic, its on-chip loads of
activations and of weights, and its off-chip traffic, plus a constant overhead. The
sum over the layers is the network's. One sample at a time (batch of 1).

Not counted: off-chip refetches of layers that do not fit the buffers (each tensor
crosses once per layer, so memory-bound layers are optimistic), filling and draining
of pipelines, overlap between layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from matar_tf.errors import ModelError, SearchError, TargetError, did_you_mean
from matar_tf.policy import MAX_BITS, Policy
from matar_tf.targets import MULTIPLY_KINDS, Target
from matar_tf.targets.memory import (
    Liveness,
    check_entries,
    layer_weight_bytes,
    tensor_bits,
)
from matar_tf.targets.roofline import Bound, LayerDemand, cycle_terms, energy_pj
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload

__all__ = [
    "MEASURES",
    "Cost",
    "CostModel",
    "LayerCost",
    "Measure",
    "estimate",
    "get_measure",
]

_POOL_KINDS: Final = frozenset({OpKind.AVERAGE_POOL, OpKind.MAX_POOL})

Unit: TypeAlias = Literal["array", "vector", "cpu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCost:
    """Modelled cost of one layer for one sample.

    Attributes:
      name: Name of the layer.
      kind: What it computes.
      unit: Part of the target that runs it.
      weight_bits: Width of its weights; None for a layer without.
      activation_bits: Width of its first input.
      macs: Multiply-accumulates.
      bops: ``macs * weight_bits * activation_bits``; 0 for a layer without weights.
      cycles: Cycles of the target's clock, overhead included.
      bound: The slowest part, which the cycles are those of.
      energy_pj: Energy in picojoules; None if the target has no figures for it.
      weight_bytes: Packed kernel, 32-bit bias, one 32-bit scale per output channel.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Modelled cost of a network for one sample.

    Attributes:
      macs: Multiply-accumulates.
      bops: Sum over layers of ``macs * weight_bits * activation_bits``.
      cycles: Sum over layers of cycles of the target's clock.
      latency_ms: ``cycles`` at the target's clock.
      energy_pj: Sum over layers; None if it is missing for any of them.
      weight_bytes: Sum over layers: kernels packed at the policy's widths, biases as
        32-bit integers, one 32-bit float scale per output channel. The file format,
        the graph and the scales of activations are not counted.
      peak_activation_bytes: Largest sum, over the layers in execution order, of the
        packed bytes of the tensors alive, inputs and output of the layer included.
        Scratch buffers of kernels are not counted.
      mean_weight_bits: Mean over kernel elements; None without any.
      mean_activation_bits: Mean over tensor elements, network inputs included.
      layers: The layers in execution order.
    """

    macs: int
    bops: int
    cycles: float
    latency_ms: float
    energy_pj: float | None
    weight_bytes: int
    peak_activation_bytes: int
    mean_weight_bits: float | None
    mean_activation_bits: float
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A figure of `Cost` that a search can minimize and a report can show.

    Attributes:
      name: Name of the figure.
      unit: Unit of the figure.
      kind: ``modelled``, or ``stored bytes`` for what the weights take up.
      getter: Returns the figure of a cost, None if the target has none.
    """

    name: str
    unit: str
    kind: Literal["modelled", "stored bytes"]
    getter: Callable[[Cost], float | None]

    def value(self, cost: Cost) -> float:
        """Returns the figure of a cost.

        Raises:
          TargetError: If the target gives no figures for it.
        """
        value = self.getter(cost)
        if value is None:
            raise TargetError(
                f"Expected a target with figures for {self.name!r}, got one without; "
                "give it a table [energy] with its source, or drop the objective."
            )
        return value


MEASURES: Final[Mapping[str, Measure]] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure(
                name="latency_ms",
                unit="ms",
                kind="modelled",
                getter=lambda cost: cost.latency_ms,
            ),
            Measure(
                name="cycles",
                unit="cycles",
                kind="modelled",
                getter=lambda cost: cost.cycles,
            ),
            Measure(
                name="energy_pj",
                unit="pJ",
                kind="modelled",
                getter=lambda cost: cost.energy_pj,
            ),
            Measure(
                name="weight_bytes",
                unit="bytes",
                kind="stored bytes",
                getter=lambda cost: cost.weight_bytes,
            ),
            Measure(
                name="peak_activation_bytes",
                unit="bytes",
                kind="modelled",
                getter=lambda cost: cost.peak_activation_bytes,
            ),
            Measure(
                name="bops",
                unit="bit operations",
                kind="modelled",
                getter=lambda cost: cost.bops,
            ),
        )
    }
)


def get_measure(name: str) -> Measure:
    """Returns the measure of a name such as ``latency_ms``.

    Raises:
      SearchError: If there is no such measure.
    """
    if name not in MEASURES:
        raise SearchError(
            f"Expected the name of a cost, got {name!r}. {did_you_mean(name, MEASURES)}"
        )
    return MEASURES[name]


def estimate(workload: Workload, policy: Policy, target: Target) -> Cost:
    """Returns the modelled cost of a network under a policy on a target.

    Capacities are not checked here: `check_policy` names the limits that are broken.

    Raises:
      PolicyError: If policy and network do not have the same entries.
      TargetError: If the target does not run a layer, at all or at these widths.
      ModelError: If a layer that multiplies has no weights or no MACs.
    """
    return CostModel(workload, target).estimate(policy)


class CostModel:
    """The cost of one network on one target, for many policies.

    Each layer is priced once for each combination of widths that comes up; the rest
    is looking up and adding.
    """

    def __init__(self, workload: Workload, target: Target) -> None:
        self.workload: Final = workload
        self.target: Final = target
        self._layers = tuple(
            _LayerModel(layer, workload, target) for layer in workload.layers
        )
        self._liveness = Liveness(workload)
        self._num_weight_elems = sum(layer.weight_elems for layer in workload.layers)
        self._elems = {name: item.elems for name, item in workload.tensors.items()}
        self._num_activation_elems = sum(self._elems.values())

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
        cycles = sum(layer.cycles for layer in layers)
        return Cost(
            macs=sum(layer.macs for layer in layers),
            bops=sum(layer.bops for layer in layers),
            cycles=cycles,
            latency_ms=cycles / self.target.clock.frequency_hz * 1e3,
            energy_pj=_sum_or_none([layer.energy_pj for layer in layers]),
            weight_bytes=sum(layer.weight_bytes for layer in layers),
            peak_activation_bytes=self._liveness.peak_bytes(bits),
            mean_weight_bits=self._mean_weight_bits(policy),
            mean_activation_bits=sum(
                num_elems * bits[name] for name, num_elems in self._elems.items()
            )
            / self._num_activation_elems,
            layers=layers,
        )

    def _mean_weight_bits(self, policy: Policy) -> float | None:
        if not self._num_weight_elems:
            return None
        total = sum(
            layer.weight_elems * policy.weights[layer.weights]
            for layer in self.workload.layers
            if layer.weights is not None
        )
        return total / self._num_weight_elems


class _LayerModel:
    """One layer on one target; remembers the price of each combination of widths."""

    def __init__(
        self, layer: LayerWorkload, workload: Workload, target: Target
    ) -> None:
        _check_layer(layer, workload.tensors[layer.output])
        if not target.ops_for(layer.kind):
            raise TargetError(
                f"Target {target.name!r} does not run layer {layer.name!r} of kind "
                f"{layer.kind.value!r}; list the kind under [[ops]], if need be with "
                "unit 'cpu'."
            )
        self._layer = layer
        self._workload = workload
        self._target = target
        self._ops = target.ops_for(layer.kind)[0]
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
        demand = self._demand(weight_bits, input_bits, output_bits)
        terms = cycle_terms(demand, self._ops, target)
        bound = max(terms, key=lambda name: terms[name])
        cycles = terms[bound] + target.overhead.layer_cycles
        return LayerCost(
            name=layer.name,
            kind=layer.kind,
            unit=self._ops.unit,
            weight_bits=weight_bits,
            activation_bits=demand.activation_bits,
            macs=layer.macs,
            bops=layer.macs * (weight_bits or 0) * demand.activation_bits,
            cycles=cycles,
            bound=bound,
            energy_pj=energy_pj(demand, self._ops, target, cycles, terms["compute"]),
            weight_bytes=demand.weight_bytes,
        )

    def _demand(
        self, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int
    ) -> LayerDemand:
        layer, tensors = self._layer, self._workload.tensors
        output = tensors[layer.output]
        input_elems = [tensors[name].elems for name in self.inputs]
        num_elems = max(sum(tensors[name].elems for name in layer.inputs), output.elems)
        if layer.kind in _POOL_KINDS:
            num_elems = output.elems * math.prod(layer.kernel_size)
        return LayerDemand(
            layer=layer,
            weight_bits=weight_bits,
            activation_bits=input_bits[0] if input_bits else MAX_BITS,
            num_elems=num_elems,
            output_elems=output.elems,
            out_channels=output.shape[-1] if output.shape else 1,
            reads_network_input=any(
                name in self._workload.inputs for name in layer.inputs
            ),
            input_bits=sum(
                num_elems * bits
                for num_elems, bits in zip(input_elems, input_bits, strict=True)
            ),
            output_bits=output.elems * output_bits,
            weight_bytes=layer_weight_bytes(layer, self._workload, weight_bits),
        )


def _check_layer(layer: LayerWorkload, output: TensorWorkload) -> None:
    """Checks that a layer that multiplies says how much, and no other one does."""
    if layer.kind not in MULTIPLY_KINDS:
        if layer.weights is not None:
            raise ModelError(
                f"Expected no weights for layer {layer.name!r} of kind "
                f"{layer.kind.value!r}, got the entry {layer.weights!r}."
            )
        return
    if layer.weights is None or layer.macs <= 0 or layer.weight_elems <= 0:
        raise ModelError(
            f"Expected a weight entry, MACs and weight elements for layer "
            f"{layer.name!r} of kind {layer.kind.value!r}, got {layer.weights!r}, "
            f"{layer.macs} and {layer.weight_elems}."
        )
    channels = output.shape[-1] if output.shape else 1
    if channels % layer.groups or layer.weight_elems % (
        channels * math.prod(layer.kernel_size)
    ):
        raise ModelError(
            f"Expected channels in a multiple of the groups, and weight elements in a "
            f"multiple of channels * kernel size, for layer {layer.name!r}, got "
            f"{channels} channels, {layer.groups} groups, kernel size "
            f"{layer.kernel_size} and {layer.weight_elems} weight elements."
        )


def _sum_or_none(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None
