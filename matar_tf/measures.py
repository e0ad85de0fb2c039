"""What a network costs on a target, and which figures of it a search can minimize."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from matar_tf.errors import SearchError, TargetError, did_you_mean
from matar_tf.targets.roofline import Bound
from matar_tf.workload import OpKind

__all__ = ["MEASURES", "Cost", "LayerCost", "Measure", "Unit", "get_measure"]

Unit: TypeAlias = Literal["array", "vector", "cpu"]


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
      bops: ``macs * weight_bits * activation_bits``; 0 for a layer without weights.
      cycles: Cycles of the target's clock, overhead included.
      bound: The slowest part, which the cycles are those of.
      energy_pj: Energy in picojoules; None if the target has no figures for it.
      weight_bytes: Kernel as the target stores it (packed at its width, unless the
        target says otherwise), 32-bit bias, one 32-bit scale per output channel.
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
    """Modelled cost of a network for one batch.

    Attributes:
      macs: Multiply-accumulates.
      bops: Sum over layers of ``macs * weight_bits * activation_bits``.
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
        packed bytes of the tensors alive, inputs and output of the layer included.
        Scratch buffers of kernels are not counted.
      mean_weight_bits: Mean over kernel elements; None without any.
      mean_activation_bits: Mean over tensor elements, network inputs included.
      layers: The layers in execution order.
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
