"""Which quantizer rounds as the kernel of a layer kind does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from matar_tf.keras.quantizers.derived import (
    MeanQuantizer,
    PoolQuantizer,
    ReluQuantizer,
)
from matar_tf.layer_kinds import Grid, Rounding

__all__ = ["ROUNDING_QUANTIZERS"]

# By the grid that a kernel writes on. Others round to the nearest.
ROUNDING_QUANTIZERS: Final[Mapping[tuple[Grid, Rounding | None], Any]] = (
    MappingProxyType(
        {
            (Grid.INPUT, Rounding.MEAN): MeanQuantizer,
            (Grid.INPUT, Rounding.POOL): PoolQuantizer,
            (Grid.INPUT, Rounding.RELU): ReluQuantizer,
        }
    )
)
