"""An ONNX graph that is being written.

Images have their channels first there, after the samples; in TFLite they are last. Each
tensor is written as the operator that makes it has it, and moved where one reads it the
other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

__all__ = ["Graph", "Value", "axes_first", "placed"]

_TO_FIRST: Final = (0, 3, 1, 2)
_TO_LAST: Final = (0, 2, 3, 1)
_ONE: Final = np.float64(1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A tensor of an ONNX graph.

    Attributes:
      name: Its name.
      shape: As TFLite has it: channels last, one sample.
      first: Whether it is an image with its channels first.
      unit: What a 1 in it stands for: float64, a number or one for each channel.
    """

    name: str
    shape: tuple[int, ...]
    first: bool = False
    unit: Any = field(default=_ONE)

    @property
    def is_image(self) -> bool:
        """Whether it has height, width and channels."""
        return len(self.shape) == 4


def placed(shape: Sequence[Any], *, first: bool) -> list[Any]:
    """Returns sizes in the order that ONNX has them, given those of TFLite."""
    return [shape[axis] for axis in _TO_FIRST] if first else list(shape)


def axes_first(axis: int) -> int:
    """Returns where an axis of an image is when its channels are first."""
    return _TO_FIRST.index(axis)


class Graph:
    """The nodes and constants of an ONNX graph, in the order in which they are made.

    Args:
      batch: How many samples it takes; None for any number.
    """

    def __init__(self, batch: int | None) -> None:
        self._batch = batch
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._infos: dict[str, Any] = {}
        self._moved: dict[tuple[str, bool], Value] = {}
        self._names: set[str] = set()

    def unique(self, name: str) -> str:
        """Returns a name that nothing in the graph has yet; takes it."""
        made, number = name, 1
        while made in self._names:
            number += 1
            made = f"{name}_{number}"
        self._names.add(made)
        return made

    def constant(self, name: str, values: np.ndarray, kind: int | None = None) -> str:
        """Adds a constant; returns its name.

        Args:
          name: What it is called, if nothing else is.
          values: What it holds.
          kind: Its type in ONNX, where NumPy has none such.
        """
        name = self.unique(name)
        if kind is None:
            tensor = numpy_helper.from_array(np.asarray(values), name)
        else:
            flat = values.reshape(-1).tolist()
            tensor = helper.make_tensor(name, kind, values.shape, flat)
        self._constants.append(tensor)
        return name

    def number(self, name: str, value: Any) -> str:
        """Adds a float constant; returns its name."""
        return self.constant(name, np.asarray(value, np.float32))

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        result: Value,
        *,
        domain: str = "",
        kind: int = TensorProto.FLOAT,
        **attributes: Any,
    ) -> Value:
        """Adds a node; returns its output, `result` under a name that is free."""
        result = replace(result, name=self.unique(result.name))
        node = helper.make_node(
            operator,
            list(inputs),
            [result.name],
            name=f"{operator}_{len(self._nodes)}",
            domain=domain,
            **attributes,
        )
        self._nodes.append(node)
        self._infos[result.name] = self._info(result, kind)
        return result

    def constant_node(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        shape: Sequence[int],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Adds a node that computes of constants alone; returns its output's name."""
        name = self.unique(name)
        made = helper.make_node(
            operator,
            list(inputs),
            [name],
            name=f"{operator}_{len(self._nodes)}",
            domain=domain,
            **attributes,
        )
        self._nodes.append(made)
        self._infos[name] = helper.make_tensor_value_info(
            name, TensorProto.FLOAT, list(shape)
        )
        return name

    def named(self, value: Value, name: str) -> Value:
        """Returns a value under a name that `unique` returned."""
        result = replace(value, name=name)
        maker = next((one for one in self._nodes if value.name in one.output), None)
        if maker is None or any(value.name in one.input for one in self._nodes):
            node = helper.make_node("Identity", [value.name], [name], name=name)
            self._nodes.append(node)
        else:
            maker.output[0] = name
        kind = TensorProto.FLOAT
        if value.name in self._infos:
            kind = self._infos.pop(value.name).type.tensor_type.elem_type
        self._infos[name] = self._info(result, kind)
        return result

    def moved(self, value: Value, *, first: bool) -> Value:
        """Returns a value with the channels of an image where they are wanted."""
        if not value.is_image or value.first == first:
            return value
        key = value.name, first
        if key not in self._moved:
            wanted = replace(value, first=first, name=f"{value.name}/moved")
            order = _TO_FIRST if first else _TO_LAST
            self._moved[key] = self.add("Transpose", [value.name], wanted, perm=order)
        return self._moved[key]

    def model(
        self,
        name: str,
        ends: tuple[Sequence[Value], Sequence[Value]],
        opsets: Mapping[str, int],
        ir_version: int,
    ) -> Any:
        """Returns the file.

        Args:
          name: Of the graph.
          ends: Inputs, and outputs, which have names in the graph.
          opsets: Versions of operators, by domain.
          ir_version: Version of the format.
        """
        inputs, outputs = (
            [self._info(one, TensorProto.FLOAT) for one in values] for values in ends
        )
        made = {one.name for one in outputs}
        graph = helper.make_graph(
            self._nodes,
            name,
            inputs,
            outputs,
            self._constants,
            value_info=[one for key, one in self._infos.items() if key not in made],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*one) for one in opsets.items()],
            ir_version=ir_version,
            producer_name="matar_tf",
        )
        checker.check_model(model)
        return model

    def _info(self, value: Value, kind: int) -> Any:
        rows, *sizes = placed(value.shape, first=value.first)
        batch = f"samples_of_{rows}" if rows != 1 else "samples"
        samples = batch if self._batch is None else rows * self._batch
        return helper.make_tensor_value_info(value.name, kind, [samples, *sizes])
