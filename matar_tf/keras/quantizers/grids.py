"""What others ask of a quantizer or a batch norm, whatever class it is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from matar_tf.keras._compat import KerasLayer, Tensor

__all__ = [
    "ActivationGrid",
    "BiasGrid",
    "FoldedNorm",
    "InputGrid",
    "KernelGrid",
    "LearnedGrid",
]


class _Grid(Protocol):
    """A grid of one width of several."""

    @property
    def entry(self) -> str:
        """Name of the policy entry that chooses the width, "" if none does."""
        ...

    @property
    def bits(self) -> tuple[int, ...]:
        """Allowed widths, ascending."""
        ...

    @property
    def row(self) -> Tensor:
        """Index into `bits` of the width in force."""
        ...

    @property
    def scale(self) -> str:
        """Which steps there are: ``free`` ones, or ``power_of_two``."""
        ...

    def step(self) -> Tensor:
        """Returns the step in force."""
        ...

    def ranges(self) -> tuple[list[int], list[int]]:
        """Returns the lowest and the highest level of each width."""
        ...


class KernelGrid(_Grid, Protocol):
    """The grid of a kernel."""

    @property
    def layer(self) -> KerasLayer:
        """The layer that the kernel is of."""
        ...

    @property
    def num_channel_axes(self) -> int:
        """How many of the last axes are channels."""
        ...

    @property
    def is_transposed(self) -> bool:
        """Whether the channels are on the last axis but one."""
        ...

    @property
    def per_channel(self) -> bool:
        """Whether each channel has a step of its own."""
        ...

    @property
    def in_float(self) -> bool:
        """Whether the layer computes in float."""
        ...

    def all_steps(self) -> np.ndarray:
        """Returns the steps of every width, ``[len(bits), *channels]``."""
        ...

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Returns the kernel on the grid of the width in force."""
        ...


class ActivationGrid(_Grid, Protocol):
    """The grid of an activation, learned or fixed."""

    @property
    def signed(self) -> bool:
        """Whether there are levels below 0."""
        ...

    @property
    def initialized(self) -> Tensor:
        """Above 0 once there are steps."""
        ...

    def is_wide(self) -> Tensor:
        """Returns whether 16 bits are in force: `row` is beyond the last of `bits`."""
        ...

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Returns the activation on the grid of the width in force."""
        ...


class LearnedGrid(ActivationGrid, Protocol):
    """The grid of an activation that has its steps from samples."""

    @property
    def layer(self) -> KerasLayer:
        """The layer that makes the activation."""
        ...

    @property
    def log_steps(self) -> Tensor:
        """Variable, ``[len(bits)]``."""
        ...

    def all_steps(self) -> np.ndarray:
        """Returns the steps of every width, ``[len(bits)]``."""
        ...

    def set_from(self, tensors: Sequence[Tensor]) -> None:
        """Sets the steps to the widest of those that fit values of some tensors."""
        ...

    def fake_quantize(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Returns the activation on the grid of the width in force."""
        ...


class BiasGrid(Protocol):
    """The grid of a bias: that of the accumulator."""

    @property
    def layer(self) -> KerasLayer:
        """The layer that the bias is of."""
        ...

    def snap(self, x: Tensor) -> Tensor:
        """Returns the bias on the grid."""
        ...


class InputGrid(Protocol):
    """The grid of a layer's input, onto which its output is put."""

    def source(self) -> ActivationGrid | None:
        """Returns the grid, if the graph is put together already."""
        ...

    def round_to_grid(self, x: Tensor) -> Tensor:
        """Returns the output on the grid, rounded as the operation does."""
        ...


class FoldedNorm(Protocol):
    """A batch norm whose statistics follow the policy."""

    @property
    def name(self) -> str:
        """Name of the layer."""
        ...

    def places(self) -> Tensor:
        """Returns the row in force of each term of the statistics."""
        ...

    @property
    def epsilon(self) -> float:
        """What is added to the variance."""
        ...

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Returns mean and variance under the policy in force, float64."""
        ...

    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns scale and offset of every channel in evaluation."""
        ...

    def folded_with(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scale and offset with given statistics, float64."""
        ...

    def evaluate(self, inputs: Tensor) -> Tensor:
        """Returns the tensor normalised with the statistics in force."""
        ...

    def normalize_batch(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the tensor normalised with its own statistics, mean, variance."""
        ...
