"""Retargeting from end to end: a run in, fronts and files out.

Needs no TensorFlow. Writes, under one output folder::

    run.json  evaluations.sqlite (unless the settings name another store)
    matrix.{json,csv,md}  report.html  latency.json (of this machine)
    <target>/front.{json,csv,md}  <target>/policy_NN.{json,tflite}

Each target's folder appears under its name when it is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from matar_tf.errors import SearchError, StoreError, TargetError, did_you_mean
from matar_tf.evolution import EvaluationStore
from matar_tf.io.files import as_path
from matar_tf.results import SearchResult
from matar_tf.run.evaluators import make_executor
from matar_tf.run.export import write_overview, write_target
from matar_tf.run.folder import (
    STORE_FILE,
    drop_run,
    has_just_begun,
    is_empty,
    prepare_folder,
    write_record,
)
from matar_tf.run.interrupts import Interrupts
from matar_tf.run.plan import Run, of_target
from matar_tf.run.record import RunRecord
from matar_tf.run.searches import Searches
from matar_tf.targets import Target
from matar_tf.tflite.export import Reference

__all__ = ["Outcome", "retarget"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Outcome:
    """What a run came to; printed as the tables of its results.

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

    def __repr__(self) -> str:
        failures = [f"No front for {one}: {why}" for one, why in self.failures.items()]
        return "\n".join([*map(repr, self.results), *failures])

    def __getitem__(self, target: str) -> SearchResult:
        """Returns the result of a target.

        Raises:
          SearchError: If it has none.
        """
        for one in self.results:
            if one.target == target:
                return one
        if target in self.failures:
            raise SearchError(f"No front for {target}: {self.failures[target]}")
        names = [one.target for one in self.results]
        raise SearchError(
            f"Expected a target of the run, got {target!r}. "
            f"{did_you_mean(str(target), names)}"
        )


def retarget(
    run: Run,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reference: Reference | None = None,
    on_start: Callable[[str], None] = lambda _: None,
    on_result: Callable[[SearchResult], None] = lambda _: None,
) -> Outcome:
    """Searches every target, exports every policy of each front, writes the tables.

    A target whose search fails, since no policy meets its limits or it has no price
    for one, does not keep the others from theirs.

    The first Ctrl-C ends the search that it comes in with the front so far, and the
    run when files and tables are written. The second ends the run at once.

    Args:
      run: What `make_run` has made.
      output: Folder to write; made if there is none, in one that is there. An error
        before anything is measured leaves it as it was.
      resume: Whether to go on with the run that is there. Its stored measurements are
        used again; its fronts are searched anew from them, to the same result. With
        more evaluations, to the result of a run that had as many from its beginning,
        unless it began with fewer than a generation's: then it goes on as it began.
      overwrite: Whether to remove the run that is there.
      reference: Outputs that exported files must agree with, or None.
      on_start: Called with a sentence that says what was found in the folder and what
        happens to it.
      on_result: Called with each target's result when its folder is complete.

    Returns:
      The results; after Ctrl-C of those that were begun.

    Raises:
      MatarError: If the folder holds something else, or a run that was asked for
        something else, or neither `resume` nor `overwrite` is given for a run; if
        nothing can be measured or stored, or an export fails.
      KeyboardInterrupt: At Ctrl-C while nothing is known yet, and at the second.
    """
    output = as_path(output, "the output", SearchError)
    # What measures comes first: where it cannot be had, the folder stays as it is.
    with make_executor(run) as evaluate_many, contextlib.ExitStack() as stack:
        is_new, is_made = is_empty(output), not output.exists()
        record, message = prepare_folder(
            run, output, resume=resume, overwrite=overwrite
        )
        if is_new:
            stack.push(_undoing(output, folder=is_made))
        on_start(message)
        planned = replace(
            run.settings.options, planned_evaluations=record.planned_evaluations
        )
        run = replace(run, settings=replace(run.settings, options=planned))
        store = None
        if run.searched is not None:
            store = EvaluationStore(run.settings.store or output / STORE_FILE)
            stack.enter_context(store)
        interrupts = stack.enter_context(Interrupts())
        searches = Searches(run=run, evaluate_many=evaluate_many, store=store)
        writer = _Writer(searches, output, record, reference, on_result)
        outcome = _search_all(searches, writer, interrupts)
        if outcome.results:
            write_overview(run, outcome.results, output, writer.record.failures)
    # One that came meanwhile counts, too.
    return replace(outcome, interrupted=outcome.interrupted or interrupts.came)


class _Writer:
    """Writes the folder of each target, and the record of the run after each.

    Attributes:
      record: The record as it stands in the folder.
    """

    def __init__(
        self,
        searches: Searches,
        output: Path,
        record: RunRecord,
        reference: Reference | None,
        on_result: Callable[[SearchResult], None],
    ) -> None:
        self.record = record
        self._searches = searches
        self._output = output
        self._reference = reference
        self._on_result = on_result

    def write(self, index: int, result: SearchResult) -> SearchResult:
        """Writes the folder of a target; returns the result as it stands there."""
        result = self._searches.reported(result)
        run = self._searches.run
        result = write_target(run, index, result, self._output, self._reference)
        self._on_result(result)
        return result

    def record_history(
        self,
        results: Mapping[int, SearchResult],
        left_out: Mapping[str, Mapping[str, str]],
        failures: Mapping[str, str],
    ) -> None:
        """Puts what the searches so far did on record."""
        self.record = self.record.with_history(results.values(), left_out, failures)
        write_record(self._output, self.record)


def _search_all(searches: Searches, writer: _Writer, interrupts: Interrupts) -> Outcome:
    """Searches the targets one after the other and writes the folder of each."""
    targets = searches.run.targets
    results: dict[int, SearchResult] = {}
    failures: dict[str, str] = {}
    left_out: dict[str, Mapping[str, str]] = {}
    interrupted = False
    order = searches.order()
    for index in order:
        try:
            with interrupts.passing():
                result = searches.search(index)
        except StoreError:
            raise  # the next target would find it no better
        except (SearchError, TargetError) as error:
            if interrupts.came:
                interrupted = True
                break  # it was not given the time
            failures[targets[index].name] = of_target(targets[index], error)
            writer.record_history(results, left_out, failures)
            continue
        except KeyboardInterrupt:
            # Nothing is known of this target, but perhaps of others.
            if not results or not interrupts.may_finish:
                raise
            interrupted = True
            break
        absent = searches.left_out(index, result)
        left_out |= {result.target: absent} if absent else {}
        results[index] = writer.write(index, result)
        writer.record_history(results, left_out, failures)
        interrupted = result.interrupted or interrupts.came
        if interrupted:
            break
    waiting = [one for one in order if one not in results]
    waiting = [one for one in waiting if targets[one].name not in failures]
    if waiting:
        failures |= {targets[one].name: _not_searched(targets[one]) for one in waiting}
        writer.record_history(results, left_out, failures)
    return Outcome(
        results=tuple(results[index] for index in sorted(results)),
        failures=failures,
        left_out=left_out,
        interrupted=interrupted,
    )


def _undoing(output: Path, *, folder: bool) -> Callable[..., None]:
    """Returns what leaves no trace of a run that fails before anything is measured."""

    def undo(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and has_just_begun(output):
            drop_run(output, folder=folder)

    return undo


def _not_searched(target: Target) -> str:
    return (
        f"Target {target.name!r} was not begun, or had nothing yet, when Ctrl-C ended "
        "the run; go on with --resume, in Python resume=True, to search for it, too."
    )
