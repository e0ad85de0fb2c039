"""Exports one policy of an artifact as a ``.tflite`` file. Needs no TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    import numpy as np

    from matar_tf.artifact import Artifact
    from matar_tf.policy import Policy

from tools.common import check_flags_only, read_policy, reports_errors, run

_ARTIFACT = flags.DEFINE_string("artifact", None, "Directory or .matar file.")
_POLICY = flags.DEFINE_string(
    "policy", None, "Name of a uniform policy (w4a8), or path of a policy's .json file."
)
_OUTPUT = flags.DEFINE_string("output", None, "Path of the .tflite file to write.")
_DATA = flags.DEFINE_string(
    "data",
    "digits",
    "Samples to measure and compare on: 'digits', a path.npz, or module:function.",
)
_COMPARE = flags.DEFINE_enum(
    "compare",
    "none",
    ["keras", "none"],
    "What the file must agree with: the artifact's Keras network, or nothing.",
)
_PROFILE = flags.DEFINE_enum(
    "profile",
    "int8",
    ["int8", "packed-litert", "packed-float", "packed-portable"],
    "How the file stores kernels.",
)
_TARGET = flags.DEFINE_string(
    "target",
    None,
    "Name or .toml file of the target that the file is for; it must take the policy.",
)
_VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Compare runtime, simulator and (with --compare=keras) the Keras network layer by "
    "layer, and name the first layer that differs.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")
_VERIFY_SAMPLES = 256
flags.mark_flags_as_required(["artifact", "policy", "output"])


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Exports; prints the size of the file, its metrics and its agreement."""
    check_flags_only(argv)
    from matar_tf.artifact import read_artifact
    from matar_tf.data import load_data
    from matar_tf.tflite.build import ModelBuilder
    from matar_tf.tflite.evaluate import check_data, evaluate_file
    from matar_tf.tflite.export import EXPECTED_AGREEMENT, export_model

    artifact = read_artifact(_ARTIFACT.value)
    policy = read_policy(_POLICY.value, artifact.space)
    output = Path(_OUTPUT.value)
    _check_output(output)
    metadata: dict[str, Any] = {}
    if _TARGET.value is not None:
        metadata["target"] = _check_target(artifact, policy, _TARGET.value)
    builder = ModelBuilder(artifact)
    samples = reference = None
    if _COMPARE.value == "keras" or _VERIFY.value or _DATA.present:
        data = load_data(_DATA.value, training=False)
        check_data(artifact, data)
        samples = data.x_test
        metadata["metrics"] = evaluate_file(
            builder.build(policy, profile=_PROFILE.value), samples, data.y_test
        )
        metadata["num_samples"] = len(samples)
    if _COMPARE.value == "keras":
        from matar_tf.keras.packaging.network import keras_reference

        reference = keras_reference(artifact)
    exported = export_model(
        builder,
        policy,
        output,
        profile=_PROFILE.value,
        metadata=metadata,
        samples=samples,
        reference=reference,
    )
    print(f"Wrote {output}: {exported.num_bytes} bytes.")
    for entry, note in exported.notes.items():
        print(f"  {entry}: stored wider than its width: {note}.")
    for name, value in metadata.get("metrics", {}).items():
        print(f"  {name}: {value:.4f} on {metadata['num_samples']} samples")
    if exported.agreement is not None and samples is not None:
        verdict = "as expected" if exported.agreement >= EXPECTED_AGREEMENT else "low"
        print(
            f"Agreement with the Keras network on {len(samples)} samples: "
            f"{exported.agreement:.2%} ({verdict})."
        )
    if _VERIFY.value and samples is not None:
        _verify(artifact, policy, output.read_bytes(), samples[:_VERIFY_SAMPLES])
    return 0


def _check_output(output: Path) -> None:
    from matar_tf.errors import ExportError

    if output.suffix != ".tflite":
        raise ExportError(f"Expected a path that ends in .tflite, got {output}.")
    if output.is_dir():
        raise ExportError(
            f"Expected a free path or a file at {output}, got a folder; choose another "
            "path."
        )
    if output.exists() and not _OVERWRITE.value:
        raise ExportError(
            f"Expected a free path, but {output} exists; choose another or pass "
            "--overwrite."
        )


def _check_target(artifact: Artifact, policy: Policy, name: str) -> str:
    from matar_tf.errors import ExportError
    from matar_tf.pricing import check_policy
    from matar_tf.targets import load_target

    target = load_target(name)
    problems = check_policy(artifact.workload, policy, target)
    if problems:
        raise ExportError(
            f"Expected a policy that {target.name} takes, but: {problems[0].message}"
        )
    return target.name


def _verify(
    artifact: Artifact, policy: Policy, content: bytes, samples: np.ndarray
) -> None:
    from matar_tf.errors import ExportError
    from matar_tf.tflite.export import MIN_AGREEMENT
    from matar_tf.tflite.verify import verify

    expected = None
    if _COMPARE.value == "keras":
        from matar_tf.keras.packaging.record import keras_tensors

        expected = keras_tensors(artifact, policy, samples)
    outcome = verify(content, samples, expected)
    print(f"Verified on {len(samples)} samples; share of levels that differ:")
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


if __name__ == "__main__":
    run(main)
