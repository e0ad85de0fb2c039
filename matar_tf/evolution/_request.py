"""What a search is asked for: names that must be known, policies to start from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from matar_tf.errors import PolicyError, SearchError, did_you_mean
from matar_tf.evolution._genome import Genome
from matar_tf.evolution._limits import Limit, breach_of
from matar_tf.evolution.options import SearchOptions
from matar_tf.evolution.problem import SearchProblem
from matar_tf.figures import is_of_part
from matar_tf.policy import Policy
from matar_tf.results import Objective, SearchResult
from matar_tf.space import PolicySpace

__all__ = [
    "absent_names",
    "check_request",
    "check_seed_names",
    "is_front_name",
    "named_genomes",
]

_FRONT_NAME: Final = re.compile(r"policy_[0-9]+")


def check_request(problem: SearchProblem, options: SearchOptions) -> None:
    """Checks names of objectives, limits and seeds; measures nothing.

    Raises:
      SearchError: If one of them is not there, or the target has no figure for it.
    """
    named_genomes(problem)
    codec = problem.codec()
    # Any policy will do: names do not depend on it.
    widest = codec.mended(tuple(size - 1 for size in codec.sizes))
    costs = problem.costs(codec.decode(widest))
    _check_objectives(problem, options.objectives, costs)
    figures = {**dict.fromkeys(_asked_names(problem), 0.0), **costs}
    for limit in options.limits:
        limit.violation(figures)


def is_front_name(name: str) -> bool:
    """Returns whether a policy of a front might have such a name: ``policy_00``."""
    return _FRONT_NAME.fullmatch(name) is not None


def check_seed_names(names: Iterable[str], space: PolicySpace) -> None:
    """Checks that tables have no other row of the name of a policy to start from.

    Raises:
      SearchError: If a uniform policy has the name, or one of the front might.
    """
    uniform = space.uniform_names(mixed=True)
    for name in names:
        if name in uniform or is_front_name(name):
            raise SearchError(
                f"Expected another name than that of a uniform policy or of one of the "
                f"front for the seed {name!r}; rename it."
            )


def named_genomes(problem: SearchProblem) -> dict[str, Genome]:
    """Returns the genomes to start from: seeds, then uniform policies, no doubles."""
    space, codec = problem.space, problem.codec()
    # Equal widths come first: they are the references that people ask for.
    uniform = dict.fromkeys((*space.uniform_names(), *space.uniform_names(mixed=True)))
    check_seed_names(problem.seeds, space)
    named: dict[str, Genome] = {}
    for name, policy in problem.seeds.items():
        try:
            named[name] = codec.encode(policy)
        except PolicyError as error:
            raise SearchError(
                f"Expected a policy of this space as the seed {name!r}. {error}"
            ) from error
    named.update({name: codec.encode(space.named(name)) for name in uniform})
    # Of two names for one policy, the first stays.
    names = {genome: name for name, genome in reversed(named.items())}
    return {name: genome for name, genome in named.items() if names[genome] == name}


def absent_names(
    problem: SearchProblem,
    limits: Iterable[Limit],
    result: SearchResult,
    memory: Mapping[Policy, Mapping[str, float]],
) -> dict[str, str]:
    """Returns why policies with a name are no references of a result, by name.

    Those are the seeds, and uniform policies of equal widths that are equal to a seed.

    Args:
      problem: What was searched.
      limits: The bounds of the search.
      result: What it found.
      memory: Metrics of all that was measured.
    """
    present = {one.name for one in result.references}
    uniform = {
        name: problem.space.named(name) for name in problem.space.uniform_names()
    }
    first: dict[Policy, str] = {}  # of two names for one policy, the first stays
    reasons: dict[str, str] = {}
    asked = {**problem.seeds, **problem.beside}
    for name, policy in {**asked, **uniform}.items():
        former = first.setdefault(policy, name)
        if former != name:
            if former in asked:
                reasons[name] = f"It is the same policy as {former!r}."
        elif name in asked and name not in present:
            reasons[name] = _reason(problem, policy, tuple(limits), memory.get(policy))
    return reasons


def _reason(
    problem: SearchProblem,
    policy: Policy,
    limits: tuple[Limit, ...],
    metrics: Mapping[str, float] | None,
) -> str:
    """Returns why a policy is not in a result."""
    texts = problem.breach(policy, limits).texts
    if not texts and metrics is not None:
        bounds = [one for one in limits if one.name in metrics]
        texts = breach_of(bounds, metrics).texts
    return texts[0] if texts else "The search ended before it was measured."


def _asked_names(problem: SearchProblem) -> list[str]:
    """Returns the metrics that may be searched: parts of the samples are for errors."""
    return [name for name in problem.metric_names if not is_of_part(name)]


def _check_objectives(
    problem: SearchProblem,
    objectives: tuple[Objective, ...],
    costs: Mapping[str, float | None],
) -> None:
    metric_names = set(_asked_names(problem))
    both = sorted(metric_names & set(costs))
    if both:
        raise SearchError(f"Expected metrics and costs to differ in name, got {both}.")
    for objective in objectives:
        if objective.name not in metric_names | set(costs):
            raise SearchError(
                f"Unknown objective {objective.name!r}. "
                f"{did_you_mean(objective.name, metric_names | set(costs))}"
            )
        if objective.name in costs and costs[objective.name] is None:
            known = sorted(name for name, cost in costs.items() if cost is not None)
            raise SearchError(
                f"Expected an objective that target {problem.target!r} has a figure "
                f"for, got {objective.name!r}; choose from {known}."
            )
    names = [objective.name for objective in objectives]
    if metric_names.isdisjoint(names) or set(costs).isdisjoint(names):
        raise SearchError(
            f"Expected a metric ({', '.join(sorted(metric_names))}) and a cost "
            f"({', '.join(sorted(costs))}) among the objectives, got {names}."
        )
