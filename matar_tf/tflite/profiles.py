"""Export profiles: how kernels are stored, one for each kind of runtime.

A kernel comes as levels of n bits with one scale per output channel, a bias as whole
multiples of ``s_in * s``. Every profile stores the same numbers; what differs is the
container, and so the size of the file and which runtimes take it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from matar_tf.errors import ExportError, did_you_mean
from matar_tf.parameters import weight_range
from matar_tf.tflite._schema import (
    add_tensor,
    bias_of,
    find_operator_code,
    op_name,
    quantization,
    schema,
    set_buffer,
)

__all__ = [
    "DEFAULT_PROFILE",
    "PROFILES",
    "SMALLEST_UNIT",
    "TYPES",
    "Kernel",
    "Profile",
    "Storage",
    "check_int8",
    "get_profile",
    "largest_count",
    "largest_factor",
    "narrowest_container",
    "pack",
    "store_kernels",
]

DEFAULT_PROFILE: Final = "int8"
_TRANSPOSED = "kernels of transposed convolutions take int8 only"
_INT8_MAX = 127
_INT4_MAX = 7
# Of an accumulator: with smaller ones float32 loses digits, or flushes to zero.
SMALLEST_UNIT: Final = np.float32(1e-30)
_MAX_BIAS = 2**30  # as stored; half of int32 is left to the sum of products
TYPES: Final = {
    8: schema.TensorType.INT8,
    4: schema.TensorType.INT4,
    2: schema.TensorType.INT2,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A way of storing kernels.

    Attributes:
      name: Name in commands and files.
      runtimes: What runs the files.
      exact: Whether the outputs equal those of training's fake quantization.
      description: How kernels are stored.
    """

    name: str
    runtimes: tuple[str, ...]
    exact: bool
    description: str


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="int8",
                runtimes=("litert", "tensorflow", "tflite_runtime"),
                exact=True,
                description="int8 containers; exact on XNNPACK kernels",
            ),
            Profile(
                name="packed-litert",
                runtimes=("litert", "tensorflow"),
                exact=True,
                description="INT4 and INT2 for pointwise convolutions and dense layers "
                "(as fully connected ones), int8 for the others",
            ),
            Profile(
                name="packed-float",
                runtimes=("litert", "tensorflow"),
                exact=True,
                description="INT4 and INT2 for every kernel of at most 4 bits but "
                "transposed ones, computed in float; smallest and slowest",
            ),
            Profile(
                name="packed-portable",
                runtimes=("litert", "tensorflow", "tflite_runtime"),
                exact=False,
                description="INT4 for convolutions of at most 4 bits; builtin kernels "
                "round twice, so outputs differ by single levels",
            ),
        )
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """A kernel to be stored.

    Attributes:
      entry: Weight entry of the policy.
      operator: The operator that uses it.
      bits: Width of the policy.
      levels: int8, within `matar_tf.parameters.weight_range`, TFLite's layout.
      scale: float32 step per output channel, batch norm included.
      channel_axis: Axis of the output channels.
      counts: Bias in units of ``input_scale * scale``, int64 per output channel, or
        None for an operator without bias.
      input_scale: Step of the operator's input.
    """

    entry: str
    operator: Any
    bits: int
    levels: np.ndarray
    scale: np.ndarray
    channel_axis: int
    counts: np.ndarray | None
    input_scale: np.float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """How a kernel was stored.

    Attributes:
      entry: Weight entry of the policy.
      bits: Width of the policy.
      stored_bits: Width of the container: 8, 4 or 2.
      note: Why the container is wider than the profile's narrowest, or None.
    """

    entry: str
    bits: int
    stored_bits: int
    note: str | None


def get_profile(name: str) -> Profile:
    """Returns a profile by its name.

    Raises:
      ExportError: If there is none.
    """
    if name not in PROFILES:
        raise ExportError(
            f"Expected a profile, got {name!r}. {did_you_mean(name, PROFILES)}"
        )
    return PROFILES[name]


def narrowest_container(num_bits: int) -> int:
    """Returns the narrowest container of a width; widths of one are stored alike."""
    return next(bits for bits in sorted(TYPES) if num_bits <= bits)


def largest_factor(num_bits: int, largest: int) -> int:
    """Returns the largest integer by which all levels of a width still fit."""
    return largest // max(-weight_range(num_bits)[0], weight_range(num_bits)[1])


