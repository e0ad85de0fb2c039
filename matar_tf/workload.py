"""Workloads: what a network asks of hardware, without bits and without hardware.

A `Workload` is the inference graph after training-only layers are gone and batch
norm is folded: layers in execution order and the tensors between them. Widths come
from a policy, through the names that layers and tensors carry.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, cast

from matar_tf.errors import ModelError, did_you_mean, shown
from matar_tf.io.json_reader import JsonReader
from matar_tf.io.names import check_names
from matar_tf.policy import MAX_BITS

__all__ = [
    "FLOAT_BITS",
    "SCHEMA_VERSION",
    "LayerWorkload",
    "OpKind",
    "TensorWorkload",
    "Workload",
]

SCHEMA_VERSION: Final = 1
FLOAT_BITS: Final = 32  # of a float, and of an index
_KEYS: Final = ("schema_version", "inputs", "outputs", "tensors", "layers")
_FLOAT_KEYS: Final = ("float_ops", "float_elems")
_MAX_SIZE: Final = 2**31 - 1  # of an axis in TFLite
_MAX_AXES: Final = 8
_MAX_COUNT: Final = 2**53  # what a JSON number holds exactly
_READER: Final = JsonReader(ModelError)


class OpKind(str, Enum):
    """What a layer computes; the values are saved in files."""

    CONV = "conv"
    DEPTHWISE_CONV = "depthwise_conv"
    TRANSPOSED_CONV = "transposed_conv"
    DENSE = "dense"
    ADD = "add"  # or subtract
    MUL = "mul"
    MAXIMUM = "maximum"  # or minimum
    CONCAT = "concat"
    AVERAGE_POOL = "average_pool"
    MAX_POOL = "max_pool"
    MEAN = "mean"
    ACTIVATION = "activation"
    TABLE = "table"  # ELU, GELU or an exponential, which some devices lack
    SOFTMAX = "softmax"
    RESHAPE = "reshape"
    PAD = "pad"
    RESIZE = "resize"
    FLOAT = "float"  # whatever has no integer kernel, with or without weights


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorWorkload:
    """A tensor between layers.

    Attributes:
      name: Unique name in the workload.
      shape: Shape of one sample, without the batch axis; channels last.
      activation: The activation entry of the policy that gives the width of this
        tensor, or None for a tensor that is always 8 bits wide, or of floats (see
        `Workload.float_tensors`).
    """

    name: str
    shape: tuple[int, ...]
    activation: str | None

    @property
    def elems(self) -> int:
        """Number of elements of one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWorkload:
    """One layer of the inference graph.

    Attributes:
      name: Unique name in the workload.
      kind: What the layer computes.
      inputs: Names of the input tensors, in order.
      output: Name of the output tensor.
      weights: The weight entry of the policy that gives the width of the kernel, or
        None for a layer without weights. Calls of one layer are several here, which
        have the entry and the kernel in common.
      macs: Multiply-accumulates for one sample.
      weight_elems: Elements of the kernel.
      bias_elems: Elements of the bias (32-bit integers when deployed); of a layer in
        float, those of all its constants besides its kernel.
      kernel_size: Height and width of the kernel or pooling window; (1, 1) otherwise.
      strides: Strides of the kernel or pooling window; (1, 1) otherwise.
      groups: Channel groups of a convolution; 1 for a full convolution, the number
        of input channels for a depthwise one.
      float_ops: Operators that a layer in float is made of; 0 for one of integers. It
        and the next are left out of files where they are 0.
      float_elems: Elements that its operators handle one by one, besides those that
        multiply and add up.
    """

    name: str
    kind: OpKind
    inputs: tuple[str, ...]
    output: str
    weights: str | None = None
    macs: int = 0
    weight_elems: int = 0
    bias_elems: int = 0
    kernel_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    groups: int = 1
    float_ops: int = 0
    float_elems: int = 0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The inference graph of one sample.

    Invariants: layers are in execution order; each tensor is the output of exactly
    one layer or one of `inputs`; every name that a layer mentions is in `tensors`.

    Attributes:
      layers: Layers in execution order.
      tensors: Tensors by name.
      inputs: Names of the network's input tensors.
      outputs: Names of the network's output tensors.
    """

    layers: tuple[LayerWorkload, ...]
    tensors: Mapping[str, TensorWorkload]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        check_names(self.tensors, "tensors", ModelError)
        check_names((layer.name for layer in self.layers), "layers", ModelError)
        made = set(self.inputs)
        for layer in self.layers:
            for name in layer.inputs:
                if name not in made:
                    raise ModelError(
                        f"Layer {layer.name!r} reads tensor {name!r}, which no earlier "
                        f"layer makes. {did_you_mean(name, made)}"
                    )
            if layer.output in made:
                raise ModelError(f"Tensor {layer.output!r} is made twice.")
            made.add(layer.output)
        if made != set(self.tensors) or not set(self.outputs) <= made:
            raise ModelError(
                f"Expected a description of each of the tensors {shown(sorted(made))}, "
                f"got {shown(sorted(self.tensors))} with outputs "
                f"{shown(self.outputs)}."
            )

    def __hash__(self) -> int:
        tensors = tuple(self.tensors.items())
        return hash((self.layers, tensors, self.inputs, self.outputs))

    def __reduce__(self) -> tuple[Any, ...]:
        return Workload.from_json, (self.to_json(),)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    @functools.cached_property
    def storing(self) -> frozenset[str]:
        """Names of the layers with kernels of their own: no layer before has them."""
        first: dict[str, str] = {}
        for layer in self.layers:
            if layer.weights is not None:
                first.setdefault(layer.weights, layer.name)
        return frozenset(first.values())

    @functools.cached_property
    def float_tensors(self) -> frozenset[str]:
        """Names of the tensors of floats, or of 32-bit indices that such layers read.

        They have no activation entry, and are made by a layer in float, or are inputs
        of the network.
        """
        made = {one.output for one in self.layers if one.kind is OpKind.FLOAT}
        made |= {
            name
            for one in self.layers
            if one.kind is OpKind.FLOAT
            for name in one.inputs
            if name in self.inputs
        }
        return frozenset(name for name in made if self.tensors[name].activation is None)

    def fixed_bits(self, tensor: str) -> int:
        """Returns the width of a tensor without an activation entry."""
        return FLOAT_BITS if tensor in self.float_tensors else MAX_BITS

    def entry_pairs(self) -> tuple[tuple[str, str], ...]:
        """Returns the entries of each layer's weights and of its first input."""
        pairs = (
            (layer.weights, self.tensors[layer.inputs[0]].activation)
            for layer in self.layers
        )
        return tuple((a, b) for a, b in pairs if a is not None and b is not None)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object that `from_json` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "tensors": [asdict(tensor) for tensor in self.tensors.values()],
            "layers": [_layer_json(layer) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, value: object) -> Workload:
        """Reads what `to_json` returned.

        Raises:
          ModelError: If the document is malformed.
        """
        if not isinstance(value, dict):
            raise ModelError(
                f"The workload is malformed: expected a JSON object, got "
                f"{shown(value)}."
            )
        document = _READER.object(cast("object", value), "workload", _KEYS)
        _READER.check_version(document, "workload", SCHEMA_VERSION)
        tensors = [_read_tensor(entry) for entry in _list(document, "tensors")]
        by_name = {tensor.name: tensor for tensor in tensors}
        if len(by_name) < len(tensors):
            raise ModelError(
                f"Expected tensors of different names, got "
                f"{shown([tensor.name for tensor in tensors])}."
            )
        return cls(
            layers=tuple(_read_layer(entry) for entry in _list(document, "layers")),
            tensors=by_name,
            inputs=_names(document, "inputs"),
            outputs=_names(document, "outputs"),
        )


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document[key]
    if not isinstance(value, (list, tuple)):
        raise ModelError(f"Expected a list under {key!r}, got {shown(value)}.")
    return list(cast("list[Any]", value))


