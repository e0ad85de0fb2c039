"""An operation on tensors, as it is called, and the layer that it is read as."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matar_tf.keras.rewrite.graph import Shape, TensorRef

__all__ = ["Call", "Layer", "UnknownOperationError", "only_tensors"]


_FREE = ("name",)  # arguments that decide nothing


def _decides(value: Any) -> bool:
    is_layout = isinstance(value, str) and value in ("NHWC", "NWC")
    return not (value is None or value is False or is_layout)


class UnknownOperationError(Exception):
    """Why an operation is none of a layer, and what to do: two halves of a sentence."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """An operation on tensors.

    Attributes:
      symbol: The function, by its name in TensorFlow.
      arguments: What it is called with, `TensorRef` for tensors, arrays or Python
        values for others.
      keywords: Likewise, by name.
      shapes: Shape of each output, with the batch axis.
      shape_of: Returns the shape of a tensor that it reads.
    """

    symbol: str
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    shape_of: Callable[[TensorRef], Shape]

    def bound(self, *names: str, **defaults: Any) -> dict[str, Any]:
        """Returns the arguments by name.

        Args:
          *names: Of the positional ones, in order.
          **defaults: Values of those that may be left out.

        Raises:
          UnknownOperationError: If it is called with others, which decide what it does.
        """
        others: list[Any] = list(self.arguments[len(names) :])
        others += [v for k, v in self.keywords.items() if k not in (*names, *_FREE)]
        if any(_decides(one) for one in others):
            raise UnknownOperationError(
                f"is called with {str(others)[:80]} beside {', '.join(names)}",
                "leave that out",
            )
        found = {**defaults, **dict(zip(names, self.arguments, strict=False))}
        return {**found, **{k: v for k, v in self.keywords.items() if k in names}}


def only_tensors(values: Any) -> list[TensorRef]:
    """Returns the tensors of a list.

    Raises:
      UnknownOperationError: If there are constants among them.
    """
    found = list(values)
    if not all(isinstance(one, TensorRef) for one in found):
        raise UnknownOperationError(
            "reads a constant among its tensors", "add or multiply by it alone"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The layer that does what an operation does.

    Attributes:
      kind: A row of `matar_tf.layer_kinds`.
      inputs: What it reads.
      attributes: Arguments of its class, but for the name.
      activation: Name of its activation function.
    """

    kind: str
    inputs: Sequence[TensorRef]
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    activation: str = "linear"
