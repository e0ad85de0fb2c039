"""Measuring a policy on the integer model that ships.

Accuracy and loss come from the file that `matar_tf.tflite.build` makes, run by LiteRT:
what is searched is what is deployed.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from typing import Any

from matar_tf.data import Data
from matar_tf.errors import ExportError, MatarError, MatarWarning
from matar_tf.named_arrays import Arrays, alone, by_name
from matar_tf.packaged import Artifact
from matar_tf.policy import Policy
from matar_tf.tflite._schema import parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.ends import outputs_of
from matar_tf.tflite.fitting_data import (
    check_answers,
    check_data,
    check_heads,
    check_samples,
    data_notes,
    for_inputs,
    labels_of,
    measured,
    warn_of,
)
from matar_tf.tflite.heads import metrics_of
from matar_tf.tflite.input_range import grids_of_file
from matar_tf.tflite.metrics import compute_metrics, listed
from matar_tf.tflite.profiles import DEFAULT_PROFILE, get_profile
from matar_tf.tflite.runtime import Runner

__all__ = [
    "ParallelEvaluator",
    "PolicyEvaluator",
    "evaluate_model",
    "evaluator_without_notes",
    "measure",
]


def evaluate_model(
    content: bytes,
    data: Data,
    *,
    metrics: Iterable[str] | None = None,
    runtime: str = "litert",
    num_threads: int = 1,
    allow_odd_data: bool = False,
) -> dict[str, float]:
    """Returns the metrics of a ``.tflite`` file on samples and labels that fit it.

    Args:
      content: The file.
      data: Its evaluation samples and labels count.
      metrics: See `matar_tf.tflite.heads`; None for `default_metrics`.
      runtime: See `Runner`.
      num_threads: See `Runner`.
      allow_odd_data: See `check_data`.

    Raises:
      DataError: If samples or labels do not fit, or there is no such metric.
      ExportError: If the runtime does not run the file.
    """
    names = None if metrics is None else listed(metrics)
    if names is not None:
        metrics_of(outputs_of(content), names)
    runner = Runner(content, runtime=runtime, num_threads=num_threads)
    return measure(runner, content, names, data, allow_odd_data=allow_odd_data)


def measure(
    runner: Runner,
    content: bytes,
    metrics: Sequence[str] | None,
    data: Data,
    *,
    allow_odd_data: bool = False,
) -> dict[str, float]:
    """Returns the metrics of a file on samples and labels that fit it.

    What is odd about them is a `MatarWarning`.

    Args:
      runner: The file in its runtime.
      content: The file.
      metrics: See `matar_tf.tflite.heads`; None for `default_metrics`.
      data: Its evaluation samples and labels count.
      allow_odd_data: See `check_data`.

    Raises:
      DataError: If samples or labels do not fit.
      ExportError: If the runtime does not run the file, or its outputs are integers.
    """
    model = parse_model(content)
    data = for_inputs(data, model)
    check_samples(data, runner.input_shapes)
    if runner.sandbox_reason is None:  # elsewhere a file need not say it
        check_heads(data, runner.output_shapes, metrics)
    notes = data_notes(data, grids_of_file(content), allow_odd_data=allow_odd_data)
    found = runner.predict(data.x_test)
    outputs = by_name(found, list(runner.output_shapes), "outputs")
    for one in outputs.values():
        if one.dtype.kind != "f":
            raise ExportError(
                "Expected a model with float32 outputs to measure, got outputs of type "
                f"{one.dtype}; convert it with float32 input and output, its operators "
                "may be of integers."
            )
    shapes = {name: one.shape[1:] for name, one in outputs.items()}
    names = measured(data, shapes) if metrics is None else metrics
    check_heads(data, shapes, names)
    check_answers(data, names)
    warn_of(notes)
    functions = metrics_of(outputs_of(model), names)
    return compute_metrics(functions, found, _labels(data, shapes))


def _labels(data: Data, outputs: Iterable[str]) -> Arrays:
    """Returns labels as metrics take them: by names, of one output alone an array."""
    names = list(outputs)
    labels = labels_of(data, names)
    return labels if len(names) > 1 else alone(labels)


class PolicyEvaluator:
    """Measures policies of an artifact on labelled samples.

    Args:
      artifact: The packaged network.
      samples: As those of `Data`.
      labels: As those of `Data`.
      metrics: Names of metrics; see `matar_tf.tflite.heads`. None for
        `default_metrics`.
      profile: How the files that are measured store kernels; see
        `matar_tf.tflite.profiles`.
      runtime: What runs them; None for what the profile is for.
      allow_odd_data: See `check_data`.

    Raises:
      DataError: If samples or labels do not fit each other or the network, or there is
        no such metric.
    """

    def __init__(
        self,
        artifact: Artifact,
        samples: Arrays,
        labels: Arrays,
        *,
        metrics: Iterable[str] | None = None,
        profile: str = DEFAULT_PROFILE,
        runtime: str | None = None,
        allow_odd_data: bool = False,
    ) -> None:
        data = for_inputs(Data(x_test=samples, y_test=labels), artifact.template)
        outputs = outputs_of(artifact.template)
        shapes = {one.name: one.shape for one in outputs}
        names = measured(data, shapes) if metrics is None else listed(metrics)
        check_data(artifact, data, metrics=names, allow_odd_data=allow_odd_data)
        self._builder = ModelBuilder(artifact)
        self._runtime = get_profile(profile).runtime if runtime is None else runtime
        self._profile = profile
        self._samples = data.x_test
        self._labels = _labels(data, shapes)
        self._metrics = metrics_of(outputs, names)

    def __call__(self, policy: Policy) -> dict[str, float]:
        """Returns the metrics of a policy."""
        return compute_metrics(self._metrics, self._outputs(policy), self._labels)

    def _outputs(self, policy: Policy) -> Any:
        """Returns what the file of a policy makes of the samples.

        An interpreter lasts for one policy: XNNPACK packs the kernels when it starts,
        so a new file needs a new one, which takes about a hundredth of a measurement.
        """
        content = self._builder.build(policy, profile=self._profile)
        return Runner(content, runtime=self._runtime).predict(self._samples)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics that are measured."""
        return tuple(self._metrics)


