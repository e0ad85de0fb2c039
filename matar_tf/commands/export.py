"""Exports one policy of an artifact as ``.tflite`` or ONNX. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._common import (
    only_policy,
    only_target,
    open_artifact,
    read_data,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from absl.flags import FlagValues

    from matar_tf.named_arrays import Arrays

__all__ = ["COMMAND"]

_VERIFY_SAMPLES: Final = 256


def _define(values: FlagValues) -> None:
    _flags.artifact(values)
    _flags.expect_digest(values)
    _flags.trust(values)
    _flags.policies(values, None, "The one policy to export")
    _flags.output(values, "Path of the .tflite or .onnx file to write.")
    _flags.file_format(values)
    _flags.overwrite(values)
    _flags.data(values, "Samples to measure and compare on")
    _flags.metrics(values)
    _flags.num_samples(values)
    _flags.allow_odd_data(values)
    _flags.compare(values, "none", ["keras", "none"])
    _flags.profile(values)
    flags.DEFINE_enum(
        "io",
        "float32",
        ["float32", "int8", "uint8"],
        "Type of inputs and outputs; bytes are on the grids that the file names.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "tflite_metadata",
        False,
        "Give a .tflite file TFLite Metadata, too, for programs that read these "
        "(MediaPipe, Android Studio): some 1,000 bytes and its labels.",
        flag_values=values,
    )
    _flags.targets(
        values,
        "Name or .toml file of the one target that the file is for; it must take the "
        "policy.",
    )
    flags.DEFINE_bool(
        "verify",
        False,
        "Compare runtime, simulator and (with --compare=keras) the Keras network layer "
        "by layer, and name the first layer that differs.",
        flag_values=values,
    )


def _run(given: Given) -> int:
    """Exports; prints the size of the file, its metrics and its agreement."""
    from matar_tf.api import export
    from matar_tf.named_arrays import rows
    from matar_tf.onnx.formats import check_format
    from matar_tf.tflite.export import EXPECTED_AGREEMENT, check_output
    from matar_tf.tflite.profiles import get_profile

    _check_data_named(given)
    compares = given.verify or given.compare == "keras"
    suffix = check_format(
        given.format,
        profile=given.profile,
        compares=compares,
        io=given.io,
        tflite_metadata=given.tflite_metadata,
    )
    name, target = str(only_policy(given)), only_target(given)
    artifact = open_artifact(given.artifact, given.expect_digest, given.trust)
    policy = artifact.space.policy(name)
    check_output(given.output, overwrite=given.overwrite, suffix=suffix)
    runtime = get_profile(given.profile).runtime
    data = reference = None
    if given.data is not None:
        data = read_data(given, artifact, given.metrics)
    if given.compare == "keras":
        from matar_tf.keras.packaging.network import keras_reference

        reference = keras_reference(artifact)
    exported = export(
        artifact,
        policy,
        given.output,
        format=given.format,
        profile=given.profile,
        io=given.io,
        tflite_metadata=given.tflite_metadata,
        target=target,
        data=data,
        metrics=given.metrics,
        reference=reference,
        allow_odd_data=given.allow_odd_data,
        overwrite=given.overwrite,
    )
    print(f"Wrote {exported.path}: {exported.num_bytes} bytes.")
    if exported.sources:
        print(f"  C++ sources: {', '.join(one.name for one in exported.sources)}")
    for entry, note in exported.notes.items():
        print(f"  {entry}: stored wider than its width: {note}.")
    content, metadata = _read_back(exported.path, given.format)
    for metric, value in metadata.get("metrics", {}).items():
        print(f"  {metric}: {value:.4f} on {metadata['num_samples']} samples")
    if data is None:
        return 0
    if exported.agreement is not None:
        verdict = "as expected" if exported.agreement >= EXPECTED_AGREEMENT else "low"
        print(
            f"Agreement with the Keras network on {data.num_samples} samples: "
            f"{exported.agreement:.2%} ({verdict})."
        )
    if given.verify:
        samples, expected = rows(data.x_test, slice(_VERIFY_SAMPLES)), None
        if given.compare == "keras":
            from matar_tf.keras.packaging.record import keras_tensors

            expected = keras_tensors(artifact, policy, samples)
        _verify(content, samples, expected, runtime)
    return 0


def _read_back(path: Path, file_format: str) -> tuple[bytes, Mapping[str, Any]]:
    """Returns what was written, and what it says of itself."""
    if file_format != "tflite":
        from matar_tf.onnx.export import read_onnx_metadata

        return path.read_bytes(), read_onnx_metadata(path)
    from matar_tf.tflite.export import read_model
    from matar_tf.tflite.metadata import read_metadata

    content = read_model(path)
    return content, read_metadata(content)


def _check_data_named(given: Given) -> None:
    """Checks that data are named where a flag needs some.

    Raises:
      DataError: If not.
    """
    from matar_tf.errors import DataError

    asked = {
        "verify": given.verify,
        "compare=keras": given.compare == "keras",
        "num_samples": given.num_samples is not None,
        "metrics": given.metrics is not None,
    }
    flag = next((name for name, is_given in asked.items() if is_given), None)
    if flag is not None and given.data is None:
        raise DataError(
            f"Expected --data beside --{flag}, got none; name the data, or leave "
            f"--{flag} out."
        )


def _verify(
    content: bytes,
    samples: Arrays,
    expected: Mapping[str, Sequence[np.ndarray]] | None,
    runtime: str,
) -> None:
    """Prints where runtime, simulator and the Keras network differ, layer by layer.

    Raises:
      ExportError: If runtime and simulator differ on too many samples.
    """
    from matar_tf.errors import ExportError
    from matar_tf.named_arrays import num_rows
    from matar_tf.tflite.export import MIN_AGREEMENT
    from matar_tf.tflite.verify import verify

    outcome = verify(content, samples, expected, runtime=runtime)
    print(f"Verified on {num_rows(samples)} samples; share of levels that differ:")
    print(f"  {'tensor':40.40s} {'operator':17s} runtime/simulator  Keras/simulator")
    for layer in outcome.layers:
        runtime = f"{layer.runtime_share:.4%} ({layer.runtime_levels})"
        keras = "-"
        if layer.keras_share is not None:
            keras = f"{layer.keras_share:.4%} ({layer.keras_levels})"
        print(f"  {layer.name:40.40s} {layer.operator:17s} {runtime:17s}  {keras}")
    print(f"Runtime and simulator differ on {outcome.runtime_share:.4%} of outputs.")
    first = outcome.first_runtime_difference
    where = "none" if first is None else first.name
    print(f"First layer on which runtime and simulator differ: {where}.")
    if expected is not None:
        first = outcome.first_keras_difference
        name = "none" if first is None else first.name
        print(f"First layer that differs from Keras: {name}.")
    if outcome.agreement < MIN_AGREEMENT:
        raise ExportError(
            f"Expected runtime and simulator to agree on at least {MIN_AGREEMENT:.1%} "
            f"of the samples, got {outcome.agreement:.1%}; the first layer that "
            f"differs is {where}. The file was written, but do not ship it."
        )


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="artifact",
    required=("artifact", "policies", "output"),
)
