"""Measuring a policy on the integer model that ships.

Accuracy and loss come from the file that `matar_tf.tflite.build` makes, run by LiteRT:
what is searched is what is deployed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final

import numpy as np

from matar_tf.artifact import Artifact
from matar_tf.errors import DataError, MatarError
from matar_tf.policy import Policy
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.runtime import Runner

__all__ = [
    "METRICS",
    "ParallelEvaluator",
    "PolicyEvaluator",
    "accuracy",
    "argmax_agreement",
    "cross_entropy",
    "measure_latency_ms",
]

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of samples whose largest output is the label."""
    return float(np.mean(outputs.argmax(axis=-1) == labels))


def cross_entropy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of ``-log softmax(outputs)[label]``; outputs are logits."""
    shifted = outputs.astype(np.float64) - outputs.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))


def argmax_agreement(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Returns the share of samples with the same largest output in both."""
    return float(np.mean(outputs.argmax(axis=-1) == reference.argmax(axis=-1)))


METRICS: Final[Mapping[str, Metric]] = {"accuracy": accuracy, "loss": cross_entropy}


class PolicyEvaluator:
    """Measures policies of an artifact on labelled samples.

    Args:
      artifact: The packaged network.
      samples: Float samples, ``[num_samples, ...]``.
      labels: Integer labels, ``[num_samples]``.
      metrics: Functions of ``(outputs, labels)``, by name.

    Raises:
      DataError: If there are not as many labels as samples, at least one.
    """

    def __init__(
        self,
        artifact: Artifact,
        samples: np.ndarray,
        labels: np.ndarray,
        *,
        metrics: Mapping[str, Metric] = METRICS,
    ) -> None:
        if not len(samples) or len(samples) != len(labels):
            raise DataError(
                f"Expected as many labels as samples, at least one, got {len(samples)} "
                f"samples and {len(labels)} labels."
            )
        self._builder = ModelBuilder(artifact)
        self._samples = samples
        self._labels = labels
        self._metrics = metrics

    def __call__(self, policy: Policy) -> dict[str, float]:
        """Returns the metrics of a policy."""
        outputs = Runner(self._builder.build(policy)).predict(self._samples)
        return {
            name: metric(outputs, self._labels)
            for name, metric in self._metrics.items()
        }


class ParallelEvaluator:
    """Measures policies in processes of their own; close it, or use it in a ``with``.

    Args:
      make_evaluator: Makes what measures one policy, once in each process; it must
        pickle.
      num_jobs: Number of processes; 1 measures in this one.

    Raises:
      MatarError: If `num_jobs` is below 1.
    """

    def __init__(
        self, make_evaluator: Callable[[], PolicyEvaluator], num_jobs: int = 1
    ) -> None:
        if num_jobs < 1:
            raise MatarError(f"Expected at least one process, got num_jobs={num_jobs}.")
        self._evaluator = make_evaluator() if num_jobs == 1 else None
        self._pool = (
            None
            if num_jobs == 1
            else ProcessPoolExecutor(
                num_jobs,
                # A forked interpreter would share the threads of this process.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(make_evaluator,),
            )
        )

    def __call__(
        self, policies: Iterable[Policy]
    ) -> Iterator[tuple[Policy, Mapping[str, float]]]:
        """Yields each policy with its metrics, in the order given.

        Raises:
          MatarError: If a process ends before its time.
        """
        policies = list(policies)
        if self._evaluator is not None:
            for policy in policies:
                yield policy, self._evaluator(policy)
        if self._pool is not None:
            try:
                measured = self._pool.map(_evaluate, policies)
                yield from zip(policies, measured, strict=True)
            except BrokenProcessPool as error:
                raise MatarError(
                    "A measuring process ended before its time: it could not start (a "
                    "script needs 'if __name__ == \"__main__\":'), or ran out of "
                    "memory; try fewer jobs."
                ) from error

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> ParallelEvaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measure_latency_ms(runner: Runner, *, num_runs: int = 50) -> float:
    """Returns the median milliseconds of one inference of one sample.

    Args:
      runner: A model in its runtime; the first inference does not count.
      num_runs: Number of inferences, at least 1.
    """
    sample = np.zeros((1, *runner.input_shape), np.float32)
    runner.predict(sample)
    times: list[float] = []
    for _ in range(num_runs):
        start = time.perf_counter()
        runner.predict(sample)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


_WORKER: dict[str, Any] = {}


def _start_worker(make_evaluator: Callable[[], PolicyEvaluator]) -> None:
    # An interrupt from the terminal is for the parent, which then ends the pool; a
    # parent that was killed cannot, and would leave its processes behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _WORKER["evaluator"] = make_evaluator()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _evaluate(policy: Policy) -> dict[str, float]:
    return _WORKER["evaluator"](policy)
