"""Numbers of output channels: factors of kernels, and what a batch norm folds to."""

from __future__ import annotations

from typing import Any

import numpy as np

from matar_tf.keras.rewrite.graph import Array, Node
from matar_tf.layer_kinds import KernelStorage

__all__ = ["folded", "scaled_kernel"]


def folded(norm: Node) -> tuple[Any, Any]:
    """Returns factor and offset of a float batch norm's channels, float64."""
    known = {name: one.astype(np.float64) for name, one in norm.weights.items()}
    mean, variance = known["moving_mean"], known["moving_variance"]
    deviation = np.sqrt(variance + float(str(norm.attributes["epsilon"])))
    factor = known.get("gamma", np.ones_like(mean)) / deviation
    return factor, known.get("beta", np.zeros_like(mean)) - mean * factor


def scaled_kernel(kernel: Array, storage: KernelStorage | None, factors: Any) -> Any:
    """Returns a kernel times a factor for each output channel.

    Args:
      kernel: As Keras has it.
      storage: How that is; None for one with the channels on the last axis.
      factors: Shape ``[channels]``.
    """
    if storage is not None and storage.is_transposed:
        return kernel * factors[:, np.newaxis]
    num_axes = 1 if storage is None else storage.num_channel_axes
    return kernel * factors.reshape(kernel.shape[-num_axes:])
