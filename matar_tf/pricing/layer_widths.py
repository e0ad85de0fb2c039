"""The widths that each layer sees under a policy, as one integer a layer.

What a target says of a layer follows from the layer's own widths, so that it can be
remembered under that integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from matar_tf.errors import ModelError
from matar_tf.policy import MAX_BITS, WIDE_BITS, Policy
from matar_tf.pricing.memory import check_entries, fixed_width
from matar_tf.workload import FLOAT_BITS, Workload

__all__ = ["LayerWidths", "Widths"]

_MAX_WIDTHS: Final = 20  # of a layer: three bits each in a 64-bit key

Widths: TypeAlias = npt.NDArray[np.uint8]


class LayerWidths:
    """Turns policies of a network into widths, and these into one key for each layer.

    A key holds three bits for each width that its layer sees, of which 16 takes the
    place of the 1 that is none: weights, distinct inputs, output. Widths are arrays
    over the places of a policy: weight entries, activation entries, and two last ones
    that stand for tensors without an entry, of integers and of floats. The width of the
    latter is the same under every policy.

    Args:
      workload: The network.

    Raises:
      ModelError: If a layer has too many inputs.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        tensors = tuple(workload.tensors.values())
        weights = dict.fromkeys(one.weights for one in workload.layers if one.weights)
        activations = dict.fromkeys(one.activation for one in tensors if one.activation)
        self._weights, self._activations = tuple(weights), tuple(activations)
        places = {
            (kind, name): place
            for place, (kind, name) in enumerate(
                [
                    *(("weights", name) for name in weights),
                    *(("activations", name) for name in activations),
                    *(("activations", bits) for bits in (MAX_BITS, FLOAT_BITS)),
                ]
            )
        }
        of_tensor = {
            one.name: places[
                "activations", one.activation or workload.fixed_bits(one.name)
            ]
            for one in tensors
        }
        self._tensor_places = np.array([*of_tensor.values()])
        self._places = tuple(
            (
                *([places["weights", layer.weights]] if layer.weights else []),
                *(of_tensor[name] for name in dict.fromkeys(layer.inputs)),
                of_tensor[layer.output],
            )
            for layer in workload.layers
        )
        for layer, row in zip(workload.layers, self._places, strict=True):
            if len(row) > _MAX_WIDTHS:
                raise ModelError(
                    f"Expected at most {_MAX_WIDTHS} widths at layer {layer.name!r}, "
                    f"got {len(row)}; split the layer into several with fewer inputs."
                )
        # As a table, filled up with the place that always holds the same.
        longest = max(map(len, self._places), default=0)
        filled = [(*row, *[-1] * (longest - len(row))) for row in self._places]
        self._table = np.array(filled, dtype=np.int64).reshape(len(filled), longest)
        self._powers = 8 ** np.arange(longest)

    def of(self, policy: Policy) -> Widths:
        """Returns the width at each place.

        Raises:
          PolicyError: If policy and network do not have the same entries.
        """
        weights, activations = policy.weights, policy.activations
        # Policies that a search makes have their entries in the order of the network.
        if tuple(weights) == self._weights and tuple(activations) == self._activations:
            widths = [*weights.values(), *activations.values()]
        else:
            check_entries(self._workload, weights, activations, "policy")
            widths = [weights[name] for name in self._weights]
            widths += [activations[name] for name in self._activations]
        # By way of bytes: an array of a list of integers takes many times as long.
        fixed = fixed_width(MAX_BITS, policy), FLOAT_BITS
        return np.frombuffer(bytes([*widths, *fixed]), np.uint8)

    def keys(self, widths: Widths) -> list[int]:
        """Returns an integer for each layer: equal ones for equal widths."""
        codes = (widths - 1) % (WIDE_BITS - 1)
        return (codes[self._table] @ self._powers).tolist()

    def of_tensors(self, widths: Widths) -> Widths:
        """Returns the width of each tensor, in the order of the network."""
        return widths[self._tensor_places]

    def of_layer(
        self, row: int, widths: Widths
    ) -> tuple[int | None, Sequence[int], int]:
        """Returns the widths of a layer's weights, distinct inputs and output."""
        bits = [int(widths[place]) for place in self._places[row]]
        weight_bits = bits.pop(0) if self._workload.layers[row].weights else None
        return weight_bits, bits[:-1], bits[-1]
