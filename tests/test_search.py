"""The search: dominance, codec, NSGA-II, store, determinism, resuming."""

import functools
import itertools
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from matar_tf.errors import SearchError
from matar_tf.policy import Policy, PolicySpace
from matar_tf.results import Objective, Provenance, StopReason
from matar_tf.search import (
    EvaluationStore,
    Limit,
    SearchOptions,
    SearchProblem,
    dominates,
    evaluate_in_turn,
    follow_up,
    from_nothing,
    hypervolume,
    pareto_front,
    search,
)
from matar_tf.search import _run as search_run
from matar_tf.search._genome import GenomeCodec
from matar_tf.search._nsga2 import (
    Member,
    Ranked,
    crossover,
    first_cohort,
    generations,
    mutate,
    select_survivors,
    tournament,
)
from matar_tf.search._pareto import box
from matar_tf.search._seeding import sensitivity_genomes

ROOT = Path(__file__).resolve().parents[1]
INF = math.inf
NAN = math.nan


# A toy network. Accuracy falls with 4**-bits, by a different amount for each entry;
# latency is a sum of products of bits, as on bit-serial hardware.


def toy_space(num_layers=5, widths=(2, 4, 8)):
    names = [f"layer{index}" for index in range(num_layers)]
    return PolicySpace(
        weights={"first": (8,), **dict.fromkeys(names, widths)},
        activations={"input": (8,), **dict.fromkeys(names, widths)},
    )


def toy_metrics(policy):
    noise = 0.0
    for index, bits in enumerate(policy.weights.values()):
        noise += (1 + index * 7 % 5) * 4.0 ** (2 - bits)
    for index, bits in enumerate(policy.activations.values()):
        noise += (1 + index * 3 % 7) * 4.0 ** (2 - bits)
    loss = noise / (len(policy.weights) + len(policy.activations))
    return {"accuracy": math.exp(-loss), "loss": loss}


def toy_costs(policy):
    latency_ms = sum(
        (1 + index * 5 % 7) * policy.weights[name] * bits / 64
        for index, (name, bits) in enumerate(policy.activations.items())
        if name in policy.weights
    )
    weight_bytes = sum(
        (1 + index * 2 % 3) * bits for index, bits in enumerate(policy.weights.values())
    )
    return {
        "latency_ms": latency_ms,
        "weight_bytes": float(weight_bytes),
        "energy_mj": None,
    }


def toy_problem(**changes):
    fields = {"target": "toy", "space": toy_space(), "costs": toy_costs}
    return SearchProblem(**{**fields, **changes})


def provenance(seed=0, artifact_digest="a", data_digest="d"):
    return Provenance(
        seed=seed,
        command="test",
        versions={},
        artifact_digest=artifact_digest,
        data_digest=data_digest,
        num_samples=1,
        created="2030-01-01T00:00:00+00:00",
    )


def options(**changes):
    return SearchOptions(**{"max_evaluations": 160, "population_size": 20, **changes})


def run(problem=None, evaluate_many=None, store=None, progress=False, **changes):
    settings = options(**changes)
    return search(
        problem or toy_problem(),
        evaluate_many or evaluate_in_turn(toy_metrics),
        options=settings,
        provenance=provenance(seed=settings.seed),
        store=store,
        progress=progress,
    )


@functools.cache
def plain_run():
    """The run that others are compared with."""
    return run()


def same_search(first, second):
    """Whether two runs took the same steps; the store may have served either."""
    steps = [
        [
            (row.num_evaluated + row.num_reused, row.best_metric, row.hypervolume)
            for row in result.history
        ]
        for result in (first, second)
    ]
    return (
        first.front == second.front
        and first.references == second.references
        and first.stop_reason == second.stop_reason
        and steps[0] == steps[1]
    )


class Counting:
    """Counts calls; raises at the call after a number of them."""

    def __init__(self, stop_after=None, error=RuntimeError):
        self.policies = []
        self.stop_after = stop_after
        self.error = error

    def __call__(self, policy):
        if len(self.policies) == self.stop_after:
            raise self.error
        self.policies.append(policy)
        return toy_metrics(policy)


class TestDominates:
    # Point, and the numbers of the points that dominate it.
    TABLE = (
        ((0, 0), ()),
        ((0, 1), (0,)),
        ((1, 0), (0,)),
        ((1, 1), (0, 1, 2)),
        ((INF, 0), (0, 2)),
        ((-INF, INF), ()),
    )

    def test_all_pairs(self):
        for (i, (first, _)), (second, by) in itertools.product(
            enumerate(self.TABLE), self.TABLE
        ):
            assert dominates(first, second) == (i in by), (first, second)

    def test_better_in_one_and_equal_in_the_rest_dominates(self):
        assert dominates((1, 2, 3), (1, 2, 4))
        assert not dominates((1, 2, 4), (1, 2, 3))

    def test_equal_infinities_are_ties(self):
        assert dominates((INF, 0), (INF, 1))
        assert not dominates((INF, INF), (INF, INF))

    def test_a_nan_and_another_length_are_refused(self):
        with pytest.raises(SearchError, match="NaN cannot be compared"):
            dominates((NAN, 0), (0, 0))
        with pytest.raises(SearchError, match="same number of objectives"):
            dominates((0,), (0, 0))


class TestParetoFront:
    def test_agrees_with_all_pairs_of_dominates(self):
        rng = random.Random(1)
        for num_objectives in (1, 2, 3):
            points = [
                tuple(rng.choice((0, 1, 2, 3, INF)) for _ in range(num_objectives))
                for _ in range(40)
            ]
            expected = tuple(
                index
                for index, point in enumerate(points)
                if not any(dominates(other, point) for other in points)
                and point not in points[:index]
            )
            assert pareto_front(points) == expected

    def test_of_equal_points_the_first_stays(self):
        assert pareto_front([(1, 1), (0, 2), (0, 2), (1, 1)]) == (0, 1)

    def test_of_nothing_is_nothing(self):
        assert pareto_front([]) == ()

    def test_a_nan_is_refused(self):
        with pytest.raises(SearchError, match="NaN"):
            pareto_front([(0, NAN)])


