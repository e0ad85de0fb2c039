"""Comparing a file with what it should compute, layer by layer.

Three witnesses: the runtime (LiteRT, or that for microcontrollers), the NumPy
simulator, which shares no code with it, and, where TensorFlow is installed, the Keras
network. What layers without an integer kernel make, the simulator takes from the
runtime: there Keras is the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matar_tf.errors import printable
from matar_tf.named_arrays import Arrays, by_name, num_rows
from matar_tf.operators import OPERATORS, Grid
from matar_tf.tflite._floats import float_operators, float_tensors
from matar_tf.tflite._graph_rules import check_model
from matar_tf.tflite._schema import (
    INTEGER_ACTIVATIONS,
    OneSampleModel,
    op_name,
    parse_model,
    parse_stored,
    text_of,
    write_model,
)
from matar_tf.tflite.ends import inputs_of, outputs_of, to_levels
from matar_tf.tflite.heads import least_agreement
from matar_tf.tflite.runtime import make_interpreter
from matar_tf.tflite.simulator import simulate_tensors

__all__ = ["LayerDifference", "Verification", "run_all_tensors", "verify"]

# Operators that pass values on, which Keras has on record from where they come.
_COPIES = {name for name, row in OPERATORS.items() if row.grid is Grid.KEPT} - {
    "CONCATENATION"
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDifference:
    """How far the witnesses are apart on one integer tensor.

    Attributes:
      name: Name of the tensor; its activation entry where the policy has one.
      operator: Operator that computes it.
      runtime_share: Share of elements on which runtime and simulator differ.
      runtime_levels: Largest difference of the two in levels.
      keras_share: Share of elements on which Keras and simulator differ, or None for
        a tensor that the Keras network has not.
      keras_levels: Largest difference of the two in levels, or None.
    """

    name: str
    operator: str
    runtime_share: float
    runtime_levels: int
    keras_share: float | None
    keras_levels: int | None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What the witnesses say.

    Attributes:
      runtime_share: Share of outputs on which runtime and simulator differ.
      agreement: Share of samples with the same largest output in both; of a network
        of one output, with two that are at most a step apart. Of several outputs, that
        of the one on which they agree least.
      layers: Differences in execution order.
    """

    runtime_share: float
    agreement: float
    layers: tuple[LayerDifference, ...]

    @property
    def first_runtime_difference(self) -> LayerDifference | None:
        """The first layer on which runtime and simulator differ, or None."""
        return next((one for one in self.layers if one.runtime_share), None)

    @property
    def first_keras_difference(self) -> LayerDifference | None:
        """The first layer on which Keras and simulator differ, or None."""
        return next((one for one in self.layers if one.keras_share), None)


def verify(
    content: bytes,
    samples: Arrays,
    keras_tensors: Mapping[str, Sequence[np.ndarray]] | None = None,
    *,
    runtime: str = "litert",
) -> Verification:
    """Runs a file in a runtime and in the simulator; compares every integer tensor.

    Each tensor of the Keras network is compared with one of the file: of those on its
    entry's grid with as many values, with the one that is nearest to it.

    Args:
      content: The file, of any profile.
      samples: Samples, ``[num_samples, ...]``; of several inputs, by their names.
      keras_tensors: Quantized activations of the Keras network for the same samples
        and policy, by activation entry: all that share its grid.
      runtime: ``litert``, or ``tflm``, which rounds in another way.

    Raises:
      ExportError: If the simulator does not know an operator, or the runtime refuses
        the file.
    """
    model = parse_model(content)
    graph = model.subgraphs[0]
    measured = run_all_tensors(content, samples, runtime=runtime)
    floats = {i: measured[i] for i in float_tensors(model) if i in measured}
    kernels = "tflm" if runtime == "tflm" else "xnnpack"
    simulated = simulate_tensors(content, samples, kernels=kernels, floats=floats)
    from_keras = _keras_differences(model, simulated, keras_tensors or {})
    layers: list[LayerDifference] = []
    for operator in graph.operators:
        index = int(operator.outputs[0])
        if graph.tensors[index].type not in INTEGER_ACTIVATIONS:
            continue
        levels = simulated[index].astype(np.int32)
        off = np.abs(measured[index].astype(np.int32) - levels)
        keras_off = from_keras.get(index)
        layers.append(
            LayerDifference(
                name=printable(text_of(graph.tensors[index].name)),
                operator=op_name(model, operator),
                runtime_share=float((off > 0).mean()),
                runtime_levels=int(off.max()),
                keras_share=None
                if keras_off is None
                else float((keras_off > 0).mean()),
                keras_levels=None if keras_off is None else int(keras_off.max()),
            )
        )
    outputs = outputs_of(model)
    differ = [np.ravel(simulated[i] != measured[i]) for i in map(int, graph.outputs)]
    return Verification(
        runtime_share=float(np.mean(np.concatenate(differ))),
        agreement=least_agreement(outputs, measured, simulated),
        layers=tuple(layers),
    )


