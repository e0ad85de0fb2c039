"""Retargets an artifact: searches policies for targets and exports them.

Needs no TensorFlow. If TensorFlow is installed and the artifact holds the Keras
network, each exported file is compared with it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matar_tf.commands._command import Command, Given
from matar_tf.commands._common import open_artifact
from matar_tf.commands._search_flags import define_search_flags

if TYPE_CHECKING:
    from matar_tf.artifact import Artifact
    from matar_tf.data import Data
    from matar_tf.run.retarget import Outcome
    from matar_tf.tflite.export import Reference

__all__ = ["COMMAND"]


def _run(given: Given) -> int:
    """Runs the search; prints one table per target."""
    from matar_tf.errors import SearchError
    from matar_tf.io.files import check_parent
    from matar_tf.reporting import to_text
    from matar_tf.run.outlook import host_hint, outlook
    from matar_tf.run.plan import make_run
    from matar_tf.run.predicting import aimed, metrics_of_run
    from matar_tf.run.retarget import retarget
    from matar_tf.run.settings import settings_of
    from matar_tf.targets import load_target

    # Before what takes seconds: TensorFlow may be loaded below.
    check_parent(Path(given.output), SearchError)
    artifact = open_artifact(given.artifact, given.expect_digest, given.trust)
    targets = [load_target(name) for name in given.targets]
    data = _data(given, artifact)
    settings = settings_of(
        artifact.space,
        seed=given.seed,
        objectives=given.objectives,
        max=given.max,
        min=given.min,
        metrics=given.metrics or metrics_of_run(artifact, data),
        max_evaluations=given.max_evaluations,
        max_minutes=given.max_minutes,
        patience=given.patience or None,
        population_size=given.population_size,
        follow_up_share=given.follow_up_share,
        sensitivity=given.sensitivity,
        oversampling=given.oversampling,
        fix=given.fix,
        start=given.start,
        holdout=given.holdout,
        within=given.within,
        want=given.want,
        allow_odd_data=given.allow_odd_data,
        profile=given.profile,
        runtime=given.runtime,
        jobs=given.jobs,
        executor=given.executor,
        ray_address=given.ray_address,
        store=given.store,
        command=given.command,
    )
    if given.objectives is None:
        settings = aimed(settings, artifact, data)
    planned = make_run(artifact, targets, data, settings)
    float_metrics = artifact.accuracy.get("float")

    def begin(message: str) -> None:
        lines = [message, outlook(planned), host_hint(targets)]
        print("\n".join(one for one in lines if one), flush=True)

    outcome = retarget(
        planned,
        given.output,
        resume=given.resume,
        overwrite=given.overwrite,
        reference=None if data is None else _reference(given.compare, artifact),
        on_start=begin,
        on_result=lambda result: print(f"\n{to_text(result, float_metrics)}"),
    )
    return _report(outcome, is_predicted=data is None)


def _data(given: Given, artifact: Artifact) -> Data | None:
    """Returns the samples to measure on, or None.

    Raises:
      SearchError: If there are none, and something is asked of them.
    """
    from matar_tf.errors import SearchError
    from matar_tf.given import as_optional_data

    if given.data is not None:
        data = as_optional_data(artifact, given.data)
        if data is not None and given.num_samples is not None:
            data = data.head(given.num_samples)
        return data
    if given.num_samples is not None or given.compare == "keras":
        flag = "num_samples" if given.compare != "keras" else "compare=keras"
        raise SearchError(
            f"Expected --data beside --{flag}, got none; name the data, or leave "
            f"--{flag} out."
        )
    return None


def _reference(compare: str, artifact: Artifact) -> Reference | None:
    """Returns what exported files must agree with, if anything."""
    has_network = "network.json" in artifact.extras
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    if compare == "none" or (
        compare == "auto" and not (has_network and has_tensorflow)
    ):
        return None
    from matar_tf.keras.packaging.network import keras_reference

    return keras_reference(artifact)


def _report(outcome: Outcome, *, is_predicted: bool) -> int:
    """Prints what became of all targets; returns the exit status."""
    evaluated = sum(result.num_evaluated for result in outcome.results)
    reused = sum(result.num_reused for result in outcome.results)
    done = f"predicted {evaluated}"
    if not is_predicted:
        done = f"evaluated {evaluated}, reused {reused}"
    print(f"\nAll targets: {done}.")
    for target, reasons in outcome.left_out.items():
        for name, reason in reasons.items():
            print(f"Not in the table of {target}: {name!r}. {reason}")
    for sentence in outcome.failures.values():
        print(f"SearchError: {sentence}", file=sys.stderr)
    if outcome.interrupted:
        return 130
    return 1 if outcome.failures else 0


COMMAND: Final = Command(
    text=__doc__,
    define=define_search_flags,
    run=_run,
    subject="artifact",
    required=("artifact", "targets", "output"),
)
