"""The search: results, progress, determinism, interrupts, errors."""

import itertools
import math
import random
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import numpy as np
import pytest
from fixtures.toy_search import (
    Counting,
    options,
    plain_run,
    provenance,
    run,
    same_search,
    toy_costs,
    toy_metrics,
    toy_problem,
    toy_space,
)

from matar_tf.errors import SearchError
from matar_tf.evolution import (
    EvaluationStore,
    Limit,
    _nsga2,
    evaluate_in_turn,
    follow_up,
    from_nothing,
    hypervolume,
    pareto_front,
    search,
)
from matar_tf.evolution import _run as search_run
from matar_tf.evolution._evaluations import Evaluations
from matar_tf.evolution._genome import GenomeCodec
from matar_tf.evolution._pareto import box
from matar_tf.policy import Policy
from matar_tf.results import Objective, StopReason
from matar_tf.space import PolicySpace

INF = math.inf
NAN = math.nan


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

    def test_progress_shows_the_last_generation(self, capsys, tmp_path):
        with EvaluationStore(tmp_path / "store.sqlite") as store:
            run(max_evaluations=40, store=store)
            capsys.readouterr()
            result = run(store=store, progress=True, max_minutes=10.0)
        bar = capsys.readouterr().err
        assert "160/160 [" in bar
        # What follows the bracket wipes out a longer line before.
        shown = bar.rsplit("generation=")[-1].partition("]")[0]
        figures = dict(pair.split("=") for pair in f"generation={shown}".split(", "))
        last = result.history[-1]
        assert last.num_reused == 40
        assert figures == {
            "generation": str(last.generation),
            "evaluated": str(last.num_evaluated),
            "reused": str(last.num_reused),
            "hypervolume": f"{last.hypervolume:.4f}",
            "best accuracy": f"{last.best_metric:.4f}",
            "minutes left": figures["minutes left"],
        }
        assert 9.0 <= float(figures["minutes left"]) <= 10.0

    def test_progress_counts_before_anything_is_feasible(self, capsys):
        floor = Limit(name="accuracy", bound=2.0, is_minimum=True)
        with pytest.raises(SearchError):
            run(progress=True, limits=(floor,), max_evaluations=30)
        shown = capsys.readouterr().err
        assert "evaluated=30, reused=0]" in shown
        assert "hypervolume" not in shown

    def test_a_metric_may_be_called_as_what_progress_shows(self, capsys):
        def evaluate(policy):
            return {"hypervolume": toy_metrics(policy)["accuracy"], "loss": 0.0}

        problem = toy_problem(metric_names=("hypervolume", "loss"))
        result = run(
            problem,
            evaluate_in_turn(evaluate),
            objectives=tuple(map(Objective.parse, ("max:hypervolume", "latency_ms"))),
            max_evaluations=30,
            progress=True,
        )
        best = result.history[-1].best_metric
        assert f"best hypervolume={best:.4f}" in capsys.readouterr().err

    def test_no_progress_is_silent(self, capsys):
        run(progress=False)
        assert capsys.readouterr().err == ""


class TestDiary:
    """A gene of five choices: each a point of loss and latency, measured in turn."""

    # The box of a front of one point is a tenth of its values, and that of the first
    # three ranges from 1 to 2.1 on either side.
    POINTS = ((1.0, 2.0), (2.0, 2.0), (2.0, 1.0), (1.99999, 1.0), (1.5, 1.5))

    class Bar:
        def __init__(self):
            self.shown = []

        def set_postfix(self, figures):
            self.shown.append(figures)

    def convergence(self, deadline=math.inf):
        space = PolicySpace(weights={"a": (2, 3, 4, 5, 6)}, activations={})
        problem = toy_problem(
            space=space,
            metric_names=("loss",),
            costs=lambda one: {"latency_ms": self.POINTS[one.weights["a"] - 2][1]},
        )
        objectives = (Objective.parse("latency_ms"), Objective.parse("loss"))
        evaluations = Evaluations(
            problem,
            evaluate_in_turn(
                lambda one: {"loss": self.POINTS[one.weights["a"] - 2][0]}
            ),
            objectives=objectives,
            provenance=provenance(),
            store=None,
            memory={},
            on_measured=lambda: None,
        )
        bar = self.Bar()
        convergence = search_run.Convergence(
            evaluations, objectives, ("loss",), bar, deadline
        )
        return evaluations, convergence, bar

    def test_only_gains_renew_the_patience(self):
        evaluations, convergence, _ = self.convergence()
        idle = []
        for genome in range(5):
            evaluations.measure([(genome,)], 1)
            assert convergence.is_behind
            convergence.close_generation()
            assert not convergence.is_behind
            idle.append(convergence.num_idle)
        # The second is dominated, the third widens the front, the fourth by a
        # hundredth of a thousandth only, the last by a quarter of its box.
        assert idle == [0, 1, 0, 1, 0]
        convergence.close_generation()
        assert convergence.num_idle == 0  # nothing was measured

    def test_patience_counts_every_generation_without_a_gain(self):
        evaluations, convergence, _ = self.convergence()
        for genome in (4, 1, 3):
            evaluations.measure([(genome,)], 1)
            convergence.close_generation()
        assert [row.num_evaluated for row in convergence.history()] == [1, 2, 3]
        assert convergence.num_idle == 0
        evaluations, convergence, _ = self.convergence()
        for genomes in ([(0,), (2,), (4,)], [(1,)], [(3,)]):
            evaluations.measure(genomes, 3)
            convergence.close_generation()
        assert convergence.num_idle == 2

    def test_history_by_hand(self):
        evaluations, convergence, _ = self.convergence()
        for genome in (0, 2, 4):
            evaluations.measure([(genome,)], 1)
            convergence.close_generation()
        rows = convergence.history()
        assert [row.generation for row in rows] == [0, 1, 2]
        assert [row.best_metric for row in rows] == [1.0, 1.0, 1.0]
        # Strips of 0.1 by 1.1 that overlap in 0.1 by 0.1, and a square of 0.6 by 0.6
        # that overlaps in 0.6 by 0.1 twice, but for the corner that they share.
        expected = [0.11, 0.11 + 0.11 - 0.01, 0.21 + 0.36 - 0.06 - 0.06 + 0.01]
        assert [row.hypervolume for row in rows] == pytest.approx(
            [volume / 1.1**2 for volume in expected]
        )

    @pytest.mark.parametrize(
        ("deadline", "shown"), [(math.inf, {}), (600.0, {"minutes left": "10.0"})]
    )
    def test_the_bar_shows_the_last_row(self, deadline, shown, monkeypatch):
        monkeypatch.setattr("time.monotonic", lambda: 0.0)
        evaluations, convergence, bar = self.convergence(deadline)
        convergence.close_generation()  # of nothing
        evaluations.measure([(0,)], 1)
        convergence.close_generation()
        assert bar.shown == [
            {"generation": 0, "evaluated": 0, "reused": 0, **shown},
            {
                "generation": 1,
                "evaluated": 1,
                "reused": 0,
                "hypervolume": "1.0000",
                "best loss": "1.0000",
                **shown,
            },
        ]


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

    def test_many_small_generations_go_on_while_they_measure(self):
        result = run(
            population_size=4,
            max_evaluations=140,
            patience=None,
            sensitivity=False,
            oversampling=1,
        )
        assert len(result.history) > 30
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
        monkeypatch.setattr(_nsga2, "_ATTEMPTS_PER_CHILD", 0)
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
