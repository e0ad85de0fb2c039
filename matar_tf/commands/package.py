"""Packages a trained multi-bitwidth Keras model, saved as HDF5 or SavedModel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._measuring import define_measuring, measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from absl.flags import FlagValues

    from matar_tf.artifact import Artifact
    from matar_tf.keras.packaging.sizes import InputShape

__all__ = ["COMMAND"]

_TRAVELS: Final = {
    "measurements.json": "figures of policies, for searches without data",
    "manifest.json": "policies, costs, figures, provenance and card",
    "template.tflite": "the graph, without its numbers",
    "parameters.npz": "the trained numbers",
    "network.json": "the Keras network; leave it out with --nonetwork",
    "network.npz": "its weights",
    "calibration.npz": "samples to calibrate on",
}
_CARD: Final = (
    *("description", "intended_use", "author", "license", "training_data"),
    "preprocessing",
)


def _define(values: FlagValues) -> None:
    _flags.model(values, "Path of the saved model.")
    _flags.output(values, "Artifact to write: a directory or a .matar file.")
    flags.DEFINE_bool(
        "network",
        True,
        "Whether the Keras network travels, to train on and to compare with.",
        flag_values=values,
    )
    _define_card(values)
    flags.DEFINE_string(
        "channels",
        "",
        "What the channels of images are, in order, such as RGB; needs --data.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "input_shape",
        [],
        "Size of the samples that ship, where the model leaves it open: 96x96x3; of "
        "several inputs image=96x96x3, the flag once for each.",
        flag_values=values,
    )
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
    _flags.measure(
        values, "on --data, so that others can search without data; default none"
    )
    define_measuring(values)
    _flags.data(
        values,
        otherwise="; their range and means are put on record, --measure measures them",
    )
    _flags.num_samples(values)
    _flags.overwrite(values)


def _input_shape(texts: Sequence[str]) -> InputShape | None:
    """Returns the sizes that a flag gives: ``96x96x3``, or ``image=96x96x3``.

    Python's ``(96, 96, 3)`` will do, too.

    Raises:
      ModelError: If they are no sizes.
    """
    from matar_tf.errors import ModelError

    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        parts = re.split(r"\s*[x,]\s*", sizes.strip("() "))
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise ModelError(
                "Expected sizes such as 96x96x3, or image=96x96x3 for one input of "
                f"several, in --input_shape, got {text!r}; give integers."
            )
        found[name] = tuple(map(int, parts))
    return found.get("") if set(found) <= {""} else found


def _define_card(values: FlagValues) -> None:
    """Defines what the card of an artifact is filled with."""
    flags.DEFINE_string(
        "description", "", "For the card: what the network does.", flag_values=values
    )
    flags.DEFINE_string(
        "intended_use",
        "",
        "For the card: what it is meant for, and what not.",
        flag_values=values,
    )
    flags.DEFINE_string("author", "", "For the card: who made it.", flag_values=values)
    flags.DEFINE_string(
        "license",
        "",
        "For the card: under which terms it may be used.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "training_data",
        "",
        "For the card: what it was trained on.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "preprocessing",
        "",
        "For the card: how samples become what it takes.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "class_names",
        [],
        "For the card: what the classes are called, in order.",
        flag_values=values,
    )


def _run(given: Given) -> int:
    """Packages; prints what travels, and what is not said."""
    from matar_tf.artifact import check_free, write_artifact
    from matar_tf.card import ModelCard
    from matar_tf.errors import ArtifactError, DataError, ModelError
    from matar_tf.run.settings import now
    from matar_tf.signing import check_key, sign_artifact

    card = ModelCard(
        class_names=tuple(given.class_names),
        **{name: getattr(given, name) for name in _CARD},
    )
    check_free(given.output, overwrite=given.overwrite)
    if given.certificates is not None and given.sign is None:
        raise ArtifactError(
            "Expected --sign beside --certificates, got none; name the private key."
        )
    if not Path(given.model).exists():
        raise ModelError(f"Expected a saved model at {given.model}, found nothing.")
    flags_of_data = {"measure": given.measure, "channels": given.channels}
    for flag, value in flags_of_data.items():
        if value and given.data is None:
            raise DataError(
                f"Expected --data beside --{flag}, got none; name the samples."
            )

    if given.sign is not None:
        check_key(given.sign, certificates=given.certificates)

    from matar_tf import keras

    # Losses and optimizers may be of the user's own, and are not needed.
    model = keras.load_model(given.model, compile=False)
    provenance = {"command": given.command, "created": now()}
    artifact = keras.package(
        model,
        provenance=provenance,
        card=card,
        samples=_samples(given),
        channels=given.channels,
        input_shape=_input_shape(given.input_shape),
        include_network=given.network,
    )
    if given.measure:
        artifact = measured(artifact, given, given.measure)
    digest = write_artifact(artifact, given.output, overwrite=given.overwrite)
    print(f"Wrote {given.output}: {artifact.space.size_text(of_policies=True)}.")
    _print_members(artifact)
    missing = [name for name in (*_CARD, "class_names") if not getattr(given, name)]
    if missing:
        print(f"  its card does not say: {', '.join(missing)}")
    print(f"artifact {given.output} sha256:{digest}")
    if given.sign is not None:
        signature = sign_artifact(
            given.output, given.sign, certificates=given.certificates, overwrite=True
        )
        print(f"signature {signature}")
    return 0


def _samples(given: Given) -> Any:
    """Returns the samples of ``--data``, or None."""
    from matar_tf.data import load_data

    if given.data is None:
        return None
    data = load_data(given.data, training=given.trained_on)
    return data.training()[0] if given.trained_on else data.x_test


def _print_members(artifact: Artifact) -> None:
    """Prints what travels, with its size."""
    for name, content in artifact.members().items():
        print(f"  {name:16s} {len(content):>12,d} bytes  {_TRAVELS[name]}")


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="model",
    required=("model", "output"),
)
