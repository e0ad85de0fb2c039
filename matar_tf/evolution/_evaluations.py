"""The evaluations of a run: every policy it asked for, and what came back.

The store is a transparent memo: whether metrics come from it or from the evaluator
changes the two counters and nothing else.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from matar_tf.errors import SearchError, did_you_mean
from matar_tf.evolution._genome import Genome
from matar_tf.evolution._limits import Breach, Limit, breach_of
from matar_tf.evolution._nsga2 import Member
from matar_tf.evolution._store import EvaluationStore
from matar_tf.evolution.problem import BatchEvaluator, SearchProblem
from matar_tf.policy import Policy
from matar_tf.results import Candidate, Objective, Provenance

__all__ = [
    "Evaluations",
]


class Evaluations:
    """Measures genomes and remembers them.

    Attributes:
      codec: The codec of the space.
      entries: Candidate and member of each evaluated genome within the limits.
      failed: Those of the evaluated ones that break a limit on a metric.
      probes: Metrics of the evaluated ones that break a constraint or a limit on a
        cost.
      beside: Candidate and member of each policy beside the space, by name.
      reference: What others are compared with, if it breaks a limit on a cost.
      num_evaluated: Policies measured in this run.
      num_reused: Policies whose metrics came from the store or the memory.
      memory: Metrics of all policies that this and earlier searches know.
    """

    def __init__(
        self,
        problem: SearchProblem,
        evaluate_many: BatchEvaluator,
        *,
        objectives: tuple[Objective, ...],
        limits: tuple[Limit, ...] = (),
        provenance: Provenance,
        store: EvaluationStore | None,
        memory: dict[Policy, Mapping[str, float]],
        on_measured: Callable[[], object],
    ) -> None:
        self.codec = problem.codec()
        self.entries: dict[Genome, tuple[Candidate, Member]] = {}
        self.failed: dict[Genome, tuple[Candidate, Member]] = {}
        self.probes: dict[Genome, Mapping[str, float]] = {}
        self.beside: dict[str, tuple[Candidate, Member]] = {}
        self.reference: Candidate | None = None
        self.num_evaluated = 0
        self.num_reused = 0
        self._problem = problem
        self._evaluate_many = evaluate_many
        self._objectives = objectives
        self._limits = limits
        self._digests = {
            "artifact_digest": provenance.artifact_digest,
            "data_digest": provenance.data_digest,
        }
        self._store = store
        self.memory = memory
        self._on_measured = on_measured
        self._broken: dict[Genome, Breach] = {}

    @property
    def num_known(self) -> int:
        """Number of policies whose metrics are known."""
        return len(self.entries) + len(self.failed) + len(self.probes)

    def known(self) -> dict[Genome, Mapping[str, float]]:
        """Returns the metrics of all evaluated genomes."""
        both = {**self.entries, **self.failed}
        metrics = {genome: candidate.metrics for genome, (candidate, _) in both.items()}
        return {**metrics, **self.probes}

    def breach(self, policy: Policy) -> Breach:
        """Returns the constraints and limits on costs that a policy breaks."""
        return self._problem.breach(policy, self._limits)

    def measure(
        self,
        genomes: Sequence[Genome],
        max_new: int,
        *,
        probes: Collection[Genome] = (),
        deadline: float = math.inf,
    ) -> list[Member]:
        """Returns what is known of new genomes: infeasible ones first.

        Args:
          genomes: Genomes that were not measured before.
          max_new: Number of genomes to measure; the others are left out. Infeasible
            ones are neither measured nor counted, but for the probes.
          probes: Those to measure even if they are infeasible, unless no policy is
            known to be feasible.
          deadline: Time of `time.monotonic` after which nothing more is measured.

        Raises:
          SearchError: If the evaluator or the costs do not return what they must.
        """
        members: list[Member] = []
        for genome in genomes:
            broken = self.breach(self.codec.decode(genome))
            if broken.texts:
                self._broken[genome] = broken
                members.append(_infeasible(genome, broken))
        feasible = {genome for genome in genomes if genome not in self._broken}
        if feasible or self.entries:
            feasible |= set(probes)
        chosen = [genome for genome in genomes if genome in feasible][:max_new]
        policies = {genome: self.codec.decode(genome) for genome in chosen}
        metrics: dict[Policy, Mapping[str, float]] = {}
        try:
            self._collect(list(policies.values()), metrics, deadline)
        except KeyboardInterrupt:
            self._enter_all(policies, metrics)  # what has arrived counts
            raise
        members += self._enter_all(policies, metrics)
        return members

    def measure_beside(self, *, deadline: float = math.inf) -> None:
        """Measures the policies beside the space, which count as no evaluations.

        Raises:
          SearchError: If the evaluator or the costs do not return what they must.
        """
        names: dict[Policy, str] = {}  # of two names for one policy, the first stays
        for name, policy in self._problem.beside.items():
            if not self.breach(policy).texts:
                names.setdefault(policy, name)
        metrics: dict[Policy, Mapping[str, float]] = {}
        self._collect(list(names), metrics, deadline)
        self.memory.update(metrics)
        for policy, name in names.items():
            if policy not in metrics:
                continue
            candidate, broken = self._candidate(policy, metrics[policy])
            if not broken.texts:
                member = Member(genome=(), values=self._values(candidate))
                self.beside[name] = candidate, member

    def learn(self, policies: Sequence[Policy]) -> None:
        """Measures policies, if they are not known, for what they tell of others.

        Raises:
          SearchError: If the evaluator does not return what it must.
        """
        names = set(self._problem.metric_names)
        missing = [
            one for one in policies if not names <= set(self.memory.get(one, ()))
        ]
        self._collect(missing, self.memory, math.inf)

    def measure_reference(self, policy: Policy) -> None:
        """Measures a policy that breaks limits on costs: others are compared with it.

        It is not in the front. One that the target does not take has no costs, and is
        left out.

        Raises:
          SearchError: If the evaluator or the costs do not return what they must.
        """
        if not self.breach(policy).texts or self._problem.violations(policy):
            return
        self.learn([policy])
        self.reference, _ = self._candidate(policy, self.memory[policy])

    def describe_infeasible(self) -> str:
        """Returns why no policy was feasible: which constraint, and the nearest miss.

        Violations that differ in their numbers only are the same constraint.
        """
        # What was measured met the constraints on costs, and is nearer.
        tried = [genome for genome in self._broken if genome in self.failed]
        tried = tried or list(self._broken)
        groups: Counter[str] = Counter()
        nearest: dict[str, tuple[tuple[int, float, int, Genome], str]] = {}
        for genome in tried:
            texts, shortfall = self._broken[genome]
            groups.update({_without_numbers(text) for text in texts})
            rank = (len(texts), shortfall, sum(genome), genome)
            for text in texts:
                group = _without_numbers(text)
                nearest[group] = min(nearest.get(group, (rank, text)), (rank, text))
        group, count = min(groups.items(), key=lambda item: (-item[1], item[0]))
        met = f"{len(tried)} met those on costs. " if self.failed else ""
        return (
            f"Expected a policy that meets the constraints of target "
            f"{self._problem.target!r}, got none among {len(self._broken)} tried. {met}"
            f"Most often broken, by {count} of them; the nearest miss: "
            f"{nearest[group][1]!r}. Relax that constraint in the target or the "
            "request, or allow other widths in the policy space."
        )

    def _collect(
        self,
        policies: list[Policy],
        metrics: dict[Policy, Mapping[str, float]],
        deadline: float,
    ) -> None:
        """Fills in metrics: from memory, from the store, then from the evaluator."""
        self._recall(policies, metrics)
        missing = [policy for policy in policies if policy not in metrics]
        waiting = set(missing)
        if not missing:
            return
        for policy, measured in self._evaluate_many(missing):
            if policy not in waiting:
                raise SearchError(
                    "Expected each policy of the batch once from the evaluator, got "
                    f"one that was not asked for or came twice: {policy}."
                )
            waiting.remove(policy)
            checked = self._check_metrics(policy, measured)
            if self._store is not None:
                self._store.put(policy, checked, **self._digests)
            metrics[policy] = checked
            self.num_evaluated += 1
            self._on_measured()
            if time.monotonic() >= deadline:
                return
        if waiting:
            raise SearchError(
                f"Expected metrics for {len(missing)} policies from the evaluator, got "
                f"{len(missing) - len(waiting)}; it must yield each policy once."
            )

    def _recall(
        self, policies: list[Policy], metrics: dict[Policy, Mapping[str, float]]
    ) -> None:
        names = self._problem.metric_names
        known = {
            one: self.memory[one]
            for one in policies
            if set(names) <= set(self.memory.get(one, ()))
        }
        if self._store is not None:
            others = [policy for policy in policies if policy not in known]
            known.update(self._store.get(others, metrics=names, **self._digests))
        for policy in policies:
            if policy in known:
                metrics[policy] = known[policy]
                self.num_reused += 1
                self._on_measured()

    def _check_metrics(
        self, policy: Policy, metrics: Mapping[str, float]
    ) -> dict[str, float]:
        # Candidate refuses what is not a finite number.
        name = f"policy {policy.digest()[:12]}"
        checked = Candidate(name=name, policy=policy, metrics=metrics, costs={}).metrics
        for name in self._problem.metric_names:
            if name not in checked:
                raise SearchError(
                    f"Expected the metric {name!r} from the evaluator, got "
                    f"{sorted(metrics)}. {did_you_mean(name, metrics)}"
                )
        # No others: a search must see the same whether they come from the store or not.
        return {name: checked[name] for name in self._problem.metric_names}

    def _enter_all(
        self,
        policies: Mapping[Genome, Policy],
        metrics: Mapping[Policy, Mapping[str, float]],
    ) -> list[Member]:
        # In the order of the genomes, never in that of arrival.
        members: list[Member] = []
        for genome, policy in policies.items():
            if policy not in metrics:
                continue
            self.memory[policy] = metrics[policy]
            if genome in self._broken:
                self.probes[genome] = metrics[policy]
            else:
                members.append(self._enter(genome, policy, metrics[policy]))
        return members

    def _enter(
        self, genome: Genome, policy: Policy, metrics: Mapping[str, float]
    ) -> Member:
        candidate, broken = self._candidate(policy, metrics)
        if broken.texts:
            self._broken[genome] = broken
            member = _infeasible(genome, broken)
            self.failed[genome] = candidate, member
            return member
        member = Member(genome=genome, values=self._values(candidate))
        self.entries[genome] = candidate, member
        return member

    def _candidate(
        self, policy: Policy, metrics: Mapping[str, float]
    ) -> tuple[Candidate, Breach]:
        """Returns a measured policy, and the limits on metrics that it breaks."""
        candidate = Candidate(
            name=policy.digest()[:12],
            policy=policy,
            metrics=metrics,
            costs=self._problem.costs(policy),
        )
        limits = [one for one in self._limits if one.name in candidate.metrics]
        return candidate, breach_of(limits, candidate.metrics)

    def _values(self, candidate: Candidate) -> tuple[float, ...]:
        return tuple(
            objective.to_minimized(candidate.value(objective))
            for objective in self._objectives
        )


def _infeasible(genome: Genome, broken: Breach) -> Member:
    return Member(
        genome=genome, num_violations=len(broken.texts), shortfall=broken.shortfall
    )


def _without_numbers(text: str) -> str:
    return re.sub(r"-?\d+(\.\d+)?", "#", text)
