"""The measurements of ``tools/benchmark.py memory``: accuracy at memory budgets.

Written for the artifact of the recipe ``cifar10_resnet8`` and CIFAR-10. The budgets
are shares of the memory of all kernels at 8 bits; activations stay at 8 bits. The
search sees the first samples of the test set, the figures are of all others.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import load_data
from matar_tf.errors import DataError
from matar_tf.evolution import SearchOptions, SearchProblem, search
from matar_tf.policy import Policy
from matar_tf.results import Candidate, Objective
from matar_tf.tflite.evaluate import ParallelEvaluator, PolicyEvaluator
from tools.benchmarks.bars import Bar, provenance

__all__ = [
    "OBJECTIVES",
    "best_within",
    "budget_bar",
    "measure_memory",
    "memory_problem",
    "time_bar",
]

# Share of the 8-bit memory: the accuracy that we claim, and the better of the two that
# Sony MCT 2.6.1 reached (mixed-precision PTQ, TPC with weights of 8/4/2 and 8/6/4/3/2
# bits) for MLPerf Tiny's ResNet-8 (87.2 % in float) and the whole test set.
_BUDGETS = {0.5: (86.5, 85.3), 0.4: (86.0, 80.9), 0.3: (85.0, 68.7)}
_MARGINS = {0.5: 1.0, 0.4: 5.0, 0.3: 15.0}  # over the peer
_PEER_S = 5.0  # its time for one budget
OBJECTIVES = (
    Objective(name="accuracy", maximize=True),
    Objective(name="kernel_bytes"),
)


def measure_memory(
    artifact_path: str, data_spec: str, *, num_samples: int, num_evaluations: int
) -> Iterator[Bar]:
    """Yields one bar for each budget, and one for the time of the search."""
    artifact = read_artifact(artifact_path)
    data = load_data(data_spec, training=False)
    if not num_samples < len(data.x_test):
        raise DataError(
            f"Expected fewer samples to search on than the {len(data.x_test)} there "
            f"are, got {num_samples}; the figures are of the others."
        )
    problem, full = memory_problem(artifact)
    make = functools.partial(
        PolicyEvaluator, artifact, data.x_test[:num_samples], data.y_test[:num_samples]
    )
    start = time.perf_counter()
    with ParallelEvaluator(make, 2) as evaluate_many:
        result = search(
            problem,
            evaluate_many,
            options=SearchOptions(
                max_evaluations=num_evaluations, patience=None, objectives=OBJECTIVES
            ),
            provenance=provenance(
                artifact_digest=artifact.digest(),
                data_digest=data.digest(),
                num_samples=num_samples,
            ),
        )
    took = time.perf_counter() - start
    others = PolicyEvaluator(
        artifact, data.x_test[num_samples:], data.y_test[num_samples:]
    )
    everything = PolicyEvaluator(artifact, data.x_test, data.y_test)
    for share in _BUDGETS:
        best = best_within(result.front, share * full)
        accuracies = None
        if best is not None:
            accuracies = tuple(
                100.0 * one(best.policy)["accuracy"] for one in (others, everything)
            )
        yield budget_bar(share, accuracies, len(data.x_test) - num_samples)
    yield time_bar(took, result.num_evaluated, num_samples)


def memory_problem(artifact: Artifact) -> tuple[SearchProblem, int]:
    """Returns a search of kernels' memory, and its bytes; activations have 8 bits."""
    sizes = {
        layer.weights: layer.weight_elems
        for layer in artifact.workload.layers
        if layer.weights is not None
    }
    space = artifact.space.with_choices(
        activations={
            name: (bits[-1],) for name, bits in artifact.space.activations.items()
        }
    )

    def costs(policy: Policy) -> Mapping[str, float | None]:
        total = sum(sizes[name] * bits for name, bits in policy.weights.items())
        return {"kernel_bytes": total / 8.0}

    problem = SearchProblem(target="memory", space=space, costs=costs)
    return problem, sum(sizes.values())


def best_within(front: Iterable[Candidate], num_bytes: float) -> Candidate | None:
    """Returns the most accurate candidate whose kernels fit; None if none does."""
    fitting = [one for one in front if one.value(OBJECTIVES[1]) <= num_bytes]
    return max(fitting, key=lambda one: one.metrics["accuracy"], default=None)


def budget_bar(
    share: float, accuracies: tuple[float, ...] | None, num_samples: int
) -> Bar:
    """Returns the bar of one budget.

    Args:
      share: Of the 8-bit kernel memory.
      accuracies: On the samples that the search did not see and on all, in percent;
        None if no policy fits. The former must reach the bar.
      num_samples: That the search did not see.
    """
    claim, peer = _BUDGETS[share]
    limit = max(claim, peer + _MARGINS[share])
    figure = "no policy fits"
    if accuracies is not None:
        figure = "{:.2f} %, on all {:.2f} %".format(*accuracies)
    return Bar(
        name=f"accuracy at {share:.0%} of the 8-bit kernel memory, on {num_samples} "
        "samples that the search did not see",
        figure=f"{figure} (peer {peer:.1f} %)",
        limit=f"at least {limit:.1f} %",
        held=accuracies is not None and accuracies[0] >= limit,
    )


def time_bar(took: float, num_evaluated: int, num_samples: int) -> Bar:
    """Returns the bar of the seconds that the search for all budgets took."""
    limit = 3 * len(_BUDGETS) * _PEER_S
    return Bar(
        name=f"one search for all budgets, {num_evaluated} policies on {num_samples} "
        "samples",
        figure=f"{took:.1f} s",
        limit=f"at most {limit:.0f} s",
        held=took <= limit,
    )
