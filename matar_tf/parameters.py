"""Trained numbers of a network: what a policy is filled in from.

Arrays only, no graph and no hardware; saved as an ``.npz`` without pickling.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from matar_tf.errors import ArtifactError

__all__ = ["LayerParameters", "Parameters", "TensorParameters"]

_INDEX = "index.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerParameters:
    """A layer with weights, with batch norm as a scale and an offset per width.

    Under ``n = bits[r]`` the layer computes ``scale[r] * (x * w_r) + offset[r]`` with
    ``w_r`` the kernel rounded to multiples of ``step[r]``. Scale and offset may depend
    on the width of the input as well: `row` finds them.

    Attributes:
      kernel: Float kernel in TFLite's layout, ``[out, h, w, in]`` (convolution),
        ``[1, h, w, out]`` (depthwise) or ``[out, in]`` (dense).
      channel_axis: Axis of the output channels in `kernel`.
      bits: Allowed widths, ascending.
      step: Step of the weights, ``[len(bits), out]``.
      scale: Factor on the output, ``[len(bits), out]``, or with `input_bits`
        ``[len(bits), len(input_bits), out]``.
      offset: Added to the output, in the shape of `scale`, or None for a layer that
        adds nothing.
      input_bits: Widths of the input that scale and offset tell apart, ascending.
    """

    kernel: np.ndarray
    channel_axis: int
    bits: tuple[int, ...]
    step: np.ndarray
    scale: np.ndarray
    offset: np.ndarray | None
    input_bits: tuple[int, ...] = ()

    def row(self, bits: int, input_bits: int | None) -> tuple[np.ndarray, Any]:
        """Returns scale ``[out]`` and offset ``[out]`` (or None) at given widths.

        Args:
          bits: Width of the weights, one of `bits`.
          input_bits: Width of the input; None for an input whose grid is fixed.
        """
        place: tuple[int, ...] = (self.bits.index(bits),)
        if self.input_bits:
            place += (self.input_bits.index(input_bits),)  # type: ignore[arg-type]
        return self.scale[place], None if self.offset is None else self.offset[place]


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

    def to_npz(self) -> bytes:
        """Returns the bytes of an ``.npz`` file; equal for equal parameters."""
        arrays: dict[str, np.ndarray] = {}
        index: dict[str, Any] = {"layers": [], "tensors": []}
        for number, (name, layer) in enumerate(self.layers.items()):
            index["layers"].append(
                {
                    "name": name,
                    "channel_axis": layer.channel_axis,
                    "bits": list(layer.bits),
                    "has_offset": layer.offset is not None,
                    "input_bits": list(layer.input_bits),
                }
            )
            for field in ("kernel", "step", "scale", "offset"):
                value = getattr(layer, field)
                if value is not None:
                    arrays[f"layer{number}_{field}"] = np.asarray(value, np.float32)
        for number, (name, tensor) in enumerate(self.tensors.items()):
            index["tensors"].append(
                {"name": name, "bits": list(tensor.bits), "signed": tensor.signed}
            )
            arrays[f"tensor{number}_step"] = np.asarray(tensor.step, np.float32)
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
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                index = json.loads(archive.read(_INDEX))
                arrays = {
                    name.removesuffix(".npy"): np.lib.format.read_array(
                        io.BytesIO(archive.read(name)), allow_pickle=False
                    )
                    for name in archive.namelist()
                    if name.endswith(".npy")
                }
            layers = {
                entry["name"]: LayerParameters(
                    kernel=arrays[f"layer{number}_kernel"],
                    channel_axis=int(entry["channel_axis"]),
                    bits=tuple(entry["bits"]),
                    step=arrays[f"layer{number}_step"],
                    scale=arrays[f"layer{number}_scale"],
                    offset=(
                        arrays[f"layer{number}_offset"] if entry["has_offset"] else None
                    ),
                    input_bits=tuple(entry.get("input_bits", ())),
                )
                for number, entry in enumerate(index["layers"])
            }
            tensors = {
                entry["name"]: TensorParameters(
                    bits=tuple(entry["bits"]),
                    step=arrays[f"tensor{number}_step"],
                    signed=bool(entry["signed"]),
                )
                for number, entry in enumerate(index["tensors"])
            }
        except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"The parameters of the artifact are malformed: {error!r}; package the "
                "model again."
            ) from error
        return cls(layers=layers, tensors=tensors)
