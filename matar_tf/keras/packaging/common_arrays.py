"""Arrays that a network and the parameters beside it have in common.

An artifact holds them once: `matar_tf.parameters` has kernels in TFLite's layout, the
network is put together from those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from matar_tf.keras._compat import KerasLayer, KerasModel, Tensor
from matar_tf.keras.layers import MultiBitBatchNormalization
from matar_tf.keras.quantizers import wrapper
from matar_tf.keras.quantizers.configs import kind_of
from matar_tf.layer_kinds import LAYER_KINDS, KernelLayout
from matar_tf.norms import NormParameters
from matar_tf.parameters import Parameters

__all__ = [
    "calls_of",
    "common_arrays",
    "from_tflite",
    "layout_of",
    "norms_of",
    "to_tflite",
]

# Returns the values that a variable has in some parameters.
Source: TypeAlias = "Callable[[Parameters], np.ndarray]"


def layout_of(layer: KerasLayer, rank: int) -> KernelLayout:
    """Returns how a layer of any class stores its kernel.

    Args:
      layer: The layer inside the wrapper.
      rank: Number of axes of its kernel.
    """
    row = LAYER_KINDS.get(kind_of(layer))
    if row is not None and row.kernel is not None:
        return row.kernel.layout
    return KernelLayout.DENSE if rank == 2 else KernelLayout.CONV


def to_tflite(layout: KernelLayout, kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns a kernel as TFLite stores it, and its channel axis."""
    if layout is KernelLayout.DENSE:
        return kernel.T.copy(), 0
    if layout is KernelLayout.DEPTHWISE:
        height, width = kernel.shape[:2]
        return kernel.reshape(1, height, width, -1), 3
    order = (2, 0, 1, 3) if layout is KernelLayout.TRANSPOSED else (3, 0, 1, 2)
    return np.transpose(kernel, order).copy(), 0


def from_tflite(
    layout: KernelLayout, kernel: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns a kernel as Keras has it; see `to_tflite`.

    Args:
      layout: How Keras stores it.
      kernel: In TFLite's layout.
      shape: Of the variable in Keras, for its axes that TFLite joins.
    """
    if layout is KernelLayout.DENSE:
        return kernel.T
    if layout is KernelLayout.DEPTHWISE:
        return kernel.reshape(shape)
    order = (1, 2, 0, 3) if layout is KernelLayout.TRANSPOSED else (1, 2, 3, 0)
    return np.transpose(kernel, order)


def norms_of(model: KerasModel) -> dict[str, KerasLayer]:
    """Returns the batch norms of a model, by the call that they are folded into."""
    return {
        wrapper.entry_name(wrapper.multiplier(inner)): inner
        for inner in map(wrapper.inner_layer, model.layers)
        if isinstance(inner, MultiBitBatchNormalization)
    }


def calls_of(model: KerasModel) -> dict[str, list[str]]:
    """Returns the names of the calls of layers with kernels, by weight entry.

    The first is the entry itself.
    """
    calls: dict[str, list[str]] = {}
    for layer in model.layers:
        quantizer = wrapper.kernel_quantizer(layer)
        if quantizer is not None:
            calls.setdefault(quantizer.entry, []).append(wrapper.entry_name(layer))
    return {entry: [entry, *names[1:]] for entry, names in calls.items()}


def common_arrays(model: KerasModel) -> Iterator[tuple[Tensor, Source]]:
    """Yields each variable whose values are in the model's parameters too."""
    norms, calls = norms_of(model), calls_of(model)
    for layer in model.layers:
        for one, variable in wrapper.float_kernels(layer):
            yield variable, _float_kernel_of(one.entry, tuple(variable.shape))
        quantizer = wrapper.kernel_quantizer(layer)
        if quantizer is None or quantizer.layer is not layer:
            continue
        entry, kernel = quantizer.entry, wrapper.kernel_variable(layer)
        yield kernel, _kernel_of(entry, wrapper.inner_layer(layer), kernel)
        if wrapper.inner_layer(layer).use_bias and entry not in norms:
            yield wrapper.bias_variable(layer), _bias_of(entry)
        for call in calls[entry]:
            if call in norms:
                norm = norms[call]
                yield norm.gamma, _norm_of(entry, call, lambda one: one.gamma)
                yield norm.beta, _norm_of(entry, call, lambda one: one.beta)
                yield norm.moving_mean, _norm_of(entry, call, lambda one: one.mean)
                variance = _norm_of(entry, call, lambda one: one.variance)
                yield norm.moving_variance, variance


def _kernel_of(entry: str, layer: KerasLayer, kernel: Tensor) -> Source:
    shape = tuple(kernel.shape)
    layout = layout_of(layer, len(shape))
    return lambda found: from_tflite(layout, found.layers[entry].kernel, shape)


def _float_kernel_of(entry: str, shape: tuple[int, ...]) -> Source:
    return lambda found: found.layers[entry].kernel.reshape(shape)


def _bias_of(entry: str) -> Source:
    return lambda found: np.asarray(found.layers[entry].bias)


def _norm_of(
    entry: str, call: str, part: Callable[[NormParameters], np.ndarray]
) -> Source:
    def values(found: Parameters) -> np.ndarray:
        layer = found.layers[entry]
        norm = layer.norm if call == entry else layer.calls.get(call)
        return np.zeros(0) if norm is None else part(norm)

    return values
