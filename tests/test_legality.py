"""Pairs of widths that may not stand together: legal genomes, mended ones, searches."""

import itertools
import random
from dataclasses import replace

import pytest
from fixtures.paths import SHIPPED
from fixtures.toy_search import run, toy_problem

from matar_tf.artifact import read_artifact
from matar_tf.evolution import evaluate_in_turn, hypervolume
from matar_tf.evolution._genome import GenomeCodec
from matar_tf.evolution._knapsack import budget_ladder
from matar_tf.pricing import check_policy, legal_pairs, legal_space
from matar_tf.results import StopReason
from matar_tf.space import PolicySpace
from matar_tf.targets import load_target

EQUAL = frozenset({(4, 4), (8, 8)})


def space(num_layers=3):
    """Layers a0, a1, ...: the first two read x0, each other one a tensor of its own."""
    return PolicySpace(
        weights={f"a{i}": (4, 8) for i in range(num_layers)},
        activations={f"x{i}": (4, 8) for i in range(num_layers - 1)},
    )


def equal_pairs(num_layers=3):
    return {(f"a{i}", f"x{max(i - 1, 0)}"): EQUAL for i in range(num_layers)}


def is_legal(policy, pairs):
    return all(
        (policy.weights[a], policy.activations[x]) in widths
        for (a, x), widths in pairs.items()
    )


def every_genome(codec):
    return itertools.product(*map(range, codec.sizes))


@pytest.mark.parametrize(
    "pairs",
    [
        {},
        equal_pairs(),
        {("a0", "x0"): {(4, 4), (8, 4), (8, 8)}},
        {("a0", "x0"): {(4, 8), (8, 4), (8, 8)}, ("a2", "x1"): EQUAL},
    ],
)
def test_legal_genomes_are_those_whose_pairs_are(pairs):
    codec = GenomeCodec(space(), pairs)
    legal = [one for one in every_genome(codec) if is_legal(codec.decode(one), pairs)]
    assert list(map(codec.is_legal, legal)) == [True] * len(legal)
    assert sum(map(codec.is_legal, every_genome(codec))) == len(legal)
    assert sorted(codec.all_genomes()) == legal
    assert codec.num_genomes == len(legal)


def test_mending_changes_what_must_change():
    codec = GenomeCodec(space(), equal_pairs())
    # a0, a1, a2, x0, x1: the weights follow.
    assert codec.mended((1, 1, 1, 0, 1)) == (0, 0, 1, 0, 1)
    assert codec.mended((0, 1, 1, 1, 0)) == (1, 1, 0, 1, 0)
    assert codec.mended((0, 0, 1, 0, 1)) == (0, 0, 1, 0, 1)


def test_mending_keeps_any_gene_of_a_star():
    codec = GenomeCodec(space(), equal_pairs())
    drawn = {codec.mended((0, 1, 1, 1, 1), random.Random(i)) for i in range(50)}
    # a0 stays and the others follow it, or a0 follows.
    assert drawn == {(0, 0, 1, 0, 1), (1, 1, 1, 1, 1)}


def test_all_genes_of_a_star_follow_the_one_that_is_drawn():
    widths = (2, 4, 8)
    equal = {(bits, bits) for bits in widths}
    codec = GenomeCodec(
        PolicySpace(weights={"a": widths, "b": widths}, activations={"x": widths}),
        {("a", "x"): equal, ("b", "x"): equal},
    )
    drawn = {codec.mended((0, 2, 1), random.Random(i)) for i in range(50)}
    assert drawn == {(0, 0, 0), (2, 2, 2), (1, 1, 1)}


def test_mending_takes_the_nearest_choice_and_the_wider_of_two():
    widths = (2, 3, 4, 5, 6)
    pairs = {("a", "x"): {(2, 4), (4, 4), (6, 4), (2, 2), (6, 2)}}
    codec = GenomeCodec(
        PolicySpace(weights={"a": widths}, activations={"x": widths}), pairs
    )
    assert codec.mended((1, 2)) == (2, 2)  # 3 bits beside 4: 2 or 4
    assert codec.mended((2, 0)) == (4, 0)  # 4 bits beside 2: 2 or 6


def test_a_kernel_tied_to_two_activations_follows_the_first():
    pairs = {("a0", "x0"): EQUAL, ("a0", "x1"): EQUAL, ("a2", "x1"): EQUAL}
    codec = GenomeCodec(space(), pairs)
    assert codec.mended((1, 1, 1, 0, 1)) == (0, 1, 1, 0, 1)
    assert codec.mended((0, 1, 1, 0, 0)) == (0, 1, 0, 0, 0)


