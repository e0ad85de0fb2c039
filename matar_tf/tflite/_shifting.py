"""Hardware that shifts its accumulators: what it computes, and how it rounds.

One shift by a power of two brings the sum of an output channel onto the grid of its
output; halves are rounded up, and what is beyond int8 is cut off.

Source: analogdevicesinc/ai8x-training, ``ai8x.py``, which simulates MAX78000: sums are
multiplied by ``2**shift`` and cut off to whole numbers, then ``floor(x / 128 + 0.5)``,
which is the same. Its biases of 8 bits and range of shifts are not reckoned with here.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError
from matar_tf.scales import are_powers_of_two
from matar_tf.tflite._schema import op_name, schema

__all__ = ["check_shifting", "shifted"]

# Products of kernels, and what only moves, compares or cuts off levels.
_OPERATORS: Final = (
    *("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"),
    *("CONCATENATION", "EXPAND_DIMS", "PAD", "RESHAPE", "SQUEEZE", "TRANSPOSE"),
    *("MAXIMUM", "MAX_POOL_2D", "MINIMUM", "RELU"),
    *("DEQUANTIZE", "QUANTIZE"),
)
_LARGEST: Final = 62  # shift that int64 takes


def check_shifting(model: Any) -> None:
    """Checks that hardware which shifts computes a file.

    Raises:
      ExportError: If an operator does more than that, or tensors have 16 bits, whose
        steps are no powers of two.
    """
    graph = model.subgraphs[0]
    names = dict.fromkeys(op_name(model, one) for one in graph.operators)
    others = [name for name in names if name not in _OPERATORS]
    if others:
        raise ExportError(
            f"Expected operators among {list(_OPERATORS)} to be computed by shifts "
            f"alone, got {others}; take other kernels, or leave such layers out."
        )
    if any(one.type == schema.TensorType.INT16 for one in graph.tensors):
        raise ExportError(
            "Expected tensors of 8 bits to be computed by shifts alone, got some of "
            "16, whose steps are no powers of two; export a narrower policy."
        )


def shifted(acc: np.ndarray, real: Any) -> np.ndarray:
    """Returns ``floor(acc * real + 0.5)`` by a shift of each output channel.

    Args:
      acc: Whole numbers, ``[..., channels]``.
      real: Powers of two, ``[channels]`` or ``[1]``.

    Raises:
      ExportError: If one is no power of two.
    """
    if not are_powers_of_two(real):
        raise ExportError(
            "Expected scales that are powers of two to shift by, got the factor "
            f"{float(np.ravel(real)[0]):.6g} or others; export a network that was "
            "quantized with scale='power_of_two'."
        )
    _, exponents = np.frexp(np.asarray(real, np.float64))
    shift = exponents.astype(np.int64) - 1
    left, right = np.clip(shift, 0, _LARGEST), np.clip(-shift, 0, _LARGEST)
    half = (np.int64(1) << right) >> 1
    return ((acc.astype(np.int64) << left) + half) >> right
