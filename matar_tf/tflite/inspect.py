"""What is in a ``.tflite`` file: one row for each operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from matar_tf.errors import ExportError, PolicyError, readable_line
from matar_tf.io.names import check_names
from matar_tf.operators import OPERATORS
from matar_tf.policy import Policy
from matar_tf.tflite._floats import float_operators
from matar_tf.tflite._indexing import stored_tables
from matar_tf.tflite._schema import (
    COMPUTE_OPS,
    bias_of,
    op_name,
    parse_model,
    schema,
    tensor_array,
    text_of,
    type_name,
)
from matar_tf.tflite.about import about_file
from matar_tf.tflite.metadata import read_metadata

__all__ = ["ModelInfo", "Operator", "inspect_model"]

_SHOWN = (
    *("profile", "scale", "target", "artifact_digest", "signed_by", "metrics"),
    *("num_samples", "predicted"),
)
_HEADER = (
    *("output", "operator", "weights", "W bits", "stored as", "A bits", "scale"),
    "bytes",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """An operator of a file.

    Attributes:
      output: Name of the output tensor.
      op: Builtin name.
      entry: Weight entry of the policy, for operators with a kernel.
      weight_bits: Width of the kernel under the policy, or None.
      storage: Type of the stored kernel, or how wide indices into its table are; or
        None.
      activation_bits: Width of the output under the policy, or None.
      scale: Scale of the output, or None for a float one.
      num_bytes: Bytes of kernel and bias in the file; of an operator in float, of all
        constants that it computes with.
      is_float: Whether it is of a layer that has no integer kernel.
    """

    output: str
    op: str
    entry: str | None
    weight_bits: int | None
    storage: str | None
    activation_bits: int | None
    scale: float | None
    num_bytes: int
    is_float: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelInfo:
    """What is in a file; printed as a table.

    Attributes:
      metadata: What the file says of itself: profile, policy, target, metrics, ...
      operators: In execution order.
      num_bytes: Size of the file.
    """

    metadata: Mapping[str, Any]
    operators: tuple[Operator, ...]
    num_bytes: int

    def __repr__(self) -> str:
        lines = [f"{self.num_bytes} bytes"]
        lines += [
            readable_line(f"  {key}: {self.metadata[key]}")
            for key in _SHOWN
            if key in self.metadata
        ]
        about = about_file(self.metadata)
        for name, one in about.inputs.items():
            lines.append(readable_line(f"  input {name}: {one}, as at training"))
        lines += [
            readable_line(f"  output {name}: {text}")
            for name, text in about.outputs.items()
        ]
        if about.preprocessing:
            lines.append(readable_line(f"  preprocessing: {about.preprocessing}"))
        if about.class_names:
            lines.append(readable_line(f"  classes: {', '.join(about.class_names)}"))
        lines += [
            readable_line(f"  {entry}: stored wider than its width: {note}")
            for entry, note in self.metadata.get("notes", {}).items()
        ]
        rows = [_HEADER, *map(_cells, self.operators)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def _cells(operator: Operator) -> tuple[str, ...]:
    values = (
        operator.output,
        operator.op,
        operator.entry,
        operator.weight_bits,
        operator.storage,
        "float" if operator.is_float else operator.activation_bits,
        None if operator.scale is None else f"{operator.scale:.6g}",
        operator.num_bytes or None,
    )
    return tuple("" if value is None else readable_line(str(value)) for value in values)


def inspect_model(content: bytes) -> ModelInfo:
    """Returns what is in a file.

    Raises:
      ExportError: If the file was not exported by matar_tf.
    """
    metadata = read_metadata(content)
    about_file(metadata)  # is printed
    model = parse_model(content)
    graph = model.subgraphs[0]
    kernels = _object(metadata, "kernels")
    _check_texts(kernels, "kernels")
    weights, activations = _widths(metadata)
    if "notes" in metadata:
        _check_texts(_object(metadata, "notes"), "notes")
    rows: list[Operator] = []
    made_by = {int(op.outputs[0]): op for op in graph.operators}
    in_float = {*float_operators(model)}
    tables = stored_tables(content)
    for place, operator in enumerate(graph.operators):
        output = graph.tensors[operator.outputs[0]]
        name = text_of(output.name)
        entry = storage = None
        num_bytes = 0
        if place in in_float or op_name(model, operator) == "GATHER":
            held = _stored_data(model, operator, made_by)
            named = [one for one in held if text_of(one.name) in kernels]
            for kernel in named[:1]:
                entry, storage = kernels[text_of(kernel.name)], type_name(kernel.type)
            num_bytes = _stored_bytes(model, held)
        elif op_name(model, operator) in COMPUTE_OPS:
            kernel = _stored_kernel(graph, operator, made_by)
            entry = kernels.get(text_of(kernel.name))
            storage = type_name(kernel.type)
            held = [kernel]
            if bias_of(model, operator) >= 0:
                held.append(graph.tensors[bias_of(model, operator)])
            num_bytes = _stored_bytes(model, held)
            if text_of(kernel.name) in tables:
                bits, saved = tables[text_of(kernel.name)]
                storage, num_bytes = f"table, {bits} bits", num_bytes - saved
        scale = None if output.quantization is None else output.quantization.scale
        is_float = output.type == schema.TensorType.FLOAT32
        rows.append(
            Operator(
                output=name,
                op=op_name(model, operator),
                entry=entry,
                weight_bits=None if entry is None else weights.get(entry),
                storage=storage,
                activation_bits=activations.get(name),
                scale=None
                if is_float or scale is None or len(scale) == 0
                else float(np.asarray(scale).flat[0]),
                num_bytes=num_bytes,
                is_float=place in in_float,
            )
        )
    return ModelInfo(metadata=metadata, operators=tuple(rows), num_bytes=len(content))


def _widths(metadata: dict[str, Any]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Returns the bits of weights and of activations that a file says it has."""
    try:
        policy = Policy.from_json(_object(metadata, "policy"))
    except PolicyError as error:
        raise ExportError(
            f"Expected a policy in the metadata of the file, but: {error}"
        ) from error
    return policy.weights, policy.activations


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise ExportError(
            f"Expected an object under {key!r} in the metadata of the file, got "
            f"{str(value)[:80]}; export it again."
        )
    return value


