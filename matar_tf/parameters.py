"""Trained numbers of a network: what a policy is filled in from.

Arrays only, no graph and no hardware; saved as an ``.npz`` without pickling.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matar_tf.errors import ArtifactError, shown
from matar_tf.io.archive import MAX_ARRAY_BYTES, open_members, parse_arrays
from matar_tf.io.json_reader import JsonReader
from matar_tf.policy import ALL_BITS, MAX_BITS, MIN_BITS, Policy, row_of

__all__ = [
    "LayerParameters",
    "NormParameters",
    "Parameters",
    "TensorParameters",
    "activation_range",
    "norm_places",
    "num_norm_rows",
    "weight_range",
]

_READER = JsonReader(ArtifactError)
_INDEX = "index.json"
_INDEX_KEYS = ("layers", "tensors")
_LAYER_KEYS = ("name", "channel_axis", "bits", "has_bias", "norm")
_TENSOR_KEYS = ("name", "bits", "signed")
_NORM_ARRAYS = ("gamma", "beta", "mean", "variance")


def weight_range(num_bits: int) -> tuple[int, int]:
    """Returns the ends of the grid of weights.

    ``(-qmax, qmax)`` with ``qmax = 2**(num_bits - 1) - 1``; at 2 bits ``(-2, 1)``, all
    four levels as in LSQ (Esser et al., ICLR 2020): three would give a quarter away.
    """
    qmax = 2 ** (num_bits - 1) - 1
    return (-2 if num_bits == 2 else -qmax), qmax


def activation_range(num_bits: int, *, signed: bool) -> tuple[int, int]:
    """Returns the ends of the grid of activations.

    ``(-2**(n - 1), 2**(n - 1) - 1)`` if `signed`, else ``(0, 2**n - 1)``.
    """
    if signed:
        return -(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1
    return 0, 2**num_bits - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class NormParameters:
    """A batch norm whose statistics follow the policy.

    A layer's output has other statistics when the layer, or one before it, has other
    widths. They are added up from terms, each a bank of rows that the widths of one or
    two policy entries choose from: ``mean = sum(means)``,
    ``variance = product(variances)``, and then

        ``scale = abs(gamma) / sqrt(variance + epsilon)``,
        ``offset = beta - mean * scale``.

    Attributes:
      entries: Kind (``weights`` or ``activations``), name and widths, ascending, of
        the entries that the statistics depend on: the layer's own weights, then what
        is before it, the nearest first. The first two choose the row of the first
        term together, each further one that of a term of its own.
      gamma: ``[channels]``, for all widths.
      beta: ``[channels]``.
      mean: Rows of all terms, one term after the other, ``[num_rows, channels]``.
      variance: In the shape of `mean`.
      epsilon: Added to the variance.
    """

    entries: tuple[tuple[str, str, tuple[int, ...]], ...]
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float

    def folded(self, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
        """Returns scale and offset under a policy, float32, ``[channels]`` each.

        Computed in float64, as in training, so that both round to the same numbers
        whatever the order of the terms.
        """
        rows = [
            row_of(bits, getattr(policy, kind)[one]) for kind, one, bits in self.entries
        ]
        places = norm_places([len(bits) for _, _, bits in self.entries], rows)
        mean = self.mean[places].astype(np.float64).sum(axis=0)
        variance = self.variance[places].astype(np.float64).prod(axis=0)
        gamma, beta = (one.astype(np.float64) for one in (self.gamma, self.beta))
        scale = np.abs(gamma) / np.sqrt(variance + self.epsilon)
        offset = beta - mean * scale
        return scale.astype(np.float32), offset.astype(np.float32)


def norm_places(sizes: Sequence[int], rows: Sequence[Any]) -> list[Any]:
    """Returns the row of each term in the statistics of a `NormParameters`.

    Args:
      sizes: Number of widths of each entry.
      rows: Row of the width in force of each entry: numbers, or anything to reckon
        with.
    """
    paired = len(sizes) > 1
    places = [rows[0] * sizes[1] + rows[1] if paired else rows[0]]
    start = sizes[0] * (sizes[1] if paired else 1)
    for size, row in zip(sizes[2:], rows[2:], strict=True):
        places.append(row + start)
        start += size
    return places


def num_norm_rows(sizes: Sequence[int]) -> int:
    """Returns the number of rows of the statistics of a `NormParameters`."""
    return sizes[0] * (sizes[1] if len(sizes) > 1 else 1) + sum(sizes[2:])


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerParameters:
    """A layer with weights, and the batch norm after it.

    Under ``n = bits[r]`` the layer computes ``scale * (x * w_r) + offset`` with ``w_r``
    the kernel rounded to multiples of ``step[r]``; `affine` gives scale and offset.

    Attributes:
      kernel: Float kernel in TFLite's layout, ``[out, h, w, in]`` (convolution),
        ``[1, h, w, out]`` (depthwise) or ``[out, in]`` (dense).
      channel_axis: Axis of the output channels in `kernel`.
      bits: Allowed widths, ascending.
      step: Step of the weights, ``[len(bits), out]``, or ``[len(bits), 1]`` where all
        channels share it.
      bias: ``[out]``, or None; None with a batch norm.
      norm: The batch norm after the layer, or None.
    """

    kernel: np.ndarray
    channel_axis: int
    bits: tuple[int, ...]
    step: np.ndarray
    bias: np.ndarray | None = None
    norm: NormParameters | None = None

    def affine(self, policy: Policy) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns scale ``[out]`` and offset ``[out]`` (or None) under a policy."""
        if self.norm is not None:
            return self.norm.folded(policy)
        return np.ones(self.step.shape[1], np.float32), self.bias


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorParameters:
    """An activation tensor.

    Attributes:
      bits: Allowed widths, ascending.
      step: Step per width, ``[len(bits)]``.
      signed: Whether the tensor has values below 0.
    """

    bits: tuple[int, ...]
    step: np.ndarray
    signed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Parameters:
    """All layers and tensors, by policy entry."""

    layers: Mapping[str, LayerParameters]
    tensors: Mapping[str, TensorParameters]

    def digest(self) -> bytes:
        """Returns the SHA-256 of all numbers and of what they belong to."""
        index, arrays = self._members()
        total = hashlib.sha256(json.dumps(index).encode())
        for array in arrays.values():
            total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return total.digest()

    def _members(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns the index of an ``.npz`` file and its arrays."""
        arrays: dict[str, np.ndarray] = {}
        index: dict[str, Any] = {"layers": [], "tensors": []}
        for number, (name, layer) in enumerate(self.layers.items()):
            norm = layer.norm
            index["layers"].append(
                {
                    "name": name,
                    "channel_axis": layer.channel_axis,
                    "bits": list(layer.bits),
                    "has_bias": layer.bias is not None,
                    "norm": norm and {"entries": norm.entries, "epsilon": norm.epsilon},
                }
            )
            fields = {"kernel": layer.kernel, "step": layer.step, "bias": layer.bias}
            if norm is not None:
                fields |= {name: getattr(norm, name) for name in _NORM_ARRAYS}
            for field, value in fields.items():
                if value is not None:
                    arrays[f"layer{number}_{field}"] = np.asarray(value, np.float32)
        for number, (name, tensor) in enumerate(self.tensors.items()):
            index["tensors"].append(
                {"name": name, "bits": list(tensor.bits), "signed": tensor.signed}
            )
            arrays[f"tensor{number}_step"] = np.asarray(tensor.step, np.float32)
        return index, arrays

    def to_npz(self) -> bytes:
        """Returns the bytes of an ``.npz`` file."""
        index, arrays = self._members()
        buffer = io.BytesIO()
        # np.savez stamps the present time; a fixed one keeps digests reproducible.
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(_INDEX), json.dumps(index))
            for key, value in arrays.items():
                member = io.BytesIO()
                np.lib.format.write_array(member, value, allow_pickle=False)
                info = zipfile.ZipInfo(f"{key}.npy")
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, member.getvalue())
        return buffer.getvalue()

    @classmethod
    def from_npz(cls, content: bytes) -> Parameters:
        """Reads what `to_npz` returned.

        Raises:
          ArtifactError: If the bytes are malformed.
        """
        what = "the parameters of the artifact"
        try:
            with open_members(content, what, max_bytes=MAX_ARRAY_BYTES) as members:
                value = _READER.parse(members.read(_INDEX), what)
                index = _READER.object(value, _INDEX, _INDEX_KEYS)
            arrays = parse_arrays(content, what, keys=_indexed(index))
            layers = dict(
                _read_layer(entry, arrays, number)
                for number, entry in enumerate(index["layers"])
            )
            tensors = dict(
                _read_tensor(entry, arrays, number)
                for number, entry in enumerate(index["tensors"])
            )
            if len(arrays) + 1 < len(members.sizes):
                raise ValueError("it has arrays that are not in its index")
            if len(layers) + len(tensors) < sum(map(len, index.values())):
                raise ValueError("an entry is there twice")
            _check_shapes(layers, tensors)
            _check_norms(layers, tensors)
        except ArtifactError:
            raise
        except (LookupError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"The parameters of the artifact are malformed: {error!r}; package the "
                "model again."
            ) from error
        return cls(layers=layers, tensors=tensors)


def _indexed(index: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of the arrays that an index asks for."""
    for number, entry in enumerate(index["layers"]):
        _READER.object(entry, "layer", _LAYER_KEYS)
        fields = ["kernel", "step"]
        fields += ["bias"] if _READER.field(entry, "has_bias", bool) else []
        fields += [] if entry["norm"] is None else _NORM_ARRAYS
        yield from (f"layer{number}_{field}" for field in fields)
    for number, entry in enumerate(index["tensors"]):
        _READER.object(entry, "tensor", _TENSOR_KEYS)
        yield f"tensor{number}_step"


def _read_layer(
    entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], number: int
) -> tuple[str, LayerParameters]:
    axis = _READER.field(entry, "channel_axis", int)
    if axis < 0:
        raise ValueError(f"a channel axis must be 0 or above, not {axis}")
    return _READER.field(entry, "name", str), LayerParameters(
        kernel=arrays[f"layer{number}_kernel"],
        channel_axis=axis,
        bits=_read_bits(entry["bits"]),
        step=arrays[f"layer{number}_step"],
        bias=arrays[f"layer{number}_bias"] if entry["has_bias"] else None,
        norm=_read_norm(entry["norm"], arrays, number),
    )


