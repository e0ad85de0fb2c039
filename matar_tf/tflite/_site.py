"""An operator of a ``.tflite`` file with its tensors, as a simulated kernel sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

from matar_tf.operators import OPERATORS, registrar
from matar_tf.tflite._schema import op_name, schema, tensor_array

__all__ = [
    "SIMULATED",
    "Computation",
    "Site",
    "saturate",
    "scale_of",
    "simulates",
    "zero_point_of",
]


class Site:
    """An operator with its tensors."""

    def __init__(
        self, model: Any, operator: Any, values: dict[int, np.ndarray], kernels: str
    ) -> None:
        self.graph = model.subgraphs[0]
        self.model = model
        self.operator = operator
        self.options = operator.builtinOptions
        self.kernels = kernels
        self.inputs = [values.get(int(i)) for i in operator.inputs]
        self.row = OPERATORS[op_name(model, operator)]
        self.x: np.ndarray = self.inputs[self.row.source]  # type: ignore[assignment]
        self.out = self.graph.tensors[operator.outputs[0]]

    @property
    def is_wide(self) -> bool:
        """Whether the output has 16 bits."""
        return bool(self.out.type == schema.TensorType.INT16)

    @property
    def reads_16_bits(self) -> bool:
        """Whether an input has 16 bits."""
        return any(one is not None and one.dtype == np.int16 for one in self.inputs)

    def tensor(self, position: int | None = None) -> Any:
        """Returns the tensor at an input position; what is read for None."""
        place = self.row.source if position is None else position
        return self.graph.tensors[self.operator.inputs[place]]

    def constant(self, position: int) -> np.ndarray | None:
        """Returns the constant at an input position, or None."""
        inputs = self.operator.inputs
        if position >= len(inputs) or inputs[position] < 0:
            return None
        return tensor_array(self.model, self.tensor(position))

    def setting(self, position: int) -> list[int]:
        """Returns the integers of an input that is a setting."""
        values = np.asarray(self.constant(position))
        return [int(one) for one in values.reshape(-1)]

    def levels(self, position: int | None = None) -> np.ndarray:
        """Returns an input with its zero point taken off, int32."""
        place = self.row.source if position is None else position
        value = self.inputs[place]
        if value is None:
            value = self.constant(place)
        return np.asarray(value, np.int32) - zero_point_of(self.tensor(position))

    def operand(self, position: int | None = None) -> np.ndarray:
        """Returns an input as it is multiplied: its levels, or double precision.

        That holds sums of products of 16 and 8 bits exactly, too.
        """
        place = self.row.source if position is None else position
        if self.tensor(place).type == schema.TensorType.FLOAT32:
            return np.asarray(self.inputs[place], np.float64)
        levels = self.levels(place)
        return levels.astype(np.float64) if self.is_wide else levels

    def limits(self) -> tuple[int, int]:
        """Returns the range of the output under its fused activation."""
        scale, zero_point = scale_of(self.out)[0], zero_point_of(self.out)
        activation = getattr(self.options, "fusedActivationFunction", 0)
        kinds = schema.ActivationFunctionType
        low, high = (-128, 127) if not self.is_wide else (-32768, 32767)
        if activation in (kinds.RELU, kinds.RELU6):
            low = max(low, zero_point)
        if activation == kinds.RELU6:
            high = min(high, zero_point + int(np.rint(np.float32(6.0) / scale)))
        return low, high


Computation: TypeAlias = "Callable[[Site], np.ndarray]"
SIMULATED: Final[dict[str, Computation]] = {}  # by the operator's name
simulates = registrar(SIMULATED)


def scale_of(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.quantization.scale, np.float32)


def zero_point_of(tensor: Any) -> int:
    return int(tensor.quantization.zeroPoint[0])


def saturate(levels: np.ndarray, site: Site) -> np.ndarray:
    low, high = site.limits()
    kind = np.int16 if site.is_wide else np.int8
    return np.clip(levels + zero_point_of(site.out), low, high).astype(kind)
