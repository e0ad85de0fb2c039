"""A limit on the weights that a network may make while it is rebuilt from its config.

A config of some kilobytes can ask for layers of any size, and Keras makes and fills
their weights before it compares them with the stored ones.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from matar_tf.errors import ModelError
from matar_tf.keras._compat import tf

__all__ = ["weights_within"]

_FREE_BYTES: Final = 1 << 26  # metrics, seeds and counters, which are not stored


@contextlib.contextmanager
def weights_within(num_bytes: int, where: str) -> Iterator[None]:
    """Lets this thread make variables of so many bytes, and some small ones.

    Args:
      num_bytes: What the weights take that are stored with the config.
      where: The file that it is from, in errors.

    Raises:
      ModelError: In the block, before a variable is filled that is too much.
    """
    made = 0

    def make(next_creator: Callable[..., Any], **options: Any) -> Any:
        nonlocal made
        made += _size(options)
        if made > num_bytes + _FREE_BYTES:
            raise ModelError(
                f"Expected layers whose weights take about the {num_bytes} bytes that "
                f"are stored in {where}, got more than {made}; matar_tf does not "
                "load it."
            )
        return next_creator(**options)

    with tf.variable_creator_scope(make):
        yield


def _size(options: dict[str, Any]) -> int:
    """Returns the bytes of a variable with these arguments of `tf.Variable`."""
    shape, value = options.get("shape"), options.get("initial_value")
    if shape is None:
        shape = getattr(value, "shape", ())  # of an initializer none is known
    sizes = tf.TensorShape(shape).as_list() if shape is not None else []
    dtype = options.get("dtype") or getattr(value, "dtype", tf.float64)
    return math.prod(size or 1 for size in sizes) * tf.as_dtype(dtype).size
