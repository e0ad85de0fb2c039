"""What a search knows beforehand: drops, ladders, the surrogate."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from fixtures.toy_search import (
    Counting,
    options,
    provenance,
    run,
    toy_costs,
    toy_metrics,
    toy_problem,
    toy_space,
)

from matar_tf.errors import SearchError
from matar_tf.evolution import Limit, evaluate_in_turn, search
from matar_tf.evolution._evaluations import Evaluations
from matar_tf.evolution._genome import Genome, GenomeCodec
from matar_tf.evolution._knapsack import budget_ladder, gene_pairs
from matar_tf.evolution._pareto import box, hypervolume
from matar_tf.evolution._proposals import Proposer, _num_rungs
from matar_tf.evolution._seeding import (
    greedy_ladder,
    interpolate_drops,
    sensitivity_genomes,
)
from matar_tf.evolution._surrogate import Surrogate
from matar_tf.policy import Policy
from matar_tf.results import Objective
from matar_tf.space import PolicySpace

SPACE = PolicySpace(weights={"a": (2, 4, 8), "b": (4, 8)}, activations={"x": (8,)})
CODEC = GenomeCodec(SPACE)
ALL = tuple(range(2, 9))


class TestSensitivity:
    def test_widest_then_narrowest_then_middle(self) -> None:
        assert sensitivity_genomes(CODEC, 10) == [(2, 1), (0, 1), (2, 0), (1, 1)]

    def test_stops_before_it_takes_too_many(self) -> None:
        assert sensitivity_genomes(CODEC, 3) == [(2, 1), (0, 1), (2, 0)]
        assert sensitivity_genomes(CODEC, 2) == []

    def test_drops_between_measured_choices_follow_the_noise(self) -> None:
        codec = GenomeCodec(PolicySpace(weights={"a": (2, 3, 8)}, activations={}))
        drops = interpolate_drops(codec, {(2,): 1.0, (0,): 3.0})
        assert drops is not None
        # 2 at two bits, 0 at eight; three bits have a quarter of the noise power.
        share = (4.0**-3 - 4.0**-8) / (4.0**-2 - 4.0**-8)
        assert drops[0] == pytest.approx([2.0, 2.0 * share, 0.0])

    def test_drops_between_the_narrowest_and_the_middle(self) -> None:
        codec = GenomeCodec(PolicySpace(weights={"a": (2, 3, 4, 8)}, activations={}))
        drops = interpolate_drops(codec, {(3,): 1.0, (0,): 6.0, (2,): 2.0})
        assert drops is not None
        share = (4.0**-3 - 4.0**-4) / (4.0**-2 - 4.0**-4)
        assert drops[0] == pytest.approx([5.0, 1.0 + 4.0 * share, 1.0, 0.0])

    def test_drops_neither_rise_with_bits_nor_fall_below_zero(self) -> None:
        values = {(2, 1): 1.0, (0, 1): 1.5, (1, 1): 2.0, (2, 0): 0.5}
        assert interpolate_drops(CODEC, values) == [[1.0, 1.0, 0.0], [0.0, 0.0]]

    @pytest.mark.parametrize("missing", [(2, 1), (0, 1), (2, 0)])
    def test_unknown_drops_are_none(self, missing: tuple[int, int]) -> None:
        values = {(2, 1): 1.0, (0, 1): 1.5, (2, 0): 0.5}
        del values[missing]
        assert interpolate_drops(CODEC, values) is None


class TestGreedyLadder:
    def test_by_hand(self) -> None:
        """`a` saves 4 and 2 for a drop of 1 and 5, `b` 4 for 2."""
        costs = {(2, 1): 10, (1, 1): 6, (0, 1): 4, (2, 0): 6, (1, 0): 2, (0, 0): 0}
        drops = [[6.0, 1.0, 0.0], [2.0, 0.0]]
        path = greedy_ladder(CODEC, drops, lambda genome: costs[genome], 11)
        assert path == [(2, 1), (1, 1), (1, 0), (0, 0)]
        assert greedy_ladder(CODEC, drops, costs.__getitem__, 2) == [
            (2, 1),
            (0, 0),
        ]

    def test_the_best_rate_comes_first_wherever_its_entry_stands(self) -> None:
        """Each entry saves 1 of the cost for the drop below."""
        drops = [5.0, 4.0, 3.0, 2.0, 1.0, 6.0]
        codec = GenomeCodec(
            PolicySpace(weights={f"w{i}": (2, 8) for i in range(6)}, activations={})
        )
        path = greedy_ladder(
            codec,
            [[drop, 0.0] for drop in drops],
            lambda one: 1.0 + sum(one),
            7,
        )
        order = sorted(range(6), key=drops.__getitem__)
        expected = [
            tuple(int(gene not in order[:number]) for gene in range(6))
            for number in range(7)
        ]
        assert path == expected

    def test_what_saves_nothing_is_given_up_last(self) -> None:
        def cost(genome: tuple[int, ...]) -> float:
            return 1.0 + genome[0]

        path = greedy_ladder(CODEC, [[9.0, 9.0, 0.0], [0.0, 0.0]], cost, 9)
        assert path[0] == (2, 1)
        assert (0, 1) in path

    def test_is_near_the_best_sums_of_all(self) -> None:
        rng = random.Random(0)
        codec = GenomeCodec(
            PolicySpace(weights={f"w{i}": (2, 4, 8) for i in range(6)}, activations={})
        )
        sizes = [rng.uniform(1, 5) for _ in range(6)]
        drops = [[rng.uniform(2, 9), rng.uniform(0, 2), 0.0] for _ in range(6)]
        bits = (2, 4, 8)

        def cost(genome: tuple[int, ...]) -> float:
            return sum(n * bits[g] for n, g in zip(sizes, genome, strict=True))

        def drop(genome: tuple[int, ...]) -> float:
            return sum(one[g] for one, g in zip(drops, genome, strict=True))

        ladder = greedy_ladder(codec, drops, cost, 10)
        every = list(itertools.product(range(3), repeat=6))
        _, worst = box([(cost(one), drop(one)) for one in every])
        best = hypervolume([(cost(one), drop(one)) for one in every], worst)
        found = hypervolume([(cost(one), drop(one)) for one in ladder], worst)
        assert found > 0.93 * best


class TestBudgetLadder:
    """Against enumeration: two layers that share an input, one more with its own."""

    CODEC = GenomeCodec(
        PolicySpace(
            weights={"a": (2, 4, 8), "b": (2, 4, 8), "c": (8,)},
            activations={"x": (2, 4, 8), "y": (4, 8)},
        )
    )
    PAIRS = ((0, 2), (1, 2))
    DROPS = ([6.0, 1.0, 0.0], [2.5, 2.0, 0.0], [7.0, 3.0, 0.0], [0.5, 0.0])

    def cost(self, genome: Genome) -> float:
        policy = self.CODEC.decode(genome)
        (a, b, c), (x, y) = policy.weights.values(), policy.activations.values()
        return 7.0 + 3.0 * a * x + 5.0 * b * x + 2.0 * c * y

    def drop(self, genome: Genome) -> float:
        return sum(one[g] for one, g in zip(self.DROPS, genome, strict=True))

    @pytest.mark.parametrize("num_rungs", [1, 2, 7, 40])
    def test_is_the_best_sum_of_all_for_every_budget(self, num_rungs: int) -> None:
        every = list(self.CODEC.all_genomes())
        low, high = min(map(self.cost, every)), max(map(self.cost, every))
        slack = len(self.CODEC.sizes) / 2 * (high - low) / 2000  # costs are rounded
        found = budget_ladder(self.CODEC, self.DROPS, self.cost, self.PAIRS, num_rungs)
        assert len(found) <= 2 * num_rungs
        for rung in range(num_rungs):
            budget = low + (high - low) * rung / max(num_rungs - 1, 1)
            affordable = [one for one in every if self.cost(one) <= budget - slack]
            least = min(map(self.drop, affordable), default=math.inf)
            assert any(
                self.cost(one) <= budget + slack and self.drop(one) <= least
                for one in found
            )

    @pytest.mark.parametrize("num_rungs", [1, 2, 7, 40])
    def test_is_the_cheapest_of_all_for_every_drop(self, num_rungs: int) -> None:
        every = list(self.CODEC.all_genomes())
        costs = list(map(self.cost, every))
        slack = len(self.CODEC.sizes) * (max(costs) - min(costs)) / 2000
        found = budget_ladder(self.CODEC, self.DROPS, self.cost, self.PAIRS, num_rungs)
        top = self.drop(min(every, key=lambda one: (self.cost(one), one)))
        for rung in range(num_rungs):
            level = top * (1.0 - rung / max(num_rungs - 1, 1)) + 1e-9
            least = min(self.cost(one) for one in every if self.drop(one) <= level)
            assert any(
                self.drop(one) <= level and self.cost(one) <= least + slack
                for one in found
            )

    def test_without_its_pairs_a_product_is_taken_for_a_sum(self) -> None:
        arguments = self.CODEC, self.DROPS, self.cost
        paired = budget_ladder(*arguments, self.PAIRS, 7)
        assert budget_ladder(*arguments, (), 7) != paired

    def test_pairs_are_of_free_entries_and_named_once(self) -> None:
        problem = toy_problem(
            space=self.CODEC.space,
            pairs=(("b", "x"), ("a", "y"), ("c", "x"), ("b", "x")),
        )
        assert gene_pairs(problem, self.CODEC) == [(1, 2), (0, 3)]

    def test_a_search_measures_the_solutions(self) -> None:
        """And meets them all therefore, which a plan without pairs does not."""
        names = [f"layer{index}" for index in range(5)]
        problem = toy_problem(pairs=tuple(zip(names, names, strict=True)))
        codec = GenomeCodec(problem.space)
        genomes = sensitivity_genomes(codec, 99)
        losses = {one: toy_metrics(codec.decode(one))["loss"] for one in genomes}
        drops = interpolate_drops(codec, losses)
        assert drops is not None
        solved = budget_ladder(
            codec,
            drops,
            lambda genome: toy_costs(codec.decode(genome))["latency_ms"],
            gene_pairs(problem, codec),
            10,
        )
        assert len(solved) > 5
        counting, without = Counting(), Counting()
        run(problem, evaluate_in_turn(counting), oversampling=1)
        run(toy_problem(), evaluate_in_turn(without), oversampling=1)
        policies = {codec.decode(one) for one in solved}
        assert policies <= set(counting.policies)
        assert not policies <= set(without.policies)


class TestSurrogate:
    def test_ranks_policies_that_it_has_not_seen(self) -> None:
        codec = GenomeCodec(toy_space(num_layers=6, widths=ALL))
        rng = random.Random(0)
        policies = [codec.decode(codec.random_genome(rng)) for _ in range(260)]
        losses = np.array([toy_metrics(one)["loss"] for one in policies])
        surrogate = Surrogate(policies[:160], losses[:160, None])
        predicted = surrogate.predict(policies[160:])[:, 0]
        assert predicted.shape == (100,)
        ranks = [values.argsort().argsort() for values in (predicted, losses[160:])]
        assert np.corrcoef(*ranks)[0, 1] > 0.9

    def test_tells_wide_policies_apart_by_what_is_particular_to_a_choice(self) -> None:
        """Which the noise of rounding, next to none at these widths, does not."""
        codec = GenomeCodec(toy_space(num_layers=6, widths=(5, 6, 7, 8)))
        rng = random.Random(0)
        policies = [codec.decode(codec.random_genome(rng)) for _ in range(260)]
        names = list(policies[0].weights)
        effects = {(name, bits): rng.gauss(0.0, 1.0) for name in names for bits in ALL}
        values = np.array(
            [sum(effects[item] for item in one.weights.items()) for one in policies]
        )
        surrogate = Surrogate(policies[:160], values[:160, None])
        predicted = surrogate.predict(policies[160:])[:, 0]
        assert np.corrcoef(predicted, values[160:])[0, 1] > 0.8

    def test_deviations_by_hand(self) -> None:
        """Two policies that differ in one of two entries, by the formulas."""
        first, second = (
            Policy(weights={"a": 2, "b": bits}, activations={}) for bits in (2, 3)
        )
        near = math.exp(-(0.75**2) / 2) + 0.05 * math.exp(-0.5 / 0.25)
        covariance = np.array([[1.1, near], [near, 1.1]])  # 1 + 0.05 + ridge 0.05
        values = np.array([3.0, 5.0])  # mean 4, deviation 1
        inverse = np.linalg.inv(covariance)
        weights = inverse @ (values - 4.0)
        surrogate = Surrogate([first, second], values[:, None])
        expected = 4.0 + np.array([1.05, near]) @ weights
        assert surrogate.predict([first])[0, 0] == pytest.approx(expected)
        row = np.array([1.05, near])
        variance = 1.1 - row @ inverse @ row
        # The better half is the first one alone, left out by the second.
        residual = abs(weights[0]) / math.sqrt(inverse[0, 0])
        assert surrogate.deviations([first])[0, 0] == pytest.approx(
            math.sqrt(variance) * residual
        )

    def test_deviations_are_as_large_as_the_errors_of_good_policies(self) -> None:
        codec = GenomeCodec(toy_space(num_layers=6, widths=ALL))
        rng, noise = random.Random(0), np.random.default_rng(0)
        policies = [codec.decode(codec.random_genome(rng)) for _ in range(460)]
        exact = np.array([toy_metrics(one)["loss"] for one in policies])
        values = np.stack([exact + noise.normal(0.0, 0.1, 460), 7.0 * exact], axis=1)
        surrogate = Surrogate(policies[:160], values[:160])
        errors = values[160:] - surrogate.predict(policies[160:])
        deviations = surrogate.deviations(policies[160:])
        assert deviations.shape == (300, 2)
        is_better = values[160:] <= np.median(values[:160], axis=0)
        for column in range(2):
            ratios = (errors / deviations)[is_better[:, column], column]
            assert 0.7 < np.sqrt(np.mean(ratios**2)) < 1.4

    def test_deviations_are_larger_far_from_what_was_measured(self) -> None:
        near = [Policy(weights={"a": bits}, activations={}) for bits in (6, 7, 8)]
        far = Policy(weights={"a": 2}, activations={})
        values = np.array([[1.0], [1.1], [0.9]])
        found = Surrogate(near, values).deviations([near[1], far])
        assert found[1, 0] > 1.5 * found[0, 0] > 0.0

    def test_a_constant_figure_is_predicted_as_such(self) -> None:
        policies = [Policy(weights={"a": bits}, activations={}) for bits in ALL]
        surrogate = Surrogate(policies, np.full((7, 2), 3.0))
        np.testing.assert_allclose(surrogate.predict(policies), 3.0)
        assert np.all(surrogate.deviations(policies) > 0.0)


class TestPlan:
    @pytest.mark.parametrize("size", [29, 35, 40])
    def test_holds_the_greedy_policies_of_ten_budgets(self, size: int) -> None:
        """However many rungs there are beside the ten solutions."""
        problem = toy_problem(space=toy_space(num_layers=6, widths=ALL))
        codec = GenomeCodec(problem.space)
        genomes = sensitivity_genomes(codec, 99)
        losses = {one: toy_metrics(codec.decode(one))["loss"] for one in genomes}
        drops = interpolate_drops(codec, losses)
        assert drops is not None
        ladder = greedy_ladder(
            codec,
            drops,
            lambda genome: toy_costs(codec.decode(genome))["latency_ms"],
            10,
        )
        assert len(ladder) > 5
        counting = Counting()
        run(
            problem,
            evaluate_in_turn(counting),
            population_size=size,
            max_evaluations=200,
            oversampling=1,
        )
        assert {codec.decode(one) for one in ladder} <= set(counting.policies)

    def test_length_of_a_ladder(self) -> None:
        lengths = [_num_rungs(largest) for largest in (-3, 0, 1, 9, 10, 18, 19, 30)]
        assert lengths == [0, 0, 1, 9, 10, 10, 19, 28]


class TestGuidedSearch:
    @pytest.mark.parametrize(
        "changes", [{"sensitivity": False}, {"oversampling": 1}, {"oversampling": 3}]
    )
    def test_every_part_changes_the_search(self, changes: dict[str, int]) -> None:
        assert run(**changes).front != run().front

    @pytest.mark.parametrize("changes", [{"oversampling": 1}, {"sensitivity": False}])
    def test_each_part_alone_beats_plain_nsga2(self, changes: dict[str, int]) -> None:
        problem = toy_problem(space=toy_space(num_layers=6, widths=ALL))

        def points(**settings: object) -> list[tuple[float, float]]:
            result = run(problem, patience=None, **settings)
            return [
                (-one.metrics["accuracy"], one.costs["latency_ms"])
                for one in result.front
            ]

        plain = points(sensitivity=False, oversampling=1)
        guided = points(**changes)
        _, worst = box([*plain, *guided])
        assert hypervolume(guided, worst) > hypervolume(plain, worst)

    def test_infeasible_children_are_not_proposed(self) -> None:
        def violations(policy: Policy) -> tuple[str, ...]:
            return ("too slow",) if toy_costs(policy)["latency_ms"] > 4.0 else ()

        counting = Counting()
        problem = toy_problem(violations=violations)
        result = run(problem, evaluate_in_turn(counting))
        assert result.num_evaluated == len(counting.policies)
        codec = GenomeCodec(problem.space)
        alone = set(map(codec.decode, sensitivity_genomes(codec, 100)))
        proposed = [one for one in counting.policies if one not in alone]
        assert len(proposed) > 100
        assert not any(map(violations, proposed))

    def test_a_contrary_surrogate_worsens_the_front_and_does_not_enter_it(self) -> None:
        class Contrary(Surrogate):
            def predict(self, policies: Sequence[Policy]) -> np.ndarray:
                return -super().predict(policies)

        def front(surrogate: type[Surrogate]) -> list[tuple[float, float]]:
            result = search(
                toy_problem(space=toy_space(num_layers=6, widths=ALL)),
                evaluate_in_turn(toy_metrics),
                options=options(patience=None, sensitivity=False),
                provenance=provenance(),
                surrogate=surrogate,
            )
            assert all(
                one.metrics["accuracy"] == toy_metrics(one.policy)["accuracy"]
                for one in result.front
            )
            return [
                (-one.metrics["accuracy"], one.costs["latency_ms"])
                for one in result.front
            ]

        contrary, ours = front(Contrary), front(Surrogate)
        _, worst = box([*contrary, *ours])
        assert hypervolume(contrary, worst) < hypervolume(ours, worst)

    def test_a_bad_oversampling_is_refused(self) -> None:
        with pytest.raises(SearchError, match="oversampling"):
            options(oversampling=0)


class Told:
    """A surrogate that holds a table of losses and deviations."""

    def __init__(self, table: dict[Policy, tuple[float, float]]) -> None:
        self.table = table

    def __call__(self, policies: Sequence[Policy], figures: np.ndarray) -> Told:
        return self

    def predict(self, policies: Sequence[Policy]) -> np.ndarray:
        return np.array([[self.table[one][0]] for one in policies])

    def deviations(self, policies: Sequence[Policy]) -> np.ndarray:
        return np.array([[self.table[one][1]] for one in policies])


class TestProposals:
    """Weights of 2 to 8 bits each, whose sum is the latency."""

    SPACE = PolicySpace(weights={"a": ALL, "b": ALL, "c": ALL}, activations={})

    def proposer(
        self, surrogate: object, closed: Sequence[str] = (), **changes: object
    ):
        def costs(policy: Policy) -> dict[str, float]:
            return {"latency_ms": float(sum(policy.weights.values()))}

        def metrics(policy: Policy) -> dict[str, float]:
            return {"loss": 30.0 - sum(policy.weights.values())}

        problem = toy_problem(
            space=self.SPACE,
            costs=costs,
            violations=lambda policy: tuple(closed),
            metric_names=("loss",),
        )
        names = ("loss", "latency_ms")
        settings = options(objectives=tuple(map(Objective.parse, names)), **changes)
        evaluations = Evaluations(
            problem,
            evaluate_in_turn(metrics),
            objectives=settings.objectives,
            provenance=provenance(),
            store=None,
            memory={},
            on_measured=lambda: None,
        )
        # A straight front: losses of 24 to 6 for latencies of 6 to 24.
        evaluations.measure([(n, n, n) for n in range(7)], 99)
        evaluations.measure([(n + 1, n, n) for n in range(6)], 99)
        return Proposer(problem, evaluations, settings, surrogate), evaluations.codec

    @pytest.mark.parametrize(("size", "number"), [(30, 10), (12, 5), (5, 5), (3, 3)])
    def test_are_a_third_of_a_generation_and_five_at_least(
        self, size: int, number: int
    ) -> None:
        proposer, codec = self.proposer(Surrogate)
        rng = random.Random(0)

        def breed(population: object, number: int, avoid: object = ()) -> list[Genome]:
            return [codec.random_genome(rng) for _ in range(number)]

        assert len(proposer.propose((), breed, size)) == number

    def test_are_children_where_none_is_feasible(self) -> None:
        closed: list[str] = []
        proposer, _ = self.proposer(Surrogate, closed)
        closed.append("No.")
        calls: list[tuple[object, int]] = []

        def breed(population: object, number: int, avoid: object = ()) -> list[Genome]:
            calls.append((population, number))
            return [(0, 1, 2)]

        assert proposer.propose((), breed, 12) == [(0, 1, 2)]
        assert calls[-1] == ((), 5)

    @pytest.mark.parametrize(
        ("table", "best"),
        [
            # Of two that lie 1 above and 1 below the front, the one below.
            ({(0, 0, 5): (20.0, 1e-6), (0, 5, 0): (18.0, 1e-6)}, (0, 5, 0)),
            # The one above may be anywhere, the other one is 0.01 below.
            ({(0, 0, 5): (20.0, 9.0), (0, 5, 0): (18.99, 1e-6)}, (0, 0, 5)),
        ],
    )
    def test_the_first_is_worth_most_as_guessed(
        self, table: dict[Genome, tuple[float, float]], best: Genome
    ) -> None:
        told = Told({})
        proposer, codec = self.proposer(told)
        told.table.update((codec.decode(one), guess) for one, guess in table.items())
        waiting = list(table)

        def breed(population: object, number: int, avoid: object = ()) -> list[Genome]:
            return [waiting.pop() for _ in range(min(number, len(waiting)))]

        assert proposer.propose((), breed, 1) == [best]

    def test_guesses_that_break_a_limit_come_last(self) -> None:
        told = Told({})
        limit = Limit(name="loss", bound=19.5)
        proposer, codec = self.proposer(told, limits=(limit,))
        table = {
            (0, 0, 5): (20.0, 1e-6),
            (0, 5, 0): (18.0, 1e-6),
            (5, 0, 0): (25.0, 1.0),
        }
        told.table.update((codec.decode(one), guess) for one, guess in table.items())
        waiting = list(table)

        def breed(population: object, number: int, avoid: object = ()) -> list[Genome]:
            return [waiting.pop() for _ in range(min(number, len(waiting)))]

        assert proposer.propose((), breed, 5) == [(0, 5, 0), (0, 0, 5), (5, 0, 0)]


class TestMemory:
    def search(self, memory: dict, **changes: object):
        settings = options(**changes)
        counting = Counting()
        result = search(
            toy_problem(),
            evaluate_in_turn(counting),
            options=settings,
            provenance=provenance(),
            memory=memory,
        )
        return result, counting

    def test_holds_what_was_measured_and_spares_measuring_it(self) -> None:
        memory: dict = {}
        first, counting = self.search(memory)
        assert set(memory) == set(counting.policies)
        again, counting = self.search(memory)
        assert again.num_reused >= first.num_evaluated
        shared = {one.policy for one in first.front}
        assert shared & {one.policy for one in again.front}

    def test_drops_that_others_measured_are_summed_for_these_costs(self) -> None:
        def costs(policy: Policy) -> dict[str, float]:
            bits = policy.weights
            return {"latency_ms": float(bits["layer1"] + bits["layer3"])}

        memory: dict = {}
        self.search(memory)
        known = set(memory)
        problem = toy_problem(costs=costs)
        search(
            problem,
            evaluate_in_turn(toy_metrics),
            options=options(
                population_size=4, max_evaluations=len(known) + 9, oversampling=1
            ),
            provenance=provenance(),
            memory=memory,
        )
        widest = problem.space.widest()
        # Bits that cost nothing are not given up.
        best = Policy(
            weights={**widest.weights, "layer1": 2, "layer3": 2},
            activations=widest.activations,
        )
        assert best in set(memory) - known

    def test_generations_of_a_taught_search_are_twice_as_many(self) -> None:
        problem, settings = toy_problem(), options(oversampling=3)
        memory: dict = {}
        evaluations = Evaluations(
            problem,
            evaluate_in_turn(toy_metrics),
            objectives=settings.objectives,
            provenance=provenance(),
            store=None,
            memory=memory,
            on_measured=lambda: None,
        )
        untaught = Proposer(problem, evaluations, settings)
        rng, codec = random.Random(0), evaluations.codec
        evaluations.measure([codec.random_genome(rng) for _ in range(20)], 20)
        taught = Proposer(problem, evaluations, settings)

        def num_generations(proposer: Proposer) -> int:
            calls: list[int] = []

            def breed(population: object, number: int, avoid: object = ()) -> list:
                calls.append(number)
                return [codec.random_genome(rng) for _ in range(number)]

            proposer.propose((), breed, 10)
            return len(calls)

        assert num_generations(untaught) == 3
        assert num_generations(taught) == 6

    def test_policies_of_other_spaces_teach_but_are_not_proposed(self) -> None:
        other = toy_space(widths=(3, 5, 6))
        codec, rng = GenomeCodec(other), random.Random(0)
        drawn = [codec.decode(codec.random_genome(rng)) for _ in range(80)]
        memory = {one: toy_metrics(one) for one in drawn}
        result, counting = self.search(dict(memory), max_evaluations=60)
        assert result.num_reused == 0
        for policy in counting.policies:
            toy_space().validate(policy)
        untaught, _ = self.search({}, max_evaluations=60)
        assert result.front != untaught.front
