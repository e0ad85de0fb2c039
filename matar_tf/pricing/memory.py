"""Widths and bytes of a network under a policy, on any target.

Counted, not timed: the same figures serve the limits of targets and the cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from matar_tf.errors import PolicyError, did_you_mean
from matar_tf.policy import MAX_BITS, WIDE_BITS, Policy
from matar_tf.targets.storage import Storage
from matar_tf.workload import LayerWorkload, OpKind, Workload

__all__ = [
    "Liveness",
    "check_entries",
    "constant_bytes",
    "decoded_bytes",
    "fixed_width",
    "kernel_bits",
    "layer_weight_bytes",
    "num_channel_scales",
    "packed_bytes",
    "stored_bits",
    "tensor_bits",
]

_BIAS_BYTES: Final = 4
_SCALE_BYTES: Final = 4


def packed_bytes(num_elems: int, num_bits: int) -> int:
    """Returns ``ceil(num_elems * num_bits / 8)``: no padding between elements."""
    return -(-num_elems * num_bits // 8)


def num_channel_scales(layer: LayerWorkload, workload: Workload) -> int:
    """Returns the number of weight scales: one per output channel, 0 if no weights."""
    if layer.weights is None:
        return 0
    shape = workload.tensors[layer.output].shape
    return shape[-1] if shape else 1


def kernel_bits(
    layer: LayerWorkload, weight_bits: int | None, storage: Storage | None
) -> float:
    """Returns the bits of a kernel as stored; packed, unless a target stores otherwise.

    Args:
      layer: The layer.
      weight_bits: Width of its kernel; None for a layer without weights.
      storage: How the target stores operands; None if it packs them.
    """
    if weight_bits is None:
        return 0.0
    if storage is None:
        return float(layer.weight_elems * weight_bits)
    if storage.decoding is not None and layer.kind is not OpKind.FLOAT:
        stored = storage.decoding.stored_bytes(layer.weight_elems, weight_bits)
        return 8.0 * (layer.weight_elems if stored is None else stored)
    if layer.kind is OpKind.FLOAT:  # no part of the target that would unpack it
        return float(layer.weight_elems * stored_bits(weight_bits, storage))
    return layer.weight_elems * storage.stored_bits(weight_bits)


def decoded_bytes(
    layer: LayerWorkload, weight_bits: int | None, storage: Storage | None
) -> int:
    """Returns what a decoded kernel takes while its layer runs; 0 if none is decoded.

    Args:
      layer: The layer.
      weight_bits: Width of its kernel; None for a layer without weights.
      storage: How the target stores operands; None if it packs them.
    """
    decoding = storage.decoding if storage else None
    if decoding is None or weight_bits is None or layer.kind is OpKind.FLOAT:
        return 0
    is_stored = decoding.stored_bytes(layer.weight_elems, weight_bits) is not None
    return layer.weight_elems if is_stored else 0


def constant_bytes(layer: LayerWorkload, workload: Workload) -> int:
    """Returns ``4 * bias_elems + 4 * output channels``: 32-bit constants and scales."""
    scales = num_channel_scales(layer, workload)
    return _BIAS_BYTES * layer.bias_elems + _SCALE_BYTES * scales


def layer_weight_bytes(
    layer: LayerWorkload,
    workload: Workload,
    weight_bits: int | None,
    storage: Storage | None = None,
) -> int:
    """Returns the constant bytes of one layer.

    ``ceil(kernel_bits / 8) + constant_bytes``: kernel as stored, 32-bit integer bias,
    one 32-bit float scale per output channel. A kernel of several calls counts at the
    first: it is stored once, and fetched for each.
    """
    bits = kernel_bits(layer, weight_bits, storage)
    kernel = math.ceil(bits / 8) if layer.name in workload.storing else 0
    return kernel + constant_bytes(layer, workload)


def stored_bits(bits: int, storage: Storage | None) -> int:
    """Returns the width that a tensor of so many bits takes up."""
    if storage is None or bits > MAX_BITS:  # floats, or 16
        return bits
    return storage.tensor_bits


def check_entries(
    workload: Workload,
    weights: Iterable[str],
    activations: Iterable[str],
    what: str,
) -> None:
    """Checks that entries and network match in both directions.

    Args:
      workload: The network.
      weights: Names of the weight entries of a policy or a policy space.
      activations: Names of its activation entries.
      what: What it is, for the message.

    Raises:
      PolicyError: If an entry matches nothing, or an entry is missing.
    """
    needed_weights = {layer.weights for layer in workload.layers if layer.weights}
    tensors = workload.tensors.values()
    needed_tensors = {item.activation for item in tensors if item.activation}
    for field, given, needed in (
        ("weights", set(weights), needed_weights),
        ("activations", set(activations), needed_tensors),
    ):
        for name in sorted(given - needed):
            raise PolicyError(
                f"The {what} has the {field} entry {name!r}, which matches nothing in "
                f"this network. {did_you_mean(name, needed)}"
            )
        for name in sorted(needed - given):
            raise PolicyError(
                f"The {what} has no {field} entry for {name!r}; give it one."
            )


def fixed_width(bits: int, policy: Policy) -> int:
    """Returns the width of a tensor without an entry: 16 for 8 as all others have it.

    Args:
      bits: That of `Workload.fixed_bits`.
      policy: The policy.
    """
    return WIDE_BITS if policy.is_wide and bits == MAX_BITS else bits


def tensor_bits(workload: Workload, policy: Policy) -> dict[str, int]:
    """Returns the width of each tensor; see `Workload.fixed_bits` for others."""
    return {
        name: fixed_width(workload.fixed_bits(name), policy)
        if tensor.activation is None
        else policy.activations[tensor.activation]
        for name, tensor in workload.tensors.items()
    }


class Liveness:
    """Which tensors are alive while each layer of a workload runs.

    A tensor is alive from the layer that makes it (a network input: from the first
    layer) to the last layer that reads it (a network output: to the last layer).

    Args:
      workload: The network.
      storage: How the target stores tensors; None if it packs them.

    Attributes:
      live_names: Names of the tensors alive at each layer.
    """

    def __init__(self, workload: Workload, storage: Storage | None = None) -> None:
        self._fixed_bits = storage and storage.tensor_bits
        last_step = max(len(workload.layers) - 1, 0)
        first = dict.fromkeys(workload.inputs, 0)
        last = dict.fromkeys(workload.inputs, 0)
        for step, layer in enumerate(workload.layers):
            first[layer.output] = last[layer.output] = step
            last.update(dict.fromkeys(layer.inputs, step))
        last.update(dict.fromkeys(workload.outputs, last_step))
        self._elems = np.array([item.elems for item in workload.tensors.values()])
        self.live_names: Final = tuple(
            tuple(name for name in first if first[name] <= step <= last[name])
            for step in range(last_step + 1)
        )
        self._live = np.array(
            [[name in live for name in workload.tensors] for live in self.live_names],
            dtype=np.float64,
        )

    def peak_bytes(
        self, bits: npt.ArrayLike, decoded: Sequence[int] | None = None
    ) -> int:
        """Returns the largest sum of packed bytes that are alive at one layer.

        Not counted: scratch buffers of kernels (im2col, 32-bit sums), and the loss to
        fragmentation.

        Args:
          bits: Width of each tensor, ``[num_tensors]``, in the order of the network.
          decoded: Bytes that the kernel of each layer takes while the layer runs; none
            if None. See `decoded_bytes`.
        """
        # As `packed_bytes`; a product in float64, of integers, is exact and fast.
        bits = np.asarray(bits)
        if self._fixed_bits:
            bits = np.where(bits > MAX_BITS, bits, self._fixed_bits)
        sizes = (self._elems * bits + 7) // 8
        alive = self._live @ sizes
        return int((alive if decoded is None else alive + np.array(decoded)).max())
