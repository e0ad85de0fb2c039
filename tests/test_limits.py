"""Constraints of targets, and limits that are asked for."""

from dataclasses import replace

import pytest
from fixtures.toy_search import (
    Counting,
    options,
    run,
    same_search,
    toy_costs,
    toy_metrics,
    toy_problem,
    toy_space,
)

from matar_tf.errors import SearchError
from matar_tf.evolution import Limit, evaluate_in_turn
from matar_tf.evolution._genome import GenomeCodec
from matar_tf.evolution._limits import Breach, breach_of
from matar_tf.evolution._nsga2 import Member, select_survivors
from matar_tf.evolution._seeding import sensitivity_genomes
from matar_tf.results import StopReason


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
            ("latency_ms=250us", "latency_ms", 0.25),
            ("latency_ms=250µs", "latency_ms", 0.25),
            ("latency_ms=500000ns", "latency_ms", 0.5),
            ("latency_ms=2.5ms", "latency_ms", 2.5),
            ("latency_ms=2s", "latency_ms", 2000),
            ("energy_pj=3pJ", "energy_pj", 3),
            ("energy_pj=3nJ", "energy_pj", 3e3),
            ("energy_pj=3uJ", "energy_pj", 3e6),
            ("energy_pj=3mJ", "energy_pj", 3e9),
            ("energy_pj=3J", "energy_pj", 3e12),
            ("accuracy=85%", "accuracy", 0.85),
            ("top_5_accuracy = 99.5 %", "top_5_accuracy", 0.995),
            ("accuracy=1", "accuracy", 1),
        ],
    )
    def test_reads_numbers_and_units(self, text, name, bound):
        assert Limit.parse(text) == Limit(name=name, bound=bound)
        smallest = Limit(name=name, bound=bound, is_minimum=True)
        assert Limit.parse(text, is_minimum=True) == smallest

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
            ("latency_ms=2KiB", "Unknown unit 'KiB'"),
            ("latency_ms=2%", "Unknown unit '%'"),
            ("energy_pj=2PJ", r"Unknown unit 'PJ' .* Did you mean 'pJ'"),
            ("cycles=2k", "number without a unit for 'cycles'"),
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
        kept = [one for one in limited.references if one.name != "w8a8"]
        assert len(kept) == len(limited.references) - 1
        limited = replace(limited, references=tuple(kept))
        assert same_search(limited, run(toy_problem(violations=violations), seed=1))
        assert limited.front != run(seed=1).front

    @pytest.mark.parametrize("sensitivity", [True, False])
    def test_the_widest_policy_is_a_reference_even_beyond_a_limit(self, sensitivity):
        limits = (Limit(name="weight_bytes", bound=40),)
        result = run(limits=limits, sensitivity=sensitivity)
        widest = toy_space().widest()
        (found,) = [one for one in result.references if one.name == "w8a8"]
        assert found.policy == widest
        assert found.metrics == toy_metrics(widest)
        assert found.costs["weight_bytes"] == toy_costs(widest)["weight_bytes"] > 40
        others = [*result.front, *result.references]
        others.remove(found)
        assert max(one.costs["weight_bytes"] for one in others) <= 40
        # A bound that it breaks with what was measured of it is no other matter.
        loss = toy_metrics(widest)["loss"]
        bounded = run(limits=(Limit(name="loss", bound=loss * 2, is_minimum=True),))
        assert "w8a8" in {one.name for one in bounded.references}

    @pytest.mark.parametrize("texts", [(), ("Too slow.",)])
    def test_what_a_target_does_not_take_is_asked_for_no_costs(self, texts):
        limits = (Limit(name="latency_ms", bound=1.0), Limit(name="loss", bound=1.0))
        asked = []

        def costs(policy):
            asked.append(policy)
            return {"latency_ms": 3.0}

        problem = toy_problem(costs=costs, violations=lambda policy: texts)
        policy = problem.space.widest()
        # A limit on a metric asks for no costs either.
        assert problem.breach(policy, ()) == Breach(texts)
        assert problem.breach(policy, limits[1:]) == Breach(texts)
        assert asked == []
        found = problem.breach(policy, limits)
        if texts:
            assert (found, asked) == (Breach(texts), [])
        else:
            message = "latency_ms is 3, more than the requested 1."
            assert (found, asked) == (Breach((message,), 2.0), [policy])

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

    def test_the_limits_that_are_broken_add_up(self):
        limits = (
            Limit(name="accuracy", bound=0.8, is_minimum=True),
            Limit(name="loss", bound=2.0),
            Limit(name="cycles", bound=10.0),
        )
        kept = {"accuracy": 0.8, "loss": 2.0, "cycles": 10.0}
        assert breach_of(limits, kept) == Breach(texts=(), shortfall=0.0)
        found = breach_of(limits, {"accuracy": 0.6, "loss": 1.0, "cycles": 15.0})
        assert found.texts == (
            "accuracy is 0.6, less than the requested 0.8.",
            "cycles is 15, more than the requested 10.",
        )
        assert found.shortfall == pytest.approx(0.25 + 0.5)

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