def evaluator_without_notes(*args: Any, **options: Any) -> PolicyEvaluator:
    """Returns a `PolicyEvaluator` of samples that `check_data` has spoken of before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatarWarning)
        return PolicyEvaluator(*args, allow_odd_data=True, **options)


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
        self._pool = None if num_jobs == 1 else _start_pool(make_evaluator, num_jobs)

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


def _start_pool(
    make_evaluator: Callable[[], PolicyEvaluator], num_jobs: int
) -> ProcessPoolExecutor:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # One of ours, which imports a script that asks for processes unguarded: the
        # script's own process says so.
        sys.exit(1)
    # A forked interpreter would share the threads of this process.
    context = multiprocessing.get_context("spawn")
    # Not as an argument: a process that dies before it has read a large one is waited
    # for without end (CPython 3.11 holds the reading end of the pipe, too).
    pickled = pickle.dumps(make_evaluator)
    makers: Queue[bytes] = context.Queue()
    makers.cancel_join_thread()
    for _ in range(num_jobs):
        makers.put(pickled)
    return ProcessPoolExecutor(
        num_jobs, mp_context=context, initializer=_start_worker, initargs=(makers,)
    )


_WORKER: dict[str, Any] = {}


def _start_worker(makers: Queue[bytes]) -> None:
    # An interrupt from the terminal is for the parent, which then ends the pool; a
    # parent that was killed cannot, and would leave its processes behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _WORKER["evaluator"] = pickle.loads(makers.get())()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _evaluate(policy: Policy) -> dict[str, float]:
    return _WORKER["evaluator"](policy)
