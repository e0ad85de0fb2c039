"""A toy network to search, and searches of it."""

import functools
import math

from matar_tf.evolution import SearchOptions, SearchProblem, evaluate_in_turn, search
from matar_tf.results import Provenance
from matar_tf.space import PolicySpace

# A toy network. Accuracy falls with 4**-bits, by a different amount for each entry;
# latency is a sum of products of bits, as on bit-serial hardware.


def toy_space(num_layers=5, widths=(2, 4, 8)):
    names = [f"layer{index}" for index in range(num_layers)]
    return PolicySpace(
        weights={"first": (8,), **dict.fromkeys(names, widths)},
        activations={"input": (8,), **dict.fromkeys(names, widths)},
    )


def toy_metrics(policy):
    noise = 0.0
    for index, bits in enumerate(policy.weights.values()):
        noise += (1 + index * 7 % 5) * 4.0 ** (2 - bits)
    for index, bits in enumerate(policy.activations.values()):
        noise += (1 + index * 3 % 7) * 4.0 ** (2 - bits)
    loss = noise / (len(policy.weights) + len(policy.activations))
    return {"accuracy": math.exp(-loss), "loss": loss}


def toy_costs(policy):
    latency_ms = sum(
        (1 + index * 5 % 7) * policy.weights[name] * bits / 64
        for index, (name, bits) in enumerate(policy.activations.items())
        if name in policy.weights
    )
    weight_bytes = sum(
        (1 + index * 2 % 3) * bits for index, bits in enumerate(policy.weights.values())
    )
    return {
        "latency_ms": latency_ms,
        "weight_bytes": float(weight_bytes),
        "energy_mj": None,
    }


def toy_problem(**changes):
    fields = {"target": "toy", "space": toy_space(), "costs": toy_costs}
    return SearchProblem(**{**fields, **changes})


def provenance(seed=0, artifact_digest="a", data_digest="d"):
    return Provenance(
        seed=seed,
        command="test",
        versions={},
        artifact_digest=artifact_digest,
        data_digest=data_digest,
        num_samples=1,
        created="2030-01-01T00:00:00+00:00",
    )


def options(**changes):
    return SearchOptions(**{"max_evaluations": 160, "population_size": 20, **changes})


def run(problem=None, evaluate_many=None, store=None, progress=False, **changes):
    settings = options(**changes)
    return search(
        problem or toy_problem(),
        evaluate_many or evaluate_in_turn(toy_metrics),
        options=settings,
        provenance=provenance(seed=settings.seed),
        store=store,
        progress=progress,
    )


@functools.cache
def plain_run():
    """The run that others are compared with."""
    return run()


def same_search(first, second):
    """Whether two runs took the same steps; the store may have served either."""
    steps = [
        [
            (row.num_evaluated + row.num_reused, row.best_metric, row.hypervolume)
            for row in result.history
        ]
        for result in (first, second)
    ]
    return (
        first.front == second.front
        and first.references == second.references
        and first.stop_reason == second.stop_reason
        and steps[0] == steps[1]
    )


class Counting:
    """Counts calls; raises at the call after a number of them."""

    def __init__(self, stop_after=None, error=RuntimeError):
        self.policies = []
        self.stop_after = stop_after
        self.error = error

    def __call__(self, policy):
        if len(self.policies) == self.stop_after:
            raise self.error
        self.policies.append(policy)
        return toy_metrics(policy)
