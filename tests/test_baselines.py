"""What searches are compared with, against enumeration."""

from __future__ import annotations

import random

import pytest

from matar_tf.evolution import SearchProblem
from matar_tf.evolution._genome import GenomeCodec
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace
from matar_tf.workload import LayerWorkload, OpKind, TensorWorkload, Workload
from tools.benchmarks.baselines import (
    greedy_policies,
    integer_program_policies,
    policy_drops,
    random_policies,
    sensitivity_policies,
)

BITS = (2, 4, 8)
SPACE = PolicySpace(
    weights={"a": BITS, "b": BITS, "c": (8,)}, activations={"x": BITS, "y": (4, 8)}
)
MACS = {"a": 3.0, "b": 5.0, "c": 2.0}
INPUTS = {"a": "x", "b": "y", "c": "y"}
NETWORK = Workload(
    layers=tuple(
        LayerWorkload(
            name=name,
            kind=OpKind.CONV,
            inputs=(f"t_{INPUTS[name]}",),
            output=f"out_{name}",
            weights=name,
            macs=1,
        )
        for name in "abc"
    ),
    tensors={
        "t_x": TensorWorkload(name="t_x", shape=(1,), activation="x"),
        "t_y": TensorWorkload(name="t_y", shape=(1,), activation="y"),
        **{
            f"out_{name}": TensorWorkload(
                name=f"out_{name}", shape=(1,), activation=None
            )
            for name in "abc"
        },
    },
    inputs=("t_x", "t_y"),
    outputs=("out_a", "out_b", "out_c"),
)


def layer_costs(policy: Policy) -> dict[str, float]:
    """A product of widths: no sum of costs of single entries."""
    return {
        name: macs * policy.weights[name] * policy.activations[INPUTS[name]]
        for name, macs in MACS.items()
    }


PROBLEM = SearchProblem(
    target="toy",
    space=SPACE,
    costs=lambda policy: {"latency_ms": sum(layer_costs(policy).values())},
)
CODEC = GenomeCodec(SPACE)
DROPS = [[6.0, 1.0, 0.0], [2.5, 2.0, 0.0], [7.0, 3.0, 0.0], [0.5, 0.0]]


def drop(policy: Policy) -> float:
    genome = CODEC.encode(policy)
    return sum(one[gene] for one, gene in zip(DROPS, genome, strict=True))


def cost(policy: Policy) -> float:
    return sum(layer_costs(policy).values())


EVERY = [CODEC.decode(genome) for genome in CODEC.all_genomes()]


def test_integer_program_finds_the_least_sum_for_every_budget() -> None:
    found = integer_program_policies(PROBLEM, DROPS, NETWORK, layer_costs, 7)
    low, high = min(map(cost, EVERY)), max(map(cost, EVERY))
    best = []
    for rung in range(7):
        budget = low + (high - low) * rung / 6
        best.append(min(drop(one) for one in EVERY if cost(one) <= budget))
    assert list(dict.fromkeys(best)) == [drop(one) for one in found]
    assert cost(found[0]) == low


def test_greedy_descends_from_widest_to_narrowest() -> None:
    found = greedy_policies(PROBLEM, DROPS, "latency_ms", 6)
    assert found[0] == SPACE.widest()
    assert cost(found[-1]) == min(map(cost, EVERY))
    costs = [cost(one) for one in found]
    assert costs == sorted(costs, reverse=True)


def test_drops_are_differences_to_the_widest() -> None:
    losses = {one: 1.0 + drop(one) for one in sensitivity_policies(SPACE)}
    assert len(losses) == 1 + 4 + 3
    drops = policy_drops(SPACE, losses)
    assert drops == [pytest.approx(one) for one in DROPS]


def test_drops_need_a_choice() -> None:
    space = SPACE.only(SPACE.widest())
    with pytest.raises(ValueError, match="more than one policy"):
        policy_drops(space, {space.widest(): 0.0})


def test_random_policies_differ_and_follow_the_seed() -> None:
    drawn = random_policies(PROBLEM, 20, 0)
    assert len(set(drawn)) == 20
    assert drawn == random_policies(PROBLEM, 20, 0) != random_policies(PROBLEM, 20, 1)
    assert set(random_policies(PROBLEM, 10_000, 0)) == set(EVERY)
    rng = random.Random(0)
    assert drawn[0] == CODEC.decode(CODEC.random_genome(rng))
