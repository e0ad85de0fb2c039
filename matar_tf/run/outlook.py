"""What a run may take, said before it begins."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from typing import Final

from matar_tf.data import Data
from matar_tf.evolution import most_measured, search_order
from matar_tf.named_arrays import num_rows, rows
from matar_tf.run.plan import Run
from matar_tf.targets import Target, load_target
from matar_tf.tflite.runtime import Runner

__all__ = ["host_hint", "largest_number", "outlook", "spoken"]

_HOST: Final = "host_litert"

_NUM_TIMED: Final = 64  # samples
_MINUTE, _HOUR = 60.0, 3600.0


def outlook(run: Run) -> str:
    """Returns how many evaluations a run may take, and about how long, in a sentence.

    The network is run once, at its widest, on its first samples; what metrics of the
    user's own take is not in the time, nor what a resumed run knows already.
    """
    if run.searched is None:
        return (
            f"No data: accuracy is predicted from {run.artifact.measurements}; "
            "nothing is measured."
        )
    number, num_samples = largest_number(run), run.searched.num_samples
    sentence = f"Up to {number} evaluations of {num_samples} samples"
    jobs, settings = run.settings.num_jobs, run.settings
    if settings.executor != "local":
        return f"{sentence}, {jobs} at a time."
    num_cores = os.cpu_count() or 1
    seconds = number * _seconds(run, run.searched) / min(jobs, num_cores)
    limit = settings.options.max_minutes
    if limit is not None:
        seconds = min(seconds, _MINUTE * limit * len(run.targets))
    processes = "1 process" if jobs == 1 else f"{jobs} processes"
    return f"{sentence}, about {spoken(seconds)} in {processes} on {num_cores} cores."


def host_hint(targets: Iterable[Target]) -> str:
    """Returns how to get rates of this machine, where some are of another; or "".

    Args:
      targets: Those of a run.
    """
    if load_target(_HOST) not in targets:
        return ""
    return (
        f"The rates of {_HOST}, which guide the search, were fitted on another machine "
        f"perhaps; `matar targets calibrate --name={_HOST}` measures this one in "
        f"seconds, for --targets={_HOST}.toml."
    )


def largest_number(run: Run) -> int:
    """Returns how many policies the searches of a run measure at most.

    Later targets are taught by the first, unless its policies were all measured.
    """
    options = run.settings.options
    most = most_measured(options) if run.predictors else options.max_evaluations
    total, is_taught = 0, False
    for index in search_order(run.problems):
        num_policies = run.problems[index].codec().num_genomes
        asked = run.settings.num_follow_up if is_taught else most
        total += min(asked, num_policies)
        is_taught = is_taught or num_policies > most
    return total


def spoken(seconds: float) -> str:
    """Returns a time as one speaks of it: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < _MINUTE:
        return f"{max(math.ceil(seconds), 1)} s"
    if seconds < _HOUR:
        return f"{math.ceil(seconds / _MINUTE)} min"
    return f"{seconds / _HOUR:.1f} h"


def _seconds(run: Run, data: Data) -> float:
    """Returns about what one evaluation takes in this process."""
    few = rows(data.x_test, slice(_NUM_TIMED))
    start = time.perf_counter()
    runner = Runner(run.builder.build(run.artifact.space.widest()))
    runner.predict(rows(few, slice(1)))
    started = time.perf_counter()
    runner.predict(few)
    per_sample = (time.perf_counter() - started) / num_rows(few)
    return started - start + per_sample * data.num_samples
