import math
from collections import Counter

import numpy as np
import pytest

from matar_tf.errors import PolicyError
from matar_tf.samplers import (
    BandSampler,
    IndependentSampler,
    LegalSampler,
    MixtureSampler,
    UniformSampler,
    balanced_policies,
    draw_policies,
    spread_policies,
)
from matar_tf.space import PolicySpace

SPACE = PolicySpace(
    weights={"first": (8,), "a": (2, 4, 8), "b": (2, 3, 4, 5, 6, 7, 8)},
    activations={"input": (8,), "x": (2, 4, 8), "y": (2, 4)},
)
# The widths that all free entries of a kind share: weights 2, 4, 8; activations 2, 4.
UNIFORM_NAMES = {f"w{w}a{a}" for w in (2, 4, 8) for a in (2, 4)}
LEGAL = (
    SPACE.with_choices(weights={"b": (4, 8)}, activations={"x": (8,)}),
    SPACE.with_choices(weights={"a": (2,), "b": (2,)}),
)
ALL_SAMPLERS = [
    BandSampler(),
    IndependentSampler(),
    UniformSampler(),
    UniformSampler(names=("w2a2", "w4a4")),
    MixtureSampler(),
    LegalSampler(spaces=LEGAL),
]


def names_of(policies):
    uniform = {SPACE.named(name): name for name in UNIFORM_NAMES}
    return Counter(uniform.get(policy, "mixed") for policy in policies)


@pytest.mark.parametrize("sampler", ALL_SAMPLERS, ids=lambda s: type(s).__name__)
class TestEverySampler:
    def test_same_generator_state_gives_the_same_policies(self, sampler):
        first = draw_policies(SPACE, sampler, 20, seed=3)
        assert first == draw_policies(SPACE, sampler, 20, seed=3)
        assert first != draw_policies(SPACE, sampler, 20, seed=4)

    def test_draws_depend_on_nothing_but_the_generator(self, sampler):
        """An earlier draw, and NumPy's global state, leave no trace."""
        sampler(SPACE, np.random.default_rng(8))
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        first = sampler(SPACE, np.random.default_rng(9))
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
        assert first == sampler(SPACE, np.random.default_rng(9))

    def test_policies_are_of_the_space(self, sampler):
        for policy in draw_policies(SPACE, sampler, 100, seed=0):
            SPACE.validate(policy)

    def test_policies_change(self, sampler):
        assert len(set(draw_policies(SPACE, sampler, 50, seed=0))) > 1


class TestIndependentSampler:
    def test_draws_every_width_of_every_entry_alike(self):
        policies = draw_policies(SPACE, IndependentSampler(), 3000, seed=0)
        for kind in ("weights", "activations"):
            for name, widths in getattr(SPACE, kind).items():
                counts = Counter(getattr(policy, kind)[name] for policy in policies)
                assert set(counts) == set(widths)
                # Five standard deviations of a binomial count.
                mean = 3000 / len(widths)
                assert all(abs(n - mean) <= 5 * mean**0.5 for n in counts.values())

    def test_entries_do_not_follow_each_other(self):
        policies = draw_policies(SPACE, IndependentSampler(), 1000, seed=0)
        pairs = Counter((p.weights["a"], p.activations["x"]) for p in policies)
        assert len(pairs) == 9
        assert min(pairs.values()) > 60

    @pytest.mark.parametrize("bits", [(1, 2), (8, 16)])
    def test_refuses_widths_that_no_space_has(self, bits):
        with pytest.raises(PolicyError, match=r"in \[2, 3, 4, 5, 6, 7, 8\], got"):
            IndependentSampler(bits=bits)

    def test_draws_only_the_given_widths_where_allowed(self):
        policies = draw_policies(SPACE, IndependentSampler(bits=(3, 4)), 300, seed=0)
        assert {policy.weights["a"] for policy in policies} == {4}
        assert {policy.weights["b"] for policy in policies} == {3, 4}
        assert {policy.weights["first"] for policy in policies} == {8}
        other = draw_policies(SPACE, IndependentSampler(bits=(3, 5)), 300, seed=0)
        assert {policy.activations["y"] for policy in other} == {2, 4}


