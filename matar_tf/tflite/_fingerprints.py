"""Whether a template map is the one that its template was made with.

The invented numbers of a template say where it is filled: tensors of one entry have one
scale, which no other entry has; a zero point says how many levels the entry has at its
narrowest, and whether it is signed. A map that was altered contradicts them.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from matar_tf.errors import ModelError
from matar_tf.parameters import Parameters, activation_range
from matar_tf.tflite._schema import op_name, parse_model
from matar_tf.tflite.template import Template, find_before_clamps

__all__ = ["check_fingerprints"]

_INT8_MAX: Final = 127
_SAME_SCALE: Final = 1e-3  # relative; those of two entries differ by 3e-3


def check_fingerprints(template: Template, parameters: Parameters) -> None:
    """Refuses a template map that contradicts its template or the parameters.

    Args:
      template: The template; what is in its map is there, and of the right kind.
      parameters: Of the entries of the map.

    Raises:
      ModelError: If tensors have another entry than their scale and zero point say, or
        clamps another place.
    """
    model = parse_model(template.content)
    _check_scales(model, template)
    _check_zero_points(model, template, parameters)
    _check_clamps(model, template, parameters)


def _check_scales(model: Any, template: Template) -> None:
    """Checks that tensors share a scale if, and only if, they share an entry."""
    tensors = model.subgraphs[0].tensors
    steps: list[tuple[float, str]] = []
    for index, entry in template.tensors.items():
        scale, _ = _grid_of(tensors[index])
        if scale is None or not scale > 0.0:
            raise ModelError(
                f"Expected a scale above 0 for the tensor {index} of the template, "
                f"which the template map says is of {entry!r}, got {scale}; package "
                "the model again."
            )
        steps.append((scale, entry))
    steps.sort()
    runs = 1
    for (scale, entry), (next_scale, other) in itertools.pairwise(steps):
        is_same = next_scale / scale - 1.0 < _SAME_SCALE
        runs += not is_same
        if is_same != (entry == other):
            raise _contradiction(entry, other)
    if steps and runs != len(set(template.tensors.values())):
        raise _contradiction(steps[0][1], steps[-1][1])


def _contradiction(entry: str, other: str) -> ModelError:
    return ModelError(
        "Expected a template map that gives tensors of one scale one entry, and others "
        f"another, got one that mixes some up, such as those of {entry!r} and "
        f"{other!r}; it was altered: fetch the artifact again."
    )


def _check_zero_points(model: Any, template: Template, parameters: Parameters) -> None:
    """Checks that tensors have the levels of their entries at the narrowest."""
    tensors = model.subgraphs[0].tensors
    for index, entry in template.tensors.items():
        tensor = parameters.tensors[entry]
        _, qmax = activation_range(tensor.bits[0], signed=tensor.signed)
        _, zero_point = _grid_of(tensors[index])
        if zero_point != _INT8_MAX - qmax:
            raise ModelError(
                f"Expected the zero point {_INT8_MAX - qmax} for the tensor {index} of "
                f"the template, which the template map says is of {entry!r}, got "
                f"{zero_point}; it was altered: fetch the artifact again."
            )


def _check_clamps(model: Any, template: Template, parameters: Parameters) -> None:
    """Checks that what cuts off the values of a signed entry is all that does."""
    clamps = {
        number: template.tensors.get(int(operator.outputs[0]))
        for number, operator in enumerate(model.subgraphs[0].operators)
        if op_name(model, operator) == "QUANTIZE"
        and template.tensors.get(int(operator.inputs[0])) is not None
        and template.tensors.get(int(operator.inputs[0]))
        == template.tensors.get(int(operator.outputs[0]))
    }
    placed = {
        number: entry
        for entry, numbers in template.clamps.items()
        for number in numbers
    }
    before = find_before_clamps(model, template.tensors, template.clamps)
    signed = {entry for entry, one in parameters.tensors.items() if one.signed}
    if (
        clamps != placed
        or not signed.issuperset(template.clamps)
        or sorted(template.before_clamps) != sorted(before)
    ):
        raise ModelError(
            f"Expected the clamps {clamps} of signed entries, after the tensors "
            f"{sorted(before)}, in the template map, got {placed}, after "
            f"{sorted(template.before_clamps)}; package the model again."
        )


def _grid_of(tensor: Any) -> tuple[float | None, int | None]:
    """Returns the one scale and the one zero point of a tensor, None without one."""
    quantization = tensor.quantization
    found = [
        None if quantization is None else getattr(quantization, name)
        for name in ("scale", "zeroPoint")
    ]
    scale, zero_point = (
        None if one is None or len(one) != 1 else one[0] for one in found
    )
    return (
        None if scale is None else float(scale),
        None if zero_point is None else int(zero_point),
    )
