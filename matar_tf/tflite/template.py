"""The template: one converted network into which any policy can be filled.

All policies of a network share one graph. The converter makes it once, from a model
whose tensors carry invented scales; every tensor of the file is recognised by its
scale. What is remembered is which tensor belongs to which policy entry, not names or
positions guessed from the converter's habits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from matar_tf.errors import ModelError
from matar_tf.operators import OPERATORS
from matar_tf.template_map import KernelPlace, TemplateMap
from matar_tf.tflite._converted import normalise
from matar_tf.tflite._graph_rules import check_model
from matar_tf.tflite._pieces import CodedKernel, take_pieces
from matar_tf.tflite._places import (
    SAME_GRID_OPS,
    check_places,
    fixed_outputs,
    is_activation,
    makers_of,
    multiplies_integers,
    passed_on,
    tensors_of,
)
from matar_tf.tflite._schema import (
    CheckedModel,
    bias_of,
    compact,
    find_operator_code,
    op_name,
    parse_model,
    schema,
    source_of,
    tensor_array,
    write_model,
)

__all__ = ["Fingerprints", "Template", "find_before_clamps", "read_template"]

_SCALE_TOLERANCE = 1e-5  # relative; invented scales differ by 3e-3


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """The invented scales of a template.

    Attributes:
      weights: Scale of each kernel, by weight entry.
      activations: Scale of each activation, by activation entry.
      signed: Activation entries with values below 0.
      calls: Names of the further calls of layers that are called several times, by
        weight entry; the bias of the n-th begins near ``n + 1``.
      float_layers: Names of the layers that stay in float, by the numbers of their
        marks.
      float_kernels: Their kernels, by weight entry.
    """

    weights: Mapping[str, float]
    activations: Mapping[str, float]
    signed: tuple[str, ...]
    calls: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict[str, "tuple[str, ...]"]
    )
    float_layers: tuple[str, ...] = ()
    float_kernels: Mapping[str, CodedKernel] = field(
        default_factory=dict[str, CodedKernel]
    )


@dataclass(frozen=True, kw_only=True)
class Template(TemplateMap):
    """A converted network and the places where a policy goes.

    Attributes:
      content: The ``.tflite`` bytes; their weights and scales mean nothing.
    """

    content: CheckedModel

    @property
    def places(self) -> TemplateMap:
        """Everything but the bytes."""
        return TemplateMap(
            **{one.name: getattr(self, one.name) for one in fields(TemplateMap)}
        )

    @classmethod
    def of(cls, content: bytes, places: TemplateMap) -> Template:
        """Returns the template of some bytes.

        It is checked here, once: what `matar_tf.tflite.build` fills into it keeps it
        sound.

        Raises:
          ModelError: If a place is outside the model, or an operator of another kind,
            or filling the places would not leave a graph that can be run.
          ExportError: If the graph is none that may be given to native code.
        """
        template = cls(
            content=check_model(content),
            **{one.name: getattr(places, one.name) for one in fields(TemplateMap)},
        )
        check_places(parse_model(template.content), places)
        return template


def read_template(
    content: bytes,
    fingerprints: Fingerprints,
    outputs: Mapping[str, str] | None = None,
) -> Template:
    """Finds every policy entry in what the converter made, and normalises the graph.

    MAXIMUM operators with a constant, which cut off what lies below the lowest level,
    become QUANTIZE operators that do so by saturation: XNNPACK runs those in one
    partition.

    Args:
      content: The converted network.
      fingerprints: Its invented scales.
      outputs: Names of several outputs, by those of the converter for their tensors.

    Raises:
      ModelError: If a layer came out in float, or an entry or output cannot be found.
    """
    model = parse_model(content)
    islands = normalise(model, outputs)
    in_float = {id(one) for island in islands.values() for one in island}
    _check_operators(model, in_float)
    pieces = take_pieces(model, fingerprints.float_kernels, islands)
    clamps = _replace_clamps(model, fingerprints)
    compact(model)
    tensors = _match_tensors(model, fingerprints)
    kernels = _match_kernels(model, fingerprints, tensors)
    calls = [name for names in fingerprints.calls.values() for name in names]
    for kind, found, expected in (
        ("activation", set(tensors.values()), fingerprints.activations),
        ("weight", set(kernels), {*fingerprints.weights, *calls}),
    ):
        missing = sorted(set(expected) - found)
        if missing:
            raise ModelError(
                f"Expected each {kind} entry in the converted model, but "
                f"{missing} did not survive conversion; a layer there may be dead or "
                "was folded into another."
            )
    before = find_before_clamps(model, tensors, clamps)
    places = {id(one): place for place, one in enumerate(model.subgraphs[0].operators)}
    return Template(
        content=check_model(write_model(model)),
        tensors=tensors,
        kernels=kernels,
        clamps=clamps,
        before_clamps=before,
        islands={
            fingerprints.float_layers[number]: tuple(places[id(one)] for one in island)
            for number, island in islands.items()
            if island
        },
        pieces=pieces,
    )


def _scale(tensor: Any) -> float | None:
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return None
    return float(quantization.scale[0])


def _match(scale: float, scales: Mapping[str, float]) -> str | None:
    for name, known in scales.items():
        if abs(scale / known - 1.0) < _SCALE_TOLERANCE:
            return name
    return None


def _check_operators(model: Any, in_float: set[int]) -> None:
    """Refuses operators that no rules check, and those that should not be in float.

    Args:
      model: The converted model.
      in_float: The operators of float layers, by identity.
    """
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if id(operator) in in_float:
            continue
        name = op_name(model, operator)
        label = (graph.tensors[operator.outputs[0]].name or b"?").decode()
        if name not in OPERATORS:
            raise ModelError(
                f"The converter made the operator {name} ({label!r}), which has no "
                f"integer kernel here. Known: {sorted(OPERATORS)}."
            )
        stored = [graph.tensors[index].type for index in tensors_of(operator)]
        is_border = name in ("QUANTIZE", "DEQUANTIZE")
        if schema.TensorType.FLOAT32 in stored and not is_border:
            raise ModelError(
                f"The converter left {name} ({label!r}) in float; quantize its inputs "
                "and its output."
            )


def _replace_clamps(
    model: Any, fingerprints: Fingerprints
) -> dict[str, tuple[int, ...]]:
    graph = model.subgraphs[0]
    clamps: dict[str, tuple[int, ...]] = {}
    for index, operator in enumerate(graph.operators):
        computed = [
            int(i)
            for i in operator.inputs
            if tensor_array(model, graph.tensors[i]) is None
        ]
        is_grid = graph.tensors[operator.outputs[0]].type == schema.TensorType.INT8
        if op_name(model, operator) != "MAXIMUM" or len(computed) != 1 or not is_grid:
            continue
        scale = _scale(graph.tensors[operator.outputs[0]])
        entry = _match(scale or 0.0, fingerprints.activations)
        if entry is None or entry not in fingerprints.signed:
            raise ModelError(
                f"The converted model has a MAXIMUM operator of scale {scale} that "
                "belongs to no signed activation."
            )
        clamps[entry] = (*clamps.get(entry, ()), index)
        operator.inputs = computed
        operator.opcodeIndex = find_operator_code(model, "QUANTIZE", 2)
        operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
        operator.builtinOptions = schema.QuantizeOptionsT()
    return clamps


def _match_tensors(model: Any, fingerprints: Fingerprints) -> dict[int, str]:
    graph = model.subgraphs[0]
    tensors: dict[int, str] = {}
    fixed = fixed_outputs(model)
    passed = passed_on(model, fixed)
    for operator in graph.operators:
        for index in tensors_of(operator):
            tensor = graph.tensors[index]
            if not is_activation(model, index):
                continue
            entry = _match(_scale(tensor) or 0.0, fingerprints.activations)
            if entry is not None:
                tensors[index] = entry
            elif index not in fixed and index not in passed:
                raise ModelError(
                    f"Tensor {(tensor.name or b'?').decode()!r} of the converted model "
                    "belongs to no activation entry; quantize the layer that makes it."
                )
    return dict(sorted(tensors.items()))


def _match_kernels(
    model: Any, fingerprints: Fingerprints, tensors: Mapping[int, str]
) -> dict[str, KernelPlace]:
    graph = model.subgraphs[0]
    found: dict[int, str] = {}
    for index, operator in enumerate(graph.operators):
        if not multiplies_integers(model, operator):
            continue
        kernel = graph.tensors[operator.inputs[1]]
        entry = _match(_scale(kernel) or 0.0, fingerprints.weights)
        if entry is None:
            raise ModelError(
                f"The kernel {(kernel.name or b'?').decode()!r} of the converted model "
                "belongs to no weight entry."
            )
        found[index] = entry
    names = _named_calls(model, found, fingerprints)
    return {
        names[index]: KernelPlace(
            operator=index,
            input=tensors.get(source_of(model, graph.operators[index])),
            weights=entry if names[index] != entry else None,
        )
        for index, entry in found.items()
    }


def _named_calls(
    model: Any, found: Mapping[int, str], fingerprints: Fingerprints
) -> dict[int, str]:
    """Returns which call of a layer each multiplication is, by operator.

    Biases tell them apart; without one they are alike, and follow each other.
    """
    operators = model.subgraphs[0].operators
    names = dict(found)
    for entry, calls in fingerprints.calls.items():
        places = [index for index, one in found.items() if one == entry]
        numbers = [_first_bias(model, operators[index]) - 1 for index in places]
        if sorted(numbers) == list(range(len(calls) + 1)):
            places = [places[numbers.index(number)] for number in sorted(numbers)]
        names |= dict(zip(places, (entry, *calls), strict=False))
    return names


def _first_bias(model: Any, operator: Any) -> int:
    """Returns the first value of a multiplication's bias, rounded; 0 without one."""
    index = bias_of(model, operator)
    tensor = model.subgraphs[0].tensors[index]
    values = None if index < 0 else tensor_array(model, tensor)
    return 0 if values is None else round(values[0] * float(_scale(tensor) or 0.0))


def find_before_clamps(
    model: Any, tensors: Mapping[int, str], clamps: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Returns the indices of tensors that a clamp has not reached yet, ascending."""
    operators, makers = model.subgraphs[0].operators, makers_of(model)
    found: set[int] = set()
    for entry, indices in clamps.items():
        waiting = [int(i) for place in indices for i in operators[place].inputs]
        while waiting:
            index = waiting.pop()
            if tensors.get(index) != entry or index in found:
                continue
            found.add(index)
            maker = makers.get(index)
            if maker is not None and op_name(model, maker) in SAME_GRID_OPS:
                waiting += map(int, maker.inputs)
    return tuple(sorted(found))