class TestBandSampler:
    def test_shares_by_hand(self):
        """Ends are 2, 4 and 8 bits in 4, 2 and 1 of 7 draws; every end has two."""
        entries = {"a": (2, 4, 8), "b": (2, 4, 8)}
        space = PolicySpace(weights=entries, activations=entries)
        number = 6000
        policies = draw_policies(space, BandSampler(), number, seed=0)
        # Bands of 49: 2..2 16, 4..4 4, 8..8 1, 2..4 16, 4..8 4, 2..8 8.
        both = {
            (2, 2): (16 + 16 / 4 + 8 / 9) / 49,
            (4, 4): (4 + 16 / 4 + 4 / 4 + 8 / 9) / 49,
            (8, 8): (1 + 4 / 4 + 8 / 9) / 49,
            (2, 4): (16 / 4 + 8 / 9) / 49,
            (2, 8): 8 / 9 / 49,
            (8, 4): (4 / 4 + 8 / 9) / 49,
        }

        def check(found, share):
            assert abs(found - number * share) < 5 * (number * share) ** 0.5

        for kind in ("weights", "activations"):
            pairs = Counter(tuple(getattr(one, kind).values()) for one in policies)
            for pair, share in both.items():
                check(pairs[pair], share)
        # The bands of the two kinds are drawn one by one.
        apart = Counter(
            (*one.weights.values(), *one.activations.values()) for one in policies
        )
        check(apart[2, 2, 2, 2], both[2, 2] ** 2)
        check(apart[2, 2, 4, 4], both[2, 2] * both[4, 4])

    def test_an_entry_without_a_width_of_the_band_draws_from_its_own(self):
        space = PolicySpace(weights={"a": (3,), "b": (2, 8)}, activations={"x": (2, 4)})
        policies = draw_policies(space, BandSampler(), 300, seed=0)
        assert {one.weights["a"] for one in policies} == {3}
        counts = Counter(one.weights["b"] for one in policies)
        assert min(counts.values()) > 30


class TestUniformSampler:
    def test_draws_every_given_name_alike(self):
        sampler = UniformSampler(names=tuple(sorted(UNIFORM_NAMES)))
        counts = names_of(draw_policies(SPACE, sampler, 1200, seed=0))
        assert set(counts) == UNIFORM_NAMES
        assert all(abs(count - 200) < 70 for count in counts.values())

    @pytest.mark.parametrize(
        ("mixed", "names"), [(False, {"w2a2", "w4a4"}), (True, UNIFORM_NAMES)]
    )
    def test_draws_narrow_ones_more_often(self, mixed, names):
        policies = draw_policies(SPACE, UniformSampler(mixed=mixed), 3000, seed=0)
        counts = names_of(policies)
        shares = {n: (int(n[1]) * int(n[3])) ** -0.5 for n in names}
        assert set(counts) == names
        for name in names:
            expected = 3000 * shares[name] / sum(shares.values())
            assert counts[name] == pytest.approx(expected, abs=5 * expected**0.5)

    def test_draws_unlike_widths_where_the_space_leaves_no_other(self):
        space = PolicySpace(weights={"a": (2, 4)}, activations={"x": (8,)})
        policies = draw_policies(space, UniformSampler(), 50, seed=0)
        assert set(policies) == {space.named("w2a8"), space.named("w4a8")}

    def test_draws_two_bits_far_more_often_than_entry_by_entry(self):
        space = PolicySpace(
            weights={f"w{i}": tuple(range(2, 9)) for i in range(8)},
            activations={f"a{i}": tuple(range(2, 9)) for i in range(8)},
        )
        lowest = space.named("w2a2")
        policies = draw_policies(space, UniformSampler(), 2000, seed=0)
        assert policies.count(lowest) > 400  # half of 1.718 parts of 2000: 582
        policies = draw_policies(space, IndependentSampler(), 2000, seed=0)
        assert policies.count(lowest) == 0

    def test_draws_only_the_given_names(self):
        sampler = UniformSampler(names=("w2a2", "w8a4"))
        counts = names_of(draw_policies(SPACE, sampler, 100, seed=0))
        assert set(counts) == {"w2a2", "w8a4"}

    @pytest.mark.parametrize("name", ["w3a4", "w4", "w4a9"])
    def test_refuses_a_name_that_the_space_has_not(self, name):
        with pytest.raises(PolicyError):
            UniformSampler(names=(name,))(SPACE, np.random.default_rng(0))

    def test_refuses_a_space_without_a_shared_width(self):
        space = PolicySpace(weights={"a": (2, 3), "b": (4, 5)}, activations={})
        with pytest.raises(PolicyError, match="IndependentSampler"):
            UniformSampler()(space, np.random.default_rng(0))


