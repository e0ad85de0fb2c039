"""The measurements of ``tools/benchmark.py memory``: accuracy at memory budgets.

Written for the artifact of the recipe ``cifar10_resnet8`` and CIFAR-10. The budgets
are shares of the memory of all kernels at 8 bits; activations stay at 8 bits. The
search sees the first samples of the test set, the figures are of all others.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping

from matar_tf.artifact import read_artifact
from matar_tf.data import load_data
from matar_tf.errors import DataError
from matar_tf.policy import Policy
from matar_tf.results import Objective
from matar_tf.search import SearchOptions, SearchProblem, search
from matar_tf.tflite.evaluate import ParallelEvaluator, PolicyEvaluator
from tools.bars import Bar, provenance

__all__ = ["measure_memory"]

# Share of the 8-bit memory: the accuracy that we claim, and the better of the two that
# Sony MCT 2.6.1 reached (mixed-precision PTQ, TPC with weights of 8/4/2 and 8/6/4/3/2
# bits) for MLPerf Tiny's ResNet-8 (87.2 % in float) and the whole test set.
_BUDGETS = {0.5: (86.5, 85.3), 0.4: (86.0, 80.9), 0.3: (85.0, 68.7)}
_MARGINS = {0.5: 1.0, 0.4: 5.0, 0.3: 15.0}  # over the peer
_PEER_S = 5.0  # its time for one budget
_OBJECTIVES = (
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
    make = functools.partial(
        PolicyEvaluator, artifact, data.x_test[:num_samples], data.y_test[:num_samples]
    )
    start = time.perf_counter()
    with ParallelEvaluator(make, 2) as evaluate_many:
        result = search(
            problem,
            evaluate_many,
            options=SearchOptions(
                max_evaluations=num_evaluations, patience=None, objectives=_OBJECTIVES
            ),
            provenance=provenance(
                artifact_digest=artifact.digest(),
                data_digest=data.digest(),
                num_samples=num_samples,
            ),
        )
    took = time.perf_counter() - start
    whole = PolicyEvaluator(
        artifact, data.x_test[num_samples:], data.y_test[num_samples:]
    )
    full = sum(sizes.values())
    for share, (claim, peer) in _BUDGETS.items():
        fitting = [
            one for one in result.front if one.value(_OBJECTIVES[1]) <= share * full
        ]
        best = max(fitting, key=lambda one: one.metrics["accuracy"])
        accuracy = 100.0 * whole(best.policy)["accuracy"]
        limit = max(claim, peer + _MARGINS[share])
        yield Bar(
            name=f"accuracy at {share:.0%} of the 8-bit kernel memory, on "
            f"{len(data.x_test) - num_samples} samples that the search did not see",
            figure=f"{accuracy:.2f} % (peer {peer:.1f} %)",
            limit=f"at least {limit:.1f} %",
            held=accuracy >= limit,
        )
    limit_s = 3 * len(_BUDGETS) * _PEER_S
    yield Bar(
        name=f"one search for all budgets, {result.num_evaluated} policies on "
        f"{num_samples} samples",
        figure=f"{took:.1f} s",
        limit=f"at most {limit_s:.0f} s",
        held=took <= limit_s,
    )
