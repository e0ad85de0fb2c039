"""What a run searches: one problem for each target."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from matar_tf.artifact import Artifact
from matar_tf.backends import PolicyCosts, check_names
from matar_tf.errors import MatarError, SearchError
from matar_tf.policy import Policy
from matar_tf.run_settings import RunSettings
from matar_tf.search import SearchProblem, check_request, fix_entries
from matar_tf.targets import Target, check_policy, legal_space
from matar_tf.tflite.evaluate import get_metrics

__all__ = ["of_target", "run_problems"]


def run_problems(
    artifact: Artifact, targets: Sequence[Target], settings: RunSettings
) -> list[tuple[SearchProblem, Mapping[str, str]]]:
    """Returns what is searched for each target, and the versions of its tools.

    Raises:
      MatarError: If a target cannot run the network, or has no figure asked for.
    """
    if not targets:
        raise SearchError(
            "Expected one or more targets, got none; name some of the catalogue, or "
            "files."
        )
    check_names(targets)
    space = fix_entries(artifact.space, settings.fixed)
    metric_names = tuple(get_metrics(settings.metrics, probabilities=False))
    problems: list[tuple[SearchProblem, Mapping[str, str]]] = []
    for target in targets:
        costs = PolicyCosts(artifact, target)
        problem = SearchProblem(
            target=target.name,
            space=legal_space(space, artifact.workload, target),
            costs=costs,
            violations=functools.partial(_violations, artifact, target),
            pairs=artifact.workload.entry_pairs(),
            seeds=settings.starts,
            metric_names=metric_names,
        )
        try:
            check_request(problem, settings.options)
        except MatarError as error:
            raise type(error)(of_target(target, error)) from error
        problems.append((problem, costs.versions))
    return problems


def of_target(target: Target, error: MatarError) -> str:
    """Returns the text of an error that says which target it is about."""
    text = str(error)
    return text if repr(target.name) in text else f"Target {target.name!r}: {text}"


def _violations(artifact: Artifact, target: Target, policy: Policy) -> tuple[str, ...]:
    found = check_policy(artifact.workload, policy, target)
    return tuple(violation.message for violation in found)
