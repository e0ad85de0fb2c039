"""The cycles in which an array multiplies: one rule for each kind of compute."""

from __future__ import annotations

import math

from matar_tf.errors import TargetError
from matar_tf.policy import MAX_BITS, WIDE_BITS
from matar_tf.pricing.blocking import LoopNest, split_factor
from matar_tf.pricing.demand import LayerDemand, demand_of
from matar_tf.pricing.folded import folded_cycles
from matar_tf.pricing.rates import rate_cycles
from matar_tf.targets.compute import (
    BitParallelCompute,
    BitSerialCompute,
    BlockCompute,
    FoldedCompute,
    FusedCompute,
    Ne16Compute,
    NEurekaCompute,
    TableCompute,
)
from matar_tf.targets.sections import ArrayOps
from matar_tf.targets.target import Target
from matar_tf.workload import LayerWorkload, OpKind, Workload

__all__ = [
    "array_cycles",
    "loop_nest",
    "peak_macs_per_cycle",
    "serial_blocks",
    "tiled_nest",
]


def peak_macs_per_cycle(
    target: Target, weight_bits: int, activation_bits: int
) -> float:
    """Returns the rate of a large 3x3 convolution; memory and ``scale`` left out.

    Its sides are multiples of all block sizes in use: 240 x 240 pixels, 53,760 input
    and output channels.
    """
    side, channels = 240, 53_760
    kernel_elems = 9 * channels * channels
    layer = LayerWorkload(
        name="peak",
        kind=OpKind.CONV,
        inputs=("inputs",),
        output="outputs",
        weights="peak",
        macs=side * side * kernel_elems,
        weight_elems=kernel_elems,
        kernel_size=(3, 3),
    )
    demand = LayerDemand(
        layer=layer,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        result_bits=activation_bits,
        batch_size=1,
        input_shape=(side, side, channels),
        output_shape=(side, side, channels),
        num_elems=0,
        reads_network_input=False,
        input_bits=0,
        output_bits=0,
        kernel_bits=0.0,
        constant_bits=0,
    )
    return layer.macs / array_cycles(demand, target)


def array_cycles(demand: LayerDemand, target: Target) -> float:
    """Returns the cycles in which the array multiplies, before ``compute.scale``.

    For one sample, with ``pixels`` those of the output and ``reduction`` the
    multiply-accumulates behind one output:

    * bit-parallel: ``macs * cycles_per_mac(kind, weight_bits, activation_bits)``, and
      what `rate_cycles` adds where the rate says so
    * bit-serial: ``groups * weight_bits * activation_bits * ceil(reduction / dk)
      * ceil(channels / dm) * ceil(pixels / dn)``
    * fused: ``pixels * kernel * ceil(out_channels / columns)
      * ceil(in_channels / (rows * split))`` with ``split = (max_bits // weight_bits)
      * (max_bits // activation_bits)``; if the first layer is unrolled, ``kernel``
      moves into the second ceiling. One group of a grouped convolution at a time; a
      depthwise one fills the columns with channels and one row of units.
    * block: see `_block_cycles`. NE16: see `_ne16_cycles`. N-EUREKA: see
      `_n_eureka_cycles`. Folded: see `matar_tf.pricing.folded`.

    All but the first take a transposed convolution as a convolution, of strides 1, over
    an image with zeros between its pixels, as Vela and conventional arrays do (GANAX,
    Yazdanbakhsh et al., ISCA 2018).

    Reference:
      Bit Fusion: ``get_compute_cycles`` of the authors' simulator. Bit-serial: fitted
      to the latency table that HAQ (Wang et al., CVPR 2019) published for BISMO.
    """
    compute = target.compute
    match compute:
        case BitParallelCompute():
            rate = compute.rate(
                demand.layer.kind, demand.weight_bits or 0, demand.activation_bits
            )
            cycles = rate_cycles(demand, rate)
        case BitSerialCompute():
            num_groups, reduction, channels = serial_blocks(demand, compute)
            cycles = (
                num_groups
                * (demand.weight_bits or 0)
                * demand.activation_bits
                * _ceil_div(reduction, compute.dk)
                * _ceil_div(channels, compute.dm)
                * _ceil_div(math.prod(demand.output_size), compute.dn)
            )
        case FusedCompute():
            cycles = _fused_cycles(demand, compute)
        case BlockCompute():
            cycles = _block_cycles(demand, compute)
            if demand.activation_bits == WIDE_BITS:
                cycles *= compute.wide_scale or 1.0
        case Ne16Compute():
            cycles = _ne16_cycles(demand)
        case NEurekaCompute():
            cycles = _n_eureka_cycles(demand, compute)
        case FoldedCompute():
            cycles = folded_cycles(demand, compute)
        case TableCompute():
            raise TargetError("Expected a latency table to hold every layer.")
    return demand.batch_size * cycles