class TestHypervolume:
    @pytest.mark.parametrize(
        ("points", "reference", "expected"),
        [
            ([], (3, 3), 0.0),
            ([(1, 1)], (3, 3), 4.0),
            ([(1, 1), (2, 0)], (3, 3), 5.0),  # 2x2 and a strip of 1x1 below it
            ([(1, 1), (2, 2)], (3, 3), 4.0),  # a dominated point adds nothing
            ([(3, 0), (0, 3), (5, -1)], (3, 3), 0.0),  # not better in both
            ([(0, 0, 0), (1, 1, -1)], (2, 2, 2), 9.0),  # 8 and 1 above
            ([(1, INF), (1, 1)], (3, 3), 4.0),
            ([(-INF, 1)], (3, 3), INF),
            ([(1, 1)], (INF, 3), INF),
            ([(1,), (2,)], (4,), 3.0),
        ],
    )
    def test_by_hand(self, points, reference, expected):
        assert hypervolume(points, reference) == pytest.approx(expected)

    def test_a_nan_and_another_length_are_refused(self):
        with pytest.raises(SearchError, match="NaN"):
            hypervolume([(1, NAN)], (3, 3))
        with pytest.raises(SearchError, match="points with 2 objectives"):
            hypervolume([(1, 1, 1)], (3, 3))

    def test_box_leaves_room_beyond_the_worst_value(self):
        assert box([(0.0, 5.0, 0.0), (10.0, 5.0, 0.0)]) == (
            (0.0, 5.0, 0.0),
            (11.0, 5.5, 1.0),
        )


class TestGenomeCodec:
    def test_every_genome_of_a_tiny_space_comes_back(self):
        space = PolicySpace(
            weights={"a": (2, 4, 8), "b": (8,), "c": (4, 8)},
            activations={"b": (6,), "a": (2, 3)},
        )
        codec = GenomeCodec(space)
        genomes = list(codec.all_genomes())
        policies = {codec.decode(genome) for genome in genomes}
        assert codec.sizes == (3, 2, 2)
        assert len(policies) == len(genomes) == codec.num_genomes == 12
        assert codec.num_genomes == space.num_policies
        for genome in genomes:
            space.validate(codec.decode(genome))
            assert codec.encode(codec.decode(genome)) == genome

    def test_genes_are_indices_of_free_entries_weights_first(self):
        space = PolicySpace(
            weights={"a": (2, 4, 8), "b": (8,)}, activations={"x": (3, 5)}
        )
        assert GenomeCodec(space).decode((2, 0)) == Policy(
            weights={"a": 8, "b": 8}, activations={"x": 3}
        )

    def test_entries_keep_the_order_of_the_network(self):
        space = PolicySpace(weights={"b": (8,), "a": (2, 4)}, activations={})
        assert list(GenomeCodec(space).decode((1,)).weights) == ["b", "a"]

    def test_a_space_without_freedom_has_one_genome(self):
        codec = GenomeCodec(PolicySpace(weights={"a": (8,)}, activations={}))
        assert list(codec.all_genomes()) == [()]
        assert codec.encode(codec.decode(())) == ()

    @pytest.mark.parametrize("genome", [(0,), (0, 3), (-1, 0), (0, 0, 0)])
    def test_genomes_of_other_spaces_are_refused(self, genome):
        space = PolicySpace(weights={"a": (2, 8), "b": (2, 4, 8)}, activations={})
        with pytest.raises(SearchError, match=r"2 genes below \(2, 3\)"):
            GenomeCodec(space).decode(genome)

    def test_ladder_climbs_from_narrowest_to_widest(self):
        codec = GenomeCodec(toy_space())
        rng = random.Random(0)
        assert set(codec.ladder_genome(0.0, rng)) == {0}
        assert set(codec.ladder_genome(1.0, rng)) == {2}
        assert set(codec.ladder_genome(0.25, rng)) <= {0, 1}
        assert set(codec.ladder_genome(0.75, rng)) <= {1, 2}


class TestOperators:
    def test_crossover_takes_each_gene_from_a_parent(self):
        child = crossover((0,) * 50, (1,) * 50, random.Random(0))
        assert set(child) == {0, 1}
        assert crossover((3, 2), (3, 2), random.Random(0)) == (3, 2)

    @pytest.mark.parametrize("prob", [0.0, 0.1, 1.0])
    def test_mutation_changes_at_least_one_gene_and_stays_in_range(self, prob):
        sizes = (2, 3, 7) * 10
        rng = random.Random(0)
        genome = (0,) * 30
        for _ in range(50):
            changed = mutate(genome, sizes, prob, rng)
            differing = sum(a != b for a, b in zip(genome, changed, strict=True))
            assert all(0 <= g < s for g, s in zip(changed, sizes, strict=True))
            assert differing == {0.0: 1, 1.0: 30}.get(prob, differing) >= 1
            genome = changed

    def test_mutation_reaches_every_choice(self):
        rng = random.Random(0)
        reached = {mutate((3,), (7,), 1.0, rng)[0] for _ in range(200)}
        assert reached == {0, 1, 2, 4, 5, 6}

    def test_survivors_are_the_first_front_then_the_lonely(self):
        values = [(0, 9), (9, 0), (4, 4), (5, 5), (4.1, 3.9)]
        members = [
            Member(genome=(index,), values=pair) for index, pair in enumerate(values)
        ]
        kept = select_survivors(members, 3)
        assert {one.member.genome for one in kept[:2]} == {(0,), (1,)}
        assert all(one.crowding == INF for one in kept[:2])
        assert kept[2].member.genome in {(2,), (4,)}

    def test_feasible_survive_first_then_few_violations_then_narrow_widths(self):
        members = [
            Member(genome=(2,), num_violations=1),
            Member(genome=(0,), num_violations=2),
            Member(genome=(1,), num_violations=1),
            Member(genome=(3,), values=(INF, INF)),
        ]
        order = [one.member.genome for one in select_survivors(members, 4)]
        assert order == [(3,), (1,), (2,), (0,)]
        assert len(select_survivors(members, 2)) == 2
        assert len(select_survivors(members[:3], 2)) == 2

    @pytest.mark.parametrize(
        ("better", "worse"),
        [
            (
                Ranked(member=Member(genome=(0,), values=(0, 0)), crowding=0),
                Ranked(member=Member(genome=(1,), values=(1, 1)), crowding=INF),
            ),
            (
                Ranked(member=Member(genome=(0,), values=(0, 1)), crowding=2),
                Ranked(member=Member(genome=(1,), values=(1, 0)), crowding=1),
            ),
            (
                Ranked(member=Member(genome=(0,), values=(9, 9)), crowding=0),
                Ranked(member=Member(genome=(1,), num_violations=1), crowding=0),
            ),
            (
                Ranked(member=Member(genome=(0,), num_violations=1), crowding=0),
                Ranked(member=Member(genome=(1,), num_violations=2), crowding=0),
            ),
        ],
    )
    def test_worse_member_wins_only_against_itself(self, better, worse):
        rng = random.Random(0)
        for population in ((better, worse), (worse, better)):
            winners = [tournament(population, rng).genome for _ in range(400)]
            assert 0.15 < winners.count((1,)) / 400 < 0.35

    def test_first_cohort_holds_the_seeds_and_no_doubles(self):
        codec = GenomeCodec(toy_space())
        seeds = [(0,) * 10, (1,) * 10, (0,) * 10]
        cohort = first_cohort(codec, seeds, 20, random.Random(0))
        assert cohort[:2] == seeds[:2]
        assert len(cohort) == len(set(cohort)) == 20

    def test_half_of_the_first_cohort_is_not_from_seeds(self):
        codec = GenomeCodec(toy_space())
        seeds = list(itertools.islice(codec.all_genomes(), 30))
        assert len(first_cohort(codec, seeds, 20, random.Random(0))) == 40

    def test_generations_never_repeat_a_genome_and_end_when_all_are_seen(self):
        codec = GenomeCodec(toy_space(num_layers=2))
        proposals = generations(
            codec,
            [],
            population_size=8,
            crossover_prob=0.9,
            mutation_prob=None,
            rng=random.Random(0),
        )
        seen = []
        cohort = next(proposals)
        while cohort:
            seen += cohort
            members = [Member(genome=one, values=(sum(one), 0)) for one in cohort]
            try:
                cohort = proposals.send(members)
            except StopIteration:
                break
        assert len(seen) == len(set(seen)) == 81


