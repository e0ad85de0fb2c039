"""Retargets an artifact: searches policies for targets and exports them.

Needs no TensorFlow. If TensorFlow is installed and the artifact holds the Keras
network, each exported file is compared with it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matar_tf.commands._common import read_data
from matar_tf.commands._program import Command, Given
from matar_tf.commands._search_flags import define_search_flags

if TYPE_CHECKING:
    from matar_tf.artifact import Artifact
    from matar_tf.evolution import SearchOptions
    from matar_tf.policy import Policy
    from matar_tf.run._retarget import Outcome
    from matar_tf.space import PolicySpace
    from matar_tf.tflite.export import Reference

__all__ = ["COMMAND"]


def _run(given: Given) -> int:
    """Runs the search; prints one table per target."""
    from matar_tf.artifact import read_artifact
    from matar_tf.reporting import to_text
    from matar_tf.run._retarget import check_settings, prepare_output, retarget
    from matar_tf.run.settings import RunSettings
    from matar_tf.targets import load_target

    artifact = read_artifact(given.artifact)
    targets = [load_target(name) for name in given.targets]
    data = read_data(given, artifact)
    settings = RunSettings(
        options=_options(given),
        metrics=tuple(given.metrics),
        follow_up_share=given.follow_up_share,
        fixed=tuple(given.fix),
        starts=_read_starts(given.start, artifact.space),
        holdout=given.holdout,
        profile=given.profile,
        num_jobs=given.jobs,
        executor=given.executor,
        ray_address=given.ray_address,
        store=None if given.store is None else Path(given.store),
        command=given.command,
    )
    check_settings(artifact, targets, settings)
    reference = _reference(given.compare, artifact)
    print(
        prepare_output(
            given.output,
            artifact,
            targets,
            data,
            settings,
            resume=given.resume,
            overwrite=given.overwrite,
        )
    )
    float_metrics = artifact.accuracy.get("float")
    outcome = retarget(
        artifact,
        targets,
        data,
        given.output,
        settings,
        reference=reference,
        on_result=lambda result: print(f"\n{to_text(result, float_metrics)}"),
    )
    return _report(outcome)


def _options(given: Given) -> SearchOptions:
    from matar_tf.evolution import Limit, SearchOptions
    from matar_tf.results import Objective

    return SearchOptions(
        seed=given.seed,
        max_evaluations=given.max_evaluations,
        population_size=given.population_size,
        objectives=tuple(map(Objective.parse, given.objectives)),
        sensitivity=given.sensitivity,
        oversampling=given.oversampling,
        max_minutes=given.max_minutes,
        patience=given.patience or None,
        limits=(
            *map(Limit.parse, given.max),
            *(Limit.parse(text, is_minimum=True) for text in given.min),
        ),
    )


def _reference(compare: str, artifact: Artifact) -> Reference | None:
    """Returns what exported files must agree with, if anything."""
    has_network = "network.json" in artifact.extras
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    if compare == "none" or (
        compare == "auto" and not (has_network and has_tensorflow)
    ):
        return None
    from matar_tf.keras.packaging.package import keras_reference

    return keras_reference(artifact)


def _report(outcome: Outcome) -> int:
    """Prints what became of all targets; returns the exit status."""
    evaluated = sum(result.num_evaluated for result in outcome.results)
    reused = sum(result.num_reused for result in outcome.results)
    print(f"\nAll targets: evaluated {evaluated}, reused {reused}.")
    for target, reasons in outcome.left_out.items():
        for name, reason in reasons.items():
            print(f"Not in the table of {target}: {name!r}. {reason}")
    for sentence in outcome.failures.values():
        print(f"SearchError: {sentence}", file=sys.stderr)
    if outcome.interrupted:
        return 130
    return 1 if outcome.failures else 0


def _read_starts(texts: Sequence[str], space: PolicySpace) -> dict[str, Policy]:
    """Returns policies to start from, by the names that tables give them.

    Raises:
      SearchError: If one is in no file, or two have one name.
    """
    from matar_tf.errors import SearchError
    from matar_tf.evolution import is_front_name

    starts: dict[str, Policy] = {}
    for text in texts:
        path = Path(text)
        if path.suffix != ".json":
            raise SearchError(
                f"Expected the path of a .json file with a policy in --start, got "
                f"{text!r}; uniform policies need none, every search starts from them "
                "already."
            )
        name = path.stem
        if is_front_name(name):
            # As exported by a search: that of this one will have files of such names.
            name = f"{path.resolve().parent.name}_{name}"
        if name in starts:
            raise SearchError(
                f"Expected policies to start from in files of different names, got "
                f"{name!r} twice; rename one."
            )
        starts[name] = space.policy(text)
    return starts


COMMAND: Final = Command(
    text=__doc__,
    define=define_search_flags,
    run=_run,
    subject="artifact",
    required=("artifact", "targets", "output"),
)