def _names(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = _list(document, key)
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"Expected names under {key!r}, got {shown(names)}.")
    return tuple(names)


def _entry(document: Mapping[str, Any], key: str) -> str | None:
    return None if document[key] is None else _READER.field(document, key, str)


def _sizes(
    document: Mapping[str, Any], key: str, length: int | None = None
) -> tuple[int, ...]:
    sizes = _list(document, key)
    are_sizes = all(type(size) is int and 1 <= size <= _MAX_SIZE for size in sizes)
    if not are_sizes or len(sizes) > _MAX_AXES or length not in (None, len(sizes)):
        raise ModelError(
            f"Expected {length or f'at most {_MAX_AXES}'} integers in 1..{_MAX_SIZE} "
            f"under {key!r}, got {shown(sizes)}."
        )
    return tuple(sizes)


def _count(document: Mapping[str, Any], key: str, least: int = 0) -> int:
    count = _READER.field(document, key, int)
    if not least <= count <= _MAX_COUNT:
        raise ModelError(
            f"Expected an integer in {least}..{_MAX_COUNT} under {key!r}, got {count}."
        )
    return count


def _pair(document: Mapping[str, Any], key: str) -> tuple[int, int]:
    height, width = _sizes(document, key, 2)
    return height, width


def _read_tensor(value: Any) -> TensorWorkload:
    entry = _READER.object(value, "tensor", _TENSOR_KEYS)
    return TensorWorkload(
        name=_READER.field(entry, "name", str),
        shape=_sizes(entry, "shape"),
        activation=_entry(entry, "activation"),
    )


def _layer_json(layer: LayerWorkload) -> dict[str, Any]:
    document = {**asdict(layer), "kind": layer.kind.value}
    absent = [name for name in _FLOAT_KEYS if not document[name]]
    return {name: document[name] for name in document if name not in absent}


def _read_layer(value: Any) -> LayerWorkload:
    entry = _READER.object(value, "layer", _LAYER_KEYS, _FLOAT_KEYS)
    kinds = {kind.value for kind in OpKind}
    kind = _READER.field(entry, "kind", str)
    if kind not in kinds:
        raise ModelError(
            f"Unknown kind {shown(kind)} of layer {shown(entry['name'])}. "
            f"{did_you_mean(kind, kinds)}"
        )
    return LayerWorkload(
        name=_READER.field(entry, "name", str),
        kind=OpKind(kind),
        inputs=_names(entry, "inputs"),
        output=_READER.field(entry, "output", str),
        weights=_entry(entry, "weights"),
        macs=_count(entry, "macs"),
        weight_elems=_count(entry, "weight_elems"),
        bias_elems=_count(entry, "bias_elems"),
        kernel_size=_pair(entry, "kernel_size"),
        strides=_pair(entry, "strides"),
        groups=_count(entry, "groups", 1),
        **{name: _count(entry, name) for name in _FLOAT_KEYS if name in entry},
    )


_TENSOR_KEYS: Final = tuple(field.name for field in fields(TensorWorkload))
_LAYER_KEYS: Final = tuple(
    field.name for field in fields(LayerWorkload) if field.name not in _FLOAT_KEYS
)
