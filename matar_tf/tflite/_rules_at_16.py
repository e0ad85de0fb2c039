"""What the kernels of 16-bit tensors do not check, or compute in their own way.

See `matar_tf.tflite._graph_rules`. Of steps so large or small that factors of 32 bits
overflow, the results would be no longer those of `matar_tf.tflite._sixteen`.
"""

from __future__ import annotations

import math
from typing import Final

from matar_tf.operators import OPERATORS
from matar_tf.tflite._graph_nodes import Node
from matar_tf.tflite._schema import schema

__all__ = ["FIXED_GRID_AT_16", "check_at_16", "ratio_limit_at_16"]

FIXED_GRID_AT_16: Final = (1 / 32768, 0)  # of sigmoid, softmax and tanh
# A sum is counted with 15 bits after the point, in steps of half the larger input's:
# from here on it ends the process. Products of two levels fill 31 bits as they are.
_SUM_RATIO_LIMIT: Final = 2**14
_PRODUCT_RATIO_LIMIT: Final = 1
# Of inputs: what a factor of 16 bits holds, and what has a power in float32.
_FUNCTION_STEPS: Final = {
    "EXP": (1e-30, 80 / 2**15),
    "LOGISTIC": (1e-12, 4.0),
    "SOFTMAX": (1e-12, 4.0),
    "TANH": (1e-12, 4.0),
}
_MAX_VALUES: Final = 2**15  # that are added up in 32 bits
# Steps of a power of two for which LiteRT has a second way of computing a function.
_SPECIAL_STEPS: Final = {"LOGISTIC": (2.0**-12,), "TANH": (2.0**-12, 2.0**-11)}


def ratio_limit_at_16(operator: str) -> int:
    """Returns what inputs' steps over the output's must be below.

    Args:
      operator: Name of one without a kernel; of a product, of both steps.
    """
    is_product = OPERATORS[operator].is_product
    return _PRODUCT_RATIO_LIMIT if is_product else _SUM_RATIO_LIMIT


def check_at_16(node: Node) -> None:
    """Checks an operator that reads and makes tensors of 16 bits.

    Raises:
      UnsoundError: If it has no such kernel, or not for its options or steps.
    """
    name, options, x = node.name, node.options, node.data[0]
    node.expect(node.row.has_16_bits, "a kernel for 16 bits", "none")
    has_old_grid = bool(getattr(options, "potScaleInt16", False))
    node.expect(not has_old_grid, "steps that need not be powers of two", "others")
    kinds = (schema.TensorType.FLOAT32, schema.TensorType.INT64)  # unsaid, or its own
    kind = getattr(options, "quantizedBiasType", 0)
    node.expect(kind in kinds, "biases of 64 bits", kind)
    if name == "TRANSPOSE_CONV":
        node.meetings.append("the number of samples that its shape says")
    if name == "FULLY_CONNECTED":
        node.expect(node.bias is not None, "a bias", "none")
    if name in _FUNCTION_STEPS:
        step = float(x.scale[0]) * (options.beta if name == "SOFTMAX" else 1.0)
        low, high = _FUNCTION_STEPS[name]
        fits = low <= step <= high and step not in _SPECIAL_STEPS.get(name, ())
        node.expect(fits, f"a step of {low:.3g} to {high:.3g}, no power of two", step)
    added = 1
    if name == "AVERAGE_POOL_2D":
        added = math.prod((options.filterHeight, options.filterWidth))
    elif name == "MEAN":
        added = x.size // node.output.size
    elif name == "SOFTMAX":
        added = x.shape[-1]
    node.expect(added <= _MAX_VALUES, f"at most {_MAX_VALUES} values at a time", added)
