"""Whether a template map fits its template: what a policy fills keeps it sound.

Both come from outside. A template was checked as a graph before
(`matar_tf.tflite._graph_rules`); here are the places that filling changes.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

from matar_tf.errors import ModelError
from matar_tf.operators import OPERATORS, Grid
from matar_tf.template_map import TemplateMap
from matar_tf.tflite._schema import (
    COMPUTE_OPS,
    bias_of,
    op_name,
    schema,
    source_of,
    tensor_array,
)

__all__ = [
    "SAME_GRID_OPS",
    "check_places",
    "fixed_outputs",
    "is_activation",
    "is_float",
    "makers_of",
    "multiplies_integers",
    "passed_on",
    "tensors_of",
]

_FIXED_OUTPUT_OPS: Final = {
    name for name, row in OPERATORS.items() if row.grid is Grid.FIXED
}
SAME_GRID_OPS: Final = {
    name for name, row in OPERATORS.items() if row.grid in (Grid.KEPT, Grid.INPUT)
}


def check_places(model: Any, places: TemplateMap) -> None:
    """Checks that a policy may be filled into the places of a template.

    Args:
      model: The template, in object form; its graph is sound.
      places: The places.

    Raises:
      ModelError: If a place is outside the model, or an operator of another kind, or
        filling the places would not leave a graph that can be run.
    """
    graph = model.subgraphs[0]
    if any(one.type == schema.TensorType.INT16 for one in graph.tensors):
        raise ModelError(
            "Expected a template with 8-bit activations, which a policy may widen, got "
            "one with 16; package the model again."
        )
    operators = [kernel.operator for kernel in places.kernels.values()]
    operators += [i for indices in places.clamps.values() for i in indices]
    operators += [i for indices in places.islands.values() for i in indices]
    indices = [*places.tensors, *places.before_clamps]
    indices += [one.tensor for at in places.pieces.values() for one in at]
    if not all(0 <= i < len(graph.operators) for i in operators) or not all(
        0 <= i < len(graph.tensors) for i in indices
    ):
        raise ModelError("The template map points outside the template.")
    _check_kinds(model, places)
    _check_pieces(model, places)
    _check_tensors(model, places)
    _check_kernels(model)
    _check_grids(model, places)


def _check_kinds(model: Any, places: TemplateMap) -> None:
    """Refuses a map whose places are operators of other kinds than those that go there.

    Raises:
      ModelError: If a kernel is not that of a multiplication or a clamp no QUANTIZE,
        or an operator has no place, or two.
    """
    names = [op_name(model, one) for one in model.subgraphs[0].operators]
    expected = [(one.operator, COMPUTE_OPS) for one in places.kernels.values()]
    expected += [(i, ("QUANTIZE",)) for at in places.clamps.values() for i in at]
    for index, known in expected:
        if names[index] not in known:
            raise ModelError(
                f"The template map expects one of {list(known)} as operator {index}, "
                f"the template has a {names[index]} there."
            )
    multiplying = {
        i
        for i, one in enumerate(model.subgraphs[0].operators)
        if multiplies_integers(model, one)
    }
    filled = [index for index, _ in expected]
    if not multiplying <= set(filled) or len(set(filled)) < len(filled):
        raise ModelError(
            f"Expected a place for each of the operators {sorted(multiplying)} in the "
            f"template map, and one for each clamp, got {sorted(filled)}; package the "
            "model again."
        )


def _check_pieces(model: Any, places: TemplateMap) -> None:
    """Refuses pieces of kernels that are no constants of their own for a float layer.

    Raises:
      ModelError: If one is not, or has another number of values.
    """
    graph = model.subgraphs[0]
    found = [one for pieces in places.pieces.values() for one in pieces]
    for piece in found:
        tensor = graph.tensors[piece.tensor]
        values = tensor_array(model, tensor)
        readers = [one for one in graph.operators if piece.tensor in one.inputs]
        kinds = {
            (op_name(model, one), list(map(int, one.inputs)).index(piece.tensor))
            for one in readers
        }
        if (
            tensor.type != schema.TensorType.INT8
            or values is None
            or values.size != math.prod(piece.sizes)
            or kinds not in ({("DEQUANTIZE", 0)}, {("GATHER", 0)})
        ):
            raise ModelError(
                f"Expected int8 constants of {math.prod(piece.sizes)} values for a "
                f"layer in float in the places of its kernel, got another tensor "
                f"({piece.tensor}) in the template; package the model again."
            )
    if len({one.tensor for one in found}) < len(found):
        raise ModelError(
            "Expected each piece of a kernel at a place of its own in the template "
            "map, got two at one; package the model again."
        )


def _check_tensors(model: Any, places: TemplateMap) -> None:
    """Refuses a map that leaves out a tensor, or has another input for a kernel.

    Raises:
      ModelError: If a tensor would keep the invented scale of the template.
    """
    graph = model.subgraphs[0]
    fixed = fixed_outputs(model)
    passed = passed_on(model, fixed)
    for operator in graph.operators:
        for index in tensors_of(operator):
            if (
                index not in places.tensors
                and index not in fixed
                and is_activation(model, index)
                and index not in passed
            ):
                raise ModelError(
                    f"The template map has no entry for the tensor {index} of the "
                    "template; package the model again."
                )
    for entry, place in places.kernels.items():
        source = source_of(model, graph.operators[place.operator])
        if places.tensors.get(source) != place.input:
            raise ModelError(
                f"The template map says {place.input!r} of the input of {entry!r}, the "
                f"template {places.tensors.get(source)!r}; package the model again."
            )


def _check_kernels(model: Any) -> None:
    """Refuses kernels and biases that more than one operator reads.

    A profile changes the type and the shape of a kernel for the operator that has it.

    Raises:
      ModelError: If there are some.
    """
    graph = model.subgraphs[0]
    readers = Counter(int(i) for one in graph.operators for i in one.inputs if i >= 0)
    stored = {
        int(index)
        for operator in graph.operators
        if multiplies_integers(model, operator)
        for index in (operator.inputs[1], bias_of(model, operator))
        if index >= 0
    }
    shared = sorted(index for index in stored if readers[index] > 1)
    if shared:
        raise ModelError(
            f"Expected kernels and biases of one layer each in the template, but the "
            f"tensors {shared} are shared; package the model again."
        )


def _check_grids(model: Any, places: TemplateMap) -> None:
    """Refuses a map that puts tensors on other grids than their operators keep.

    Raises:
      ModelError: If an operator that keeps the grid of its input, a clamp too, would
        write on another one, or a tensor that is stored or on a fixed grid is filled.
    """
    clamps = {i for indices in places.clamps.values() for i in indices}
    for number, operator in enumerate(model.subgraphs[0].operators):
        name, output = op_name(model, operator), int(operator.outputs[0])
        if is_float(model, output):
            continue
        settings = OPERATORS[name].settings
        data = [int(i) for at, i in enumerate(operator.inputs) if at not in settings]
        entries = {places.tensors.get(index) for index in (*data, output)}
        before = {index in places.before_clamps for index in data}
        is_before = output in places.before_clamps
        fits = True
        if name in SAME_GRID_OPS:
            fits = len(entries) == 1 and before == {is_before}
        elif number in clamps:
            fits = (
                len(entries) == 1
                and None not in entries
                and before == {True}
                and not is_before
            )
        if not fits:
            raise ModelError(
                f"Expected one entry for the tensors of operator {number}, a {name}, "
                f"in the template map, got {sorted(map(str, entries))}; package the "
                "model again."
            )
    fixed = fixed_outputs(model)
    wrong = [i for i in places.tensors if i in fixed or not is_activation(model, i)]
    if wrong:
        raise ModelError(
            f"Expected entries for tensors of the integer graph in the template map, "
            f"got some for the tensors {wrong}; package the model again."
        )


def fixed_outputs(model: Any) -> set[int]:
    """Returns the tensors whose scale no activation entry chooses.

    TFLite fixes it, or they are rows that were looked up in a table.
    """
    tensors = model.subgraphs[0].tensors
    return {
        int(operator.outputs[0])
        for operator in model.subgraphs[0].operators
        if op_name(model, operator) in _FIXED_OUTPUT_OPS
        or (
            op_name(model, operator) == "GATHER"
            and tensor_array(model, tensors[operator.inputs[0]]) is not None
        )
    }


def is_activation(model: Any, index: int) -> bool:
    """Whether a tensor is computed, in int8."""
    tensor = model.subgraphs[0].tensors[index]
    return tensor.type == schema.TensorType.INT8 and tensor_array(model, tensor) is None


def is_float(model: Any, index: int) -> bool:
    """Whether a tensor is of floats."""
    return model.subgraphs[0].tensors[index].type == schema.TensorType.FLOAT32


def multiplies_integers(model: Any, operator: Any) -> bool:
    """Whether an operator multiplies integers by a kernel."""
    is_compute = op_name(model, operator) in COMPUTE_OPS
    return is_compute and not is_float(model, int(operator.outputs[0]))


def tensors_of(operator: Any) -> list[int]:
    """Returns the indices of what an operator reads and makes; a bias may be absent."""
    return [int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0]


def passed_on(model: Any, fixed: set[int]) -> set[int]:
    """Returns the tensors that only pass a fixed-scale tensor on (a reshape of it)."""
    passed: set[int] = set()
    for operator in model.subgraphs[0].operators:  # in the order of their tensors
        source = int(operator.inputs[0])
        if op_name(model, operator) in SAME_GRID_OPS and (
            source in fixed or source in passed
        ):
            passed |= {int(index) for index in operator.outputs}
    return passed


def makers_of(model: Any) -> dict[int, Any]:
    """Returns the operator that makes each computed tensor, by the tensor's index."""
    operators = model.subgraphs[0].operators
    return {int(index): one for one in operators for index in one.outputs}
