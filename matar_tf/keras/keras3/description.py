"""What a network of Keras 3 is, as plain data: layers, their calls, their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Activation", "Call", "Layer", "Network", "Ref", "refs_in"]


@dataclass(frozen=True, slots=True)
class Ref:
    """An output of a layer.

    Attributes:
      layer: The layer's name in its network.
      call: Which of the layer's calls made it, from 0 on.
      index: Which of the call's outputs it is.
      sizes: Of its axes, the batch's too, None for any; None if they are not said.
    """

    layer: str
    call: int
    index: int
    sizes: tuple[int | None, ...] | None = None

    @property
    def rank(self) -> int | None:
        """Number of its axes; None if it is not said."""
        return None if self.sizes is None else len(self.sizes)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a layer; `Ref` stands for a tensor, at any depth.

    Attributes:
      arguments: What it is called with, in order.
      keywords: What it is called with, by name.
    """

    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer as tf_keras makes it.

    Attributes:
      name: Its name, which no other in its network has.
      kind: The class of tf_keras; ``""`` for one that is its activation alone,
        ``tf.NAME`` for a function of `operations.FUNCTIONS`.
      arguments: What the class is made with.
      calls: Its calls, in order; of an input none.
      path: Where its weights lie in a file of Keras 3.
      parts: Where in there, in the order of tf_keras.
      activation: What follows each of its calls and tf_keras has no name for.
      network: The network that it is, if it is one.
      is_trainable: Whether its weights are trained.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    calls: tuple[Call, ...] = ()
    path: str = ""
    parts: tuple[str, ...] = ("",)
    activation: Activation | None = None
    network: Network | None = None
    is_trainable: bool = True


# A layer of its own, or a function by its name in Keras 3.
Activation: TypeAlias = "Layer | str"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A Functional or Sequential network.

    Attributes:
      name: Its name.
      layers: Its layers.
      inputs: `Ref` of its inputs: one, or a list or an object of such.
      outputs: Those of its outputs.
      is_trainable: Whether any of its weights is trained.
    """

    name: str
    layers: tuple[Layer, ...]
    inputs: Any
    outputs: Any
    is_trainable: bool = True


def refs_in(value: Any) -> Iterator[Ref]:
    """Yields the tensors in a value, at any depth."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from refs_in(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from refs_in(one)
