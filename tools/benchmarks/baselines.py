"""What searches are compared with: random policies, greedy descent, an integer program.

The last two do as the peers do: they measure once how much each entry's bits cost
the network (the drops of `matar_tf.evolution`), take drops to add up, and solve for
the least sum under a budget.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import scipy.optimize
import scipy.sparse

from matar_tf.evolution import SearchProblem
from matar_tf.evolution._genome import Genome, GenomeCodec
from matar_tf.evolution._seeding import (
    greedy_ladder,
    interpolate_drops,
    sensitivity_genomes,
)
from matar_tf.policy import Policy
from matar_tf.space import PolicySpace
from matar_tf.workload import Workload

__all__ = [
    "greedy_policies",
    "integer_program_policies",
    "policy_drops",
    "random_policies",
    "sensitivity_policies",
]

_optimize = cast("Any", scipy.optimize)  # its types know no arrays as bounds
Drops = Sequence[Sequence[float]]
LayerCosts = Callable[[Policy], Mapping[str, float]]


def sensitivity_policies(space: PolicySpace) -> list[Policy]:
    """Returns the widest policy, and those that differ from it in one entry.

    Each entry at its narrowest and at its middle width.
    """
    codec = GenomeCodec(space)
    genomes = sensitivity_genomes(codec, 1 + 2 * len(codec.sizes))
    return [codec.decode(genome) for genome in genomes]


def policy_drops(space: PolicySpace, losses: Mapping[Policy, float]) -> Drops:
    """Returns the drop of each choice of each entry of more than one width.

    Args:
      space: The space.
      losses: Of its `sensitivity_policies`, measured.

    Raises:
      ValueError: If there is nothing to choose.
    """
    codec = GenomeCodec(space)
    drops = interpolate_drops(
        codec, {codec.encode(policy): loss for policy, loss in losses.items()}
    )
    if not drops:
        raise ValueError("Expected a space with more than one policy, got one of one.")
    return drops


def greedy_policies(
    problem: SearchProblem, drops: Drops, cost_name: str, number: int
) -> list[Policy]:
    """Returns policies that gave up the bits of least drop for the cost, one by one.

    Args:
      problem: The space and its costs.
      drops: See `policy_drops`.
      cost_name: The cost that bits are given up for.
      number: How many policies, evenly spaced in cost, at most.
    """
    codec = GenomeCodec(problem.space)

    @functools.cache
    def cost(genome: Genome) -> float:
        return float(problem.costs(codec.decode(genome))[cost_name] or 0.0)

    ladder = greedy_ladder(codec, drops, cost, number)
    return [codec.decode(genome) for genome in ladder]


def random_policies(problem: SearchProblem, number: int, seed: int) -> list[Policy]:
    """Returns different policies in which every choice is equally likely."""
    codec, rng = GenomeCodec(problem.space), random.Random(seed)
    genomes: dict[Genome, None] = {}
    while len(genomes) < min(number, codec.num_genomes):
        genomes[codec.random_genome(rng)] = None
    return [codec.decode(genome) for genome in genomes]


def integer_program_policies(
    problem: SearchProblem,
    drops: Drops,
    workload: Workload,
    layer_costs: LayerCosts,
    number: int,
) -> list[Policy]:
    """Returns the policies of least summed drop for evenly spaced budgets.

    The cost of a layer is taken from the bits of its weights and of its first input,
    all other tensors at their widest; the program is exact for that.

    Args:
      problem: The space.
      drops: See `policy_drops`.
      workload: The network.
      layer_costs: Returns the cost of each layer under a policy.
      number: How many budgets between the narrowest and the widest policy.

    Reference:
      Hubara et al., Accurate Post Training Quantization With Small Calibration Sets,
      ICML 2021: mixed precision by integer programming.
    """
    program = _Program(problem, drops, workload, layer_costs)
    low, high = program.cost_range
    budgets = [low + (high - low) * rung / (number - 1) for rung in range(number)]
    return list(dict.fromkeys(program.solve(budget) for budget in budgets))


class _Program:
    """One binary for each choice of each entry; one share for each pair of a layer."""

    def __init__(
        self,
        problem: SearchProblem,
        drops: Drops,
        workload: Workload,
        layer_costs: LayerCosts,
    ) -> None:
        self._codec = GenomeCodec(problem.space)
        space = problem.space
        free = [("weights", n) for n, bits in space.weights.items() if len(bits) > 1]
        free += [("activations", n) for n, w in space.activations.items() if len(w) > 1]
        first = np.cumsum([0, *self._codec.sizes])
        self._start = {key: int(first[i]) for i, key in enumerate(free)}
        self._num_choices = int(first[-1])
        self._drop = [one for row in drops for one in row]
        self._costs = [0.0] * self._num_choices
        self._rows: list[dict[int, float]] = []
        self._sums: list[float] = []
        for key, size in zip(free, self._codec.sizes, strict=True):
            self._rows.append({self._start[key] + i: 1.0 for i in range(size)})
            self._sums.append(1.0)
        for layer in workload.layers:
            activation = workload.tensors[layer.inputs[0]].activation
            self._add_layer(layer.name, layer.weights, activation, problem, layer_costs)
        solved = [self._solve(sign) for sign in (1.0, -1.0)]
        self.cost_range = solved[0], solved[1]

    def _add_layer(
        self,
        name: str,
        weights: str | None,
        activation: str | None,
        problem: SearchProblem,
        layer_costs: LayerCosts,
    ) -> None:
        space, widest = problem.space, problem.space.widest()
        begin = len(self._costs)
        w_entries = _choices(weights, space.weights)
        a_entries = _choices(activation, space.activations)
        for w in w_entries:
            for a in a_entries:
                policy = Policy(
                    weights={**widest.weights, **w},
                    activations={**widest.activations, **a},
                )
                self._costs.append(layer_costs(policy)[name])
                self._drop.append(0.0)
        shares = np.arange(begin, len(self._costs)).reshape(
            len(w_entries), len(a_entries)
        )
        self._rows.append(dict.fromkeys(shares.ravel().tolist(), 1.0))
        self._sums.append(1.0)
        for key, lines in (
            (("weights", weights or ""), shares),
            (("activations", activation or ""), shares.T),
        ):
            if key in self._start:
                for choice, line in enumerate(lines):
                    row = dict.fromkeys(line.tolist(), 1.0)
                    row[self._start[key] + choice] = -1.0
                    self._rows.append(row)
                    self._sums.append(0.0)

    def solve(self, budget: float) -> Policy:
        """Returns the policy of least drop at no more than a cost."""
        found = self._milp(np.asarray(self._drop), budget)
        genome: list[int] = []
        for start, choices in zip(self._start.values(), self._codec.sizes, strict=True):
            genome.append(int(np.argmax(found[start : start + choices])))
        return self._codec.decode(tuple(genome))

    def _solve(self, sign: float) -> float:
        costs = np.asarray(self._costs)
        return float(costs @ self._milp(sign * costs, np.inf))

    def _milp(self, objective: np.ndarray, budget: float) -> np.ndarray:
        size, sums = len(self._costs), np.asarray(self._sums)
        rows, columns, values = [], [], []
        for number, row in enumerate(self._rows):
            rows += [number] * len(row)
            columns += list(row)
            values += list(row.values())
        equal = scipy.sparse.csr_array(
            (values, (rows, columns)), shape=(len(self._rows), size)
        )
        result = _optimize.milp(
            objective,
            integrality=np.arange(size) < self._num_choices,
            bounds=_optimize.Bounds(0.0, 1.0),
            constraints=[
                _optimize.LinearConstraint(equal, sums, sums),
                _optimize.LinearConstraint(
                    np.asarray(self._costs)[None], -np.inf, budget * (1 + 1e-9)
                ),
            ],
        )
        if result.x is None:
            raise RuntimeError(f"Expected a solution, got: {result.message}")
        return result.x


def _choices(
    entry: str | None, widths: Mapping[str, tuple[int, ...]]
) -> list[dict[str, int]]:
    """Returns each choice of an entry; one that is empty where there is none."""
    return [{}] if entry is None else [{entry: bits} for bits in widths[entry]]
