"""Trained numbers of a network: what a policy is filled in from.

Arrays only, no graph and no hardware; saved as an ``.npz`` without pickling.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from matar_tf.errors import ArtifactError
from matar_tf.io.archive import MAX_ARRAY_BYTES, open_members, parse_arrays
from matar_tf.io.json_reader import JsonReader
from matar_tf.norms import (
    NORM_ARRAYS,
    NormParameters,
    num_norm_rows,
    read_bits,
    read_norm,
)
from matar_tf.policy import Policy
from matar_tf.scales import POWER_OF_TWO, are_powers_of_two

__all__ = [
    "LayerParameters",
    "Parameters",
    "TensorParameters",
    "activation_range",
    "weight_range",
]

_READER = JsonReader(ArtifactError)
_INDEX = "index.json"
_INDEX_KEYS = ("layers", "tensors")
_LAYER_KEYS = ("name", "channel_axis", "bits", "has_bias", "norm")
_TENSOR_KEYS = ("name", "bits", "signed")


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
      calls: The batch norm, or None, after each further call of the layer, by the
        call's name.
    """

    kernel: np.ndarray
    channel_axis: int
    bits: tuple[int, ...]
    step: np.ndarray
    bias: np.ndarray | None = None
    norm: NormParameters | None = None
    calls: Mapping[str, NormParameters | None] = field(
        default_factory=dict[str, "NormParameters | None"]
    )

    def affine(
        self, policy: Policy, call: str | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns scale ``[out]`` and offset ``[out]`` (or None) under a policy.

        Args:
          policy: The policy.
          call: A further call of the layer; None for the first.
        """
        norm = self.norm if call is None else self.calls[call]
        if norm is not None:
            return norm.folded(policy)
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

    def check_scale(self, scale: str) -> None:
        """Checks that steps are those that a space says.

        Raises:
          ArtifactError: If they are to be powers of two, and one is none, or a batch
            norm would scale one.
        """
        if scale != POWER_OF_TWO:
            return
        norms = [name for name, layer in self.layers.items() if _scaled(layer)]
        steps = [(name, one.step) for name, one in self.layers.items()]
        steps += [(name, one.step) for name, one in self.tensors.items()]
        free = [name for name, step in steps if not are_powers_of_two(step)]
        if norms or free:
            found = f"batch norms of {norms[:3]}" if norms else f"others of {free[:3]}"
            raise ArtifactError(
                "Expected steps that are powers of two, as the space says, got "
                f"{found}; package the model again."
            )

    def _members(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns the index of an ``.npz`` file and its arrays."""
        arrays: dict[str, np.ndarray] = {}
        index: dict[str, Any] = {"layers": [], "tensors": []}
        for number, (entry, layer) in enumerate(self.layers.items()):
            index["layers"].append(
                {
                    "name": entry,
                    "channel_axis": layer.channel_axis,
                    "bits": list(layer.bits),
                    "has_bias": layer.bias is not None,
                    "norm": _described(layer.norm),
                }
            )
            if layer.calls:  # which most networks have not
                index["layers"][-1]["calls"] = {
                    call: _described(norm) for call, norm in layer.calls.items()
                }
            fields = {"kernel": layer.kernel, "step": layer.step, "bias": layer.bias}
            fields |= _arrays_of(layer.norm)
            for place, norm in enumerate(layer.calls.values()):
                fields |= _arrays_of(norm, f"call{place}_")
            for name, value in fields.items():
                if value is not None:
                    arrays[f"layer{number}_{name}"] = np.asarray(value, np.float32)
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


def _scaled(layer: LayerParameters) -> bool:
    return layer.norm is not None or any(layer.calls.values())


def _described(norm: NormParameters | None) -> dict[str, Any] | None:
    return norm and {"entries": norm.entries, "epsilon": norm.epsilon}


def _arrays_of(norm: NormParameters | None, prefix: str = "") -> dict[str, np.ndarray]:
    known = () if norm is None else NORM_ARRAYS
    return {f"{prefix}{name}": getattr(norm, name) for name in known}


def _indexed(index: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of the arrays that an index asks for."""
    for number, entry in enumerate(index["layers"]):
        keys = (*_LAYER_KEYS, "calls") if "calls" in entry else _LAYER_KEYS
        _READER.object(entry, "layer", keys)
        fields = ["kernel", "step"]
        fields += ["bias"] if _READER.field(entry, "has_bias", bool) else []
        fields += [] if entry["norm"] is None else NORM_ARRAYS
        for place, norm in enumerate(_calls(entry).values()):
            names = () if norm is None else NORM_ARRAYS
            fields += [f"call{place}_{name}" for name in names]
        yield from (f"layer{number}_{field}" for field in fields)
    for number, entry in enumerate(index["tensors"]):
        _READER.object(entry, "tensor", _TENSOR_KEYS)
        yield f"tensor{number}_step"


def _calls(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return _READER.field(entry, "calls", dict) if "calls" in entry else {}


def _read_layer(
    entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], number: int
) -> tuple[str, LayerParameters]:
    axis = _READER.field(entry, "channel_axis", int)
    if axis < 0:
        raise ValueError(f"a channel axis must be 0 or above, not {axis}")
    return _READER.field(entry, "name", str), LayerParameters(
        kernel=arrays[f"layer{number}_kernel"],
        channel_axis=axis,
        bits=read_bits(entry["bits"]),
        step=arrays[f"layer{number}_step"],
        bias=arrays[f"layer{number}_bias"] if entry["has_bias"] else None,
        norm=read_norm(entry["norm"], arrays, f"layer{number}_"),
        calls={
            call: read_norm(norm, arrays, f"layer{number}_call{place}_")
            for place, (call, norm) in enumerate(_calls(entry).items())
        },
    )


def _read_tensor(
    entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], number: int
) -> tuple[str, TensorParameters]:
    return _READER.field(entry, "name", str), TensorParameters(
        bits=read_bits(entry["bits"]),
        step=arrays[f"tensor{number}_step"],
        signed=_READER.field(entry, "signed", bool),
    )


def _check_shapes(
    layers: Mapping[str, LayerParameters], tensors: Mapping[str, TensorParameters]
) -> None:
    """Checks that arrays have their shapes and hold finite numbers in their range."""
    for name, part, array, shape in _shapes(layers, tensors):
        if array.shape != shape:
            raise ValueError(
                f"the {part} of {name!r} must have the shape {shape}, not {array.shape}"
            )
        num_bad = array.size - int(np.isfinite(array).sum())
        if array.dtype != np.float32 or num_bad:
            raise ValueError(
                f"the {part} of {name!r} must be finite numbers of float32, "
                f"not {array.dtype} with {num_bad} others"
            )
        if (part == "step" and not (array > 0).all()) or (
            part == "variance" and not (array >= 0).all()
        ):
            raise ValueError(f"the {part} of {name!r} must be positive")


def _check_norms(
    layers: Mapping[str, LayerParameters], tensors: Mapping[str, TensorParameters]
) -> None:
    """Checks that batch norms depend on entries that are there, at their widths."""
    known = {("weights", name): layer.bits for name, layer in layers.items()}
    known |= {("activations", name): tensor.bits for name, tensor in tensors.items()}
    for owner, layer in layers.items():
        norms = [norm for norm in (layer.norm, *layer.calls.values()) if norm]
        for kind, name, bits in (one for norm in norms for one in norm.entries):
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
        for norm in filter(None, (layer.norm, *layer.calls.values())):
            rows = num_norm_rows([len(bits) for _, _, bits in norm.entries])
            yield name, "gamma", norm.gamma, (channels,)
            yield name, "beta", norm.beta, (channels,)
            yield name, "mean", norm.mean, (rows, channels)
            yield name, "variance", norm.variance, (rows, channels)
    for name, tensor in tensors.items():
        yield name, "step", tensor.step, (len(tensor.bits),)
