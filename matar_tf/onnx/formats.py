"""Formats of exported files, and who writes those of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from matar_tf.errors import ExportError, did_you_mean
from matar_tf.tflite.profiles import DEFAULT_PROFILE

if TYPE_CHECKING:
    from matar_tf.tflite.export import ExportedModel

__all__ = ["DEFAULT_FORMAT", "FORMATS", "check_format", "onnx_writer"]

DEFAULT_FORMAT: Final = "tflite"
# The ending of each format's files.
FORMATS: Final = MappingProxyType(
    {DEFAULT_FORMAT: ".tflite", "qonnx": ".onnx", "onnx": ".onnx"}
)


def check_format(
    name: str,
    *,
    profile: str,
    compares: bool,
    io: str = "float32",
    tflite_metadata: bool = False,
) -> str:
    """Returns the ending of a format's files.

    Args:
      name: The format.
      profile: How kernels are to be stored.
      compares: Whether the file is to be compared with the Keras network.
      io: Type of inputs and outputs.
      tflite_metadata: Whether the file is to have TFLite Metadata.

    Raises:
      ExportError: If there is no such format, or it has no profiles, no inputs and
        outputs of bytes, no TFLite Metadata, or is compared with nothing.
    """
    if name not in FORMATS:
        raise ExportError(
            f"Expected a format, got {name!r}. {did_you_mean(name, FORMATS)}"
        )
    if name != DEFAULT_FORMAT and profile != DEFAULT_PROFILE:
        raise ExportError(
            f"Expected no profile for the format {name!r}, which has a type for each "
            f"width, got {profile!r}; leave it out."
        )
    if name != DEFAULT_FORMAT and io != "float32":
        raise ExportError(
            f"Expected inputs and outputs of float32 for the format {name!r}, got "
            f"{io!r}; leave it out."
        )
    if name != DEFAULT_FORMAT and tflite_metadata:
        raise ExportError(
            f"Expected no TFLite Metadata in the format {name!r}, which has no place "
            "for them; leave tflite_metadata out."
        )
    if name != DEFAULT_FORMAT and compares:
        raise ExportError(
            f"Expected no network to compare a file of the format {name!r} with, got "
            "one; compare the policy's .tflite file, which holds the same numbers."
        )
    return FORMATS[name]


def onnx_writer() -> Callable[..., ExportedModel]:
    """Returns `matar_tf.onnx.export.export_onnx`.

    Raises:
      ExportError: If the package ``onnx`` is missing.
    """
    try:
        from matar_tf.onnx.export import export_onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ExportError(
            "Expected the package onnx to write such files, found none; install it "
            "with pip install 'matar_tf[onnx]'."
        ) from error
    return export_onnx