class TestQuality:
    def true_values(self, problem):
        codec = GenomeCodec(problem.space)
        points = [
            (-toy_metrics(policy)["accuracy"], toy_costs(policy)["latency_ms"])
            for policy in map(codec.decode, codec.all_genomes())
        ]
        return [points[index] for index in pareto_front(points)]

    def test_finds_the_front_of_a_space_that_is_enumerated_here(self):
        problem = toy_problem(space=toy_space(num_layers=4))  # 6561 policies
        truth = self.true_values(problem)
        best, reference = box(truth)
        for seed in (0, 1):
            result = run(
                problem,
                seed=seed,
                max_evaluations=500,
                population_size=40,
                patience=None,
            )
            found = [
                (-c.metrics["accuracy"], c.costs["latency_ms"]) for c in result.front
            ]
            share = hypervolume(found, reference) / hypervolume(truth, reference)
            assert 0.99 <= share <= 1
            assert result.num_evaluated == 500
            assert best[0] == pytest.approx(-result.history[-1].best_metric)

    def test_is_better_than_random_search(self):
        problem = toy_problem(space=toy_space(num_layers=10))
        result = run(problem, max_evaluations=300)
        rng = random.Random(0)
        codec = GenomeCodec(problem.space)
        drawn = [codec.decode(codec.random_genome(rng)) for _ in range(300)]
        random_values = [
            (-toy_metrics(one)["accuracy"], toy_costs(one)["latency_ms"])
            for one in drawn
        ]
        found = [(-c.metrics["accuracy"], c.costs["latency_ms"]) for c in result.front]
        _, reference = box(found)
        assert hypervolume(found, reference) > 1.1 * hypervolume(
            random_values, reference
        )

    def test_a_tiny_space_is_enumerated_exactly(self):
        problem = toy_problem(space=toy_space(num_layers=2))  # 81 policies
        result = run(problem, max_evaluations=81)
        assert result.stop_reason is StopReason.ENUMERATED
        assert result.num_evaluated == 81
        found = [(-c.metrics["accuracy"], c.costs["latency_ms"]) for c in result.front]
        assert sorted(found) == sorted(self.true_values(problem))

    def test_a_space_without_freedom_has_a_front_of_one(self):
        problem = toy_problem(space=toy_space(widths=(8,)))
        result = run(problem)
        assert len(result.front) == len(result.references) == 1
        assert result.history[-1].hypervolume == pytest.approx(1.0)


class TestResult:
    def test_front_is_nondominated_named_and_cheapest_first(self):
        result = plain_run()
        values = [(-c.metrics["accuracy"], c.costs["latency_ms"]) for c in result.front]
        assert pareto_front(values) == tuple(range(len(values)))
        assert [value[1] for value in values] == sorted(value[1] for value in values)
        assert [c.name for c in result.front[:2]] == ["policy_00", "policy_01"]
        assert result.front[0].costs["energy_mj"] is None
        for candidate in result.front:
            assert candidate.metrics == toy_metrics(candidate.policy)
            assert candidate.costs == toy_costs(candidate.policy)

    def test_references_are_the_seeds_and_uniform_policies(self):
        space = toy_space()
        mine = space.with_choices(weights={"layer0": [8]}).named("w4a4")
        result = run(toy_problem(seeds={"mine": mine}))
        by_name = {one.name: one.policy for one in result.references}
        assert list(by_name)[:4] == ["mine", "w8a8", "w4a4", "w2a2"]
        assert len(by_name) == 10
        assert by_name["mine"] == mine
        assert all(by_name[name] == space.named(name) for name in space.uniform_names())

    def test_a_seed_equal_to_a_uniform_policy_keeps_its_own_name(self):
        result = run(toy_problem(seeds={"mine": toy_space().named("w4a4")}))
        names = [one.name for one in result.references]
        assert "mine" in names
        assert "w4a4" not in names

    def test_history_rises_to_the_hypervolume_of_the_front(self):
        result = plain_run()
        shares = [row.hypervolume for row in result.history]
        assert shares == sorted(shares)
        assert 0 < shares[0] < shares[-1] < 1.1**2
        assert [row.generation for row in result.history] == list(range(len(shares)))
        assert result.history[-1].num_evaluated == result.num_evaluated == 160
        assert result.history[-1].best_metric == max(
            one.metrics["accuracy"] for one in result.front
        )

    def test_no_policy_is_evaluated_twice(self):
        counting = Counting()
        run(evaluate_many=evaluate_in_turn(counting))
        assert len(counting.policies) == len(set(counting.policies)) == 160

    def test_progress_bar_shows_the_figures(self, capsys):
        run(progress=True)
        shown = capsys.readouterr().err
        for word in ("generation=", "evaluated=", "reused=", "accuracy=", "hypervol"):
            assert word in shown
        run(progress=False)
        assert capsys.readouterr().err == ""


