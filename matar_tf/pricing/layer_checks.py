"""Checks of what a cost model is given: layers, and prices of an own function."""

from __future__ import annotations

import math
import numbers

from matar_tf.errors import ModelError, TargetError
from matar_tf.targets import MULTIPLY_KINDS
from matar_tf.targets.fields import MAX_FIGURE, MIN_FIGURE
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload

__all__ = ["check_layer", "own_cycles"]


def own_cycles(own: object, layer: LayerWorkload) -> float:
    """Returns what an own cost function returned, if it is a figure of a target."""
    try:
        cycles = float(own) if isinstance(own, numbers.Real) else math.nan
    except OverflowError:
        cycles = math.inf  # an integer of hundreds of digits
    if not MIN_FIGURE <= cycles <= MAX_FIGURE:
        shown = own if math.isnan(cycles) else cycles
        raise TargetError(
            f"Expected a positive number of cycles, {MIN_FIGURE:g} to {MAX_FIGURE:g}, "
            f"for layer {layer.name!r} from the own cost function, got {shown!r}."
        )
    return cycles


def check_layer(layer: LayerWorkload, output: TensorWorkload) -> None:
    """Checks that a layer that multiplies says how much, and no other one does."""
    if layer.kind is OpKind.FLOAT:
        return
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