def test_children_and_random_genomes_are_legal():
    codec = GenomeCodec(space(8), equal_pairs(8))
    rng = random.Random(0)
    for _ in range(200):
        assert codec.is_legal(codec.random_genome(rng))
        assert codec.is_legal(codec.ladder_genome(rng.random(), rng))


def tied_problem(num_layers, **changes):
    pairs = equal_pairs(num_layers)

    def costs(policy):
        return {"latency_ms": float(sum(policy.weights.values())), "macs": 1.0}

    def violations(policy):
        return () if is_legal(policy, pairs) else ("Widths must be equal.",)

    fields = {
        "space": space(num_layers),
        "costs": costs,
        "violations": violations,
        "pairs": tuple(pairs),
        "legal_pairs": pairs,
    }
    return toy_problem(**{**fields, **changes})


def metrics(policy):
    noise = sum(
        (i + 1) * 4.0**-bits
        for i, bits in enumerate(
            (*policy.weights.values(), *policy.activations.values())
        )
    )
    return {"accuracy": 1.0 - noise, "loss": noise}


class TestSearch:
    def test_what_a_target_does_not_take_has_no_price(self):
        problem = tied_problem(16)

        def costs(policy):
            assert not problem.violations(policy)
            return problem.costs(policy)

        priced = replace(problem, costs=costs)
        result = run(priced, evaluate_in_turn(metrics), max_evaluations=150)
        assert result == run(problem, evaluate_in_turn(metrics), max_evaluations=150)

    def test_few_legal_policies_of_many_are_enumerated(self):
        problem = tied_problem(7)  # 64 of 8,192
        result = run(problem, evaluate_in_turn(metrics), max_evaluations=64)
        assert result.stop_reason is StopReason.ENUMERATED
        assert result.num_evaluated == 64

    def test_a_large_space_uses_up_its_evaluations(self):
        # 32,768 of 2**31 policies are legal.
        result = run(
            tied_problem(16),
            evaluate_in_turn(metrics),
            max_evaluations=150,
            patience=None,
        )
        assert result.num_evaluated == 150
        assert result.stop_reason is StopReason.MAX_EVALUATIONS

    def test_knowing_the_pairs_finds_the_better_front(self):
        problem = tied_problem(16)
        volumes = []
        for one in (problem, replace(problem, legal_pairs={})):
            result = run(one, evaluate_in_turn(metrics), max_evaluations=150)
            values = [
                (found.metrics["loss"], found.costs["latency_ms"])
                for found in result.front
            ]
            volumes.append(hypervolume(values, (1.0, 130.0)))
        assert volumes[0] > volumes[1]

    def test_seeds_are_solved_for_legal_policies(self):
        problem = tied_problem(6)
        codec = problem.codec()
        drops = [[float(gene + 1), 0.0] for gene in range(len(codec.sizes))]

        def cost(genome):
            return problem.costs(codec.decode(codec.mended(genome)))["latency_ms"]

        pairs = [codec.gene_pair(*names) for names in problem.pairs]
        found = budget_ladder(codec, drops, cost, pairs, 8)
        assert len(found) > 4
        for genome in found:
            assert codec.is_legal(genome)
            drop = sum(drops[i][c] for i, c in enumerate(genome))
            same = [
                sum(drops[i][c] for i, c in enumerate(one))
                for one in codec.all_genomes()
                if cost(one) <= cost(genome)
            ]
            assert drop == min(same)


def test_pairs_of_a_target_are_what_its_check_finds():
    artifact = read_artifact(SHIPPED)
    target = load_target("t4")
    legal = legal_space(artifact.space, artifact.workload, target)
    pairs = legal_pairs(legal, artifact.workload, target)
    assert set(map(frozenset, pairs.values())) == {EQUAL}
    codec = GenomeCodec(legal, pairs)
    assert codec.num_genomes == 64
    rng = random.Random(0)
    loose = GenomeCodec(legal)
    for _ in range(300):
        genome = loose.random_genome(rng)
        found = check_policy(artifact.workload, loose.decode(genome), target)
        assert codec.is_legal(genome) == (not found)
    for genome in codec.all_genomes():
        assert not check_policy(artifact.workload, codec.decode(genome), target)


@pytest.mark.parametrize("name", ["bitfusion_16x32", "mpic", "bismo_ultra96"])
def test_targets_that_take_all_pairs_have_none(name):
    artifact = read_artifact(SHIPPED)
    target = load_target(name)
    legal = legal_space(artifact.space, artifact.workload, target)
    assert legal_pairs(legal, artifact.workload, target) == {}
