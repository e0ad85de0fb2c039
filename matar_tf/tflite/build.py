"""Template + policy -> ``.tflite`` bytes, by NumPy and flatbuffers alone.

Integers follow the rules of training (`matar_tf.keras.numerics`): a weight is
``level * k`` with scale ``s / k``, an activation has its n-bit range at the top of
int8 (zero point ``127 - qmax``), or, where values below the lowest level must be cut
off, at its bottom after a saturating QUANTIZE (zero point ``-128 - qmin``), and a bias
counts in steps of the accumulator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from matar_tf.artifact import Artifact
from matar_tf.parameters import LayerParameters, TensorParameters
from matar_tf.policy import MAX_BITS, Policy
from matar_tf.tflite._schema import (
    compact,
    load_model,
    schema,
    set_buffer,
    write_model,
)
from matar_tf.tflite.template import Template

__all__ = ["METADATA_NAME", "ModelBuilder", "quantize_kernel"]

METADATA_NAME = "matar_tf"
_MAX_BIAS = 2**30


class ModelBuilder:
    """Fills policies into an artifact's template.

    Args:
      artifact: The packaged network.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._template = Template.from_json(artifact.template, artifact.template_map)

    def build(self, policy: Policy, metadata: Mapping[str, Any] | None = None) -> bytes:
        """Returns the ``.tflite`` file of a policy, profile ``int8``.

        Args:
          policy: A policy of the artifact's space.
          metadata: JSON object to store in the file beside the policy.

        Raises:
          PolicyError: If the policy is not of the artifact's space.
        """
        self._artifact.space.validate(policy)
        model = load_model(self._template.content)
        for entry, bits in policy.weights.items():
            self._fill_kernel(model, entry, bits, policy)
        self._fill_tensors(model, policy)
        self._drop_identity_clamps(model, policy)
        _add_metadata(model, {**(metadata or {}), "policy": policy.to_json()})
        compact(model)
        return write_model(model)

    def _fill_kernel(self, model: Any, entry: str, bits: int, policy: Policy) -> None:
        graph = model.subgraphs[0]
        place = self._template.kernels[entry]
        operator = graph.operators[place.operator]
        layer = self._artifact.parameters.layers[entry]
        values, scale = quantize_kernel(layer, bits)
        kernel = graph.tensors[operator.inputs[1]]
        set_buffer(model, kernel, values)
        kernel.quantization = _quantization(scale, layer.channel_axis)
        if len(operator.inputs) < 3 or operator.inputs[2] < 0:
            return
        source = self._artifact.parameters.tensors[place.input]
        grid = _step(source, policy.activations[place.input]) * scale
        # The converter gives some layers a bias of zeros that the network has not.
        offset = 0.0 if layer.offset is None else layer.offset[layer.bits.index(bits)]
        counts = np.clip(np.floor(offset / grid + 0.5), -_MAX_BIAS, _MAX_BIAS)
        bias = graph.tensors[operator.inputs[2]]
        set_buffer(model, bias, counts.astype(np.int32))
        bias.quantization = _quantization(grid, 0)

    def _fill_tensors(self, model: Any, policy: Policy) -> None:
        graph = model.subgraphs[0]
        before_clamps = set(self._template.before_clamps)
        for index, entry in self._template.tensors.items():
            bits = policy.activations[entry]
            tensor = self._artifact.parameters.tensors[entry]
            qmin, qmax = _range(bits, signed=tensor.signed)
            zero_point = 127 - qmax
            if entry in self._template.clamps and index not in before_clamps:
                zero_point = -128 - qmin
            quantization = _quantization(np.array([_step(tensor, bits)]), 0)
            quantization.zeroPoint = np.array([zero_point], np.int64)
            graph.tensors[index].quantization = quantization

    def _drop_identity_clamps(self, model: Any, policy: Policy) -> None:
        """At 8 bits int8 itself cuts off on both sides."""
        graph = model.subgraphs[0]
        dropped: dict[int, int] = {}
        operators = set()
        for entry, index in self._template.clamps.items():
            if policy.activations[entry] == MAX_BITS:
                operator = graph.operators[index]
                dropped[int(operator.outputs[0])] = int(operator.inputs[0])
                operators.add(index)
        if not dropped:
            return
        graph.operators = [
            operator
            for index, operator in enumerate(graph.operators)
            if index not in operators
        ]
        for operator in graph.operators:
            operator.inputs = [dropped.get(int(i), int(i)) for i in operator.inputs]
        graph.outputs = [dropped.get(int(i), int(i)) for i in graph.outputs]
        _drop_tensors(model, set(dropped))


def quantize_kernel(layer: LayerParameters, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a kernel as int8 containers, and their scale per output channel.

    The sign of a negative batch norm scale goes into the integers. A channel whose
    scale is 0 passes nothing on: its integers are 0.

    Args:
      layer: The trained layer.
      bits: One of its widths.

    Returns:
      int8 values in the layout of ``layer.kernel``, and float32 scales ``[out]``.
    """
    row = layer.bits.index(bits)
    qmax = 2 ** (bits - 1) - 1
    factor = 127 // qmax
    shape = [1] * layer.kernel.ndim
    shape[layer.channel_axis] = -1
    step = layer.step[row].reshape(shape)
    levels = np.floor(
        np.clip(layer.kernel / step, -qmax, qmax) + np.float32(0.5), dtype=np.float32
    )
    sign = np.sign(layer.scale[row])
    magnitude = np.where(sign == 0, np.float32(1.0), np.abs(layer.scale[row]))
    values = (levels * (sign * factor).reshape(shape)).astype(np.int8)
    scale = (layer.step[row] * magnitude / np.float32(factor)).astype(np.float32)
    return values, scale


def _range(bits: int, *, signed: bool) -> tuple[int, int]:
    if signed:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _step(tensor: TensorParameters, bits: int) -> np.float32:
    return np.float32(tensor.step[tensor.bits.index(bits)])


def _quantization(scale: np.ndarray, dimension: int) -> Any:
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.asarray(scale, np.float32)
    quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)
    quantization.quantizedDimension = dimension
    return quantization


def _drop_tensors(model: Any, dropped: set[int]) -> None:
    """Removes tensors and renumbers the rest."""
    graph = model.subgraphs[0]
    kept = [i for i in range(len(graph.tensors)) if i not in dropped]
    position = {old: new for new, old in enumerate(kept)}
    position[-1] = -1
    graph.tensors = [graph.tensors[i] for i in kept]
    for operator in graph.operators:
        operator.inputs = [position[int(i)] for i in operator.inputs]
        operator.outputs = [position[int(i)] for i in operator.outputs]
    graph.inputs = [position[int(i)] for i in graph.inputs]
    graph.outputs = [position[int(i)] for i in graph.outputs]
    for signature in model.signatureDefs or []:
        for tensor_map in (*(signature.inputs or []), *(signature.outputs or [])):
            tensor_map.tensorIndex = position[tensor_map.tensorIndex]


def _add_metadata(model: Any, document: Mapping[str, Any]) -> None:
    buffer = schema.BufferT()
    content = json.dumps(document, sort_keys=True).encode()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers) - 1
    others = [
        other for other in model.metadata or [] if other.name != METADATA_NAME.encode()
    ]
    model.metadata = [*others, entry]
