"""Genomes, and the operators of NSGA-II."""

import itertools
import math
import random

import pytest
from fixtures.toy_search import toy_space

from matar_tf.errors import SearchError
from matar_tf.evolution._genome import GenomeCodec
from matar_tf.evolution._nsga2 import (
    Member,
    Ranked,
    crossover,
    first_cohort,
    generations,
    mutate,
    select_survivors,
    tournament,
)
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace

INF = math.inf


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

    @pytest.mark.parametrize(
        ("level", "choice", "share"), [(0.25, 1, 0.5), (0.5, 3, 0.0), (0.95, 5, 0.7)]
    )
    def test_genes_of_a_ladder_take_the_two_choices_beside_its_level(
        self, level, choice, share
    ):
        # Of 0..6: 1.5 lies between 1 and 2, 3 is a choice, 5.7 is nearer to 6.
        codec = GenomeCodec(toy_space(num_layers=500, widths=range(2, 9)))
        genome = codec.ladder_genome(level, random.Random(0))
        assert set(genome) <= {choice, choice + 1}
        # Five standard deviations of a binomial count.
        expected = pytest.approx(
            1000 * share, abs=5 * (1000 * share * (1 - share)) ** 0.5
        )
        assert genome.count(choice + 1) == expected


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