class TestDeterminism:
    def test_same_seed_same_result(self):
        assert run(seed=3) == run(seed=3)

    def test_another_seed_may_give_another_front(self):
        assert run(seed=3).front != run(seed=4).front

    def test_the_global_random_generators_are_neither_used_nor_touched(self):
        states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        first = run()
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
        rng = random.Random(99)
        random.setstate(rng.getstate())
        try:
            assert run() == first
        finally:
            random.setstate(states[0])

    @pytest.mark.parametrize("order", ["reversed", "shuffled"])
    def test_order_of_arrival_does_not_matter(self, order):
        rng = random.Random(5)

        def evaluate_many(policies):
            later = list(reversed(policies))
            if order == "shuffled":
                rng.shuffle(later)
            # As from another process: an equal policy, not the same object.
            for policy in later:
                yield Policy.from_json(policy.to_json()), toy_metrics(policy)

        assert run(evaluate_many=evaluate_many) == plain_run()

    @pytest.mark.parametrize("num_workers", [1, 2, 5])
    def test_number_of_workers_does_not_matter(self, num_workers):
        with ThreadPoolExecutor(num_workers) as pool:

            def evaluate_many(policies):
                futures = {pool.submit(toy_metrics, one): one for one in policies}
                for future in as_completed(futures):
                    yield futures[future], future.result()

            assert run(evaluate_many=evaluate_many) == plain_run()


