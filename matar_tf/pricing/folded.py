"""Logic of its own for each layer on an FPGA: cycles, and look-up tables (LUTs).

Both are estimates of a synthesis that nobody has run.
"""

from __future__ import annotations

import math

from matar_tf.pricing.demand import LayerDemand
from matar_tf.targets.compute import FoldedCompute
from matar_tf.workload import OpKind

__all__ = ["folded_cycles", "folded_luts", "folding"]

_INPUTS_OF_LUT = 6


def folding(demand: LayerDemand, compute: FoldedCompute) -> tuple[int, int]:
    """Returns output channels, and inputs of each, that are computed in parallel.

    A depthwise layer has channels for the one, taps of its kernel for the other.
    """
    return (
        _divisor(demand.out_channels // _num_groups(demand), compute.max_pe),
        _divisor(demand.reduction, compute.max_simd),
    )


def folded_cycles(demand: LayerDemand, compute: FoldedCompute) -> int:
    """Returns the cycles of a layer for one sample.

    ``groups * pixels * (out_channels / pe) * (reduction / simd)``; a depthwise layer is
    one group.

    Reference:
      FINN, ``matrixvectoractivation.py``, get_exp_cycles.
    """
    pe, simd = folding(demand, compute)
    groups = _num_groups(demand)
    rows = demand.out_channels // groups // pe
    columns = demand.reduction // simd
    return groups * math.prod(demand.output_size) * rows * columns


def folded_luts(demand: LayerDemand, compute: FoldedCompute) -> float:
    """Returns the look-up tables of a layer's multipliers, adders and accumulators.

    ``unit_luts + luts_factor * pe * (multipliers + adders + accumulator)`` with
    ``bits = weight_bits + activation_bits``, ``multipliers = simd
    * (2 * ceil(bits / 6) - 1) * bits``, ``adders = bits * (2 * simd - 1)``,
    ``accumulator = bits + floor(log2(reduction)) + 1``, of inputs without sign.
    Weights are in block memory, which is not counted, nor are thresholds, streams and
    layers without weights.

    Reference:
      Blott et al., FINN-R, ACM TRETS 2018, as in FINN,
      ``matrixvectoractivation_hls.py``, lut_estimation.
    """
    pe, simd = folding(demand, compute)
    bits = (demand.weight_bits or 0) + demand.activation_bits
    multipliers = simd * (2 * math.ceil(bits / _INPUTS_OF_LUT) - 1) * bits
    adders = bits * (2 * simd - 1)
    accumulator = bits + demand.reduction.bit_length()
    return compute.unit_luts + compute.luts_factor * pe * (
        multipliers + adders + accumulator
    )


def _num_groups(demand: LayerDemand) -> int:
    """Returns the groups that run one after the other."""
    layer = demand.layer
    return 1 if layer.kind is OpKind.DEPTHWISE_CONV else layer.groups


def _divisor(number: int, most: int) -> int:
    return max(one for one in range(1, most + 1) if number % one == 0)