def largest_count(num_bits: int, *, is_wide: bool = False) -> int:
    """Returns the largest bias that every profile holds, in n-bit accumulator units.

    Args:
      num_bits: Width of the weights.
      is_wide: Whether activations have 16 bits: units are finer then, biases longer.
    """
    return (_MAX_BIAS // largest_factor(num_bits, _INT8_MAX)) << 8 * is_wide


def check_int8(profile: str) -> None:
    """Checks that a profile has kernels for 16-bit activations.

    Raises:
      ExportError: If there is no such profile, or it packs kernels.
    """
    if get_profile(profile).name != DEFAULT_PROFILE:
        raise ExportError(
            f"Expected the profile {DEFAULT_PROFILE!r} for 16-bit activations, got "
            f"{profile!r}; their kernels take weights in int8 containers only."
        )


def store_kernels(
    model: Any, kernels: Sequence[Kernel], profile: Profile
) -> tuple[Storage, ...]:
    """Writes kernels and biases into the object form of a model.

    Calls of one layer have the levels of its kernel once, where they are the same: not
    so if a channel passes nothing on in one of them.

    Returns:
      How each kernel was stored.
    """
    tensors = [int(kernel.operator.inputs[1]) for kernel in kernels]
    if profile.name == "packed-float":
        storages = _store_for_float(model, kernels)
    else:
        storages = tuple(_STORES[profile.name](model, kernel) for kernel in kernels)
    _store_once(model, kernels, tensors)
    return storages


def _store_once(model: Any, kernels: Sequence[Kernel], tensors: Sequence[int]) -> None:
    """Lets the kernels of one entry have one buffer if they hold the same bytes."""
    buffers: dict[tuple[str, bytes], int] = {}
    counts = Counter(kernel.entry for kernel in kernels)
    for kernel, index in zip(kernels, tensors, strict=True):
        if counts[kernel.entry] > 1:
            tensor = model.subgraphs[0].tensors[index]
            content = bytes(model.buffers[tensor.buffer].data)
            tensor.buffer = buffers.setdefault((kernel.entry, content), tensor.buffer)


def _store_int8(model: Any, kernel: Kernel, note: str | None = None) -> Storage:
    """Levels times the largest factor that fits: most bits for the requantization."""
    factor = largest_factor(kernel.bits, _INT8_MAX)
    _write(model, kernel, 8, factor)
    return Storage(entry=kernel.entry, bits=kernel.bits, stored_bits=8, note=note)


def _store_litert(model: Any, kernel: Kernel) -> Storage:
    if kernel.bits > 4:
        return _store_int8(model, kernel)
    name, shape = op_name(model, kernel.operator), kernel.levels.shape
    options = kernel.operator.builtinOptions
    pointwise = name == "CONV_2D" and shape[1:3] == (1, 1)
    pointwise = pointwise and (options.strideH, options.strideW) == (1, 1)
    image = model.subgraphs[0].tensors[kernel.operator.inputs[0]]
    pointwise = pointwise and int(image.shape[-1]) == shape[-1]  # not in groups
    if name != "FULLY_CONNECTED" and not pointwise:
        note = "integer kernels for it take int8 only"
        return _store_int8(model, kernel, note)
    in_channels = shape[-1]
    if in_channels % 2:
        note = f"XNNPACK packs an even number of input channels, not {in_channels}"
        return _store_int8(model, kernel, note)
    stored, note = narrowest_container(kernel.bits), None
    if stored == 2 and in_channels % 4:
        stored = 4
        note = f"XNNPACK packs INT2 in fours of input channels, not {in_channels}"
    if pointwise:
        _make_fully_connected(model, kernel)
    _write(model, kernel, stored, 1)
    return Storage(entry=kernel.entry, bits=kernel.bits, stored_bits=stored, note=note)


def _store_portable(model: Any, kernel: Kernel) -> Storage:
    if kernel.bits > 4:
        return _store_int8(model, kernel)
    if op_name(model, kernel.operator) == "TRANSPOSE_CONV":
        return _store_int8(model, kernel, _TRANSPOSED)
    if op_name(model, kernel.operator) == "FULLY_CONNECTED":
        note = "tflite-runtime takes no INT4 dense kernel with a scale per channel"
        return _store_int8(model, kernel, note)
    factor = largest_factor(kernel.bits, _INT4_MAX)
    _write(model, kernel, 4, factor)
    note = "tflite-runtime has no INT2" if kernel.bits == 2 else None
    return Storage(entry=kernel.entry, bits=kernel.bits, stored_bits=4, note=note)


_STORES: Final = {
    "int8": _store_int8,
    "packed-litert": _store_litert,
    "packed-portable": _store_portable,
}


def _write(model: Any, kernel: Kernel, stored_bits: int, factor: int) -> None:
    graph = model.subgraphs[0]
    tensor = graph.tensors[kernel.operator.inputs[1]]
    set_buffer(model, tensor, pack(kernel.levels * np.int8(factor), stored_bits))
    tensor.type = TYPES[stored_bits]
    scale = kernel.scale / np.float32(factor)
    is_dense = op_name(model, kernel.operator) == "FULLY_CONNECTED"
    axis = 0 if is_dense else kernel.channel_axis
    tensor.quantization = quantization(scale, np.zeros(len(scale)), axis)
    if kernel.counts is not None:
        bias = graph.tensors[bias_of(model, kernel.operator)]
        is_wide = bias.type == schema.TensorType.INT64
        counts = (kernel.counts * factor).astype(np.int64 if is_wide else np.int32)
        set_buffer(model, bias, counts)
        scale = kernel.input_scale * kernel.scale / np.float32(factor)
        bias.quantization = quantization(scale, np.zeros(len(scale)), 0)


def pack(values: np.ndarray, stored_bits: int) -> np.ndarray:
    """Packs integers into bytes, the first in the lowest bits."""
    if stored_bits == 8:
        return values
    per_byte = 8 // stored_bits
    codes = values.reshape(-1).view(np.uint8) & np.uint8((1 << stored_bits) - 1)
    codes = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)
    packed = np.zeros(len(codes), np.uint8)
    for position in range(per_byte):
        packed |= codes[:, position] << np.uint8(stored_bits * position)
    return packed


