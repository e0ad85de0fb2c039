"""What the commands that measure policies of a new artifact share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matar_tf.commands import _flags

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.artifact import Artifact
    from matar_tf.commands._command import Given

__all__ = ["define_measuring", "measured"]


def define_measuring(values: FlagValues) -> None:
    """Defines how policies are measured, but for their number."""
    _flags.trained_on(values)
    _flags.metrics(values)
    _flags.seed(values, "the choice of policies")
    _flags.allow_odd_data(values)
    _flags.jobs(values)
    _flags.store(values, "to go on with what was interrupted; default: none")


def measured(artifact: Artifact, given: Given, number: int) -> Artifact:
    """Returns an artifact with measurements; says how good they are."""
    from matar_tf.data import load_data
    from matar_tf.run.measure import measure

    data = load_data(given.data, training=given.trained_on)
    artifact = measure(
        artifact,
        data,
        num_policies=number,
        num_samples=given.num_samples,
        trained_on=given.trained_on,
        metrics=given.metrics,
        seed=given.seed,
        jobs=given.jobs,
        store=given.store,
        allow_odd_data=given.allow_odd_data,
    )
    measurements = artifact.measurements
    found = {} if measurements is None else measurements.cross_validation
    print(
        f"{measurements}.\nPredicted without each: rank correlation "
        f"{found['spearman']:.3f} (the halves' {found['spearman_halves']:.3f}), mean "
        f"error {found['mean_absolute_error']:.2g}, largest "
        f"{found['largest_absolute_error']:.2g}; {found['coverage']:.0%} lie in their "
        "95 % intervals."
    )
    return artifact
