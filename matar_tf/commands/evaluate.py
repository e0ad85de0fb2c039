"""Runs a ``.tflite`` file: accuracy, size, latency. Needs no TensorFlow.

Without ``--data`` size and latency alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Command, Given
from matar_tf.commands._common import read_data

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["COMMAND"]


def _define(values: FlagValues) -> None:
    _flags.model(values, "Path of the .tflite file.")
    _flags.data(values, otherwise="; default none")
    _flags.num_samples(values)
    _flags.allow_odd_data(values)
    _flags.metrics(values)
    _flags.runtime(
        values, ["litert", "tflite_runtime", "tensorflow", "tflm"], "Interpreter"
    )
    flags.DEFINE_integer(
        "threads",
        1,
        "Threads of it.",
        lower_bound=1,
        upper_bound=1024,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "operators",
        False,
        "Print the latency of each operator, in LiteRT.",
        flag_values=values,
    )


def _run(given: Given) -> int:
    """Evaluates; prints metrics, size and median latency."""
    from matar_tf.errors import DataError
    from matar_tf.tflite.ends import outputs_of
    from matar_tf.tflite.evaluate import measure
    from matar_tf.tflite.export import read_model
    from matar_tf.tflite.heads import metrics_of
    from matar_tf.tflite.latency import measure_latency_ms
    from matar_tf.tflite.runtime import Runner

    path = Path(given.model)
    if given.operators and given.runtime != "litert":
        raise DataError(
            f"Expected --runtime=litert beside --operators, got {given.runtime}; leave "
            "one of them out."
        )
    asked = {"num_samples": given.num_samples, "metrics": given.metrics}
    flag = next((name for name, value in asked.items() if value is not None), None)
    if flag is not None and given.data is None:
        raise DataError(
            f"Expected --data beside --{flag}, got none; name the data, or leave "
            f"--{flag} out."
        )
    content = read_model(path)
    if given.metrics is not None:
        metrics_of(outputs_of(content), given.metrics)
    # Before the samples: TensorFlow, which they may need, breaks tflite_runtime.
    runner = Runner(content, runtime=given.runtime, num_threads=given.threads)
    data = None if given.data is None else read_data(given)
    figures: dict[str, float] = {}
    if data is not None:
        allowed = given.allow_odd_data
        figures = measure(runner, content, given.metrics, data, allow_odd_data=allowed)
    print(f"model     {path} ({len(content)} bytes)")
    print(f"runtime   {given.runtime}, {given.threads} thread(s)")
    if runner.sandbox_reason is not None:
        print(f"          in a process of its own: {runner.sandbox_reason}")
    if data is None:
        print("data      none, so no metrics; --data names some")
    else:
        print(f"data      {data.num_samples} samples of {data.name}")
        for name, value in figures.items():
            print(f"{name:9s} {_shown(name, value, data.num_samples)}")
    way = "" if runner.sandbox_reason is None else ", with the way to that process"
    milliseconds = f"{measure_latency_ms(runner):.3f} ms"
    print(f"latency   {milliseconds} (median of 50, one sample{way})")
    if given.operators:
        for line in _operator_lines(content, given.threads):
            print(line)
    return 0


def _operator_lines(content: bytes, num_threads: int) -> list[str]:
    """Returns what each operator takes, one a line."""
    from matar_tf.errors import readable
    from matar_tf.tflite.latency import profile_operators

    return [
        f"{1e3 * max(one.own_ms, 0.0):8.1f} us  {one.operator:24s} {readable(one.name)}"
        for one in profile_operators(content, num_threads=num_threads)
    ]


def _shown(name: str, value: float, num_samples: int) -> str:
    """Returns a metric as printed, a share with its 95 % interval."""
    from matar_tf.figures import figure_of, is_share

    if not is_share(name):
        return f"{value:.4f}"
    bounds = figure_of(name).interval(value, num_samples)
    if bounds is None:
        return f"{value:.2%}"
    return f"{value:.2%} ({bounds[0]:.2%}..{bounds[1]:.2%}, 95 % interval)"


COMMAND: Final = Command(
    text=__doc__,
    define=_define,
    run=_run,
    subject="model",
    required=("model",),
)
