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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from typing import Any

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import ExportError, MatarError, MatarWarning
from matar_tf.packaged import Artifact
from matar_tf.policy import Policy
from matar_tf.tflite._schema import op_name, parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.fitting_data import (
    check_data,
    check_labels,
    check_samples,
    data_notes,
    warn_of,
)
from matar_tf.tflite.input_range import (
    InputGrid,
    grid_of_file,
)
from matar_tf.tflite.metrics import (
    METRIC_NAMES,
    Metric,
    compute_metrics,
    get_metrics,
)
from matar_tf.tflite.profiles import DEFAULT_PROFILE
from matar_tf.tflite.runtime import Runner

__all__ = [
    "ParallelEvaluator",
    "PolicyEvaluator",
    "ends_in_sigmoid",
    "evaluate_model",
    "evaluator_without_notes",
    "gives_probabilities",
    "measure",
    "metrics_of",
    "output_step",
]

_SAME_VALUE_OPS = ("DEQUANTIZE", "QUANTIZE", "RESHAPE")


def gives_probabilities(content: bytes) -> bool:
    """Returns whether the outputs of a ``.tflite`` file are those of one distribution.

    They are where it ends in a softmax, or in a sigmoid of one output, which tells two
    classes apart.
    """
    last, num_outputs = _last_function(content)
    return last == "SOFTMAX" or (last == "LOGISTIC" and num_outputs == 1)


def metrics_of(content: bytes, names: Iterable[str]) -> dict[str, Metric]:
    """Returns the metrics of a ``.tflite`` file's outputs; see `get_metrics`.

    Raises:
      DataError: If there is no such metric, or two would have the same name.
    """
    return get_metrics(
        names,
        probabilities=gives_probabilities(content),
        is_sigmoid=ends_in_sigmoid(content),
    )


def ends_in_sigmoid(content: bytes) -> bool:
    """Returns whether each output of a ``.tflite`` file is a probability by itself."""
    return _last_function(content)[0] == "LOGISTIC"


def _last_function(content: bytes) -> tuple[str, int]:
    """Returns the operator that makes the output's values, and how many of a place."""
    model = parse_model(content)
    graph = model.subgraphs[0]
    makers = {int(one.outputs[0]): one for one in graph.operators}
    index = int(graph.outputs[0])
    sizes = np.ravel(graph.tensors[index].shape)
    while index in makers and op_name(model, makers[index]) in _SAME_VALUE_OPS:
        index = int(makers[index].inputs[0])
    last = op_name(model, makers[index]) if index in makers else ""
    return last, int(sizes[-1]) if len(sizes) else 0


def output_step(content: bytes) -> float:
    """Returns the step of the grid of a ``.tflite`` file's output; 0 for float ones."""
    model = parse_model(content)
    graph = model.subgraphs[0]
    makers = {int(one.outputs[0]): one for one in graph.operators}
    maker = makers.get(int(graph.outputs[0]))
    if maker is None or op_name(model, maker) != "DEQUANTIZE":
        return 0.0
    grid = graph.tensors[maker.inputs[0]].quantization
    scale = None if grid is None else grid.scale
    return 0.0 if scale is None or not len(scale) else float(scale[0])


def evaluate_model(
    content: bytes,
    data: Data,
    *,
    metrics: Iterable[str] = METRIC_NAMES,
    runtime: str = "litert",
    num_threads: int = 1,
) -> dict[str, float]:
    """Returns the metrics of a ``.tflite`` file on samples and labels that fit it.

    Args:
      content: The file.
      data: Its evaluation samples and labels count.
      metrics: See `get_metrics`.
      runtime: See `Runner`.
      num_threads: See `Runner`.

    Raises:
      DataError: If samples or labels do not fit, or there is no such metric.
      ExportError: If the runtime does not run the file.
    """
    functions = metrics_of(content, metrics)
    runner = Runner(content, runtime=runtime, num_threads=num_threads)
    return measure(runner, grid_of_file(content), functions, data)


def measure(
    runner: Runner,
    grid: InputGrid | None,
    metrics: Mapping[str, Metric],
    data: Data,
) -> dict[str, float]:
    """Returns the metrics of a file on samples and labels that fit it.

    What is odd about them is a `MatarWarning`.

    Args:
      runner: The file in its runtime.
      grid: Of its input; see `grid_of_file`.
      metrics: What `get_metrics` returned.
      data: Its evaluation samples and labels count.

    Raises:
      DataError: If samples or labels do not fit.
      ExportError: If the runtime does not run the file, or its outputs are integers.
    """
    check_samples(data, runner.input_shape)
    if runner.sandbox_reason is None:  # elsewhere a file need not say it
        check_labels(data, runner.output_shape, metrics)
    notes = data_notes(data, grid)
    outputs = runner.predict(data.x_test)
    if outputs.dtype.kind != "f":
        raise ExportError(
            "Expected a model with float32 outputs to measure, got outputs of type "
            f"{outputs.dtype}; convert it with float32 input and output, its operators "
            "may be of integers."
        )
    check_labels(data, outputs.shape[1:], metrics)
    warn_of(notes)
    return compute_metrics(metrics, outputs, data.y_test)


class PolicyEvaluator:
    """Measures policies of an artifact on labelled samples.

    Args:
      artifact: The packaged network.
      samples: As those of `Data`, ``[num_samples, ...]``.
      labels: As those of `Data`, ``[num_samples, ...]``.
      metrics: Names of metrics; see `get_metrics`.
      profile: How the files that are measured store kernels; see
        `matar_tf.tflite.profiles`.

    Raises:
      DataError: If samples or labels do not fit each other or the network, or there is
        no such metric.
    """

    def __init__(
        self,
        artifact: Artifact,
        samples: np.ndarray,
        labels: np.ndarray,
        *,
        metrics: Iterable[str] = METRIC_NAMES,
        profile: str = DEFAULT_PROFILE,
    ) -> None:
        data = Data(x_test=samples, y_test=labels)
        metrics = tuple(metrics)
        check_data(artifact, data, metrics=metrics)
        self._builder = ModelBuilder(artifact)
        self._profile = profile
        self._samples = data.x_test
        self._labels = data.y_test
        self._metrics = metrics_of(artifact.template, metrics)

    def __call__(self, policy: Policy) -> dict[str, float]:
        """Returns the metrics of a policy.

        An interpreter lasts for one policy: XNNPACK packs the kernels when it starts,
        so a new file needs a new one, which takes about a hundredth of a measurement.
        """
        content = self._builder.build(policy, profile=self._profile)
        outputs = Runner(content).predict(self._samples)
        return compute_metrics(self._metrics, outputs, self._labels)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics that are measured."""
        return tuple(self._metrics)


def evaluator_without_notes(*args: Any, **options: Any) -> PolicyEvaluator:
    """Returns a `PolicyEvaluator` of samples that `check_data` has spoken of before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatarWarning)
        return PolicyEvaluator(*args, **options)


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
