"""Packages a trained multi-bitwidth Keras model, saved as HDF5 or SavedModel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._measuring import define_measuring, measured

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["COMMAND"]


def _define(values: FlagValues) -> None:
    _flags.model(values, "Path of the saved model.")
    _flags.output(values, "Artifact to write: a directory or a .matar file.")
    flags.DEFINE_string(
        "sign",
        None,
        "PEM file of a private key of an elliptic curve, to sign the artifact with.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "certificates",
        None,
        "PEM file of the signer's certificate and those that certify it, for --sign.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "measure",
        None,
        "Policies to measure on --data, so that others can search without data; "
        "default: none.",
        lower_bound=1,
        flag_values=values,
    )
    define_measuring(values)
    _flags.data(values, default=None, otherwise="; for --measure")
    _flags.num_samples(values)
    _flags.overwrite(values)


def _run(given: Given) -> int:
    """Packages; prints the size of the policy space."""
    from matar_tf.artifact import check_free, write_artifact
    from matar_tf.errors import ArtifactError, DataError, ModelError
    from matar_tf.run.settings import now
    from matar_tf.signing import sign_artifact

    check_free(given.output, overwrite=given.overwrite)
    if given.certificates is not None and given.sign is None:
        raise ArtifactError(
            "Expected --sign beside --certificates, got none; name the private key."
        )
    if not Path(given.model).exists():
        raise ModelError(f"Expected a saved model at {given.model}, found nothing.")
    if (given.measure is None) != (given.data is None):
        raise DataError(
            "Expected --measure and --data together, or neither, got one of the two; "
            "say how many policies to measure on which samples."
        )

    from matar_tf import keras

    # Losses and optimizers may be of the user's own, and are not needed.
    model = keras.load_model(given.model, compile=False)
    provenance = {"command": given.command, "created": now()}
    artifact = keras.package(model, provenance=provenance)
    if given.measure is not None:
        artifact = measured(artifact, given, given.measure)
    digest = write_artifact(artifact, given.output, overwrite=given.overwrite)
    print(f"Wrote {given.output}: {artifact.space.size_text()} policies.")
    print(f"artifact {given.output} sha256:{digest}")
    if given.sign is not None:
        signature = sign_artifact(
            given.output, given.sign, certificates=given.certificates, overwrite=True
        )
        print(f"signature {signature}")
    return 0


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="model",
    required=("model", "output"),
)