def _check_texts(document: dict[str, Any], key: str) -> None:
    """Checks that an object of the metadata holds texts that can be printed."""
    what = f"what is under {key!r} in the metadata of the file"
    check_names(document.values(), what, ExportError)


def _stored_data(model: Any, operator: Any, made_by: dict[int, Any]) -> list[Any]:
    """Returns the constant tensors that an operator computes with, not its settings."""
    graph, row = model.subgraphs[0], OPERATORS.get(op_name(model, operator))
    settings = () if row is None else row.settings
    found: list[Any] = []
    for place, index in enumerate(map(int, operator.inputs)):
        maker = made_by.get(index)
        if maker is not None and op_name(model, maker) == "DEQUANTIZE":
            index = int(maker.inputs[0])
        is_stored = index >= 0 and tensor_array(model, graph.tensors[index]) is not None
        if is_stored and place not in settings:
            found.append(graph.tensors[index])
    return found


def _stored_bytes(model: Any, tensors: list[Any]) -> int:
    stored = [model.buffers[one.buffer].data for one in tensors]
    return sum(0 if data is None else len(data) for data in stored)


def _stored_kernel(graph: Any, operator: Any, made_by: dict[int, Any]) -> Any:
    """Returns the constant tensor that an operator's kernel comes from."""
    index = int(operator.inputs[1]) if len(operator.inputs) > 1 else -1
    while index in made_by:  # a packed kernel that is dequantized first
        index = int(made_by[index].inputs[0])
    if index < 0:
        output = graph.tensors[operator.outputs[0]]
        raise ExportError(
            f"Expected a stored kernel for {text_of(output.name)!r} in the file, found "
            "none; export it again."
        )
    return graph.tensors[index]