_Grid = tuple[float, int]  # scale and zero point


def _keras_differences(
    model: Any,
    simulated: Mapping[int, np.ndarray],
    keras_tensors: Mapping[str, Sequence[np.ndarray]],
) -> dict[int, np.ndarray]:
    """Returns by how many levels Keras is off, by index of the file's tensor."""
    grids, on_grid = _grids(model)
    pairs: list[tuple[float, int, tuple[str, int], np.ndarray]] = []
    for entry in keras_tensors.keys() & grids.keys():
        scale, zero_point = grids[entry]
        for number, values in enumerate(keras_tensors[entry]):
            expected = np.rint(values.ravel() / scale) + zero_point
            for index in on_grid[grids[entry]]:
                levels = simulated[index].ravel()
                if levels.size == expected.size:
                    off = np.abs(expected - levels)
                    share = float((off > 0).mean())
                    pairs.append((share, index, (entry, number), off))
    found: dict[int, np.ndarray] = {}
    taken: set[tuple[str, int]] = set()
    for _, index, tensor, off in sorted(pairs, key=lambda pair: pair[:3]):
        if index not in found and tensor not in taken:
            found[index] = off
            taken.add(tensor)
    return found


def _grids(model: Any) -> tuple[dict[str, _Grid], dict[_Grid, list[int]]]:
    """Returns the grid of each integer tensor by its name, and the tensors of each."""
    graph = model.subgraphs[0]
    grids: dict[str, _Grid] = {}
    on_grid: dict[_Grid, list[int]] = {}
    for operator in graph.operators:
        index = int(operator.outputs[0])
        tensor = graph.tensors[index]
        if tensor.type not in INTEGER_ACTIVATIONS:
            continue
        quantization = tensor.quantization
        grid = float(quantization.scale[0]), int(quantization.zeroPoint[0])
        grids[printable(text_of(tensor.name))] = grid
        members = on_grid.setdefault(grid, [])
        if op_name(model, operator) not in _COPIES:
            members.append(index)
    return grids, on_grid


def run_all_tensors(
    content: bytes, samples: Arrays, *, runtime: str = "litert"
) -> dict[int, np.ndarray]:
    """Returns the tensors of a file that can be compared, by index, as a runtime does.

    These are its integer tensors, its output, and what these need of other layers.
    LiteRT's delegate keeps its tensors to itself; so each is made an output of the
    file.

    Raises:
      ExportError: If the runtime refuses the file.
    """
    given_content, content = content, check_model(content)
    model = parse_model(content)
    graph = model.subgraphs[0]
    made = [int(index) for operator in graph.operators for index in operator.outputs]
    integers = [i for i in made if graph.tensors[i].type in INTEGER_ACTIVATIONS]
    in_float = {*float_operators(model)}
    read = {
        int(index)
        for place, operator in enumerate(graph.operators)
        if place not in in_float
        for index in operator.inputs
    }
    read &= {*float_tensors(model)}
    computed = sorted({*integers, *read, *map(int, graph.outputs)})
    inputs = inputs_of(model)
    given = by_name(samples, [one.name for one in inputs], "samples for each input")
    by_index = {
        one.index: to_levels(given[one.name], graph.tensors[one.index])
        for one in inputs
    }
    if runtime == "tflm":  # which decodes kernels itself, and looks at the file anew
        model, kind = parse_stored(given_content), bytes
    else:
        kind = type(content)
    model.subgraphs[0].outputs = np.array(computed, np.int32)
    model.signatureDefs = None
    interpreter = make_interpreter(kind(write_model(model)), runtime, 1)
    number = num_rows(given)
    batch = 1 if isinstance(content, OneSampleModel) else number
    parts = [
        _run(
            interpreter,
            {index: one[start : start + batch] for index, one in by_index.items()},
            computed,
        )
        for start in range(0, number, batch)
    ]
    return {
        index: np.concatenate(found)
        for index, *found in zip(computed, *parts, strict=True)
    }


def _run(
    interpreter: Any, batch: Mapping[int, np.ndarray], outputs: list[int]
) -> list[np.ndarray]:
    """Returns these tensors for some samples, given by tensor of the file."""
    details = {int(one["index"]): one for one in interpreter.get_input_details()}
    if any(tuple(details[i]["shape"]) != one.shape for i, one in batch.items()):
        for index, one in batch.items():
            interpreter.resize_tensor_input(index, one.shape)
        interpreter.allocate_tensors()
    for index, one in batch.items():
        values = np.ascontiguousarray(one, details[index]["dtype"])
        interpreter.set_tensor(index, values)
    interpreter.invoke()
    return [interpreter.get_tensor(index) for index in outputs]
