"""A run, made once: network, targets, data and settings, checked against each other."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matar_tf.artifact import Artifact
from matar_tf.data import Data, DataLike, as_data
from matar_tf.errors import (
    DataError,
    MatarError,
    MatarWarning,
    PolicyError,
    SearchError,
)
from matar_tf.evolution import (
    SearchProblem,
    check_request,
    check_seed_names,
    fix_entries,
)
from matar_tf.figures import COST_NAMES, expected_name, figure_of, is_taken
from matar_tf.policy import Policy
from matar_tf.predictor import Predictor
from matar_tf.pricing import PolicyChecker, legal_pairs, legal_space
from matar_tf.reporting.tables import FLOAT_NAME
from matar_tf.run.costs import PolicyCosts, check_names
from matar_tf.run.estimating import (
    LEAST_SAMPLES,
    measured_names,
    metrics_of_parts,
    shown_names,
    smoothed_metrics,
)
from matar_tf.run.holdout import PREFIX, split_data
from matar_tf.run.predicting import (
    check_settings,
    make_predictors,
    predicted_names,
    stand_ins,
)
from matar_tf.run.settings import RunSettings
from matar_tf.space import PolicySpace
from matar_tf.targets import Target
from matar_tf.tflite.arena import ARENA, ArenaSizes
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.file_size import FileSizes
from matar_tf.tflite.fitting_data import check_answers, check_data, for_inputs
from matar_tf.tflite.heads import metrics_of
from matar_tf.tflite.odd_data import check_plausible
from matar_tf.verdict import CHEAPEST

__all__ = ["Run", "export_metadata", "make_run", "of_target"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run; `make_run` makes it.

    Attributes:
      artifact: The packaged network.
      targets: Hardware to search for.
      data: Samples and labels; None where metrics are predicted.
      searched: Those that policies are measured on while a search goes on.
      reported: Those that tables report on; the same without a holdout.
      predictors: What predicts each metric where there are no samples; beside samples,
        what the search of each knows beforehand.
      metrics_of_parts: Those that are measured on parts of the samples, too.
      expected: What is expected in the place of each measured metric of the search.
      settings: What the run is asked for.
      builder: Makes the file of a policy.
      problems: What is searched, for each target.
      tool_versions: Versions of what prices policies, for each target.
      untaken: Why policies to start from are not searched, by name, for each target.
    """

    artifact: Artifact
    targets: tuple[Target, ...]
    data: Data | None
    searched: Data | None
    reported: Data | None
    predictors: tuple[Predictor, ...]
    metrics_of_parts: tuple[str, ...]
    expected: Mapping[str, str]
    settings: RunSettings
    builder: ModelBuilder
    problems: tuple[SearchProblem, ...]
    tool_versions: tuple[Mapping[str, str], ...]
    untaken: tuple[Mapping[str, str], ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the network's outputs where it has several."""
        return _heads(self.artifact)


def make_run(
    artifact: Artifact,
    targets: Sequence[Target],
    data: DataLike | None,
    settings: RunSettings,
) -> Run:
    """Returns a run; what cannot be done is found here, before anything is measured.

    Without data metrics are predicted from the measurements of the artifact.

    Raises:
      MatarError: If samples or labels do not fit the network, a target cannot run it,
        or has no figure that is asked for.
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
    data = None if data is None else for_inputs(as_data(data), artifact.template)
    searched = reported = data
    of_parts: tuple[str, ...] = ()
    expected: dict[str, str] = {}
    if data is None:
        check_settings(settings)
        predictors = make_predictors(artifact, settings, None)
        metric_names = shown = predicted_names(predictors)
    else:
        check_answers(data, settings.metrics)
        searched, reported = _parts(artifact, data, settings)
        metric_names = shown = _metric_names(artifact, settings.metrics)
        predictors = make_predictors(artifact, settings, searched)
        number = searched.num_samples
        if predictors:
            standing = stand_ins(data, metric_names)
            _check_evidence(searched, settings, standing)
            settings = _standing_in(settings, standing)
            of_parts = metrics_of_parts(predictors, metric_names)
            names = [one.metric for one in predictors]
            expected = {standing.get(one, one): expected_name(one) for one in names}
        else:
            if not _heads(artifact):  # the divergence is the mean of all outputs
                of_parts = smoothed_metrics(settings, metric_names, number)
            expected = {name: expected_name(name) for name in of_parts}
        if expected:
            metric_names = measured_names(metric_names, of_parts, number)
            shown = shown_names(shown, expected.values())
    _check_want(artifact, settings, metric_names)
    space = fix_entries(artifact.space, settings.fixed)
    builder = ModelBuilder(artifact)
    problems: list[SearchProblem] = []
    tool_versions: list[Mapping[str, str]] = []
    untaken: list[Mapping[str, str]] = []
    for target in targets:
        sizes = _sizes(
            builder,
            target.name,
            settings,
            shown,
            0 if reported is None else reported.num_samples,
        )
        costs = PolicyCosts(artifact, target, builder, sizes=sizes)
        problem, reasons = _problem(
            artifact, target, space, costs, settings, metric_names
        )
        problems.append(problem)
        tool_versions.append(costs.versions)
        untaken.append(reasons)
    if data is not None:  # last: the network is run for it
        check_plausible(artifact, data, allow_odd_data=settings.allow_odd_data)
    return Run(
        artifact=artifact,
        targets=tuple(targets),
        data=data,
        searched=searched,
        reported=reported,
        predictors=predictors,
        metrics_of_parts=of_parts,
        expected=expected,
        settings=settings,
        builder=builder,
        problems=tuple(problems),
        tool_versions=tuple(tool_versions),
        untaken=tuple(untaken),
    )


def _check_evidence(
    data: Data, settings: RunSettings, standing: Mapping[str, str]
) -> None:
    """Checks that samples can tell something beside what a developer measured.

    Raises:
      DataError: If there is one alone.
      SearchError: If a limit is on what stands in for the metric that is searched.
    """
    if data.num_samples < LEAST_SAMPLES:
        raise DataError(
            f"Expected at least {LEAST_SAMPLES} samples in {data.name!r} beside what "
            f"the network's developer measured, got {data.num_samples}; add some, or "
            "search without data."
        )
    for limit in settings.options.limits:
        if limit.name in standing.values():
            raise SearchError(
                f"Expected a limit on accuracy, which is searched, got one on "
                f"{limit.name!r}; give min accuracy, or make {limit.name!r} an "
                "objective."
            )


def _standing_in(settings: RunSettings, standing: Mapping[str, str]) -> RunSettings:
    """Returns settings whose objectives and limits are of what is measured."""
    options = settings.options
    objectives, limits = (
        tuple(replace(one, name=standing.get(one.name, one.name)) for one in ones)
        for ones in (options.objectives, options.limits)
    )
    options = replace(options, objectives=objectives, limits=limits)
    return replace(settings, options=options)


def _heads(artifact: Artifact) -> tuple[str, ...]:
    names = tuple(sorted(one.name for one in outputs_of(artifact.template)))
    return names if len(names) > 1 else ()


def _check_want(
    artifact: Artifact, settings: RunSettings, metric_names: Collection[str]
) -> None:
    """Checks that there are points for a policy that is wanted within some.

    Raises:
      SearchError: If the metric that is searched is no share of samples.
    """
    names = [one.name for one in settings.options.objectives]
    metric = next((name for name in names if name in metric_names), None)
    if settings.want != CHEAPEST or metric is None:
        return
    if not figure_of(metric, _heads(artifact)).is_share:
        raise SearchError(
            f"Expected an accuracy as the first metric of the objectives for a policy "
            f"within points of it, got {metric!r}; name one in metrics, or want "
            "'most accurate' or 'knee'."
        )


def _parts(artifact: Artifact, data: Data, settings: RunSettings) -> tuple[Data, Data]:
    """Returns the samples to search on and those to report on."""
    searched = reported = data
    allowed = settings.allow_odd_data
    if settings.holdout:
        # Labels of another network may be too few of each to split.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MatarWarning)  # said below, once
            check_data(artifact, data, metrics=settings.metrics, allow_odd_data=allowed)
        searched, reported = split_data(data, settings.holdout, settings.options.seed)
    check_data(
        *(artifact, data, searched, reported),
        metrics=settings.metrics,
        allow_odd_data=allowed,
    )
    return searched, reported


def export_metadata(
    target: str, metrics: Mapping[str, float], num_samples: int
) -> dict[str, Any]:
    """Returns what the file of a policy says of the search that found it.

    Of no samples metrics are predicted.
    """
    found = {"target": target, "metrics": dict(metrics), "num_samples": num_samples}
    return found if num_samples else {**found, "predicted": True}


def of_target(target: Target, error: MatarError) -> str:
    """Returns the text of an error that says which target it is about."""
    text = str(error)
    return text if repr(target.name) in text else f"Target {target.name!r}: {text}"


def _problem(
    artifact: Artifact,
    target: Target,
    space: PolicySpace,
    costs: PolicyCosts,
    settings: RunSettings,
    metric_names: tuple[str, ...],
) -> tuple[SearchProblem, dict[str, str]]:
    """Returns what is searched, and why some policies to start from are not in it."""
    legal = legal_space(space, artifact.workload, target)
    check = PolicyChecker(artifact.workload, target)
    check_seed_names(settings.starts, artifact.space)
    untaken = _untaken(settings.starts, artifact.space, legal, check)
    taken = {
        name: policy for name, policy in settings.starts.items() if name not in untaken
    }
    problem = SearchProblem(
        target=target.name,
        space=legal,
        costs=costs,
        violations=functools.partial(_violations, check),
        pairs=artifact.workload.entry_pairs(),
        legal_pairs=legal_pairs(legal, artifact.workload, target),
        seeds={name: one for name, one in taken.items() if not one.is_wide},
        beside={name: one for name, one in taken.items() if one.is_wide},
        metric_names=metric_names,
    )
    try:
        check_request(problem, settings.options)
    except MatarError as error:
        raise type(error)(of_target(target, error)) from error
    return problem, untaken


def _untaken(
    starts: Mapping[str, Policy],
    space: PolicySpace,
    legal: PolicySpace,
    check: PolicyChecker,
) -> dict[str, str]:
    """Returns why policies to start from are not searched, by name.

    Args:
      starts: Policies of the network, by name.
      space: All of these.
      legal: Those that the target takes.
      check: Tells why it does not take a policy.
    """
    reasons: dict[str, str] = {}
    for name, policy in starts.items():
        space.validate(policy)
        reason = ""
        try:
            legal.validate(policy)
        except PolicyError as error:
            reason = str(error)
        broken = _violations(check, policy) if reason or policy.is_wide else ()
        reason = broken[0] if broken else reason
        if reason:
            reasons[name] = reason
    return reasons


def _metric_names(artifact: Artifact, metrics: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of figures of metrics, each with a column of its own."""
    names = tuple(metrics_of(outputs_of(artifact.template), metrics))
    for name in names:
        if is_taken(name) or name.startswith(PREFIX):
            raise DataError(
                f"Expected a metric of a name that tables have no other column for, "
                f"got {name!r}; rename the function."
            )
    return names


def _sizes(
    builder: ModelBuilder,
    target: str,
    settings: RunSettings,
    metric_names: Collection[str],
    num_samples: int,
) -> dict[str, Callable[[Policy], int]]:
    """Returns sizes of the files that a run will write, by name, if asked for.

    ``file_bytes`` is if a name is no other figure's, be it this or misspelt.
    """
    options = settings.options
    names = {one.name for one in (*options.objectives, *options.limits)}
    if names <= {*metric_names, *COST_NAMES, "luts"}:
        return {}
    metrics = dict.fromkeys(metric_names, 0.0)
    if settings.holdout:
        searched = [one.name for one in options.objectives if one.name in metrics]
        metrics |= {PREFIX + name: 0.0 for name in searched}
    profile = settings.profile
    found = export_metadata(target, metrics, num_samples)
    metadata = {**builder.about(profile), **found}
    sizes = FileSizes(builder, profile=profile, metadata=metadata)
    if ARENA not in names:
        return {"file_bytes": sizes}
    arena = ArenaSizes(builder, sizes, profile=profile)
    return {"file_bytes": sizes, ARENA: arena}


def _violations(check: PolicyChecker, policy: Policy) -> tuple[str, ...]:
    return tuple(violation.message for violation in check(policy))
