"""The measurements of ``tools/benchmark.py luck``. Needs no TensorFlow.

Two policies that are equally good on all images differ on some of them. A front takes
the luckiest of what was measured, so that the hypervolumes of two searches differ by
luck, and more measurements are luckier. Here the accuracies are imagined: what the
drops of a network's entries add up to, and a luck as large as the network's own. So
the same searches can be repeated with other luck, and with a surrogate that knows every
accuracy beforehand, which no search can do better than.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from matar_tf.artifact import Artifact, read_artifact
from matar_tf.data import Data, load_data
from matar_tf.errors import DataError
from matar_tf.evolution import (
    EvaluationStore,
    SearchOptions,
    SearchProblem,
    Surrogate,
    search_order,
)
from matar_tf.evolution._genome import GenomeCodec
from matar_tf.evolution._pareto import hypervolume
from matar_tf.evolution._surrogate import Array
from matar_tf.policy import Policy
from matar_tf.results import SearchResult
from matar_tf.tflite.evaluate import PolicyEvaluator
from tools.benchmarks.bars import Bar
from tools.benchmarks.baselines import policy_drops, sensitivity_policies
from tools.benchmarks.search_bench import (
    FOLLOW_UP,
    PLAIN,
    TARGETS,
    Bench,
    Enumerated,
    Measured,
    front_values,
    num_follow_up,
)

__all__ = ["measure_luck"]

_NUM_LUCKS = 10
_NEARLY = 0.99  # of what a search comes to whose surrogate knows everything


@dataclass(frozen=True)
class _Imagined:
    """Accuracies of policies: sums of drops, and the luck of some samples.

    Attributes:
      codec: Of the network's space.
      drops: Accuracy that each choice of each entry costs.
      accuracy: Of the widest policy.
      deviation: Of the luck.
      luck: Its seed.
    """

    codec: GenomeCodec
    drops: Sequence[Sequence[float]]
    accuracy: float
    deviation: float
    luck: int

    def known(self, policies: Iterable[Policy]) -> list[float]:
        """Returns accuracies without luck."""
        return [
            self.accuracy
            - sum(
                drop[choice]
                for drop, choice in zip(
                    self.drops, self.codec.encode(policy), strict=True
                )
            )
            for policy in policies
        ]

    def measure(
        self, policies: Sequence[Policy]
    ) -> Iterator[tuple[Policy, Mapping[str, float]]]:
        """Yields the metrics of policies; the same for one whenever it is asked for."""
        for policy, known in zip(policies, self.known(policies), strict=True):
            key = f"{self.luck}:{policy.digest()}".encode()
            seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
            luck = float(np.random.default_rng(seed).standard_normal())
            accuracy = known + luck * self.deviation
            yield policy, {"accuracy": accuracy, "loss": 1.0 - accuracy}

    def surrogate(self, policies: Sequence[Policy], values: Array) -> Surrogate:
        """Returns a surrogate that knows what is not luck."""
        return _Knowing(self, policies, values)


class _Knowing(Surrogate):
    def __init__(
        self, imagined: _Imagined, policies: Sequence[Policy], values: Array
    ) -> None:
        super().__init__(policies, values)
        self._imagined = imagined

    def predict(self, policies: Sequence[Policy]) -> Array:
        return -np.asarray(self._imagined.known(policies))[:, np.newaxis]

    def deviations(self, policies: Sequence[Policy]) -> Array:
        return np.full((len(policies), 1), self._imagined.deviation)


def measure_luck(
    artifact_path: str, data_spec: str, *, num_samples: int, num_evaluations: int
) -> Iterator[Bar]:
    """Yields one bar after the other as it is measured.

    Args:
      artifact_path: The network whose drops and luck are measured.
      data_spec: The data that it was trained on, at least `num_samples` twice.
      num_samples: That the imagined searches see.
      num_evaluations: Of each search from nothing.
    """
    artifact = read_artifact(artifact_path)
    imagined = _imagine(artifact, load_data(data_spec, training=False), num_samples)
    shares: list[float] = []
    ratios: dict[str, dict[str, list[float]]] = {
        "plain": {},
        "taught": {},
        "knowing": {},
        "without luck": {},
    }
    for luck in range(_NUM_LUCKS):
        with _bench(artifact, replace(imagined, luck=luck)) as bench:
            small = Enumerated(bench)
            shares.append(small.share(front_values(small.search(luck))))
            for target, kind, ratio in _searches(
                bench, imagined, num_evaluations, luck
            ):
                ratios[kind].setdefault(target, []).append(ratio)
    yield Bar(
        name=f"share of the true hypervolume of a small network, {FOLLOW_UP:.0%} of "
        f"all policies, mean of {_NUM_LUCKS} lucks",
        figure=_shown(shares),
        limit="at least 0.99",
        held=statistics.mean(shares) >= 0.99,
    )
    for target, found in ratios["plain"].items():
        yield Bar(
            name=f"{target}: hypervolume over plain NSGA-II, {num_evaluations} "
            f"evaluations, mean of {_NUM_LUCKS} lucks",
            figure=f"{_shown(found)}, luck of {100 * imagined.deviation:.2f} points",
            limit="at least 1.02",
            held=statistics.mean(found) >= 1.02,
        )
    for target, found in ratios["taught"].items():
        best = ratios["knowing"][target]
        yield Bar(
            name=f"{target} after others, {num_follow_up(num_evaluations)} new "
            f"evaluations: hypervolume over a search from nothing, and that of a "
            f"surrogate that knows every accuracy, mean of {_NUM_LUCKS} lucks",
            figure=f"{_shown(found)}, {_shown(best)}",
            limit=f"{_NEARLY} of the second",
            held=statistics.mean(found) >= _NEARLY * statistics.mean(best),
        )
        fair = ratios["without luck"][target]
        yield Bar(
            name=f"{target}: the same fronts by accuracies without luck",
            figure=_shown(fair),
            limit="at least 0.995",
            held=statistics.mean(fair) >= 0.995,
        )


def _imagine(artifact: Artifact, data: Data, num_samples: int) -> _Imagined:
    """Measures drops on all samples, and how much two parts of these disagree."""
    if len(data.x_test) < 2 * num_samples:
        raise DataError(
            f"Expected data with twice the {num_samples} samples of a search, got "
            f"{len(data.x_test)} in {data.name!r}; lower --num_samples."
        )
    space = artifact.space
    policies = sensitivity_policies(space)
    halves: list[list[float]] = []
    for part in (slice(num_samples), slice(num_samples, 2 * num_samples)):
        evaluate = PolicyEvaluator(artifact, data.x_test[part], data.y_test[part])
        halves.append([evaluate(policy)["accuracy"] for policy in policies])
    first, second = np.asarray(halves)
    errors = dict(zip(policies, (1.0 - (first + second) / 2.0).tolist(), strict=True))
    return _Imagined(
        codec=GenomeCodec(space),
        drops=policy_drops(space, errors),
        accuracy=1.0 - errors[space.widest()],
        # Both parts have luck of their own; what differs for all policies is none.
        deviation=float(np.std(first - second, ddof=1) / np.sqrt(2.0)),
        luck=0,
    )


@contextlib.contextmanager
def _bench(artifact: Artifact, imagined: _Imagined) -> Iterator[Bench]:
    with (
        tempfile.TemporaryDirectory() as folder,
        EvaluationStore(Path(folder) / "store.sqlite") as store,
    ):
        measured = Measured(imagined.measure, store, artifact.digest(), "imagined", 1)
        yield Bench(artifact, measured, None)


def _searches(
    bench: Bench, imagined: _Imagined, num_evaluations: int, seed: int
) -> Iterator[tuple[str, str, float]]:
    """Yields target, kind of search and its ratio to the search from nothing."""
    options = SearchOptions(max_evaluations=num_evaluations, patience=None, seed=seed)
    problems = [bench.problem(name, bench.artifact.space) for name in TARGETS]
    order = [problems[index] for index in search_order(problems)]
    memory: dict[Policy, Mapping[str, float]] = {}
    for number, problem in enumerate(order):
        full = bench.search(problem, options, None if number else memory)
        plain = bench.search(problem, replace(options, **PLAIN))
        yield problem.target, "plain", bench.ratio(problem, full, plain)
        if not number:
            continue
        best = bench.follow_up(problem, options, dict(memory), imagined.surrogate)
        taught = bench.follow_up(problem, options, memory)
        yield problem.target, "taught", bench.ratio(problem, taught, full)
        fair = _volume(bench, imagined, problem, taught) / _volume(
            bench, imagined, problem, full
        )
        yield problem.target, "without luck", fair
        yield problem.target, "knowing", bench.ratio(problem, best, full)


def _volume(
    bench: Bench, imagined: _Imagined, problem: SearchProblem, result: SearchResult
) -> float:
    """Returns the hypervolume of a front by the accuracies without luck."""
    known = imagined.known([one.policy for one in result.front])
    latencies = [latency for _, latency in front_values(result)]
    values = [(-accuracy, ms) for accuracy, ms in zip(known, latencies, strict=True)]
    return hypervolume(values, bench.corner(problem))


def _shown(ratios: Sequence[float]) -> str:
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    return f"{statistics.mean(ratios):.4f} ± {error:.4f}"