def _read_tensor(
    entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], number: int
) -> tuple[str, TensorParameters]:
    return _READER.field(entry, "name", str), TensorParameters(
        bits=_read_bits(entry["bits"]),
        step=arrays[f"tensor{number}_step"],
        signed=_READER.field(entry, "signed", bool),
    )


def _read_bits(value: Any) -> tuple[int, ...]:
    is_list = isinstance(value, list) and all(type(bits) is int for bits in value)
    if not is_list or not value or value != sorted(set(value) & set(ALL_BITS)):
        raise ValueError(
            f"widths must be ascending integers in {MIN_BITS}..{MAX_BITS}, not "
            f"{shown(value)}"
        )
    return tuple(value)


def _check_shapes(
    layers: Mapping[str, LayerParameters], tensors: Mapping[str, TensorParameters]
) -> None:
    """Checks that arrays have their shapes and hold finite numbers in their range."""
    for name, field, array, shape in _shapes(layers, tensors):
        if array.shape != shape:
            raise ValueError(
                f"the {field} of {name!r} must have the shape {shape}, not "
                f"{array.shape}"
            )
        num_bad = array.size - int(np.isfinite(array).sum())
        if array.dtype != np.float32 or num_bad:
            raise ValueError(
                f"the {field} of {name!r} must be finite numbers of float32, "
                f"not {array.dtype} with {num_bad} others"
            )
        if (field == "step" and not (array > 0).all()) or (
            field == "variance" and not (array >= 0).all()
        ):
            raise ValueError(f"the {field} of {name!r} must be positive")