class TestConstraints:
    @staticmethod
    def limit(max_bytes):
        def violations(policy):
            weight_bytes = toy_costs(policy)["weight_bytes"]
            if weight_bytes <= max_bytes:
                return ()
            return (f"The weights take {weight_bytes} bytes, more than {max_bytes}.",)

        return violations

    def test_infeasible_policies_are_never_evaluated_and_never_in_the_result(self):
        counting = Counting()
        violations = self.limit(40)
        result = run(
            toy_problem(violations=violations),
            evaluate_in_turn(counting),
            seed=1,
            sensitivity=False,
        )
        assert len(counting.policies) == 160
        shown = (*result.front, *result.references)
        assert all(
            not violations(policy)
            for policy in (*counting.policies, *(one.policy for one in shown))
        )
        assert "w8a8" not in [one.name for one in result.references]

    def test_sensitivities_are_measured_where_the_target_takes_no_wide_policy(self):
        counting = Counting()
        problem = toy_problem(violations=self.limit(40))
        result = run(problem, evaluate_in_turn(counting))
        codec = GenomeCodec(problem.space)
        alone = set(map(codec.decode, sensitivity_genomes(codec, 160 // 3)))
        beyond = {one for one in counting.policies if problem.violations(one)}
        assert beyond == {one for one in alone if problem.violations(one)}
        assert problem.space.widest() in beyond
        assert len(beyond) > 10
        assert result.num_evaluated == len(counting.policies) == 160
        shown = (*result.front, *result.references)
        assert not any(problem.violations(one.policy) for one in shown)

    def test_infeasible_policies_do_not_count_in_max_evaluations(self):
        problem = toy_problem(space=toy_space(num_layers=2), violations=self.limit(30))
        codec = GenomeCodec(problem.space)
        num_feasible = sum(
            not problem.violations(codec.decode(one)) for one in codec.all_genomes()
        )
        assert 20 < num_feasible < 70
        result = run(problem, max_evaluations=70, sensitivity=False)
        assert result.num_evaluated == num_feasible
        assert result.stop_reason is StopReason.ENUMERATED

    def test_finds_a_feasible_corner_that_no_seed_lies_in(self):
        def violations(policy):
            return tuple(
                f"Entry {name} takes {bits} bits, but must take 4."
                for name, bits in policy.weights.items()
                if name in ("layer0", "layer2", "layer4") and bits != 4
            ) + tuple(
                f"Entry {name} takes {bits} bits, but must take 2."
                for name, bits in policy.weights.items()
                if name == "layer1" and bits != 2
            )

        result = run(toy_problem(violations=violations))
        assert result.references == ()
        assert all(not violations(one.policy) for one in result.front)

    def test_no_feasible_policy_is_an_error_that_names_the_constraint(self):
        def violations(policy):
            seldom = ("Rare.",) if policy.weights["layer0"] == 8 else ()
            return (*self.limit(3)(policy), *seldom)

        counting = Counting()
        with pytest.raises(SearchError) as caught:
            run(toy_problem(violations=violations), evaluate_in_turn(counting))
        narrowest = toy_costs(toy_space().named("w2a2"))["weight_bytes"]
        message = str(caught.value)
        assert "constraints of target 'toy'" in message
        assert f"The weights take {narrowest} bytes, more than 3." in message
        assert "Relax" in message
        assert not counting.policies

    def test_the_nearest_miss_of_a_smallest_cost_is_the_largest(self):
        widest = toy_costs(toy_space().widest())["weight_bytes"]
        floor = Limit(name="weight_bytes", bound=2 * widest, is_minimum=True)
        with pytest.raises(SearchError, match=f"weight_bytes is {widest:g}, less than"):
            run(limits=(floor,))

    def test_a_search_climbs_to_a_smallest_cost(self):
        widest = toy_costs(toy_space().widest())["weight_bytes"]
        floor = Limit(name="weight_bytes", bound=widest - 4, is_minimum=True)
        start = toy_space().widest()
        result = run(
            toy_problem(violations=lambda one: ("No.",) if one == start else ()),
            limits=(floor,),
            sensitivity=False,
        )
        assert all(one.costs["weight_bytes"] >= widest - 4 for one in result.front)


class TestLimit:
    @pytest.mark.parametrize(
        ("text", "name", "bound"),
        [
            ("latency_ms=2.5", "latency_ms", 2.5),
            ("cycles = 1e6", "cycles", 1_000_000),
            ("weight_bytes=40", "weight_bytes", 40),
            ("weight_bytes=40B", "weight_bytes", 40),
            ("weight_bytes=40kB", "weight_bytes", 40_000),
            ("weight_bytes=40KiB", "weight_bytes", 40_960),
            ("weight_bytes=1.5MB", "weight_bytes", 1_500_000),
            ("peak_bytes=2MiB", "peak_bytes", 2_097_152),
            ("accuracy=85%", "accuracy", 0.85),
            ("top_5_accuracy = 99.5 %", "top_5_accuracy", 0.995),
            ("accuracy=1", "accuracy", 1),
        ],
    )
    def test_reads_numbers_and_units(self, text, name, bound):
        assert Limit.parse(text) == Limit(name=name, bound=bound)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("weight_bytes", "such as 'weight_bytes=40KiB'"),
            ("weight_bytes=", "such as 'weight_bytes=40KiB'"),
            ("weight_bytes=1.2.3", "such as 'weight_bytes=40KiB'"),
            ("weight_bytes=-4", "such as 'weight_bytes=40KiB'"),
            ("weight_bytes=0", "finite limit above 0"),
            ("weight_bytes=1e999", "finite limit above 0"),
            ("weight_bytes=40KB", "Unknown unit 'KB'"),
            ("latency_ms=2KiB", "number without a unit for 'latency_ms'"),
            ("latency_ms=2%", "number without a unit for 'latency_ms'"),
            ("accuracy=85", r"of 1 at most .* got 'accuracy=85'; write 0\.85 or 85%"),
            (
                "top_5_accuracy=101%",
                "a share of 1 at most .* got 'top_5_accuracy=101%'",
            ),
            ("accuracy=85kB", "number without a unit for 'accuracy'"),
        ],
    )
    def test_refuses_other_texts(self, text, message):
        with pytest.raises(SearchError, match=message):
            Limit.parse(text)

    def test_the_bound_itself_is_allowed(self):
        limit = Limit(name="weight_bytes", bound=40)
        assert limit.violation({"weight_bytes": 40}) is None
        assert limit.violation({"weight_bytes": 41}) == (
            "weight_bytes is 41, more than the requested 40."
        )

    def test_a_limit_acts_as_the_same_constraint_of_the_target(self):
        limited = run(limits=(Limit(name="weight_bytes", bound=40),), seed=1)
        violations = TestConstraints.limit(40)
        assert same_search(limited, run(toy_problem(violations=violations), seed=1))
        assert limited.front != run(seed=1).front

    @pytest.mark.parametrize(("of_target", "requested"), [(40, 50), (50, 40)])
    def test_a_limit_adds_to_the_constraints_of_the_target(self, of_target, requested):
        result = run(
            toy_problem(violations=TestConstraints.limit(of_target)),
            limits=(Limit(name="weight_bytes", bound=requested),),
        )
        shown = (*result.front, *result.references)
        assert max(one.costs["weight_bytes"] for one in shown) <= 40

    def test_a_smallest_accuracy_bounds_the_front(self):
        free = [one.metrics["accuracy"] for one in run().front]
        bound = (min(free) + max(free)) / 2
        limit = Limit(name="accuracy", bound=bound, is_minimum=True)
        result = run(limits=(limit,))
        found = [one.metrics["accuracy"] for one in (*result.front, *result.references)]
        assert min(found) >= bound > min(free)
        # What falls short was measured all the same.
        assert result.num_evaluated + result.num_reused == run().num_evaluated

    def test_a_largest_loss_is_a_limit_on_a_metric_too(self):
        losses = [one.metrics["loss"] for one in run().front]
        bound = sorted(losses)[len(losses) // 2]
        result = run(limits=(Limit(name="loss", bound=bound),))
        assert max(one.metrics["loss"] for one in result.front) <= bound < max(losses)

    def test_members_that_fall_short_are_ordered_by_how_far(self):
        far = Member(genome=(0,), num_violations=1, shortfall=0.2)
        near = Member(genome=(1,), num_violations=1, shortfall=0.1)
        good = Member(genome=(2,), values=(1.0, 1.0))
        survivors = select_survivors([far, near, good], 2)
        assert [one.member for one in survivors] == [good, near]

    def test_an_unreachable_accuracy_says_how_near_one_gets(self):
        best = max(one.metrics["accuracy"] for one in run().front)
        limit = Limit(name="accuracy", bound=best + 0.01, is_minimum=True)
        message = f"accuracy is {best:.10g}, less than the requested {best + 0.01:.10g}"
        with pytest.raises(SearchError, match=message):
            run(limits=(limit,))

    def test_a_metric_is_named_where_costs_can_be_met(self):
        # Most policies are too large, but some are not: too inaccurate are all.
        sizes = [toy_costs(one.policy)["weight_bytes"] for one in run().front]
        limits = (
            Limit(name="weight_bytes", bound=sorted(sizes)[1]),
            Limit(name="accuracy", bound=0.999, is_minimum=True),
        )
        with pytest.raises(SearchError, match=r"\d+ met those on costs.*accuracy is"):
            run(limits=limits)

    def test_a_limit_on_a_metric_counts_for_the_shortfall_in_shares(self):
        limit = Limit(name="accuracy", bound=0.8, is_minimum=True)
        assert limit.shortfall({"accuracy": 0.8}) == 0.0
        assert limit.shortfall({"accuracy": 0.6}) == pytest.approx(0.25)
        assert Limit(name="loss", bound=2.0).shortfall({"loss": 3.0}) == 0.5

    def test_an_infeasible_request_says_which_limit_and_how_near_one_gets(self):
        narrowest = toy_problem().space.named("w2a2")
        smallest = toy_costs(narrowest)["weight_bytes"]
        with pytest.raises(SearchError, match=f"weight_bytes is {smallest:g}, more"):
            run(limits=(Limit(name="weight_bytes", bound=smallest / 2),))

    def test_unknown_costs_and_doubles_are_errors(self):
        with pytest.raises(SearchError, match="Did you mean 'weight_bytes'"):
            run(limits=(Limit(name="weigth_bytes", bound=40),))
        with pytest.raises(SearchError, match="one largest and one smallest"):
            options(limits=(Limit(name="cycles", bound=b) for b in (1, 2)))

    def test_a_cost_without_a_figure_is_an_error(self):
        limit = Limit(name="energy_pj", bound=1)
        with pytest.raises(SearchError, match="has a figure for, got 'energy_pj'"):
            limit.violation({"energy_pj": None, "cycles": 1})


class TestStore:
    def test_keeps_metrics_by_artifact_data_and_policy(self, tmp_path):
        policies = [toy_space().named(name) for name in ("w8a8", "w4a4")]
        metrics = {"accuracy": 0.1 + 0.2, "loss": 1e-300}
        key = {"artifact_digest": "a", "data_digest": "d"}
        both = {"metrics": ("accuracy", "loss")}
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            store.put(policies[0], metrics, **key)
            assert store.get(policies, **both, **key) == {policies[0]: metrics}
        with EvaluationStore(str(tmp_path / "store.sqlite")) as store:
            assert store.get(policies, **both, **key) == {policies[0]: metrics}
            for other in ({"artifact_digest": "b"}, {"data_digest": "e"}):
                assert store.get(policies, **both, **{**key, **other}) == {}
            assert len(store) == 1

    def test_keeps_each_metric_for_itself(self, tmp_path):
        policy = toy_space().named("w8a8")
        key = {"artifact_digest": "a", "data_digest": "d"}
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            store.put(policy, {"accuracy": 0.5}, **key)
            assert store.get([policy], metrics=["accuracy", "loss"], **key) == {}
            store.put(policy, {"loss": 2.0}, **key)
            store.put(policy, {"accuracy": 0.75}, **key)
            for names, expected in (
                (["accuracy"], {"accuracy": 0.75}),
                (["loss", "accuracy"], {"accuracy": 0.75, "loss": 2.0}),
            ):
                known = store.get([policy], metrics=names, **key)
                assert known == {policy: expected}
            assert len(store) == 1

    def test_is_shared_by_targets_and_by_runs(self, tmp_path):
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            cold = run(store=store)
            warm = run(store=store)
            other_target = run(
                toy_problem(target="other"),
                store=store,
                objectives=(Objective.parse("loss"), Objective.parse("weight_bytes")),
                patience=None,
            )
        assert (cold.num_evaluated, cold.num_reused) == (160, 0)
        assert (warm.num_evaluated, warm.num_reused) == (0, 160)
        assert same_search(cold, warm)
        assert same_search(cold, plain_run())
        assert other_target.num_reused >= 9  # at least the uniform policies
        assert other_target.num_evaluated + other_target.num_reused == 160

    def test_other_data_are_other_evaluations(self, tmp_path):
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            run(store=store)
            result = search(
                toy_problem(),
                evaluate_in_turn(toy_metrics),
                options=options(),
                provenance=provenance(data_digest="other"),
                store=store,
            )
        assert result.num_reused == 0

    def test_only_runs_of_the_same_metrics_share(self, tmp_path):
        only_loss = replace(toy_problem(), metric_names=("loss",))
        loss = (Objective.parse("loss"), Objective.parse("latency_ms"))
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            first = run(only_loss, store=store, objectives=loss)
            both = run(store=store, objectives=loss)
            assert both.num_reused == 0
            assert run(store=store, objectives=loss).num_evaluated == 0
            again = run(only_loss, store=store, objectives=loss)
        # What the store knows beside the loss changes nothing.
        assert again.num_evaluated == 0
        assert same_search(first, again)

    @pytest.mark.parametrize("num_before", [1, 30, 77, 159])
    def test_resumed_run_repeats_itself_without_measuring_twice(
        self, tmp_path, num_before
    ):
        path = tmp_path / "store.sqlite"
        broken, rest = Counting(stop_after=num_before), Counting()
        with EvaluationStore(path) as store, pytest.raises(RuntimeError):
            run(evaluate_many=evaluate_in_turn(broken), store=store)
        with EvaluationStore(path) as store:
            result = run(evaluate_many=evaluate_in_turn(rest), store=store)
        assert same_search(result, plain_run())
        assert result.num_reused == num_before
        assert result.num_evaluated == len(rest.policies) == 160 - num_before
        assert not set(broken.policies) & set(rest.policies)

    def test_run_killed_by_the_system_is_resumed(self, tmp_path):
        path = tmp_path / "store.sqlite"
        script = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import test_search
from matar_tf.search import EvaluationStore, evaluate_in_turn

num_measured = 0

def slow(policy):
    global num_measured
    num_measured += 1
    time.sleep(0 if num_measured <= 50 else 60)
    print("measured", flush=True)
    return test_search.toy_metrics(policy)

test_search.run(
    evaluate_many=evaluate_in_turn(slow), store=EvaluationStore({str(path)!r})
)
"""
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        ) as process:
            for _ in range(50):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        with EvaluationStore(path) as store:
            num_kept = len(store)
            result = run(store=store)
        # All but the one that was just being written when the signal came.
        assert num_kept in (49, 50)
        assert result.num_reused == num_kept
        assert same_search(result, plain_run())

    def test_two_processes_make_and_write_one_store(self, tmp_path):
        path = tmp_path / "store.sqlite"
        script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from matar_tf.policy import Policy
from matar_tf.search import EvaluationStore

start, stop = int(sys.argv[1]), int(sys.argv[2])
sys.stdin.readline()
for number in range(100):  # both make each file at about the same time
    EvaluationStore(f"{tmp_path}/{{number}}.sqlite").close()
with EvaluationStore({str(path)!r}) as store:
    for index in range(start, stop):
        policy = Policy(weights={{f"layer{{index}}": 8}}, activations={{}})
        store.put(
            policy, {{"index": index}}, artifact_digest="a", data_digest="d"
        )
"""
        spans = (("0", "150"), ("100", "250"))  # some are written by both
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, *span], stdin=subprocess.PIPE
            )
            for span in spans
        ]
        for process in processes:  # both are ready before either may start
            process.stdin.write(b"go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
        policies = [
            Policy(weights={f"layer{index}": 8}, activations={}) for index in range(250)
        ]
        with EvaluationStore(path) as store:
            known = store.get(
                policies, metrics=["index"], artifact_digest="a", data_digest="d"
            )
        assert [known[policy]["index"] for policy in policies] == list(range(250))

    def test_a_store_that_another_process_holds_is_an_error_with_advice(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("matar_tf.search._store._BUSY_TIMEOUT_S", 0.05)
        path = tmp_path / "store.sqlite"
        policy, metrics = toy_space().named("w8a8"), {"accuracy": 1.0}
        with EvaluationStore(path) as store:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(SearchError, match=r"locked.*other processes"):
                store.put(
                    policy, {"accuracy": 1.0}, artifact_digest="a", data_digest="d"
                )
            other.execute("ROLLBACK")
            other.close()
            store.put(policy, metrics, artifact_digest="a", data_digest="d")

    def test_opening_waits_for_another_process_that_is_opening(
        self, tmp_path, monkeypatch
    ):
        path = tmp_path / "store.sqlite"
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN")
        other.execute("SELECT * FROM sqlite_master").fetchall()  # a reader's lock
        with monkeypatch.context() as patch:
            patch.setattr("matar_tf.search._store._WAL_ATTEMPTS", 2)
            patch.setattr("matar_tf.search._store._BUSY_TIMEOUT_S", 0.01)
            with pytest.raises(SearchError, match="locked"):
                EvaluationStore(path)
        later = threading.Timer(0.1, other.execute, ["COMMIT"])
        later.start()
        with EvaluationStore(path) as store:
            assert len(store) == 0
        later.join()
        other.close()

    def test_a_file_that_is_no_database_is_refused_and_left_alone(self, tmp_path):
        path = tmp_path / "store.sqlite"
        path.write_text("accuracy,latency\n" * 100)
        with pytest.raises(
            SearchError, match=r"corrupt.*\. Name another file"
        ) as caught:
            EvaluationStore(path)
        assert "Delete" not in str(caught.value)
        assert path.read_text() == "accuracy,latency\n" * 100

    def test_another_database_is_refused_and_left_alone(self, tmp_path):
        path = tmp_path / "other.sqlite"
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE addresses (name TEXT)")
        other.commit()
        other.close()
        before = path.read_bytes()
        with pytest.raises(SearchError, match=r"another SQLite database; name another"):
            EvaluationStore(path)
        assert path.read_bytes() == before

    def test_a_later_schema_version_is_refused(self, tmp_path):
        path = tmp_path / "store.sqlite"
        EvaluationStore(path).close()
        other = sqlite3.connect(path)
        other.execute("PRAGMA user_version = 3")
        other.close()
        with pytest.raises(SearchError, match=r"schema version 2.*got version 3"):
            EvaluationStore(path)

    def test_a_corrupt_store_is_refused_with_advice(self, tmp_path):
        path, metrics = tmp_path / "store.sqlite", {"accuracy": 1.0}
        with EvaluationStore(path) as store:
            for index in range(300):
                policy = Policy(weights={f"layer{index}": 8}, activations={})
                store.put(policy, metrics, artifact_digest="a", data_digest="d")
        content = bytearray(path.read_bytes())
        content[4096 : 4096 + 2048] = b"\x55" * 2048
        path.write_bytes(content)
        with pytest.raises(SearchError, match=r"is corrupt.*Delete it"):
            EvaluationStore(path)

    def test_corrupt_metrics_are_an_error_with_advice(self, tmp_path):
        path = tmp_path / "store.sqlite"
        policy = toy_space().named("w8a8")
        key = {"artifact_digest": "a", "data_digest": "d"}
        with EvaluationStore(path) as store:
            store.put(policy, {"accuracy": 1.0}, **key)
            other = sqlite3.connect(path)
            other.execute("UPDATE evaluations SET value = '{'")
            other.commit()
            other.close()
            with pytest.raises(SearchError, match="is corrupt"):
                store.get([policy], metrics=["accuracy"], **key)

    def test_a_missing_folder_and_a_folder_as_file_are_errors(self, tmp_path):
        with pytest.raises(SearchError, match="make the folder first"):
            EvaluationStore(tmp_path / "none" / "store.sqlite")
        with pytest.raises(SearchError, match="can be read and written"):
            EvaluationStore(tmp_path)


class TestInterrupt:
    def test_ctrl_c_ends_with_the_front_so_far(self):
        counting = Counting(stop_after=50, error=KeyboardInterrupt)
        result = run(evaluate_many=evaluate_in_turn(counting))
        assert result.interrupted
        assert result.num_evaluated == result.history[-1].num_evaluated == 50
        points = [
            (-toy_metrics(one)["accuracy"], toy_costs(one)["latency_ms"])
            for one in counting.policies
        ]
        assert {one.policy for one in result.front} == {
            counting.policies[index] for index in pareto_front(points)
        }

    def test_ctrl_c_before_the_first_result_is_passed_on(self):
        counting = Counting(stop_after=0, error=KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(evaluate_many=evaluate_in_turn(counting))

    def test_ctrl_c_while_the_front_is_picked_ends_with_that_front(self, monkeypatch):
        pick, presses = search_run._front, [KeyboardInterrupt]

        def pressed(*args):
            if presses:
                raise presses.pop()
            return pick(*args)

        monkeypatch.setattr(search_run, "_front", pressed)
        result = run()
        assert result.interrupted
        assert result.front == plain_run().front

    def test_interrupted_run_can_be_resumed(self, tmp_path):
        counting = Counting(stop_after=50, error=KeyboardInterrupt)
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            run(evaluate_many=evaluate_in_turn(counting), store=store)
            result = run(store=store)
        assert result.num_reused == 50
        assert same_search(result, plain_run())


class TestSearchOptions:
    @pytest.mark.parametrize(
        "changes",
        [
            {"seed": 1},
            {"max_evaluations": 120},
            {"population_size": 30},
            {"objectives": (Objective.parse("loss"), Objective.parse("weight_bytes"))},
            {"crossover_prob": 0.1},
            {"mutation_prob": 0.5},
        ],
    )
    def test_every_field_changes_the_search(self, changes):
        assert run(**changes).front != plain_run().front

    def test_minutes_end_a_search_after_a_generation(self):
        free = run()
        timed = run(max_minutes=1e-9)
        assert timed.stop_reason is StopReason.MAX_MINUTES
        assert len(timed.history) == 1 < len(free.history)
        assert run(max_minutes=60.0).front == free.front

    def test_patience_ends_a_search_that_stands_still(self):
        def flat(policy):
            return {"accuracy": 0.5, "loss": 1.0}

        for patience, num_generations in ((1, 2), (3, 4)):
            result = run(
                evaluate_many=evaluate_in_turn(flat), patience=patience, seed=1
            )
            assert result.stop_reason is StopReason.PATIENCE
            assert len(result.history) == num_generations
        result = run(evaluate_many=evaluate_in_turn(flat), patience=None)
        assert result.stop_reason is StopReason.MAX_EVALUATIONS

    def test_time_is_up_within_a_cohort(self, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: clock[0])

        def slow(policy):
            clock[0] += 1.0
            return toy_metrics(policy)

        result = run(evaluate_many=evaluate_in_turn(slow), max_minutes=0.1)
        assert result.stop_reason is StopReason.MAX_MINUTES
        assert result.num_evaluated == 6  # seconds
        assert result.front

    def test_minutes_end_the_enumeration_of_a_space_of_any_size(self, monkeypatch):
        count, all_genomes = itertools.count(), GenomeCodec.all_genomes

        def counted(codec):
            for genome in all_genomes(codec):
                next(count)
                yield genome

        monkeypatch.setattr(GenomeCodec, "all_genomes", counted)
        problem = toy_problem(space=toy_space(num_layers=6))
        size = problem.codec().num_genomes
        result = run(problem, max_minutes=1e-9, max_evaluations=size)
        assert result.stop_reason is StopReason.MAX_MINUTES
        assert next(count) < 100 < size

    def test_search_ends_when_no_new_policy_can_be_found(self, monkeypatch):
        monkeypatch.setattr("matar_tf.search._nsga2._ATTEMPTS_PER_CHILD", 0)
        result = run(sensitivity=False)
        assert result.stop_reason is StopReason.EXHAUSTED
        assert result.num_evaluated == len(result.references) == 9

    def test_search_ends_when_the_feasible_policies_are_used_up(self):
        few = [toy_space().named(name) for name in ("w2a2", "w4a4", "w8a8")]
        problem = toy_problem(violations=lambda one: () if one in few else ("No.",))
        result = run(problem, patience=None, sensitivity=False)
        assert result.stop_reason is StopReason.EXHAUSTED
        assert result.num_evaluated == len(few)

    def test_max_evaluations_holds_when_it_is_no_multiple_of_the_population(self):
        result = run(max_evaluations=47)
        assert result.num_evaluated == 47
        assert result.stop_reason is StopReason.MAX_EVALUATIONS

    @pytest.mark.parametrize("number", [1, 3, 19])
    def test_max_evaluations_may_be_fewer_than_the_population(self, number):
        result = run(max_evaluations=number)
        assert result.num_evaluated == number
        assert result.stop_reason is StopReason.MAX_EVALUATIONS
        known = {one.policy: one.metrics for one in plain_run().front}
        settings = follow_up(
            from_nothing(options(max_evaluations=number)),
            toy_problem(),
            known,
            num_new=number,
        )
        later = search(
            toy_problem(),
            evaluate_in_turn(toy_metrics),
            options=settings,
            provenance=provenance(),
            memory=known,
        )
        assert later.num_evaluated == number

    def test_three_objectives_find_a_front_of_three_objectives(self):
        names = ("accuracy", "latency_ms", "weight_bytes")
        result = run(objectives=tuple(map(Objective.parse, names)))
        values = [
            tuple(one.to_minimized(c.value(one)) for one in result.objectives)
            for c in result.front
        ]
        assert pareto_front(values) == tuple(range(len(values)))
        assert len({value[:2] for value in values}) > len(
            pareto_front([value[:2] for value in values])
        )
        latencies = [c.costs["latency_ms"] for c in result.front]
        assert latencies == sorted(latencies)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"population_size": 3}, "at least 4, got 3"),
            ({"max_evaluations": 0}, "max_evaluations of at least 1, got 0"),
            ({"planned_evaluations": 0}, "planned_evaluations of at least 1, got 0"),
            ({"max_minutes": 0.0}, "max_minutes above 0, got 0.0; leave it out"),
            ({"max_minutes": math.inf}, "finite max_minutes above 0, got inf"),
            ({"patience": 0}, "at least 1 generation, got 0; use None"),
            ({"crossover_prob": 1.5}, r"crossover_prob in 0\.\.1, got 1\.5"),
            ({"mutation_prob": -0.1}, r"mutation_prob in 0\.\.1, got -0\.1"),
            ({"objectives": ()}, r"two or more different objectives.* got \[\]"),
            (
                {"objectives": (Objective(name="a"), Objective(name="a"))},
                "two or more different",
            ),
        ],
    )
    def test_impossible_settings_are_refused(self, changes, message):
        with pytest.raises(SearchError, match=message):
            options(**changes)


