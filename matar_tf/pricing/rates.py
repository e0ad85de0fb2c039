"""What a layer takes of a multiplier with a rate for each pair of widths."""

from __future__ import annotations

import math
from typing import NamedTuple

from matar_tf.pricing.demand import LayerDemand
from matar_tf.targets.compute import Rate
from matar_tf.workload import OpKind

__all__ = ["RateTerms", "rate_cycles", "rate_terms"]


class RateTerms(NamedTuple):
    """What rates count of a layer, for one sample.

    Attributes:
      macs: Multiply-accumulates, with those of channels that are filled up.
      inputs: Elements of the first input.
      outputs: Elements of the output.
      weights: Elements of the kernel.
    """

    macs: float
    inputs: float
    outputs: float
    weights: float


def rate_terms(demand: LayerDemand, input_step: int, output_step: int) -> RateTerms:
    """Returns what rates count of a layer.

    Channels are filled up to whole steps, input and output channels of each group;
    a depthwise layer has its channels on the output side alone.
    """
    layer = demand.layer
    depthwise = layer.kind is OpKind.DEPTHWISE_CONV
    num_groups = 1 if depthwise else layer.groups
    inputs = 1 if depthwise else demand.reduction // math.prod(layer.kernel_size)
    outputs = demand.out_channels // num_groups
    macs = layer.macs * _filled(outputs, output_step)
    if not depthwise:
        macs *= _filled(inputs, input_step)
    return RateTerms(
        macs=macs,
        inputs=math.prod(demand.input_shape),
        outputs=math.prod(demand.output_shape),
        weights=layer.weight_elems,
    )


def rate_cycles(demand: LayerDemand, rate: Rate) -> float:
    """Returns the cycles of a layer, for one sample.

    ``macs * cycles_per_mac + inputs * cycles_per_input + outputs * cycles_per_output
    + weights * cycles_per_weight``, see `RateTerms`.
    """
    terms = rate_terms(demand, rate.input_step, rate.output_step)
    return (
        terms.macs * rate.cycles
        + terms.inputs * rate.cycles_per_input
        + terms.outputs * rate.cycles_per_output
        + terms.weights * rate.cycles_per_weight
    )


def _filled(channels: int, step: int) -> float:
    """Returns by how much more channels are in whole steps; 1.0 for steps of one."""
    return -(-channels // step) * step / channels if channels else 1.0
