"""Retargeting from end to end: an artifact and targets in, fronts and files out.

Needs no TensorFlow. Writes, under one output folder::

    run.json  evaluations.sqlite (unless the settings name another store)
    matrix.{json,csv,md}  report.html  latency.json (of this machine)
    <target>/front.{json,csv,md}  <target>/policy_NN.{json,tflite}

Each target's folder appears under its name when it is complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matar_tf.artifact import Artifact
from matar_tf.data import Data
from matar_tf.errors import SearchError, StoreError, TargetError
from matar_tf.evolution import (
    EvaluationStore,
    SearchOptions,
    SearchProblem,
    absent_names,
    follow_up,
    from_nothing,
    search,
    search_order,
)
from matar_tf.policy import Policy
from matar_tf.results import SearchResult, StopReason
from matar_tf.run._evaluators import (
    Executor,
    evaluator_maker,
    make_executor,
    on_held_out,
    provenance_of,
)
from matar_tf.run._export import write_overview, write_target
from matar_tf.run._holdout import split_data
from matar_tf.run._interrupts import Interrupts
from matar_tf.run._problems import of_target, run_problems
from matar_tf.run._record import (
    RUN_SCHEMA_VERSION,
    STORE_FILE,
    begin_folder,
    check_folder,
    check_store,
    planned_evaluations,
    write_history,
)
from matar_tf.run.settings import RunSettings, versions
from matar_tf.targets import Target
from matar_tf.tflite.evaluate import PolicyEvaluator, check_data
from matar_tf.tflite.export import Reference

__all__ = ["Outcome", "check_settings", "prepare_output", "retarget"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to.

    Attributes:
      results: The result of each target that was searched, in the order in which the
        targets were given, with file sizes and agreement filled in.
      failures: Of each target whose search failed, by name, one sentence that says why.
      left_out: Why a policy to start from, or a uniform one that is equal to it, is in
        no table under its name, by target and name.
      interrupted: Whether Ctrl-C ended the run before its time.
    """

    results: tuple[SearchResult, ...]
    failures: Mapping[str, str]
    left_out: Mapping[str, Mapping[str, str]]
    interrupted: bool