class TestErrors:
    def never(self, policies):
        raise AssertionError("nothing must be measured")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("acuracy", "latency_ms"), r"'acuracy'\. Did you mean 'accuracy'"),
            (("accuracy", "latency"), r"'latency'\. Did you mean 'latency_ms'"),
            (("accuracy", "energy_mj"), r"got 'energy_mj'; choose from \['latency_ms'"),
            (("accuracy", "loss"), r"a metric .* and a cost .* got \['accuracy'"),
            (("latency_ms", "weight_bytes"), r"a metric \(accuracy, loss\)"),
        ],
    )
    def test_objectives_are_checked_before_anything_is_measured(self, names, message):
        with pytest.raises(SearchError, match=message):
            run(
                evaluate_many=self.never,
                objectives=tuple(Objective(name=name) for name in names),
            )

    def test_metric_names_add_objectives(self):
        problem = toy_problem(metric_names=("f1",))
        objectives = (Objective.parse("max:f1"), Objective.parse("latency_ms"))
        result = run(
            problem,
            evaluate_in_turn(lambda policy: {"f1": toy_metrics(policy)["accuracy"]}),
            objectives=objectives,
        )
        expected = run(
            toy_problem(metric_names=("accuracy",)),
            evaluate_in_turn(
                lambda policy: {"accuracy": toy_metrics(policy)["accuracy"]}
            ),
        )
        assert [one.policy for one in result.front] == [
            one.policy for one in expected.front
        ]

    def test_a_metric_named_as_a_cost_is_refused(self):
        with pytest.raises(SearchError, match=r"differ in name, got \['latency_ms'\]"):
            run(toy_problem(metric_names=("accuracy", "latency_ms")), self.never)

    def test_seeds_must_fit_the_space_and_bear_names_of_their_own(self):
        other = toy_space(num_layers=1).named("w8a8")
        with pytest.raises(SearchError, match=r"the seed 'mine'\. The policy has no"):
            run(toy_problem(seeds={"mine": other}), self.never)
        with pytest.raises(SearchError, match=r"another name .* 'w4a4'"):
            run(toy_problem(seeds={"w4a4": toy_space().named("w4a4")}), self.never)

    def test_the_seed_of_the_provenance_must_be_that_of_the_options(self):
        with pytest.raises(SearchError, match=r"seed of the options \(1\).* got 0"):
            search(
                toy_problem(),
                self.never,
                options=options(seed=1),
                provenance=provenance(seed=0),
            )

    @pytest.mark.parametrize(
        ("metrics", "message"),
        [
            ({"accurcy": 0.5}, r"metric 'accuracy' from the evaluator, got"),
            ({"accuracy": NAN}, "finite number for metric 'accuracy' of 'policy "),
            ({"accuracy": INF}, "finite number for metric 'accuracy'"),
            ({"accuracy": "0.5"}, "Expected a number for metric 'accuracy'"),
        ],
    )
    def test_metrics_that_cannot_be_compared_are_refused(
        self, tmp_path, metrics, message
    ):
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            with pytest.raises(SearchError, match=message):
                run(evaluate_many=evaluate_in_turn(lambda policy: metrics), store=store)
            assert len(store) == 0

    def test_the_evaluator_must_yield_every_policy_once(self):
        def forgets(policies):
            return [(policy, toy_metrics(policy)) for policy in policies[1:]]

        def repeats(policies):
            return [(policies[0], toy_metrics(policies[0]))] * 2

        def invents(policies):
            policy = Policy(weights={"other": 8}, activations={})
            return [(policy, {"accuracy": 1.0})]

        with pytest.raises(SearchError, match=r"metrics for 20 policies .* got 19"):
            run(evaluate_many=forgets, sensitivity=False)
        for evaluate_many in (repeats, invents):
            with pytest.raises(SearchError, match="not asked for or came twice"):
                run(evaluate_many=evaluate_many)

    def test_a_cost_that_is_missing_for_some_policies_is_an_error(self):
        def costs(policy):
            narrow = 2 in policy.weights.values()
            return {"latency_ms": None if narrow else 1.0}

        with pytest.raises(SearchError, match="no figure for 'latency_ms'"):
            run(replace(toy_problem(), costs=costs))

    def test_errors_of_the_evaluator_are_passed_on(self):
        with pytest.raises(RuntimeError):
            run(evaluate_many=evaluate_in_turn(Counting(stop_after=5)))
