"""Dominance, fronts and hypervolumes."""

import itertools
import math
import random

import pytest

from matar_tf.errors import SearchError
from matar_tf.evolution import dominates, hypervolume, pareto_front
from matar_tf.evolution._pareto import box

INF = math.inf
NAN = math.nan


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
            ([(5,)], (4,), 0.0),
            ([(-INF, 3)], (3, 3), 0.0),
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
