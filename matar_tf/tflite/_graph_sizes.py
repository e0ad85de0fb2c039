"""What one sample takes of memory and time in a graph, operator by operator.

A small file may describe a large task: what operators read and make, and what a runtime
keeps beside the file, is counted once for each use of it.
"""

from __future__ import annotations

import math
from typing import Final

from matar_tf.operators import CostShape
from matar_tf.tflite._graph_nodes import ITEM_BITS, Node, expect
from matar_tf.tflite._schema import PACKED_BITS

__all__ = ["MAX_PRODUCTS", "TRANSPOSED", "Sizes"]

TRANSPOSED: Final = ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE")
MAX_PRODUCTS: Final = 1 << 36  # for one sample; ResNet-50 has 2**32
_MAX_BYTES: Final = 1 << 28  # of all computed tensors, for one sample
# Values of computed tensors, once for each operator that reads them. Networks read what
# they make one to five times.
_MAX_READ: Final = 1 << 30
# Places of all windows, to each of which XNNPACK keeps a pointer. A U-Net of images of
# 512 x 512 has 2**24.
_MAX_PLACES: Final = 1 << 25
# Channels that XNNPACK adds to kernels to fill its tiles, of 16 output and 8 input ones
# at most, and kernels that it packs again for each further operator that has them.
# Networks have a few MB.
_MAX_FILLING: Final = 1 << 27
_TILE: Final = (16, 8)
# Bytes of windows that TFLite lays side by side. A U-Net of images of 512 x 512 has
# 2**28.2.
_MAX_PATCHES: Final = 1 << 29


# Axes of a kernel that are those of its window, by its rank.
_WINDOW: Final = {4: (1, 3), 5: (0, 3)}


class Sizes:
    """Sums over the operators of a graph, which must not become too large.

    Args:
      max_products: Multiplications of one sample, and values of its windows, that a
        graph may have at most.
    """

    def __init__(self, max_products: int) -> None:
        self._limits = {
            "bytes of tensors": _MAX_BYTES,
            "values that operators read": _MAX_READ,
            "products": max_products,
            "places of windows": _MAX_PLACES,
            "bytes that fill up kernels, or repeat them": _MAX_FILLING,
        }
        self._counts = dict.fromkeys(self._limits, 0)
        self._kernels: set[object] = set()

    def add(self, node: Node) -> None:
        """Counts an operator that is sound.

        Raises:
          UnsoundError: If a sum is too large with it.
        """
        window = _window(node)
        found = (
            sum(one.size * ITEM_BITS[one.type] // 8 for one in node.outputs),
            sum(one.size for one in node.data if one.values is None),
            _products(node, window),
            math.prod(node.output.shape[1:3]) * window if window > 1 else 0,
            self._filling(node, window),
        )
        for what, more in zip(self._limits, found, strict=True):
            self._counts[what] += more
            count, most = self._counts[what], self._limits[what]
            expect(count <= most, f"at most {most} {what}", count)
        patches = _patches(node)
        fits = patches <= _MAX_PATCHES
        node.expect(fits, f"at most {_MAX_PATCHES} bytes of windows", patches)

    def _filling(self, node: Node, window: int) -> int:
        """Returns the bytes that a kernel takes beside those of the file."""
        if node.row.shape is not CostShape.KERNEL or node.row.is_float:
            return 0
        kernel = node.data[1]
        place = id(kernel) if kernel.values is None else ("stored", kernel.buffer)
        own = 0 if place in self._kernels else kernel.size
        self._kernels.add(place)
        return (_filled(node, window) - own) * max(ITEM_BITS[kernel.type], 8) // 8


def _products(node: Node, window: int) -> int:
    """Returns the multiplications of a kernel, or the values of windows."""
    if node.row.shape in (CostShape.WINDOW, CostShape.NEIGHBOURS):
        return node.output.size * window
    if node.name == "BATCH_MATMUL":
        return node.output.size * node.data[0].shape[-2 if node.options.adjX else -1]
    if node.row.shape is not CostShape.KERNEL:
        return 0
    # All of a kernel is multiplied at each place.
    places = node.data[0] if node.name.endswith(TRANSPOSED) else node.output
    return places.size // places.shape[-1] * node.data[1].size


def _window(node: Node) -> int:
    """Returns the places of a window over an image; 1 for none."""
    if node.row.shape is CostShape.NEIGHBOURS:
        return 4
    if node.row.shape is CostShape.WINDOW:
        return int(node.options.filterHeight * node.options.filterWidth)
    if node.row.shape is not CostShape.KERNEL or len(node.data[1].shape) < 4:
        return 1
    return math.prod(node.data[1].shape[slice(*_WINDOW[len(node.data[1].shape)])])


def _filled(node: Node, window: int) -> int:
    """Returns the values of a kernel that fills the tiles."""
    kernel = node.data[1]
    channels = node.output.shape[-1]
    if node.name == "DEPTHWISE_CONV_2D":
        return -(-channels // _TILE[0]) * _TILE[0] * window
    depth = kernel.shape[-1]
    groups = node.data[0].shape[-1] // depth if node.name == "CONV_2D" else 1
    outputs, inputs = (
        -(-count // tile) * tile
        for count, tile in zip((channels // groups, depth), _TILE, strict=True)
    )
    return groups * outputs * inputs * window


def _patches(node: Node) -> int:
    """Returns the bytes of all windows of an image, where TFLite lays them out.

    It does so for a convolution of packed kernels (``kernels/conv.cc``, im2col) and of
    volumes, and for what transposed ones make in float.
    """
    if node.row.shape is not CostShape.KERNEL:
        return 0
    kernel = node.data[1]
    if node.name == "CONV_2D" and kernel.type in PACKED_BITS:
        return node.output.size // node.output.shape[-1] * math.prod(kernel.shape[1:])
    if node.name in TRANSPOSED and node.is_float:
        depth = kernel.shape[-1]
        return 4 * node.data[0].size // depth * (kernel.size // depth)
    if node.name == "CONV_3D":
        channels = kernel.shape[-1]
        return 4 * node.output.size // channels * (kernel.size // channels)
    return 0
