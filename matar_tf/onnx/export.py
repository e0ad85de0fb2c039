"""Writing ONNX files of policies.

A file says of itself what a ``.tflite`` file does, under ``matar_tf`` in its
properties, and on which grid each tensor lies: a level times ``scale`` is the value.
Activations of 16 bits are written, too; float32 sums put some of them a level apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from onnx import ModelProto

from matar_tf.io.files import write_atomically
from matar_tf.onnx._grids import widths_of
from matar_tf.onnx.network import OnnxNetwork, write_network
from matar_tf.packaged import Artifact
from matar_tf.policy import Policy
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.export import ExportedModel
from matar_tf.tflite.metadata import METADATA_NAME, encode_metadata

__all__ = ["export_onnx", "onnx_network", "read_onnx_metadata"]

_BATCHES: Final = {"qonnx": 1, "onnx": None}  # compilers of hardware want a number
_IMAGE_RANK: Final = 4
_NARROW_BITS: Final = {"qonnx": range(9), "onnx": (4, 8)}  # containers of kernels


def onnx_network(
    artifact: Artifact,
    builder: ModelBuilder,
    policy: Policy,
    form: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    batch: int | None = None,
) -> OnnxNetwork:
    """Returns a policy's network in ONNX.

    Args:
      artifact: The packaged network.
      builder: Of it.
      policy: The policy.
      form: ``qonnx`` or ``onnx``.
      metadata: JSON object to store in the file.
      batch: How many samples the file takes at a time; default: one in QONNX, any
        number in ONNX.

    Raises:
      PolicyError: If the policy is not of the artifact's space.
      ExportError: If the network has an operator that is not written.
    """
    model, storages = builder.fill(policy)
    network = write_network(
        model,
        form,
        widths_of(artifact, policy, model),
        name=METADATA_NAME,
        batch=_BATCHES[form] if batch is None else batch,
    )
    document = builder.describe(policy, storages, metadata)
    for key in ("profile", "notes"):  # of containers in .tflite files
        del document[key]
    document["format"] = form
    document["stored_bits"] = {
        entry: next(
            bits for bits in _NARROW_BITS[form] if bits >= policy.weights[entry]
        )
        for entry in document["stored_bits"]
    }
    graph = network.model.graph
    document["channels_first"] = [
        one.name
        for one in (*graph.input, *graph.output)
        if len(one.type.tensor_type.shape.dim) == _IMAGE_RANK
    ]
    document["tensors"] = {
        one.name: {
            "entry": one.entry,
            "scale": float(one.grid.scale),
            "bits": one.grid.bits,
            "signed": one.grid.signed,
        }
        for one in network.tensors.values()
    }
    entry = network.model.metadata_props.add()
    entry.key, entry.value = METADATA_NAME, encode_metadata(document).decode()
    return network


def export_onnx(
    artifact: Artifact,
    builder: ModelBuilder,
    policy: Policy,
    path: str | Path,
    *,
    form: str,
    metadata: Mapping[str, Any] | None = None,
) -> ExportedModel:
    """Writes the ONNX file of a policy; see `onnx_network`.

    Raises:
      PolicyError: If the policy is not of the artifact's space.
      ExportError: If the network has an operator that is not written.
    """
    network = onnx_network(artifact, builder, policy, form, metadata=metadata)
    content = network.model.SerializeToString(deterministic=True)
    write_atomically(Path(path), content)
    return ExportedModel(
        path=Path(path), num_bytes=len(content), agreement=None, notes={}
    )


def read_onnx_metadata(path: str | Path) -> dict[str, Any]:
    """Returns what a file that `export_onnx` wrote says of itself."""
    model = ModelProto.FromString(Path(path).read_bytes())
    properties = {one.key: one.value for one in model.metadata_props}
    return json.loads(properties[METADATA_NAME])
