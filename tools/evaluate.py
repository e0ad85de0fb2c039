"""Runs a ``.tflite`` file: accuracy, size, latency. Needs no TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import check_flags_only, reports_errors, run

_MODEL = flags.DEFINE_string("model", None, "Path of the .tflite file.")
_DATA = flags.DEFINE_string(
    "data", "digits", "'digits', a path.npz, or package.module:function."
)
_METRICS = flags.DEFINE_list(
    "metrics",
    ["accuracy", "loss"],
    "Among accuracy, loss, top_K_accuracy, package.module:function.",
)
_RUNTIME = flags.DEFINE_enum(
    "runtime", "litert", ["litert", "tflite_runtime", "tensorflow"], "Interpreter."
)
_THREADS = flags.DEFINE_integer(
    "threads", 1, "Threads of it.", lower_bound=1, upper_bound=1024
)
_OPERATORS = flags.DEFINE_bool(
    "operators", False, "Print the latency of each operator, in LiteRT."
)
flags.mark_flags_as_required(["model"])


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Evaluates; prints metrics, size and median latency."""
    check_flags_only(argv)
    from matar_tf.data import load_data
    from matar_tf.errors import DataError
    from matar_tf.tflite.evaluate import check_labels, gives_probabilities
    from matar_tf.tflite.latency import measure_latency_ms
    from matar_tf.tflite.metrics import compute_metrics, get_metrics
    from matar_tf.tflite.runtime import Runner

    path = Path(_MODEL.value)
    if _OPERATORS.value and _RUNTIME.value != "litert":
        raise DataError(
            f"Expected --runtime=litert beside --operators, got {_RUNTIME.value}; "
            "leave one of them out."
        )
    if not path.is_file():
        raise DataError(f"Expected a .tflite file at {path}, found nothing.")
    content = path.read_bytes()
    metrics = get_metrics(_METRICS.value, probabilities=gives_probabilities(content))
    runner = Runner(content, runtime=_RUNTIME.value, num_threads=_THREADS.value)
    data = load_data(_DATA.value, training=False)
    outputs = runner.predict(data.x_test)
    check_labels(data, outputs.shape[1:])
    print(f"model     {path} ({len(content)} bytes)")
    print(f"runtime   {_RUNTIME.value}, {_THREADS.value} thread(s)")
    print(f"data      {len(data.x_test)} samples of {data.name}")
    for name, value in compute_metrics(metrics, outputs, data.y_test).items():
        print(f"{name:9s} {_shown(name, value, len(data.x_test))}")
    print(f"latency   {measure_latency_ms(runner):.3f} ms (median of 50, one sample)")
    if _OPERATORS.value:
        for line in _operator_lines(content, _THREADS.value):
            print(line)
    return 0


def _operator_lines(content: bytes, num_threads: int) -> list[str]:
    """Returns what each operator takes, one a line."""
    from matar_tf.tflite.latency import profile_operators

    return [
        f"{1e3 * one.own_ms:8.1f} us  {one.operator:24s} {one.name}"
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


if __name__ == "__main__":
    run(main)
