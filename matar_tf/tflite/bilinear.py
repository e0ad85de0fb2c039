"""Between which pixels an image that is enlarged takes its values, and where there.

Kernels of integers round the place between two pixels; training does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["Blend", "blend_of", "builtin_blend_of"]

_ONE: Final = 1 << 11
_BUILTIN_ONE: Final = 1 << 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """Pairs of pixels along one axis; ``first + (second - first) * weight / one``.

    Attributes:
      first: Index of the first pixel behind each output, int64.
      second: Index of the second one, the first again at the end.
      weight: That of the second one, a whole number of ``1 / one``; outputs before the
        first pixel's centre may have one below 0, where both pixels are the same.
      one: What a weight of 1 is.
    """

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray
    one: int


def blend_of(size_in: int, size_out: int) -> Blend:
    """Returns the pairs of a bilinear resize as XNNPACK has them.

    Pixels have their centres at halves. Along both axes the result is ``floor(x +
    0.5)`` of exact products.

    Args:
      size_in: Pixels along the axis.
      size_out: Outputs along the axis.

    Reference:
      XNNPACK, ``xnn_indirection_init_resize_bilinear2d_hwc_q11`` and
      ``s8-ibilinear``.
    """
    scale = np.float32(size_in) / np.float32(size_out)
    offset = np.float32(0.5) * scale - np.float32(0.5)
    places = np.arange(size_out, dtype=np.float32) * scale + offset
    places = np.clip(places, np.float32(0), np.float32(size_in - 1))
    first = places.astype(np.int64)
    weight = np.rint((places - first.astype(np.float32)) * np.float32(_ONE))
    return Blend(
        first=first,
        second=np.minimum(first + 1, size_in - 1),
        weight=weight.astype(np.int64),
        one=_ONE,
    )


def builtin_blend_of(size_in: int, size_out: int) -> Blend:
    """Returns the pairs as TFLite's builtin kernel has them: steps are rounded too.

    Reference:
      TensorFlow Lite, ``reference/resize_bilinear.h``, ``ResizeBilinearInteger``.
    """
    scale = (_BUILTIN_ONE * size_in + size_out // 2) // size_out
    places = np.arange(size_out) * scale + scale // 2 - _BUILTIN_ONE // 2
    first = np.maximum(places, 0) // _BUILTIN_ONE
    last = np.maximum(places + _BUILTIN_ONE - 1, 0) // _BUILTIN_ONE
    return Blend(
        first=first,
        second=np.minimum(last, size_in - 1),
        weight=places - _BUILTIN_ONE * first,
        one=_BUILTIN_ONE,
    )
