"""Searches of one network whose fronts are compared, on figures measured once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matar_tf.artifact import Artifact
from matar_tf.evolution import (
    EvaluationStore,
    SearchOptions,
    SearchProblem,
    Surrogate,
    SurrogateFactory,
    follow_up,
    search,
)
from matar_tf.evolution._genome import GenomeCodec
from matar_tf.evolution._pareto import Values, box, hypervolume, pareto_front
from matar_tf.policy import Policy
from matar_tf.pricing import PolicyChecker, legal_pairs, legal_space
from matar_tf.pricing.model import CostModel
from matar_tf.results import Provenance, SearchResult
from matar_tf.space import PolicySpace
from matar_tf.targets import load_target
from matar_tf.workload import Workload
from tools.benchmarks.bars import provenance

__all__ = [
    "FOLLOW_UP",
    "PLAIN",
    "TARGETS",
    "Bench",
    "Enumerated",
    "Measured",
    "front_values",
    "num_follow_up",
    "target_problem",
]

TARGETS: Final = ("bismo_ultra96", "bitfusion_16x32", "mpic")
FOLLOW_UP: Final = 0.15  # of the evaluations of a search from nothing
PLAIN: Final[Mapping[str, Any]] = {"sensitivity": False, "oversampling": 1}
_NUM_ENUMERATED_ENTRIES = 7
_FEW_WIDTHS = 2, 4, 8  # 2,187 policies


@dataclass(frozen=True)
class Measured:
    """What a network does on some samples, measured once.

    Attributes:
      evaluate_many: Measures policies.
      store: Keeps what was measured.
      artifact_digest: Of the network.
      data_digest: Of the samples.
      num_samples: Number of samples.
    """

    evaluate_many: Any
    store: EvaluationStore
    artifact_digest: str
    data_digest: str
    num_samples: int

    def metric(self, name: str, policies: Sequence[Policy]) -> list[float]:
        """Returns a metric of policies, measured where it is not known."""
        digests = {
            "artifact_digest": self.artifact_digest,
            "data_digest": self.data_digest,
        }
        known = self.store.get(policies, metrics=[name], **digests)
        missing = [one for one in policies if one not in known]
        for policy, metrics in self.evaluate_many(missing):
            self.store.put(policy, metrics, **digests)
            known[policy] = dict(metrics)
        return [known[one][name] for one in policies]

    def provenance(self, seed: int) -> Provenance:
        """Returns the provenance of a search on these samples."""
        return provenance(
            seed=seed,
            artifact_digest=self.artifact_digest,
            data_digest=self.data_digest,
            num_samples=self.num_samples,
        )


def target_problem(
    workload: Workload, space: PolicySpace, target_name: str
) -> SearchProblem:
    """Returns what is searched for a target, on its legal part of a space."""
    target = load_target(target_name)
    check = PolicyChecker(workload, target)

    def violations(policy: Policy) -> tuple[str, ...]:
        return tuple(one.message for one in check(policy))

    legal = legal_space(space, workload, target)
    return SearchProblem(
        target=target.name,
        space=legal,
        costs=CostModel(workload, target).totals,
        violations=violations,
        pairs=workload.entry_pairs(),
        legal_pairs=legal_pairs(legal, workload, target),
    )


class Bench:
    """Searches of one network.

    Args:
      artifact: The network.
      seen: What it does on the samples that are searched.
      unseen: What it does on others, or None.
    """

    def __init__(
        self, artifact: Artifact, seen: Measured, unseen: Measured | None
    ) -> None:
        self.artifact = artifact
        self._seen = seen
        self._unseen = unseen

    def problem(self, target_name: str, space: PolicySpace) -> SearchProblem:
        """Returns what is searched for a target, on its legal part of a space."""
        return target_problem(self.artifact.workload, space, target_name)

    def search(
        self,
        problem: SearchProblem,
        options: SearchOptions,
        memory: dict[Policy, Mapping[str, float]] | None = None,
        surrogate: SurrogateFactory = Surrogate,
    ) -> SearchResult:
        """Returns the result of a search on the samples that are searched."""
        return search(
            problem,
            self._seen.evaluate_many,
            options=options,
            provenance=self._seen.provenance(options.seed),
            store=self._seen.store,
            memory=memory,
            surrogate=surrogate,
        )

    def follow_up(
        self,
        problem: SearchProblem,
        options: SearchOptions,
        memory: dict[Policy, Mapping[str, float]],
        surrogate: SurrogateFactory = Surrogate,
    ) -> SearchResult:
        """Returns the result of a search with few new evaluations.

        Args:
          problem: What is searched.
          options: Of a search from nothing.
          memory: What the searches of other targets left.
          surrogate: See `matar_tf.evolution.search`.
        """
        settings = follow_up(
            options,
            problem,
            memory,
            num_new=num_follow_up(options.max_evaluations),
        )
        return self.search(problem, settings, memory, surrogate)

    def corner(self, problem: SearchProblem) -> Values:
        """Returns what hypervolumes are measured from.

        A tenth of their range beyond the worst accuracy and the largest latency of
        uniform policies.
        """
        space = problem.space
        named = [space.named(name) for name in space.uniform_names(mixed=True)]
        return box(self.values(problem, named))[1]

    def values(
        self, problem: SearchProblem, policies: Sequence[Policy]
    ) -> list[Values]:
        """Returns accuracy (negative) and latency of feasible policies."""
        return self._values(problem, policies, self._seen)

    def metric(self, name: str, policies: Sequence[Policy]) -> list[float]:
        """Returns a metric of policies, measured where it is not known."""
        return self._seen.metric(name, policies)

    def ratio(
        self, problem: SearchProblem, first: SearchResult, second: SearchResult
    ) -> float:
        """Returns the ratio of two hypervolumes on the samples that were searched."""
        worst = self.corner(problem)
        return hypervolume(front_values(first), worst) / hypervolume(
            front_values(second), worst
        )

    def unseen_ratio(
        self, problem: SearchProblem, first: SearchResult, second: SearchResult
    ) -> float:
        """Returns the ratio of two hypervolumes on samples that no search saw.

        A front is chosen by noisy figures, the luckiest of all measured; here its
        policies are measured anew.
        """
        volumes = [
            self.unseen_volume(problem, [one.policy for one in result.front])
            for result in (first, second)
        ]
        return volumes[0] / volumes[1]

    def unseen_volume(
        self, problem: SearchProblem, policies: Sequence[Policy]
    ) -> float:
        """Returns the hypervolume of policies on samples that no search saw."""
        names = problem.space.uniform_names(mixed=True)
        uniform = [problem.space.named(name) for name in names]
        worst = box(self.unseen_values(problem, uniform))[1]
        return hypervolume(self.unseen_values(problem, policies), worst)

    @property
    def has_unseen(self) -> bool:
        """Whether there are samples that no search saw."""
        return self._unseen is not None

    def unseen_values(
        self, problem: SearchProblem, policies: Sequence[Policy]
    ) -> list[Values]:
        """Returns what `values` does, measured on samples that no search saw."""
        return self._values(problem, policies, self._unseen)

    @staticmethod
    def _values(
        problem: SearchProblem, policies: Sequence[Policy], measured: Measured | None
    ) -> list[Values]:
        if measured is None:
            raise ValueError("Expected samples that no search saw, got none.")
        feasible = [one for one in policies if not problem.violations(one)]
        accuracies = measured.metric("accuracy", feasible)
        return [
            (-accuracy, float(problem.costs(one)["latency_ms"] or 0.0))
            for accuracy, one in zip(accuracies, feasible, strict=True)
        ]


def num_follow_up(num_evaluations: int) -> int:
    """Returns how many new evaluations a target after others has."""
    return round(FOLLOW_UP * num_evaluations)


def front_values(result: SearchResult) -> list[Values]:
    """Returns accuracy (negative) and latency of a front."""
    return [
        (-one.metrics["accuracy"], float(one.costs["latency_ms"] or 0.0))
        for one in result.front
    ]


class Enumerated:
    """A network small enough to measure every policy of it: few entries are free.

    Args:
      bench: Measures and searches.

    Attributes:
      problem: What is searched.
      policies: Every policy.
      front: The best of them.
      budget: Number of policies that a search may measure.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.problem = bench.problem("bitfusion_16x32", _small(bench.artifact.space))
        codec = GenomeCodec(self.problem.space)
        self.policies = [codec.decode(genome) for genome in codec.all_genomes()]
        values = bench.values(self.problem, self.policies)
        self.front = [self.policies[index] for index in pareto_front(values)]
        self.budget = int(FOLLOW_UP * len(self.policies))
        self._worst = bench.corner(self.problem)
        self._volume = hypervolume(values, self._worst)

    def search(self, seed: int, **changes: Any) -> SearchResult:
        """Returns the result of a search with as many measurements as `budget`."""
        options = SearchOptions(
            seed=seed,
            max_evaluations=self.budget,
            population_size=min(40, self.budget),
            patience=None,
            **changes,
        )
        return self._bench.search(self.problem, options)

    def share(self, values: Sequence[Values]) -> float:
        """Returns the hypervolume of some values over that of all policies."""
        return hypervolume(values, self._worst) / self._volume


def _small(space: PolicySpace) -> PolicySpace:
    """Returns a space in which the first entries, weights before all, have 3 widths."""
    free = [
        ("weights", name) for name, bits in space.weights.items() if len(bits) > 1
    ] + [
        ("activations", name)
        for name, bits in space.activations.items()
        if len(bits) > 1
    ]
    kept = set(free[:_NUM_ENUMERATED_ENTRIES])

    def choices(kind: str, entries: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        return {
            name: _FEW_WIDTHS if (kind, name) in kept else (bits[-1],)
            for name, bits in entries.items()
        }

    return PolicySpace(
        weights=choices("weights", space.weights),
        activations=choices("activations", space.activations),
    )
