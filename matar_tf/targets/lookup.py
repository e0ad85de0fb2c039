"""Sums of layer prices by table: what a search asks for thousands of policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from matar_tf.errors import ModelError
from matar_tf.policy import MAX_BITS, Policy
from matar_tf.targets._sections import Storage
from matar_tf.targets.memory import Liveness, check_entries
from matar_tf.workload import Workload

__all__ = ["LayerSums", "PriceOfWidths", "PriceTable"]

_MAX_WIDTHS: Final = 20  # that a price depends on: three bits each in a 64-bit key


class LayerSums(NamedTuple):
    """What is added up over the layers.

    Attributes:
      cycles: Cycles of the target's clock.
      energy_pj: Energy; nan if there is no figure.
      weight_bytes: Bytes of constants.
      bops: Bit operations.
    """

    cycles: float
    energy_pj: float
    weight_bytes: int
    bops: int


PriceOfWidths: TypeAlias = Callable[[int | None, tuple[int, ...], int], LayerSums]


class PriceTable:
    """Adds up prices of layers that are remembered by widths.

    A policy becomes one integer for each layer, with three bits for each width that the
    layer's price depends on: weights, distinct inputs, output.

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
        self._workload = workload
        self._prices = tuple(prices)
        self._weights = tuple(
            dict.fromkeys(one.weights for one in workload.layers if one.weights)
        )
        tensors = tuple(workload.tensors.values())
        entries = dict.fromkeys(one.activation for one in tensors if one.activation)
        self._activations = tuple(entries)
        weight_places = {name: i for i, name in enumerate(self._weights)}
        entry_places = {
            name: i for i, name in enumerate(self._activations, len(self._weights))
        }
        self._weight_names = set(self._weights)
        self._activation_names = set(self._activations)
        num_entries = len(weight_places) + len(entry_places)
        # Tensors without an entry share the last place, which always holds 8 bits.
        places = {
            one.name: entry_places[one.activation] if one.activation else num_entries
            for one in tensors
        }
        self._places = tuple(
            (
                *([weight_places[layer.weights]] if layer.weights else []),
                *(places[name] for name in dict.fromkeys(layer.inputs)),
                places[layer.output],
            )
            for layer in workload.layers
        )
        self._factors = np.zeros((len(self._places), num_entries + 1), dtype=np.int64)
        for row, layer_places in enumerate(self._places):
            if len(layer_places) > _MAX_WIDTHS:
                raise ModelError(
                    f"Expected at most {_MAX_WIDTHS} widths at layer "
                    f"{workload.layers[row].name!r}, got {len(layer_places)}; split "
                    "the layer into several with fewer inputs."
                )
            for power, place in enumerate(layer_places):
                self._factors[row, place] += 8**power
        self._tables: tuple[dict[int, LayerSums], ...] = tuple({} for _ in self._places)
        self._tensor_places = np.array([places[one.name] for one in tensors])
        self._tensor_elems = np.array([one.elems for one in tensors])
        self._fixed_bits = storage.tensor_bits if storage else None
        self._live = np.array(
            [
                [one.name in names for one in tensors]
                for names in Liveness(workload).live_names
            ],
            dtype=np.float64,
        )

    def sums(self, policy: Policy) -> tuple[LayerSums, int]:
        """Returns the sums over the layers, and the peak of activations in bytes.

        Raises:
          PolicyError: If policy and network do not have the same entries.
        """
        widths = self._widths(policy)
        keys: list[int] = (self._factors @ (widths - 1)).tolist()
        try:
            found = [table[key] for table, key in zip(self._tables, keys, strict=True)]
        except KeyError:
            found = [self._price(row, key, widths) for row, key in enumerate(keys)]
        bits = self._fixed_bits or widths[self._tensor_places]
        sizes = (self._tensor_elems * bits + 7) // 8
        cycles, energy_pj, weight_bytes, bops = zip(*found, strict=True)
        total = LayerSums(sum(cycles), sum(energy_pj), sum(weight_bytes), sum(bops))
        return total, int((self._live @ sizes).max())

    def _widths(self, policy: Policy) -> npt.NDArray[np.int64]:
        """Returns the width at each place."""
        weights, activations = policy.weights, policy.activations
        if (
            set(weights) != self._weight_names
            or set(activations) != self._activation_names
        ):
            check_entries(self._workload, weights, activations, "policy")
        widths = [weights[name] for name in self._weights]
        widths += [activations[name] for name in self._activations]
        return np.array([*widths, MAX_BITS])

    def _price(self, row: int, key: int, widths: npt.NDArray[np.int64]) -> LayerSums:
        """Returns the price of a layer, computed if it is not in the table yet."""
        table = self._tables[row]
        if key not in table:
            bits = [int(widths[place]) for place in self._places[row]]
            weight_bits = bits.pop(0) if self._workload.layers[row].weights else None
            table[key] = self._prices[row](weight_bits, tuple(bits[:-1]), bits[-1])
        return table[key]
