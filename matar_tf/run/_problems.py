"""What a run searches: one problem for each target."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence

from matar_tf.artifact import Artifact
from matar_tf.errors import DataError, MatarError, SearchError
from matar_tf.evolution import SearchProblem, check_request, fix_entries
from matar_tf.figures import COST_NAMES, is_taken
from matar_tf.policy import Policy
from matar_tf.pricing import PolicyChecker, legal_pairs, legal_space
from matar_tf.reporting.tables import FLOAT_NAME
from matar_tf.run._export import export_metadata
from matar_tf.run._holdout import PREFIX
from matar_tf.run._record import check_folder_names
from matar_tf.run.costs import PolicyCosts, check_names
from matar_tf.run.settings import RunSettings
from matar_tf.targets import Target
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.metrics import get_metrics

__all__ = ["of_target", "run_problems"]


def run_problems(
    artifact: Artifact,
    targets: Sequence[Target],
    settings: RunSettings,
    *,
    num_samples: int = 0,
) -> list[tuple[SearchProblem, Mapping[str, str]]]:
    """Returns what is searched for each target, and the versions of its tools.

    Args:
      artifact: The network.
      targets: Hardware of the run.
      settings: What the run is asked for.
      num_samples: That exported files will name.

    Raises:
      MatarError: If a target cannot run the network, or has no figure asked for.
    """
    if not targets:
        raise SearchError(
            "Expected one or more targets, got none; name some of the catalogue, or "
            "files."
        )
    if FLOAT_NAME in settings.starts:
        raise SearchError(
            f"Expected another name for a policy to start from than {FLOAT_NAME!r}, "
            "that of the float network in the tables; rename its file."
        )
    check_names(targets)
    check_folder_names(target.name for target in targets)
    space = fix_entries(artifact.space, settings.fixed)
    metric_names = _metric_names(settings.metrics)
    problems: list[tuple[SearchProblem, Mapping[str, str]]] = []
    for target in targets:
        sizes = _file_sizes(artifact, target.name, settings, metric_names, num_samples)
        costs = PolicyCosts(artifact, target, file_size=sizes)
        legal = legal_space(space, artifact.workload, target)
        check = PolicyChecker(artifact.workload, target)
        problem = SearchProblem(
            target=target.name,
            space=legal,
            costs=costs,
            violations=functools.partial(_violations, check),
            pairs=artifact.workload.entry_pairs(),
            legal_pairs=legal_pairs(legal, artifact.workload, target),
            seeds=settings.starts,
            metric_names=metric_names,
        )
        try:
            check_request(problem, settings.options)
        except MatarError as error:
            raise type(error)(of_target(target, error)) from error
        problems.append((problem, costs.versions))
    return problems


def _metric_names(metrics: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of figures of metrics, each with a column of its own."""
    names = tuple(get_metrics(metrics, probabilities=False))
    for name in names:
        if is_taken(name) or name.startswith(PREFIX):
            raise DataError(
                f"Expected a metric of a name that tables have no other column for, "
                f"got {name!r}; rename the function."
            )
    return names


def _file_sizes(
    artifact: Artifact,
    target: str,
    settings: RunSettings,
    metric_names: Collection[str],
    num_samples: int,
) -> FileSizes | None:
    """Returns the sizes of the files that `write_target` will write, if asked for.

    They are if a name is no other figure's, be it ``file_bytes`` or misspelt.
    """
    options = settings.options
    names = {one.name for one in (*options.objectives, *options.limits)}
    if names <= {*metric_names, *COST_NAMES}:
        return None
    metrics = dict.fromkeys(metric_names, 0.0)
    if settings.holdout:
        searched = [one.name for one in options.objectives if one.name in metrics]
        metrics |= {PREFIX + name: 0.0 for name in searched}
    return FileSizes(
        ModelBuilder(artifact),
        profile=settings.profile,
        metadata=export_metadata(target, metrics, num_samples),
    )


def of_target(target: Target, error: MatarError) -> str:
    """Returns the text of an error that says which target it is about."""
    text = str(error)
    return text if repr(target.name) in text else f"Target {target.name!r}: {text}"


def _violations(check: PolicyChecker, policy: Policy) -> tuple[str, ...]:
    return tuple(violation.message for violation in check(policy))