def _make_fully_connected(model: Any, kernel: Kernel) -> None:
    """Turns a pointwise convolution into the fully connected layer that it is."""
    operator = kernel.operator
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = options
    operator.opcodeIndex = find_operator_code(model, "FULLY_CONNECTED", 5)
    tensor = model.subgraphs[0].tensors[operator.inputs[1]]
    tensor.shape = np.array([kernel.levels.shape[0], kernel.levels.shape[-1]], np.int32)


def _store_for_float(model: Any, kernels: Sequence[Kernel]) -> tuple[Storage, ...]:
    """Packs kernels and lets float kernels use them, between int8 tensors."""
    graph = model.subgraphs[0]
    narrow: dict[int, Kernel] = {}
    storages: list[Storage] = []
    for kernel in kernels:
        if kernel.bits > 4:
            storages.append(_store_int8(model, kernel))
        elif op_name(model, kernel.operator) == "TRANSPOSE_CONV":
            storages.append(_store_int8(model, kernel, _TRANSPOSED))
        else:
            narrow[id(kernel.operator)] = kernel
    operators: list[Any] = []
    dequantized: dict[int, int] = {}
    for operator in graph.operators:
        kernel = narrow.get(id(operator))
        if kernel is None:
            operators.append(operator)
            continue
        stored = narrowest_container(kernel.bits)
        _write(model, kernel, stored, 1)
        storages.append(
            Storage(entry=kernel.entry, bits=kernel.bits, stored_bits=stored, note=None)
        )
        operators += _surround_with_float(model, kernel, dequantized)
    graph.operators = operators
    return tuple(storages)


def _surround_with_float(
    model: Any, kernel: Kernel, dequantized: dict[int, int]
) -> list[Any]:
    graph, operator = model.subgraphs[0], kernel.operator
    made: list[Any] = []

    def dequantize(index: int) -> int:
        if index not in dequantized:
            dequantized[index] = add_tensor(model, graph.tensors[index], "float")
            made.append(_border(model, "DEQUANTIZE", index, dequantized[index]))
        return dequantized[index]

    inputs = [dequantize(int(i)) for i in operator.inputs[:2]]
    if kernel.counts is not None:
        bias = add_tensor(model, graph.tensors[operator.inputs[2]], "float")
        values = kernel.counts * (kernel.input_scale * kernel.scale)
        set_buffer(model, graph.tensors[bias], values.astype(np.float32))
        inputs.append(bias)
    int8_output = int(operator.outputs[0])
    output = add_tensor(model, graph.tensors[int8_output], "float")
    operator.inputs, operator.outputs = inputs, [output]
    return [*made, operator, _border(model, "QUANTIZE", output, int8_output)]


def _border(model: Any, name: str, source: int, result: int) -> Any:
    operator = schema.OperatorT()
    options = "QuantizeOptions" if name == "QUANTIZE" else "DequantizeOptions"
    operator.opcodeIndex = find_operator_code(model, name, 2)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    operator.builtinOptions = getattr(schema, f"{options}T")()
    operator.inputs, operator.outputs = [source], [result]
    return operator
