"""How a fused array cuts a layer into tiles: the traffic off chip of the best cut.

The order of the loops over tiles decides what stays in a buffer and what is loaded
again. All orders and all tiles whose sides are powers of two are compared, and the one
with the fewest cycles is taken, as the compiler of Bit Fusion does.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from matar_tf.errors import TargetError
from matar_tf.targets.compute import FusedCompute
from matar_tf.targets.sections import Buffers

__all__ = [
    "Blocking",
    "LoopNest",
    "best_blocking",
    "fits_buffers",
    "split_factor",
]

_Floats: TypeAlias = npt.NDArray[np.float64]

_BATCH, _HEIGHT, _WIDTH, _INPUTS, _OUTPUTS = range(5)  # the loops over tiles
_ORDERS: Final = np.array(list(itertools.permutations(range(5))))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopNest:
    """One layer as nested loops.

    Attributes:
      batch_size: Samples.
      output_size: Height and width of the output.
      kernel_size: Height and width of the kernel.
      strides: Strides of the kernel.
      in_channels: Input channels that one output depends on.
      out_channels: Output channels.
      unrolled: Whether the inputs are stored once per output pixel (im2col).
      channelwise: Whether output channels read input channels of their own.
    """

    batch_size: int
    output_size: tuple[int, int]
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    in_channels: int
    out_channels: int
    unrolled: bool
    channelwise: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocking:
    """The best way to cut a layer.

    Attributes:
      compute_cycles: Cycles in which the array multiplies, partly filled tiles too.
      dram_cycles: Cycles of the port while the array multiplies.
      fill_cycles: Cycles of the port before the first and after the last tile.
      weight_bits: Weights over the port.
      input_bits: Inputs over the port.
      output_bits: Outputs and unfinished sums over the port, both ways.
    """

    compute_cycles: float
    dram_cycles: float
    fill_cycles: float
    weight_bits: float
    input_bits: float
    output_bits: float


def split_factor(compute: FusedCompute, weight_bits: int, activation_bits: int) -> int:
    """Returns the multipliers that a fusion unit splits into at these widths."""
    return (compute.max_bits // max(weight_bits, compute.min_bits)) * (
        compute.max_bits // max(activation_bits, compute.min_bits)
    )


def fits_buffers(
    nest: LoopNest, widths: tuple[int, int], compute: FusedCompute, buffers: Buffers
) -> bool:
    """Returns whether the smallest tiles of a layer fit, so that it can be cut.

    Args:
      nest: The layer.
      widths: Bits of weights and inputs.
      compute: The array.
      buffers: Its buffers.
    """
    smallest = np.array([1, 1, 1, 1, _least_outputs(nest, compute.columns)])
    tiles = np.minimum(smallest, _full(nest)).astype(np.float64)[:, None]
    sizes = _sizes(nest, tiles, widths, compute, buffers)
    return bool((sizes <= _capacity(buffers)).all())


@functools.lru_cache(maxsize=100_000)
def best_blocking(
    nest: LoopNest,
    widths: tuple[int, int, int],
    compute: FusedCompute,
    buffers: Buffers,
    dram_bits_per_cycle: float,
) -> Blocking:
    """Returns the tiles and the order of loops with the fewest cycles.

    A tile of weights, inputs and sums must fit into its buffer (half of it, if double
    buffered). Going outwards, a loop that an operand does not depend on costs it
    nothing as long as all its tiles so far fit into the buffer together; any other loop
    multiplies its traffic. ``cycles = max(compute, traffic - fill) + fill``.

    Args:
      nest: The layer.
      widths: Bits of weights, inputs and outputs.
      compute: The array.
      buffers: Its buffers.
      dram_bits_per_cycle: The off-chip port.

    Raises:
      TargetError: If not even the smallest tiles fit.

    Reference:
      Bit Fusion, Sharma et al., ISCA 2018; hsharma35/bitfusion, ``optimizer.py``. There
      sums cross the port at accumulator width and kernels with their padding
      (`Buffers.stores_accumulators`, `Buffers.pads_weights`).
    """
    weight_bits, input_bits, output_bits = widths
    rows = compute.rows * split_factor(compute, weight_bits, input_bits)
    tiles, counts = _tiles(nest, compute.columns)
    batch, height, width, inputs, outputs = tiles
    kernel = math.prod(nest.kernel_size)
    padded_outputs = _padded(outputs, compute.columns)
    sizes = _sizes(nest, tiles, (weight_bits, input_bits), compute, buffers)
    capacity = _capacity(buffers)
    fits = (sizes <= capacity).all(axis=0)
    if not fits.any():
        raise TargetError(
            f"Expected buffers that hold the smallest tiles of a layer with kernel "
            f"{nest.kernel_size} at {widths} bits of weights, inputs and outputs, got "
            f"{buffers.weight_bytes}, {buffers.input_bytes} and {buffers.output_bytes} "
            "bytes for weights, inputs and sums; enlarge them in [buffers]."
        )
    steps = (
        np.ceil(kernel * inputs / rows)
        if nest.unrolled
        else kernel * np.ceil(inputs / rows)
    )
    tile_cycles = batch * height * width * padded_outputs / compute.columns * steps
    compute_cycles = (tile_cycles * counts.prod(axis=0))[fits]

    traffic, held = _traffic(sizes[:, fits], counts[:, fits], capacity, nest)
    if not buffers.pads_weights:
        packed = kernel * inputs * outputs * weight_bits / sizes[1]
        used = np.stack([np.ones_like(packed), packed, np.ones_like(packed)])[:, fits]
        traffic, held = traffic * used, held * used
    sums, held_sums = traffic[:, 2], held[:, 2]
    if buffers.stores_accumulators:
        read, write, first, last = sums, sums, held_sums, held_sums
    else:
        # Finished outputs leave at their own width, unfinished sums go out and back.
        once = (sizes[2] * counts[[0, 1, 2, 4]].prod(axis=0))[fits]
        narrow = output_bits / buffers.accumulator_bits
        narrow = narrow * (outputs / padded_outputs)[fits]
        elems = nest.batch_size * math.prod(nest.output_size) * nest.out_channels
        read, first, last = sums - once, np.zeros_like(sums), held_sums * narrow
        write = elems * output_bits + read
    fill = np.ceil((held[:, 0] + held[:, 1] + first) / dram_bits_per_cycle)
    fill = fill + np.ceil(last / dram_bits_per_cycle)
    total = traffic[:, 0] + traffic[:, 1] + read + write
    middle = (
        np.maximum(total - held[:, 0] - held[:, 1] - first - last, 0.0)
        / dram_bits_per_cycle
    )
    cycles = np.maximum(compute_cycles, np.ceil(middle)) + fill
    # Among equally fast ways, the one with the least traffic.
    best = np.lexsort((total.ravel(), cycles.ravel()))[0]
    order, tile = divmod(int(best), cycles.shape[1])
    return Blocking(
        compute_cycles=float(compute_cycles[tile]),
        dram_cycles=float(np.ceil(middle[order, tile])),
        fill_cycles=float(fill[order, tile]),
        weight_bits=float(traffic[order, 1, tile]),
        input_bits=float(traffic[order, 0, tile]),
        output_bits=float((read + write)[order, tile]),
    )


def _sizes(
    nest: LoopNest,
    tiles: _Floats,
    widths: tuple[int, int],
    compute: FusedCompute,
    buffers: Buffers,
) -> _Floats:
    """Returns the bits of tiles of inputs, weights and sums, [operands, tiles]."""
    weight_bits, input_bits = widths
    rows = compute.rows * split_factor(compute, weight_bits, input_bits)
    batch, height, width, inputs, outputs = tiles
    kernel = math.prod(nest.kernel_size)
    stored_inputs = outputs if nest.channelwise else inputs
    if nest.unrolled:
        window = height * width * kernel
    else:
        window = np.ones_like(height)
        for size, axis in ((height, 0), (width, 1)):
            window = window * ((size - 1) * nest.strides[axis] + nest.kernel_size[axis])
    sums = height * width * _padded(outputs, compute.columns) * batch
    return np.stack(
        [
            window * stored_inputs * batch * input_bits,
            np.ceil(kernel * inputs / rows) * rows * outputs * weight_bits,
            sums * buffers.accumulator_bits,
        ]
    )


def _capacity(buffers: Buffers) -> _Floats:
    """Returns the room for tiles of inputs, weights and sums in bits, [operands, 1]."""
    share = 4 if buffers.double_buffered else 8
    sizes = buffers.input_bytes, buffers.weight_bytes, buffers.output_bytes
    return np.array([[share * size] for size in sizes], dtype=np.float64)


def _padded(outputs: _Floats, columns: int) -> _Floats:
    return np.ceil(outputs / columns) * float(columns)


def _full(nest: LoopNest) -> tuple[int, int, int, int, int]:
    """Returns the size of a layer in each loop."""
    height, width = nest.output_size
    return nest.batch_size, height, width, nest.in_channels, nest.out_channels


def _least_outputs(nest: LoopNest, columns: int) -> int:
    """Returns the output channels of the smallest tile of a layer that has so many."""
    return 1 if nest.unrolled else columns


def _tiles(nest: LoopNest, columns: int) -> tuple[_Floats, _Floats]:
    """Returns the sizes of all tiles and how many there are, each [loops, tiles]."""
    sides = max(nest.output_size)
    grid = np.array(
        list(
            itertools.product(
                _powers(nest.batch_size, 1),
                _powers(sides, 1),
                _powers(nest.in_channels, 1),
                _powers(nest.out_channels, _least_outputs(nest, columns)),
            )
        ),
        dtype=np.float64,
    ).T
    tiles = np.stack([grid[0], grid[1], grid[1], grid[2], grid[3]])
    limits = np.array(_full(nest), dtype=np.float64)[:, None]
    tiles = np.minimum(tiles, limits)
    return tiles, np.ceil(limits / tiles)


def _powers(size: int, unit: int) -> list[int]:
    """Returns ``unit``, ``2 * unit``, ``4 * unit``... up to the first that covers."""
    sizes = [unit]
    while sizes[-1] < size:
        sizes.append(sizes[-1] * 2)
    return sizes


def _traffic(
    sizes: _Floats, counts: _Floats, capacity: _Floats, nest: LoopNest
) -> tuple[_Floats, _Floats]:
    """Returns bits over the port and bits held, each [orders, operands, tiles]."""
    depends = np.zeros((5, 3), dtype=bool)  # on loops: inputs, weights, sums
    depends[[_BATCH, _HEIGHT, _WIDTH, _INPUTS], 0] = True
    depends[_OUTPUTS, 0] = nest.channelwise
    depends[[_INPUTS, _OUTPUTS], 1] = True
    depends[[_BATCH, _HEIGHT, _WIDTH, _OUTPUTS], 2] = True
    traffic = np.repeat(sizes[None], len(_ORDERS), axis=0)
    held, fits = traffic, np.ones_like(traffic, dtype=bool)
    for position in range(4, -1, -1):  # from the innermost loop outwards
        loop = _ORDERS[:, position]
        repeats = counts[loop][:, None, :]
        counted = depends[loop][:, :, None] | ~fits
        traffic = traffic * np.where(counted, repeats, 1.0)
        fits = fits & (traffic <= capacity)
        held = np.where(fits, traffic, held)
    return traffic, held