def _fused_cycles(demand: LayerDemand, compute: FusedCompute) -> int:
    """Returns the cycles of a fused array, see `array_cycles`."""
    num_groups, nest = loop_nest(demand, compute)
    kernel = math.prod(nest.kernel_size)
    rows = compute.rows * split_factor(
        compute, demand.weight_bits or 0, demand.activation_bits
    )
    steps = (
        _ceil_div(kernel * nest.in_channels, rows)
        if nest.unrolled
        else kernel * _ceil_div(nest.in_channels, rows)
    )
    column_steps = _ceil_div(nest.out_channels, compute.columns)
    return num_groups * math.prod(nest.output_size) * column_steps * steps


def loop_nest(demand: LayerDemand, compute: FusedCompute) -> tuple[int, LoopNest]:
    """Returns the number of groups that run one after the other, and one of them."""
    layer = demand.layer
    depthwise = layer.kind is OpKind.DEPTHWISE_CONV
    num_groups = 1 if depthwise else layer.groups
    return num_groups, LoopNest(
        batch_size=demand.batch_size,
        output_size=demand.output_size,
        kernel_size=layer.kernel_size,
        strides=(1, 1) if layer.kind is OpKind.TRANSPOSED_CONV else layer.strides,
        in_channels=demand.reduction // math.prod(layer.kernel_size),
        out_channels=demand.out_channels // num_groups,
        unrolled=compute.first_layer_im2col and demand.reads_network_input,
        channelwise=depthwise,
    )


def tiled_nest(
    layer: LayerWorkload, workload: Workload, target: Target
) -> LoopNest | None:
    """Returns the loops of a layer that is cut into tiles; None if it is not."""
    compute = target.compute
    if not isinstance(compute, FusedCompute) or not target.buffers:
        return None
    if layer.weights is None or not any(
        isinstance(entry, ArrayOps) for entry in target.ops_for(layer.kind)
    ):
        return None
    # Loops do not depend on widths: any will do.
    inputs = (MAX_BITS,) * len(set(layer.inputs))
    demand = demand_of(layer, workload, (MAX_BITS, inputs, MAX_BITS))
    return loop_nest(demand, compute)[1]


