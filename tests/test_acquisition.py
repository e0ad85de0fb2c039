"""What a guess is worth: closed forms beside sampling, choices by hand."""

from __future__ import annotations

import numpy as np
import pytest

from matar_tf.evolution._acquisition import choose_widening, expected_improvement
from matar_tf.evolution._pareto import box, hypervolume

FRONT = [(-0.5, 1.0), (-0.7, 2.0), (-0.9, 4.0)]  # accuracy (negative), latency


def choose(
    candidates: list[tuple[float, ...]],
    number: int = 1,
    deviation: float = 1e-6,
    front: list[tuple[float, ...]] | None = None,
) -> list[int]:
    return choose_widening(
        front or FRONT,
        candidates,
        [deviation] * len(candidates),
        metric=0,
        number=number,
    )


class TestExpectedImprovement:
    @pytest.mark.parametrize("level", [-0.4, 0.0, 0.7])
    def test_agrees_with_sampling(self, level: float) -> None:
        drawn = np.random.default_rng(0).normal(0.1, 0.5, 200_000)
        sampled = np.maximum(level - drawn, 0.0).mean()
        found = expected_improvement(np.array(level), np.array(0.1), np.array(0.5))
        assert found == pytest.approx(sampled, rel=0.02)

    def test_a_sure_guess_improves_by_what_it_is_better(self) -> None:
        levels = np.array([1.0, 3.0])
        found = expected_improvement(levels, np.array(2.0), np.array(1e-9))
        np.testing.assert_allclose(found, [0.0, 1.0], atol=1e-8)


class TestChoice:
    def test_is_the_one_that_adds_the_most_hypervolume(self) -> None:
        candidates = [(-0.72, 3.0), (-0.69, 1.2), (-0.88, 3.9), (-0.92, 5.0)]
        _, worst = box(FRONT)
        volumes = [hypervolume([*FRONT, one], worst) for one in candidates]
        assert choose(candidates) == [int(np.argmax(volumes))] == [1]

    def test_a_dominated_guess_is_worth_nothing_if_sure_and_something_if_not(
        self,
    ) -> None:
        assert choose([(-0.6, 3.0)]) == []
        assert choose([(-0.6, 3.0)], deviation=0.2) == [0]

    def test_the_less_certain_of_two_equal_guesses_comes_first(self) -> None:
        candidates = [(-0.7, 2.0), (-0.7, 2.0)]
        for deviations, first in (([0.1, 0.2], 1), ([0.2, 0.1], 0)):
            found = choose_widening(FRONT, candidates, deviations, metric=0, number=1)
            assert found == [first]

    def test_the_second_widens_the_front_elsewhere(self) -> None:
        # The first two are nearly the same; one of them is enough.
        candidates = [(-0.69, 1.2), (-0.685, 1.2), (-0.85, 3.0)]
        assert choose(candidates, number=2) == [0, 2]
        assert choose(candidates, number=1) == [0]

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_the_next_is_worth_what_the_ones_before_leave_of_it(
        self, number: int
    ) -> None:
        """The greedy order of hypervolumes: the second guess becomes the last."""
        candidates = [(-0.69, 1.2), (-0.65, 1.1), (-0.75, 3.0)]
        _, worst = box(FRONT)
        front, expected = list(FRONT), []
        alone = [hypervolume([*front, one], worst) for one in candidates]
        assert alone[0] > alone[1] > alone[2]
        for _ in range(number):
            volumes = [hypervolume([*front, one], worst) for one in candidates]
            expected.append(int(np.argmax(volumes)))
            front.append(candidates[expected[-1]])
        assert expected == [0, 2, 1][:number]
        assert choose(candidates, number=number) == expected

    def test_nothing_counts_beyond_a_tenth_of_the_range(self) -> None:
        # Latencies of the front range from 1 to 4.
        assert choose([(-0.95, 4.25)]) == [0]
        assert choose([(-0.95, 4.31)]) == []

    def test_points_beyond_the_cheapest_count(self) -> None:
        assert choose([(-0.5, 0.9), (-0.5, 0.2)]) == [1]

    def test_counts_every_cost(self) -> None:
        front = [(-0.5, 2.0, 2.0), (-0.9, 4.0, 4.0)]
        # Both are as accurate and as fast; the second is smaller.
        assert choose([(-0.6, 2.0, 3.0), (-0.6, 2.0, 1.0)], front=front) == [1]
        assert choose([(-0.6, 3.0, 2.0), (-0.6, 1.0, 2.0)], front=front) == [1]

    def test_the_metric_may_stand_anywhere(self) -> None:
        candidates = [(-0.72, 3.0), (-0.69, 1.2)]
        turned = choose_widening(
            [one[::-1] for one in FRONT],
            [one[::-1] for one in candidates],
            [1e-6, 1e-6],
            metric=1,
            number=1,
        )
        assert turned == choose(candidates)

    @pytest.mark.parametrize("number", [0, 1])
    def test_nothing_to_choose_from(self, number: int) -> None:
        assert choose([], number=number) == []
        assert choose([(-0.95, 0.1)], number=0) == []