def retarget(
    artifact: Artifact,
    targets: Sequence[Target],
    data: Data,
    output: str | Path,
    settings: RunSettings,
    *,
    reference: Reference | None = None,
    on_result: Callable[[SearchResult], None] = lambda _: None,
) -> Outcome:
    """Searches every target, exports every policy of each front, writes the tables.

    The target with the fewest policies comes first: what it measures, the later ones
    can mostly run as well, and not the other way round. A target whose search fails,
    since no policy meets its limits or it has no price for one, does not keep the
    others from theirs.

    The first Ctrl-C ends the search that it comes in with the front so far, and the
    run when files and tables are written. The second ends the run at once.

    Args:
      artifact: The packaged network.
      targets: Hardware to search for.
      data: Samples and labels to measure accuracy on.
      output: Folder that `prepare_output` has prepared.
      settings: What the run is asked for.
      reference: Outputs that exported files must agree with, or None.
      on_result: Called with each target's result when its folder is complete.

    Returns:
      The results; after Ctrl-C of those that were begun.

    Raises:
      MatarError: If a target cannot run the network, nothing can be measured or
        stored, or an export fails.
      KeyboardInterrupt: At Ctrl-C while nothing is known yet, and at the second.
    """
    check_data(artifact, data)
    searched, reported = data, data
    if settings.holdout:
        searched, reported = split_data(data, settings.holdout, settings.options.seed)
    # What cannot be done ends the run before anything is measured.
    problems = run_problems(
        artifact, targets, settings, num_samples=len(reported.x_test)
    )
    output = Path(output)
    plan = planned_evaluations(output)
    options = replace(settings.options, planned_evaluations=plan)
    settings = replace(settings, options=options)

    make_held_out = evaluator_maker(artifact, reported, settings)
    held_out = make_held_out() if settings.holdout else None
    with (
        EvaluationStore(settings.store or output / STORE_FILE) as store,
        make_executor(artifact, searched, settings) as evaluate_many,
        Interrupts() as interrupts,
    ):
        run = _Run(
            artifact=artifact,
            searched=searched,
            reported=reported,
            output=output,
            settings=settings,
            reference=reference,
            on_result=on_result,
            store=store,
            evaluate_many=evaluate_many,
            held_out=held_out,
        )
        outcome = _search_all(run, targets, problems, interrupts)
        if outcome.results:
            write_overview(artifact, targets, outcome.results, output)
    # One that came meanwhile counts, too.
    return replace(outcome, interrupted=outcome.interrupted or interrupts.came)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the searches of a run have in common."""

    artifact: Artifact
    searched: Data
    reported: Data
    output: Path
    settings: RunSettings
    reference: Reference | None
    on_result: Callable[[SearchResult], None]
    store: EvaluationStore
    evaluate_many: Executor
    held_out: PolicyEvaluator | None

    def search(
        self,
        problem: SearchProblem,
        tools: Mapping[str, str],
        memory: dict[Policy, Mapping[str, float]],
        results: Collection[SearchResult],
    ) -> SearchResult:
        """Searches for a target; `memory` and `results` are those of earlier ones."""
        provenance = provenance_of(self.artifact, self.searched, self.settings)
        return search(
            problem,
            self.evaluate_many,
            options=_options(self.settings, problem, memory, results),
            provenance=replace(provenance, versions={**provenance.versions, **tools}),
            store=self.store,
            memory=memory,
            progress=self.settings.progress,
        )

    def write(self, result: SearchResult, target: Target) -> SearchResult:
        """Writes the folder of a target; returns the result as it stands there."""
        references = tuple(
            one
            for one in result.references
            if one.name in self.settings.starts or _is_diagonal(one.name)
        )
        result = replace(result, references=references)
        if self.held_out is not None:
            provenance = provenance_of(self.artifact, self.reported, self.settings)
            result = on_held_out(result, self.store, provenance, self.held_out)
        result = write_target(
            self.artifact,
            self.reported,
            self.output,
            result,
            self.settings.profile,
            self.reference,
            target,
        )
        self.on_result(result)
        return result


def _search_all(
    run: _Run,
    targets: Sequence[Target],
    problems: Sequence[tuple[SearchProblem, Mapping[str, str]]],
    interrupts: Interrupts,
) -> Outcome:
    """Searches the targets one after the other and writes the folder of each."""
    memory: dict[Policy, Mapping[str, float]] = {}
    results: dict[int, SearchResult] = {}
    failures: dict[str, str] = {}
    left_out: dict[str, Mapping[str, str]] = {}
    interrupted = False
    for index in search_order([problem for problem, _ in problems]):
        try:
            with interrupts.passing():
                result = run.search(*problems[index], memory, results.values())
        except StoreError:
            raise  # the next target would find it no better
        except (SearchError, TargetError) as error:
            if interrupts.came:
                break  # it was not given the time
            failures[targets[index].name] = of_target(targets[index], error)
            write_history(run.output, results.values(), left_out, failures)
            continue
        except KeyboardInterrupt:
            # Nothing is known of this target, but perhaps of others.
            if not results or not interrupts.may_finish:
                raise
            break
        limits = run.settings.options.limits
        found = absent_names(problems[index][0], limits, result, memory)
        left_out |= {result.target: found} if found else {}
        results[index] = run.write(result, targets[index])
        write_history(run.output, results.values(), left_out, failures)
        interrupted = result.interrupted or interrupts.came
        if interrupted:
            break
    return Outcome(
        results=tuple(results[index] for index in sorted(results)),
        failures=failures,
        left_out=left_out,
        interrupted=interrupted,
    )


def prepare_output(
    output: str | Path,
    artifact: Artifact,
    targets: Sequence[Target],
    data: Data,
    settings: RunSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> str:
    """Makes an output folder ready for `retarget` and records the run.

    Args:
      output: The folder.
      artifact: The packaged network.
      targets: Hardware of the run.
      data: Samples and labels of the run.
      settings: What the run is asked for.
      resume: Whether to go on with the run that is there. Its stored measurements are
        used again; its fronts are searched anew from them, to the same result. With
        more evaluations, to the result of a run that had as many from its beginning,
        unless it began with fewer than a generation's: then it goes on as it began.
      overwrite: Whether to remove the run that is there.

    Returns:
      A sentence that says what was found and what happens to it.

    Raises:
      MatarError: If the folder holds something else, or a run that was asked for
        something else, or neither `resume` nor `overwrite` is given for a run, or the
        holdout or the store of the settings cannot be had.
    """
    output = Path(output)
    if resume and overwrite:
        raise SearchError("Expected --resume or --overwrite, got both; choose one.")
    # Whatever is wrong is found before anything is removed.
    if settings.holdout:
        split_data(data, settings.holdout, settings.options.seed)
    document = {
        "schema_version": RUN_SCHEMA_VERSION,
        **settings.to_json(),
        "targets": {target.name: _digest(target) for target in targets},
        "artifact_digest": artifact.digest(),
        "float_metrics": artifact.accuracy.get("float"),
        "data": data.name,
        "data_digest": data.digest(),
        "versions": versions(),
    }
    message = check_folder(output, document, resume=resume, overwrite=overwrite)
    if settings.store is not None:
        names = [target.name for target in targets]
        check_store(settings.store, output, names, overwrite=overwrite)
        EvaluationStore(settings.store).close()
    begin_folder(output, document, resume=resume, overwrite=overwrite)
    return message


def check_settings(
    artifact: Artifact, targets: Sequence[Target], settings: RunSettings
) -> None:
    """Checks that targets can run the network and know what is asked for.

    Raises:
      MatarError: If not.
    """
    run_problems(artifact, targets, settings)


def _options(
    settings: RunSettings,
    problem: SearchProblem,
    memory: Collection[Policy],
    results: Collection[SearchResult],
) -> SearchOptions:
    """Returns the options of a search after others; a follow-up if one can teach it."""
    options = from_nothing(settings.options)
    # A space that was enumerated is too small to teach the others.
    if all(one.stop_reason is StopReason.ENUMERATED for one in results):
        return options
    num_new = max(round(settings.follow_up_share * options.max_evaluations), 1)
    return follow_up(options, problem, memory, num_new=num_new)


def _digest(target: Target) -> str:
    return hashlib.sha256(target.model_dump_json().encode()).hexdigest()


def _is_diagonal(name: str) -> bool:
    """Whether a uniform policy has equal widths: reference rows are only those."""
    weights, _, activations = name.removeprefix("w").partition("a")
    return weights == activations
