"""Retargets an artifact: searches policies for targets and exports them.

Needs no TensorFlow. If TensorFlow is installed and the artifact holds the Keras
network, each exported file is compared with it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.common import (
    check_flags_only,
    command_line,
    reports_errors,
    run,
)

_ARTIFACT = flags.DEFINE_string("artifact", None, "Directory or .matar file.")
_TARGETS = flags.DEFINE_list(
    "targets", None, "Names of the catalogue, or paths of .toml files."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
_DATA = flags.DEFINE_string(
    "data", "digits", "'digits', a path.npz, or package.module:function."
)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Measure on the first so many samples; default all.",
    lower_bound=1,
)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the search.", lower_bound=0)
_OBJECTIVES = flags.DEFINE_list(
    "objectives",
    ["accuracy", "latency_ms"],
    "Metrics and costs to make better, at least one of each. Metrics: accuracy, loss, "
    "and what else --metrics names. Costs: latency_ms, cycles, energy_pj, "
    "weight_bytes, peak_activation_bytes, bops, macs, mean_weight_bits, "
    "mean_activation_bits, and file_bytes of the exported file. What ends in "
    "'accuracy' is made larger, all else smaller, unless max:NAME or min:NAME says so.",
)
_METRICS = flags.DEFINE_list(
    "metrics",
    ["accuracy", "loss"],
    "What to measure: accuracy, loss, top_K_accuracy, package.module:function.",
)
_MAX = flags.DEFINE_multi_string(
    "max",
    [],
    "Largest figure of a policy: weight_bytes=40KiB, latency_ms=250us, loss=1; names "
    "are those of --objectives. With --holdout metrics are bounded on the samples that "
    "are searched, and may miss the bound on those that tables report on.",
)
_MIN = flags.DEFINE_multi_string(
    "min",
    [],
    "Smallest figure of a policy: accuracy=0.85 (or 85%), ...; names are those of "
    "--objectives, and with --holdout metrics are bounded as for --max.",
)
_FIX = flags.DEFINE_multi_string(
    "fix", [], "Widths that entries keep: weights:stem=8, activations:stack1_*=4,8, ..."
)
_START = flags.DEFINE_multi_string(
    "start",
    [],
    "Policies (.json) to start from; in the tables under the file's name, those of "
    "another front under the folder's name as well.",
)
_HOLDOUT = flags.DEFINE_float(
    "holdout",
    0.0,
    "Share of the samples that the search does not see and that the tables report on; "
    "0: search and report on all.",
    lower_bound=0.0,
    upper_bound=0.95,
)
_MAX_EVALUATIONS = flags.DEFINE_integer(
    "max_evaluations", 400, "Largest number of policies per target.", lower_bound=4
)
_MAX_MINUTES = flags.DEFINE_float(
    "max_minutes", None, "Time per target; the front then depends on the machine."
)
_PATIENCE = flags.DEFINE_integer(
    "patience",
    15,
    "Cohorts without a gain in hypervolume before the search stops; 0: never.",
    lower_bound=0,
)
_POPULATION = flags.DEFINE_integer(
    "population_size",
    40,
    "Policies of a generation, or --max_evaluations if that is less (with --resume, "
    "that of the run that began). With a surrogate "
    "a third is measured at a time: raise it for more --jobs.",
    lower_bound=4,
)
_FOLLOW_UP = flags.DEFINE_float(
    "follow_up_share",
    0.15,
    "Share of --max_evaluations that each target after the first may measure anew, "
    "beside what the others know. The first is the one with the fewest policies.",
    lower_bound=0.01,
    upper_bound=1.0,
)
_SENSITIVITY = flags.DEFINE_bool(
    "sensitivity", True, "Start from the best sums of single-entry measurements."
)
_OVERSAMPLING = flags.DEFINE_integer(
    "oversampling",
    8,
    "Policies bred for each that is measured, picked by a surrogate; 1: no surrogate.",
    lower_bound=1,
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Processes that measure.", lower_bound=1)
_EXECUTOR = flags.DEFINE_enum(
    "executor",
    "local",
    ["local", "ray"],
    "Where these are: on this machine, or on a Ray cluster.",
)
_RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "Address of the cluster (host:port), for --executor=ray; default: $RAY_ADDRESS, "
    "else the one that 'ray start' started here, else one of this run alone.",
)
_STORE = flags.DEFINE_string(
    "store",
    None,
    "Evaluation store (SQLite) to read and extend, shared by any number of runs; "
    "default: one of this run alone, in --output.",
)
_PROFILE = flags.DEFINE_enum(
    "profile",
    "int8",
    ["int8", "packed-litert", "packed-float", "packed-portable"],
    "How exported files store kernels.",
)
_COMPARE = flags.DEFINE_enum(
    "compare",
    "auto",
    ["auto", "keras", "none"],
    "What exported files must agree with: the artifact's Keras network (auto: if there "
    "is one and TensorFlow is installed), or nothing.",
)
_RESUME = flags.DEFINE_bool("resume", False, "Go on with the run in --output.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the run in --output.")
flags.mark_flags_as_required(["artifact", "targets", "output"])


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Runs the search; prints one table per target."""
    check_flags_only(argv)
    from matar_tf.artifact import read_artifact
    from matar_tf.data import load_data
    from matar_tf.reporting import to_text
    from matar_tf.run.plan import make_run
    from matar_tf.run.retarget import retarget
    from matar_tf.run.settings import settings_of
    from matar_tf.targets import load_target

    artifact = read_artifact(_ARTIFACT.value)
    targets = [load_target(name) for name in _TARGETS.value]
    data = load_data(_DATA.value, training=False)
    if _NUM_SAMPLES.value is not None:
        data = data.head(_NUM_SAMPLES.value)
    settings = settings_of(
        artifact.space,
        seed=_SEED.value,
        objectives=_OBJECTIVES.value,
        max=_MAX.value,
        min=_MIN.value,
        metrics=_METRICS.value,
        max_evaluations=_MAX_EVALUATIONS.value,
        max_minutes=_MAX_MINUTES.value,
        patience=_PATIENCE.value or None,
        population_size=_POPULATION.value,
        follow_up_share=_FOLLOW_UP.value,
        sensitivity=_SENSITIVITY.value,
        oversampling=_OVERSAMPLING.value,
        fix=_FIX.value,
        start=_START.value,
        holdout=_HOLDOUT.value,
        profile=_PROFILE.value,
        jobs=_JOBS.value,
        executor=_EXECUTOR.value,
        ray_address=_RAY_ADDRESS.value,
        store=_STORE.value,
        command=command_line(),
    )
    planned = make_run(artifact, targets, data, settings)
    reference = None
    has_network = "network.json" in artifact.extras
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    if _COMPARE.value == "keras" or (
        _COMPARE.value == "auto" and has_network and has_tensorflow
    ):
        from matar_tf.keras.packaging.network import keras_reference

        reference = keras_reference(artifact)
    float_metrics = artifact.accuracy.get("float")
    outcome = retarget(
        planned,
        _OUTPUT.value,
        resume=_RESUME.value,
        overwrite=_OVERWRITE.value,
        reference=reference,
        on_start=print,
        on_result=lambda result: print(f"\n{to_text(result, float_metrics)}"),
    )
    evaluated = sum(result.num_evaluated for result in outcome.results)
    reused = sum(result.num_reused for result in outcome.results)
    print(f"\nAll targets: evaluated {evaluated}, reused {reused}.")
    for target, reasons in outcome.left_out.items():
        for name, reason in reasons.items():
            print(f"Not in the table of {target}: {name!r}. {reason}")
    for sentence in outcome.failures.values():
        print(f"SearchError: {sentence}", file=sys.stderr)
    if outcome.interrupted:
        return 130
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    run(main)