def _block_cycles(demand: LayerDemand, compute: BlockCompute) -> float:
    """Returns the cycles of an array that computes blocks of the output.

    ``ceil(kernel / kernel_taps) * ceil(inputs / input_channels) * blocks``, for a
    depthwise layer ``depthwise_cycles * ceil(kernel / depthwise_taps) * blocks``, with
    ``blocks = ceil(height / block_height) * ceil(width / block_width)
    * ceil(channels / block_channels)``; at least ``output_cycles_per_elem`` for each
    element of the output. One group of a grouped convolution at a time.
    """
    layer = demand.layer
    height, width = demand.output_size
    kernel = math.prod(layer.kernel_size)
    depthwise = layer.kind is OpKind.DEPTHWISE_CONV
    num_groups = 1 if depthwise else layer.groups
    blocks = (
        _ceil_div(height, compute.block_height)
        * _ceil_div(width, compute.block_width)
        * _ceil_div(demand.out_channels // num_groups, compute.block_channels)
    )
    if depthwise:
        taps = compute.depthwise_taps or 1
        steps = (compute.depthwise_cycles or 1) * _ceil_div(kernel, taps)
    else:
        inputs = demand.reduction // kernel
        steps = _ceil_div(kernel, compute.kernel_taps)
        steps *= _ceil_div(inputs, compute.input_channels)
    least = math.prod(demand.output_shape) * compute.output_cycles_per_elem
    return max(float(num_groups * blocks * steps), least)


def _ne16_cycles(demand: LayerDemand) -> int:
    """Returns the cycles of NE16 for a layer with 8-bit inputs.

    Outputs come in tiles of 3 x 3 pixels and 32 channels (16 for depthwise layers), the
    inputs in steps of 16 channels. A tile of ``n`` channels takes ``steps * (load +
    offset + multiply + 2) + normalize + 13``: load 31 (1x1: 19), offset 6 (depthwise:
    ``6 + n``), multiply ``6 + n * weight_bits`` (1x1: ``6 + n``, whatever the weights),
    normalize ``9 + n`` and with a bias ``8 + ceil(n / 8)`` more. Other kernels are put
    together from 3x3 and 1x1 ones.

    Reference:
      eml-eda/plinio, plinio/cost/ne16_latency.py (4f18525b); pulp-platform/ne16.
    """
    layer = demand.layer
    depthwise = layer.kind is OpKind.DEPTHWISE_CONV
    height, width = layer.kernel_size
    num_3x3 = (height // 3) * (width // 3)
    num_1x1 = height * width - 9 * num_3x3
    pixels = _ceil_div(demand.output_size[0], 3) * _ceil_div(demand.output_size[1], 3)
    num_groups = 1 if depthwise else layer.groups
    channels = demand.out_channels // num_groups
    inputs = 1 if depthwise else demand.reduction // (height * width)
    tile_channels = 16 if depthwise else 32

    def tile(num_channels: int, *, is_1x1: bool) -> int:
        if num_channels == 0:
            return 0
        multiply = 6 + num_channels * (1 if is_1x1 else demand.weight_bits or 0)
        offset = 6 + (num_channels if depthwise and not is_1x1 else 0)
        normalize = 9 + num_channels
        if layer.bias_elems:
            normalize += 8 + _ceil_div(num_channels, 8)
        load = 19 if is_1x1 else 31
        steps = _ceil_div(inputs, 16)
        return steps * (load + offset + multiply + 2) + normalize + 13

    full, rest = divmod(channels, tile_channels)
    cycles = sum(
        count * (full * tile(tile_channels, is_1x1=is_1x1) + tile(rest, is_1x1=is_1x1))
        for count, is_1x1 in ((num_3x3, False), (num_1x1, True))
    )
    return num_groups * pixels * cycles


def _n_eureka_cycles(demand: LayerDemand, compute: NEurekaCompute) -> float:
    """Returns the cycles of N-EUREKA for a layer with 8-bit inputs.

    A tile of ``n`` channels takes ``ceil(inputs / step_channels) * (n * weight_bits +
    step_cycles)``; a 1x1 kernel has its weights' bits side by side and takes ``n`` for
    ``n * weight_bits``, as on NE16. A depthwise layer takes one step for
    `step_channels` channels. Strides leave pixels out that are computed.

    Reference:
      pulp-platform/n-eureka; the constant is fitted to a published peak rate.
    """
    layer = demand.layer
    depthwise = layer.kind is OpKind.DEPTHWISE_CONV
    is_1x1 = math.prod(layer.kernel_size) == 1
    height, width = (
        size * stride
        for size, stride in zip(demand.output_size, layer.strides, strict=True)
    )
    pixels = _ceil_div(height, compute.tile_height)
    pixels *= _ceil_div(width, compute.tile_width)
    num_groups = 1 if depthwise else layer.groups
    channels = demand.out_channels // num_groups
    inputs = 1 if depthwise else demand.reduction // math.prod(layer.kernel_size)
    of_tile = compute.step_channels if depthwise else compute.tile_channels
    steps = _ceil_div(inputs, compute.step_channels)
    cycles_per_channel = 1 if is_1x1 else demand.weight_bits or 0
    # Each channel once, and what each tile takes besides.
    multiply = steps * channels * cycles_per_channel
    beside = steps * _ceil_div(channels, of_tile) * compute.step_cycles
    return num_groups * pixels * (multiply + beside)


def serial_blocks(
    demand: LayerDemand, compute: BitSerialCompute
) -> tuple[int, int, int]:
    """Returns matrix products, their reduction length, their output channels.

    A depthwise layer becomes dense blocks of ``depthwise_group`` channels.
    """
    layer = demand.layer
    if layer.kind is OpKind.DEPTHWISE_CONV:
        group = compute.depthwise_group or 1
        num_groups = _ceil_div(layer.groups, group)
        multiplier = demand.out_channels // layer.groups
        return num_groups, demand.reduction * group, group * multiplier
    return layer.groups, demand.reduction, demand.out_channels // layer.groups


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