def _check_norms(
    layers: Mapping[str, LayerParameters], tensors: Mapping[str, TensorParameters]
) -> None:
    """Checks that batch norms depend on entries that are there, at their widths."""
    known = {("weights", name): layer.bits for name, layer in layers.items()}
    known |= {("activations", name): tensor.bits for name, tensor in tensors.items()}
    for owner, layer in layers.items():
        for kind, name, bits in layer.norm.entries if layer.norm else ():
            if known.get((kind, name)) != bits:
                raise ValueError(
                    f"the norm of {owner!r} must depend on entries of the network, "
                    f"not on {kind} of {name!r} at {bits}"
                )


def _shapes(
    layers: Mapping[str, LayerParameters], tensors: Mapping[str, TensorParameters]
) -> Iterator[tuple[str, str, np.ndarray, tuple[int, ...]]]:
    """Yields name, field, array and the shape that it must have."""
    for name, layer in layers.items():
        channels = layer.kernel.shape[layer.channel_axis]
        yield name, "kernel", layer.kernel, layer.kernel.shape
        steps = 1 if layer.step.shape[1:] == (1,) else channels
        yield name, "step", layer.step, (len(layer.bits), steps)
        if layer.bias is not None:
            yield name, "bias", layer.bias, (channels,)
        if layer.norm is not None:
            rows = num_norm_rows([len(bits) for _, _, bits in layer.norm.entries])
            yield name, "gamma", layer.norm.gamma, (channels,)
            yield name, "beta", layer.norm.beta, (channels,)
            yield name, "mean", layer.norm.mean, (rows, channels)
            yield name, "variance", layer.norm.variance, (rows, channels)
    for name, tensor in tensors.items():
        yield name, "step", tensor.step, (len(tensor.bits),)


def _read_norm(
    entry: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray], number: int
) -> NormParameters | None:
    if entry is None:
        return None
    _READER.object(entry, "norm", ("entries", "epsilon"))
    epsilon = entry["epsilon"]
    if type(epsilon) not in (int, float) or not 0 < epsilon < math.inf:
        raise ValueError(f"an epsilon must be a finite number above 0, not {epsilon!r}")
    entries = tuple(
        (str(kind), str(name), _read_bits(bits))
        for kind, name, bits in entry["entries"]
    )
    if not entries:
        raise ValueError("a norm must depend on the weights before it")
    found = {name: arrays[f"layer{number}_{name}"] for name in _NORM_ARRAYS}
    return NormParameters(entries=entries, epsilon=float(epsilon), **found)
