"""Measures policies of an artifact, so that others can search it without data.

Writes the artifact anew with what was measured: policies and their metrics, a few tens
of kilobytes, and no sample. Needs no TensorFlow. Measure samples that the network was
not trained on; with ``--trained_on`` the training samples of the data are measured, and
uniform policies of the artifact's accuracy table set the scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._common import open_artifact
from matar_tf.commands._measuring import define_measuring, measured

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["COMMAND"]


def _define(values: FlagValues) -> None:
    _flags.artifact(values)
    _flags.expect_digest(values)
    _flags.trust(values)
    _flags.output(values, "Artifact to write: a directory or a .matar file.")
    _flags.data(values)
    _flags.num_samples(values)
    flags.DEFINE_integer(
        "num_policies",
        400,
        "Policies to measure.",
        lower_bound=1,
        flag_values=values,
    )
    define_measuring(values)
    _flags.overwrite(values)


def _run(given: Given) -> int:
    """Measures; prints how well policies are predicted from others."""
    from matar_tf.artifact import check_free, write_artifact

    check_free(given.output, overwrite=given.overwrite)
    artifact = open_artifact(given.artifact, given.expect_digest, given.trust)
    artifact = measured(artifact, given, given.num_policies)
    digest = write_artifact(artifact, given.output, overwrite=given.overwrite)
    print(f"artifact {given.output} sha256:{digest}")
    return 0


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="artifact",
    required=("artifact", "output", "data"),
)
