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
from matar_tf.scales import FREE, POWER_OF_TWO
from matar_tf.tflite._containers import (
    TRANSPOSED,
    Kernel,
    Storage,
    narrowest_container,
    write_kernel,
)
from matar_tf.tflite._indexing import store_indices
from matar_tf.tflite._micro import check_micro
from matar_tf.tflite._packed_float import store_for_float
from matar_tf.tflite._schema import (
    find_operator_code,
    op_name,
    schema,
)
from matar_tf.tflite.runtime import LITERT_PACKAGE, MICRO_PACKAGE

__all__ = [
    "DEFAULT_PROFILE",
    "MEASURING",
    "PROFILES",
    "SMALLEST_UNIT",
    "Profile",
    "check_int8",
    "get_profile",
    "largest_count",
    "largest_factor",
    "measured_in",
    "store_kernels",
]

DEFAULT_PROFILE: Final = "int8"
# Runtimes that policies are measured in, by the packages that bring them.
MEASURING: Final = MappingProxyType({"litert": LITERT_PACKAGE, "tflm": MICRO_PACKAGE})
_INT8_MAX = 127
_INT4_MAX = 7
# Of an accumulator: with smaller ones float32 loses digits, or flushes to zero.
SMALLEST_UNIT: Final = np.float32(1e-30)
_MAX_BIAS = 2**30  # as stored; half of int32 is left to the sum of products


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A way of storing kernels.

    Attributes:
      name: Name in commands and files.
      runtimes: What runs the files; the first measures policies.
      exact: Whether the outputs equal those of training's fake quantization.
      description: How kernels are stored.
    """

    name: str
    runtimes: tuple[str, ...]
    exact: bool
    description: str

    @property
    def runtime(self) -> str:
        """What measures policies, and opens files before they are written."""
        return self.runtimes[0]


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="int8",
                runtimes=("litert", "tensorflow", "tflite_runtime", "tflm"),
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
            Profile(
                name="tflm",
                runtimes=("tflm",),
                exact=False,
                description="indices of 1 to 7 bits into a table of values, for each "
                "kernel that gets smaller by it; decoded by TensorFlow Lite for "
                "Microcontrollers, whose kernels round twice",
            ),
        )
    }
)


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


def measured_in(profile: str, runtime: str | None) -> str:
    """Returns the runtime that measures files of a profile.

    Args:
      profile: Its name.
      runtime: The one that is asked for; None for what the profile is for.

    Raises:
      ExportError: If there is no such profile, or its files run elsewhere.
    """
    known = get_profile(profile)
    if runtime is None:
        return known.runtime
    measuring = [one for one in known.runtimes if one in MEASURING]
    if runtime not in measuring:
        raise ExportError(
            f"Expected a runtime among {measuring} to measure the profile "
            f"{profile!r} in, got {runtime!r}; choose one of them, or another profile."
        )
    return runtime


def largest_factor(num_bits: int, largest: int, scale: str = FREE) -> int:
    """Returns the largest integer by which all levels of a width still fit.

    1 where scales are powers of two, which it would spoil.
    """
    if scale == POWER_OF_TWO:
        return 1
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
        storages = store_for_float(model, kernels, _store_int8)
    elif profile.name == "tflm":
        check_micro(model)
        storages = store_indices(model, kernels, _store_int8)
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
    factor = largest_factor(kernel.bits, _INT8_MAX, kernel.scales)
    write_kernel(model, kernel, 8, factor)
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
    write_kernel(model, kernel, stored, 1)
    return Storage(entry=kernel.entry, bits=kernel.bits, stored_bits=stored, note=note)


def _store_portable(model: Any, kernel: Kernel) -> Storage:
    if kernel.bits > 4:
        return _store_int8(model, kernel)
    if op_name(model, kernel.operator) == "TRANSPOSE_CONV":
        return _store_int8(model, kernel, TRANSPOSED)
    if op_name(model, kernel.operator) == "FULLY_CONNECTED":
        note = "tflite-runtime takes no INT4 dense kernel with a scale per channel"
        return _store_int8(model, kernel, note)
    factor = largest_factor(kernel.bits, _INT4_MAX, kernel.scales)
    write_kernel(model, kernel, 4, factor)
    note = "tflite-runtime has no INT2" if kernel.bits == 2 else None
    return Storage(entry=kernel.entry, bits=kernel.bits, stored_bits=4, note=note)


_STORES: Final = {
    "int8": _store_int8,
    "packed-litert": _store_litert,
    "packed-portable": _store_portable,
}


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