class TestMixtureSampler:
    @pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
    def test_asks_each_sampler_as_often_as_its_probability_says(self, share):
        sampler = MixtureSampler(
            samplers=(UniformSampler(names=("w2a2",)), UniformSampler(names=("w8a4",))),
            probs=(share, 1.0 - share),
        )
        counts = names_of(draw_policies(SPACE, sampler, 1000, seed=0))
        assert counts["w2a2"] == pytest.approx(1000 * share, abs=70 * (0 < share < 1))

    def test_default_is_half_uniform_and_a_fifth_of_powers_of_two(self):
        space = PolicySpace(
            weights={f"w{i}": tuple(range(2, 9)) for i in range(8)},
            activations={f"a{i}": tuple(range(2, 9)) for i in range(8)},
        )
        policies = draw_policies(space, MixtureSampler(), 1000, seed=0)
        uniform = {space.named(name) for name in space.uniform_names()}
        assert sum(p in uniform for p in policies) == pytest.approx(500, abs=80)
        powers = [
            {*policy.weights.values(), *policy.activations.values()} == {2, 4, 8}
            for policy in policies
        ]
        assert sum(powers) == pytest.approx(200, abs=65)

    @pytest.mark.parametrize(
        "probs", [(1.0,), (0.5, 0.6), (0.3, 0.3, 0.4), (-0.5, 1.5), (math.nan, 0.5)]
    )
    def test_refuses_probabilities_that_are_none(self, probs):
        with pytest.raises(PolicyError, match="one probability for each of 2"):
            MixtureSampler(samplers=(UniformSampler(),) * 2, probs=probs)


class TestLegalSampler:
    @pytest.mark.parametrize("inner", [IndependentSampler(), UniformSampler()])
    def test_every_policy_is_legal_on_some_target(self, inner):
        def is_legal(policy, space):
            try:
                space.validate(policy)
            except PolicyError:
                return False
            return True

        sampler = LegalSampler(spaces=LEGAL, sampler=inner)
        policies = draw_policies(SPACE, sampler, 200, seed=0)
        legal = [[is_legal(policy, space) for space in LEGAL] for policy in policies]
        assert all(map(any, legal))
        # Both targets get their share.
        assert min(np.sum(legal, axis=0)) > 60

    def test_refuses_a_target_of_another_network(self):
        other = PolicySpace(weights={"z": (2,)}, activations={})
        with pytest.raises(PolicyError, match="matches nothing"):
            LegalSampler(spaces=(other,))(SPACE, np.random.default_rng(0))

    def test_refuses_to_have_no_target(self):
        with pytest.raises(PolicyError, match="at least one target"):
            LegalSampler(spaces=())


class TestBalanced:
    def test_every_pair_of_seven_widths_once_in_49(self):
        bits = (2, 3, 4, 5, 6, 7, 8)
        space = PolicySpace(
            weights={"a": bits, "b": bits}, activations={"x": bits, "y": (8,)}
        )
        policies = balanced_policies(space, 98, 0)
        for half in (policies[:49], policies[49:]):
            for entry in "ab":
                pairs = {(one.weights[entry], one.activations["x"]) for one in half}
                assert len(pairs) == 49
        assert policies[:49] != policies[49:]
        assert {one.activations["y"] for one in policies} == {8}

    def test_fewer_widths_come_up_alike(self):
        counts = Counter(
            (one.weights["a"], one.activations["y"])
            for one in balanced_policies(SPACE, 147, 0)
        )
        assert len(counts) == 6
        assert max(counts.values()) <= 2 * min(counts.values())

    def test_follows_the_seed(self):
        assert balanced_policies(SPACE, 9, 0) == balanced_policies(SPACE, 9, 0)
        assert balanced_policies(SPACE, 9, 0) != balanced_policies(SPACE, 9, 1)


@pytest.mark.parametrize("fixed", [{"a": (2,), "b": (4,)}, {"a": (8,), "b": (4,)}])
@pytest.mark.parametrize("names", [(), ("w8a8", "w8a2")])
def test_uniform_policies_where_all_weights_are_fixed(fixed, names):
    space = PolicySpace(weights=fixed, activations={"x": (8,), "y": (2, 8)})
    policies = draw_policies(space, UniformSampler(names=names), 40, seed=0)
    assert {policy.activations["y"] for policy in policies} == {2, 8}
    alone = space.only(space.narrowest())
    assert draw_policies(alone, UniformSampler(names=names), 1, seed=0)[0] == (
        space.narrowest()
    )


class TestSpreadPolicies:
    def test_a_quarter_of_uniform_ones_over_the_whole_range(self) -> None:
        names = SPACE.uniform_names(mixed=True)
        uniform = [SPACE.named(name) for name in names]
        policies = spread_policies(SPACE, 400, 0)
        assert len(policies) == 400
        assert set(uniform) <= set(policies)
        # Of six uniform ones a quarter of 12 is every second.
        few = spread_policies(SPACE, 12, 0)
        assert len(few) == 12
        assert [few.index(one) for one in uniform[::2]] == [0, 1, 2]

    def test_a_space_without_uniform_policies(self) -> None:
        space = PolicySpace(weights={"a": (2,), "b": (8,)}, activations={"c": (4,)})
        assert spread_policies(space, 3, 0) == (space.widest(),) * 3

    def test_the_seed_decides(self) -> None:
        assert spread_policies(SPACE, 40, 0) == spread_policies(SPACE, 40, 0)
        assert spread_policies(SPACE, 40, 0) != spread_policies(SPACE, 40, 1)
