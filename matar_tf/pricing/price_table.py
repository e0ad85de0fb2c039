"""Sums of layer prices by table: what a search asks for thousands of policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from matar_tf.policy import Policy
from matar_tf.pricing.layer_widths import LayerWidths, Widths
from matar_tf.pricing.memory import Liveness
from matar_tf.targets.storage import Storage
from matar_tf.workload import Workload

__all__ = ["LayerSums", "PriceOfWidths", "PriceTable"]


class LayerSums(NamedTuple):
    """What is added up over the layers.

    Attributes:
      cycles: Cycles of the target's clock.
      energy_pj: Energy; nan if there is no figure.
      weight_bytes: Bytes of constants.
      bops: Bit operations.
      float_cycles: Those of the cycles that a layer in float takes.
      luts: Look-up tables of an FPGA; 0 on other targets.
      decoded_bytes: What kernels take while their layers run, if they are decoded.
    """

    cycles: float
    energy_pj: float
    weight_bytes: int
    bops: int
    float_cycles: float
    luts: float
    decoded_bytes: int


PriceOfWidths: TypeAlias = Callable[[int | None, tuple[int, ...], int], LayerSums]


class PriceTable:
    """Adds up prices of layers that are remembered by widths.

    Args:
      workload: The network.
      storage: How the target stores tensors; None if it packs them.
      prices: Price of each layer for widths of weights, distinct inputs, output.

    Raises:
      ModelError: If a layer has too many inputs.
    """

    def __init__(
        self,
        workload: Workload,
        storage: Storage | None,
        prices: Sequence[PriceOfWidths],
    ) -> None:
        self._prices = tuple(prices)
        self._layers = LayerWidths(workload)
        self._tables: tuple[dict[int, LayerSums], ...] = tuple({} for _ in prices)
        self._liveness = Liveness(workload, storage)

    def sums(self, policy: Policy) -> tuple[LayerSums, int]:
        """Returns the sums over the layers, and the peak of activations in bytes.

        Raises:
          PolicyError: If policy and network do not have the same entries.
        """
        widths = self._layers.of(policy)
        keys = self._layers.keys(widths)
        found = [
            table.get(key) or self._price(row, key, widths)
            for row, (table, key) in enumerate(zip(self._tables, keys, strict=True))
        ]
        peak = self._liveness.peak_bytes(
            self._layers.of_tensors(widths), [one.decoded_bytes for one in found]
        )
        return LayerSums(*map(sum, zip(*found, strict=True))), peak

    def _price(self, row: int, key: int, widths: Widths) -> LayerSums:
        """Returns the price of a layer that is not in the table yet."""
        weight_bits, inputs, output = self._layers.of_layer(row, widths)
        price = self._prices[row](weight_bits, tuple(inputs), output)
        self._tables[row][key] = price
        return price
