"""Unpacking a ``.tflite`` file into no more than it is long.

A file may name one table, text or vector many times, of each of which the object form
has a copy, or has one when it is written.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated

from matar_tf.errors import ExportError

__all__ = ["unpack"]

_schema: Any = schema_py_generated  # generated code, whose types mislead
_MAX_TABLES: Final = 10_000  # of a kind; the largest networks have some thousands
_MAX_INPUTS: Final = 10 * _MAX_TABLES  # of operators, which have two to four each
_MAX_AXES: Final = 64  # of a tensor; products of more take longer and longer
_MIN_TABLE_BYTES: Final = 8  # of an entry of a vector of tables: two offsets


def unpack(content: bytes) -> Any:
    """Returns the object form of a file of one graph.

    Raises:
      ExportError: If it has more graphs, or more tables than any network has.
      ValueError: If tables, texts or vectors are longer than the file, or a tensor is
        of no form that operators know; and whatever the generated code raises.
    """
    root = _schema.Model.GetRootAs(_Metered(content), 0)
    num_graphs = root.SubgraphsLength()
    if num_graphs != 1:
        raise ExportError(
            f"Expected a model of one subgraph, got {num_graphs}; convert a network "
            "without branches or loops that depend on its values."
        )
    _check_counts(root, len(content))
    model = _schema.ModelT.InitFromObj(root)
    length = _length(model)
    if length > len(content):
        raise ValueError(f"vectors of {length} bytes in {len(content)}")
    num_inputs = sum(np.size(one.inputs) for one in model.subgraphs[0].operators or [])
    if num_inputs > _MAX_INPUTS:
        raise ValueError(f"{num_inputs} inputs of operators, {_MAX_INPUTS} at most")
    return model


class _Metered(bytearray):
    """A file of which texts are copied that are together no longer than itself.

    Texts are slices of it (``flatbuffers.table.Table.String``). Vectors are views of
    it, which `_length` counts.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._num_copied = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, slice):
            self._num_copied += len(found)
            if self._num_copied > len(self):
                raise ValueError(f"texts of more than {len(self)} bytes")
        return found


def _check_counts(root: Any, num_bytes: int) -> None:
    """Checks that vectors of tables are no longer than the file.

    Raises:
      ExportError: If there are more tables than any network has.
      ValueError: If they are longer, or a tensor is of no form that operators know.
    """
    graph = root.Subgraphs(0)
    counts = (
        *(root.OperatorCodesLength(), root.BuffersLength(), root.MetadataLength()),
        *(root.SignatureDefsLength(), root.ExternalBuffersLength()),
        *(root.ExternalBufferGroupsLength(), graph.TensorsLength()),
        graph.OperatorsLength(),
    )
    _check_number(max(counts))
    signatures = [root.SignatureDefs(i) for i in range(root.SignatureDefsLength())]
    mapped = sum(one.InputsLength() + one.OutputsLength() for one in signatures)
    _check_number(mapped)
    count = sum(counts) + mapped
    if count * _MIN_TABLE_BYTES > num_bytes:
        raise ValueError(f"{count} tables in {num_bytes} bytes")
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        if tensor.VariantTensorsLength() or tensor.Sparsity() is not None:
            raise ValueError(f"tensor {index} is a variant or sparse")
        if max(tensor.ShapeLength(), tensor.ShapeSignatureLength()) > _MAX_AXES:
            raise ValueError(f"tensor {index} has more than {_MAX_AXES} axes")


def _check_number(count: int) -> None:
    if count > _MAX_TABLES:
        raise ExportError(
            f"Expected at most {_MAX_TABLES} tensors, operators and buffers each in a "
            f"TFLite model, got {count}; take a smaller network."
        )


def _length(value: Any) -> int:
    """Returns the bytes of the vectors in a table of the object form."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list):
        return sum(map(_length, value))
    return sum(map(_length, vars(value).values())) if hasattr(value, "__dict__") else 0
