"""The searches of a run, one after the other: what one measures, the next one knows."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from matar_tf.data import Data
from matar_tf.errors import SearchError
from matar_tf.evolution import (
    EvaluationStore,
    SearchOptions,
    Surrogate,
    absent_names,
    choose_by_expected,
    follow_up,
    from_nothing,
    most_measured,
    search,
    search_in_rounds,
    search_order,
    thinned,
)
from matar_tf.figures import DISAGREEMENT, JOINED
from matar_tf.policy import Policy
from matar_tf.results import Provenance, SearchResult, StopReason
from matar_tf.run.estimating import (
    Estimating,
    Smoothing,
    absent_classes,
    smoothed_metrics,
)
from matar_tf.run.evaluators import (
    Executor,
    evaluator_maker,
    make_executor,
    on_held_out,
    provenance_of,
)
from matar_tf.run.plan import Run
from matar_tf.run.predicting import Predicting
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.evaluate import PolicyEvaluator
from matar_tf.tflite.heads import are_classes
from matar_tf.tflite.metrics import figure_names
from matar_tf.verdict import verdict_of

__all__ = ["Searches", "search_one"]

_STOPPED: Final = (StopReason.INTERRUPTED, StopReason.MAX_MINUTES)
_LEAST_MINUTES: Final = 1e-3
_WENT_ON: Final = "The search went on without what the developer measured."


@dataclass(frozen=True, kw_only=True)
class Searches:
    """What the searches of a run share.

    Attributes:
      run: The run.
      evaluate_many: Measures policies.
      store: Metrics of this and other runs, or None to keep nothing.
      memory: Metrics of all policies that the searches so far know.
      found: What the searches so far have found, as they found it.
      others: Why the samples are of another kind than the developer's, if a search
        found that out: what the developer measured is left out from then on.
    """

    run: Run
    evaluate_many: Executor
    store: EvaluationStore | None = None
    memory: dict[Policy, Mapping[str, float]] = field(default_factory=dict)
    found: list[SearchResult] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def order(self) -> list[int]:
        """Returns the indices of the targets in the order to search them.

        The target with the fewest policies comes first: what it measures, the later
        ones can mostly run as well, and not the other way round.
        """
        return search_order(self.run.problems)

    def search(self, index: int) -> SearchResult:
        """Searches for the target of an index."""
        run, tools = self.run, self.run.tool_versions[index]
        provenance = provenance_of(run, run.searched)
        provenance = replace(provenance, versions={**provenance.versions, **tools})
        if run.searched is None or not run.predictors:
            result = self._by_figures(index, provenance, self._options(index))
        elif self.others:
            result = self._without_guesses(index, provenance, self._options(index))
        else:
            result = self._in_rounds(index, provenance, run.searched)
        self.found.append(result)
        return result

    def _by_figures(
        self, index: int, provenance: Provenance, options: SearchOptions
    ) -> SearchResult:
        """Searches by what is measured, or by what is predicted in its place."""
        run, evaluate = self.run, self.evaluate_many
        is_predicted = isinstance(evaluate, Predicting)
        result = search(
            run.problems[index],
            evaluate,
            options=options,
            provenance=provenance,
            store=self.store,
            # What costs nothing need not be taught.
            memory={} if is_predicted else self.memory,
            surrogate=evaluate.surrogate if is_predicted else Surrogate,
            progress=run.settings.progress,
        )
        if run.searched is not None and run.expected:
            result = self._by_expected(index, result, run.searched)
        if is_predicted:
            result = thinned(result, run.settings.options.population_size)
        return result

    def _without_guesses(
        self, index: int, provenance: Provenance, options: SearchOptions
    ) -> SearchResult:
        """Searches by what is measured alone, on samples of another kind."""
        said = [*self.others, _WENT_ON, _absent(self.run)]
        provenance = _remarked(_not_joined(provenance), said)
        return self._by_figures(index, provenance, options)

    def _in_rounds(
        self, index: int, provenance: Provenance, data: Data
    ) -> SearchResult:
        """Searches where the developer's measurements say what to expect.

        If the samples contradict them it goes on without.
        """
        run, settings, start = self.run, self.run.settings, time.monotonic()
        problem, widest = run.problems[index], run.artifact.space.widest()
        estimating = Estimating(
            run.predictors,
            run.metrics_of_parts,
            settings.options.objectives,
            run.expected,
            widest,
            data.num_samples,
        )
        result = search_in_rounds(
            problem,
            self.evaluate_many,
            estimating,
            names=run.expected,
            widest=widest,
            metric_names=figure_names(settings.metrics),
            num_new=most_measured(settings.options)
            if not self.found
            else min(most_measured(settings.options), settings.num_follow_up),
            options=from_nothing(settings.options),
            provenance=provenance,
            store=self.store,
            memory=self.memory,
            progress=settings.progress,
        )
        said = estimating.disagreement
        spent = result.num_evaluated + result.num_reused
        if (
            said is None
            or result.stop_reason in _STOPPED
            or spent >= settings.options.max_evaluations
            or not smoothed_metrics(settings, run.metrics_of_parts, data.num_samples)
        ):
            provenance = _remarked(provenance, [said, _absent(run)])
            return replace(result, provenance=provenance)
        self.others.append(said)
        options = _in_time_left(self._options(index), time.monotonic() - start)
        found = self._without_guesses(index, provenance, options)
        return replace(
            found,
            num_evaluated=found.num_evaluated + result.num_evaluated,
            num_reused=max(found.num_reused - result.num_evaluated, 0),
        )

    def _by_expected(
        self, index: int, result: SearchResult, data: Data
    ) -> SearchResult:
        """Returns a result whose front is none of the luckiest."""
        run, settings = self.run, self.run.settings
        widest = run.artifact.space.widest()
        return choose_by_expected(
            result,
            run.problems[index],
            self.evaluate_many,
            Smoothing(
                tuple(run.expected),
                settings.options.objectives,
                run.expected,
                widest,
                data.num_samples,
            ),
            names=run.expected,
            widest=widest,
            metric_names=figure_names(settings.metrics),
            options=settings.options,
            store=self.store,
            memory=self.memory,
        )

    def left_out(self, index: int, result: SearchResult) -> dict[str, str]:
        """Returns why policies with a name are not in a result, by name."""
        limits = self.run.settings.options.limits
        absent = absent_names(self.run.problems[index], limits, result, self.memory)
        return {**self.run.untaken[index], **absent}

    def reported(self, result: SearchResult) -> SearchResult:
        """Returns a result as tables have it: few references, samples held out."""
        references = tuple(
            one
            for one in result.references
            if one.name in self.run.settings.starts or _is_diagonal(one.name)
        )
        settings = self.run.settings
        result = replace(
            result,
            references=references,
            within=settings.within,
            heads=self.run.heads,
        )
        evaluator = self._held_out
        if evaluator is None:
            return _wanted(result, settings.want)
        provenance = provenance_of(self.run, self.run.reported)
        found = on_held_out(result, self.store, provenance, evaluator)
        return _wanted(found, settings.want)

    @functools.cached_property
    def _held_out(self) -> PolicyEvaluator | None:
        data = self.run.reported if self.run.settings.holdout else None
        return None if data is None else evaluator_maker(self.run, data)()

    def _options(self, index: int) -> SearchOptions:
        """Returns the options of a search; a follow-up if earlier ones can teach it."""
        settings = self.run.settings
        options = from_nothing(settings.options)
        # A space that was enumerated is too small to teach the others.
        is_free = isinstance(self.evaluate_many, Predicting)
        if is_free or all(
            one.stop_reason is StopReason.ENUMERATED for one in self.found
        ):
            return options
        problem, num_new = self.run.problems[index], settings.num_follow_up
        return follow_up(options, problem, self.memory, num_new=num_new)


def _in_time_left(options: SearchOptions, seconds: float) -> SearchOptions:
    """Returns options for what is left of the time after some of it."""
    if options.max_minutes is None:
        return options
    left = options.max_minutes - seconds / 60.0
    return replace(options, max_minutes=max(left, _LEAST_MINUTES))


def _remarked(provenance: Provenance, sentences: Sequence[str | None]) -> Provenance:
    """Returns where a result comes from, with what is odd about the samples."""
    said = " ".join(one for one in sentences if one is not None)
    if not said:
        return provenance
    return replace(provenance, versions={**provenance.versions, DISAGREEMENT: said})


def _not_joined(provenance: Provenance) -> Provenance:
    """Returns where a result comes from that takes nothing from the developer."""
    versions = {key: one for key, one in provenance.versions.items() if key != JOINED}
    return replace(provenance, versions=versions)


def _absent(run: Run) -> str | None:
    """Returns which classes have no sample; None of several outputs, or of values."""
    outputs, data = outputs_of(run.artifact.template), run.searched
    shape = next(one.shape for one in outputs)
    is_one = len(outputs) == 1 and len(shape) == 1
    if data is None or not is_one or not data.is_labelled:
        return None
    if not are_classes(data.y_test, shape):
        return None
    return absent_classes(data.y_test, max(*shape, 2))


def search_one(run: Run) -> SearchResult:
    """Searches for the first target of a run; writes nothing but a store.

    Ctrl-C ends the search with the front so far.

    Raises:
      MatarError: If no policy meets the constraints, or nothing can be measured.
    """
    path = run.settings.store
    store = None if path is None else EvaluationStore(path)
    try:
        with make_executor(run) as evaluate_many:
            searches = Searches(run=run, evaluate_many=evaluate_many, store=store)
            return searches.reported(searches.search(0))
    finally:
        if store is not None:
            store.close()


def _wanted(result: SearchResult, kind: str | None) -> SearchResult:
    """Returns a result whose front is the one policy that is wanted, if one is.

    Raises:
      SearchError: If the front has none of the kind.
    """
    if kind is None:
        return result
    picks = {pick.kind: pick.policy for pick in verdict_of(result)}
    if kind not in picks:
        raise SearchError(
            f"Expected a policy of the kind that is wanted, but a front of "
            f"{len(result.front)} policies on {result.target!r} has only "
            f"{', '.join(picks)}; leave want out."
        )
    return replace(result, front=(replace(picks[kind], name="policy_00"),))


def _is_diagonal(name: str) -> bool:
    """Whether a uniform policy has equal widths: reference rows are only those."""
    weights, _, activations = name.removeprefix("w").partition("a")
    return weights == activations
