"""Measuring a policy on the integer model that ships.

Accuracy and loss come from the file that `matar_tf.tflite.build` makes, run by LiteRT:
what is searched is what is deployed.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from typing import Any

import numpy as np

from matar_tf.data import Data
from matar_tf.errors import DataError, MatarError
from matar_tf.packaged import Artifact
from matar_tf.policy import Policy
from matar_tf.tflite._schema import op_name, parse_model
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.metrics import METRIC_NAMES, compute_metrics, get_metrics
from matar_tf.tflite.profiles import DEFAULT_PROFILE
from matar_tf.tflite.runtime import Runner

__all__ = [
    "ParallelEvaluator",
    "PolicyEvaluator",
    "check_data",
    "check_labels",
    "check_samples",
    "evaluate_file",
    "evaluate_model",
    "gives_probabilities",
    "output_step",
]

_SAME_VALUE_OPS = ("DEQUANTIZE", "QUANTIZE", "RESHAPE")


def gives_probabilities(content: bytes) -> bool:
    """Returns whether the outputs of a ``.tflite`` file are those of one distribution.

    They are where it ends in a softmax, or in a sigmoid of one output, which tells two
    classes apart.
    """
    model = parse_model(content)
    graph = model.subgraphs[0]
    makers = {int(one.outputs[0]): one for one in graph.operators}
    index = int(graph.outputs[0])
    shape = graph.tensors[index].shape
    is_single = shape is not None and list(shape[-1:]) == [1]
    while index in makers and op_name(model, makers[index]) in _SAME_VALUE_OPS:
        index = int(makers[index].inputs[0])
    last = op_name(model, makers[index]) if index in makers else ""
    return last == "SOFTMAX" or (last == "LOGISTIC" and is_single)


def output_step(content: bytes) -> float:
    """Returns the step of the grid of a ``.tflite`` file's output; 0 for float ones."""
    model = parse_model(content)
    graph = model.subgraphs[0]
    makers = {int(one.outputs[0]): one for one in graph.operators}
    maker = makers.get(int(graph.outputs[0]))
    if maker is None or op_name(model, maker) != "DEQUANTIZE":
        return 0.0
    return float(graph.tensors[maker.inputs[0]].quantization.scale[0])


def check_data(artifact: Artifact, data: Data) -> None:
    """Checks that samples fit the network and labels fit its outputs.

    Raises:
      DataError: If they do not.
    """
    workload = artifact.workload
    check_samples(data, workload.tensors[workload.inputs[0]].shape)
    check_labels(data, workload.tensors[workload.outputs[0]].shape)


def check_samples(data: Data, input_shape: tuple[int, ...]) -> None:
    """Checks that samples have the shape of a network's input.

    Raises:
      DataError: If they have not.
    """
    if data.x_test.shape[1:] != input_shape:
        raise DataError(
            f"Expected samples of shape {('n', *input_shape)} for this network, got "
            f"{data.x_test.shape} in {data.name!r}; name the data that it is for."
        )


def check_labels(data: Data, output_shape: tuple[int, ...]) -> None:
    """Checks that the labels of the test samples are outputs of the network.

    Args:
      data: What the network is to be evaluated on.
      output_shape: Shape of the outputs of one sample.

    Raises:
      DataError: If they are not.
    """
    if len(output_shape) != 1:
        raise DataError(
            "Expected a network with one row of outputs per sample, one for each "
            f"class, to evaluate on labels, got outputs of shape "
            f"{('n', *output_shape)}; end it in a global pool or Flatten, or do "
            "without data."
        )
    num_classes = max(output_shape[0], 2)  # one output tells two classes apart
    low, high = int(data.y_test.min()), int(data.y_test.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"Expected labels in 0..{num_classes - 1} for this network, got "
            f"{low}..{high} in {data.name!r}."
        )


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
    functions = get_metrics(metrics, probabilities=gives_probabilities(content))
    runner = Runner(content, runtime=runtime, num_threads=num_threads)
    check_samples(data, runner.input_shape)
    outputs = runner.predict(data.x_test)
    check_labels(data, outputs.shape[1:])
    return compute_metrics(functions, outputs, data.y_test)


def evaluate_file(
    content: bytes,
    samples: np.ndarray,
    labels: np.ndarray,
    *,
    metrics: Iterable[str] = METRIC_NAMES,
) -> dict[str, float]:
    """Returns the metrics of a ``.tflite`` file, run by LiteRT; see `get_metrics`."""
    functions = get_metrics(metrics, probabilities=gives_probabilities(content))
    return compute_metrics(functions, Runner(content).predict(samples), labels)


class PolicyEvaluator:
    """Measures policies of an artifact on labelled samples.

    Args:
      artifact: The packaged network.
      samples: Float samples, ``[num_samples, ...]``.
      labels: Integer labels, ``[num_samples]``.
      metrics: Names of metrics; see `get_metrics`.
      profile: How the files that are measured store kernels; see
        `matar_tf.tflite.profiles`.

    Raises:
      DataError: If there are not as many labels as samples, at least one, or there is
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
        if not len(samples) or len(samples) != len(labels):
            raise DataError(
                f"Expected as many labels as samples, at least one, got {len(samples)} "
                f"samples and {len(labels)} labels."
            )
        self._builder = ModelBuilder(artifact)
        self._profile = profile
        self._samples = samples
        self._labels = labels
        self._metrics = get_metrics(
            metrics, probabilities=gives_probabilities(artifact.template)
        )

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
