"""Workloads: what a network asks of hardware, without bits and without hardware.

A `Workload` is the inference graph after training-only layers are gone and batch
norm is folded: layers in execution order and the tensors between them. Widths come
from a policy, through the names that layers and tensors carry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, cast

from matar_tf.errors import ModelError, did_you_mean

__all__ = ["SCHEMA_VERSION", "LayerWorkload", "OpKind", "TensorWorkload", "Workload"]

SCHEMA_VERSION: Final = 1


class OpKind(str, Enum):
    """What a layer computes; the values are saved in files."""

    CONV = "conv"
    DEPTHWISE_CONV = "depthwise_conv"
    DENSE = "dense"
    ADD = "add"
    CONCAT = "concat"
    AVERAGE_POOL = "average_pool"
    MAX_POOL = "max_pool"
    MEAN = "mean"
    ACTIVATION = "activation"
    SOFTMAX = "softmax"
    RESHAPE = "reshape"
    PAD = "pad"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorWorkload:
    """A tensor between layers.

    Attributes:
      name: Unique name in the workload.
      shape: Shape of one sample, without the batch axis; channels last.
      activation: The activation entry of the policy that gives the width of this
        tensor, or None for a tensor that is always 8 bits wide.
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
        None for a layer without weights.
      macs: Multiply-accumulates for one sample.
      weight_elems: Elements of the kernel.
      bias_elems: Elements of the bias (32-bit integers when deployed).
      kernel_size: Height and width of the kernel or pooling window; (1, 1) otherwise.
      strides: Strides of the kernel or pooling window; (1, 1) otherwise.
      groups: Channel groups of a convolution; 1 for a full convolution, the number
        of input channels for a depthwise one.
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
                f"Expected a description of each of the tensors {sorted(made)}, got "
                f"{sorted(self.tensors)} with outputs {list(self.outputs)}."
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
            "layers": [
                {**asdict(layer), "kind": layer.kind.value} for layer in self.layers
            ],
        }

    @classmethod
    def from_json(cls, value: object) -> Workload:
        """Reads what `to_json` returned.

        Raises:
          ModelError: If the document is malformed.
        """
        try:
            document = cast("dict[str, Any]", value)
            if document["schema_version"] != SCHEMA_VERSION:
                raise ModelError(
                    f"Expected a workload of schema_version {SCHEMA_VERSION}, got "
                    f"{document['schema_version']!r}."
                )
            tensors = [_read_tensor(entry) for entry in document["tensors"]]
            layers = tuple(_read_layer(entry) for entry in document["layers"])
            return cls(
                layers=layers,
                tensors={tensor.name: tensor for tensor in tensors},
                inputs=tuple(document["inputs"]),
                outputs=tuple(document["outputs"]),
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"The workload is malformed: {error!r}.") from error


def _read_tensor(entry: dict[str, Any]) -> TensorWorkload:
    fields: dict[str, Any] = {**entry, "shape": tuple(entry["shape"])}
    return TensorWorkload(**fields)


def _read_layer(entry: dict[str, Any]) -> LayerWorkload:
    kinds = {kind.value for kind in OpKind}
    if entry["kind"] not in kinds:
        raise ModelError(
            f"Unknown kind {entry['kind']!r} of layer {entry.get('name')!r}. "
            f"{did_you_mean(str(entry['kind']), kinds)}"
        )
    fields: dict[str, Any] = {
        **entry,
        "kind": OpKind(entry["kind"]),
        "inputs": tuple(entry["inputs"]),
        "kernel_size": tuple(entry["kernel_size"]),
        "strides": tuple(entry["strides"]),
    }
    return LayerWorkload(**fields)
