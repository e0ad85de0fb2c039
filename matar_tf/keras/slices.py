"""Parts of a tensor, as operators on tensors take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matar_tf.keras._compat import Tensor, keras

__all__ = ["Slice"]


@keras.utils.register_keras_serializable(package="matar_tf")
class Slice(keras.layers.Layer):
    """Takes parts of a tensor, as ``x[:, 0]``, ``x[..., 2:6:2]`` and `tf.split` do.

    Args:
      parts: Of each output, what it takes along each axis behind that of samples: None
        for all, ``[place]`` for one value, whose axis is dropped, or
        ``[begin, end, step]``.
    """

    def __init__(
        self, parts: Sequence[Sequence[Sequence[int] | None]], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, inputs: Tensor) -> Any:
        """Returns the part, or a list of several."""
        found = [inputs[(slice(None), *map(_index, one))] for one in self.parts]
        return found[0] if len(found) == 1 else found

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "parts": self.parts}


def _index(part: Sequence[int] | None) -> int | slice:
    if part is None:
        return slice(None)
    return part[0] if len(part) == 1 else slice(*part)
