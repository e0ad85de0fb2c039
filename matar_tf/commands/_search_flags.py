"""The flags of ``matar search``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from matar_tf.commands import _flags
from matar_tf.figures import COST_NAMES

if TYPE_CHECKING:
    from absl.flags import FlagValues

__all__ = ["define_search_flags"]


def define_search_flags(values: FlagValues) -> None:
    """Defines them, in the order of its help."""
    _flags.artifact(values)
    _flags.expect_digest(values)
    _flags.trust(values)
    _flags.targets(values, "Names of the catalogue, or paths of .toml files.")
    _flags.output(values, "Folder to write.")
    _flags.data(
        values,
        otherwise="; default: none, and accuracy is predicted from what the artifact's "
        "developer measured",
    )
    _flags.num_samples(values)
    _flags.allow_odd_data(values)
    _flags.seed(values, "the search")
    _define_aims(values)
    _define_choice(values)
    _define_efforts(values)
    _define_workers(values)
    _flags.store(
        values,
        "shared by any number of runs; default: one of this run alone, in --output",
    )
    _flags.profile(values)
    _flags.runtime(
        values,
        ["litert", "tflm"],
        "What measures policies; default what the profile is for",
        default=None,
    )
    _flags.compare(values, "auto", ["auto", "keras", "none"])
    _flags.resume(values, "Go on with the run in --output.")
    _flags.overwrite(values, "the run in --output")


def _define_aims(values: FlagValues) -> None:
    """Defines what a front is asked to be."""
    flags.DEFINE_list(
        "objectives",
        None,
        "Metrics and costs to make better, at least one of each; default: the first of "
        "--metrics, and latency_ms. Metrics: accuracy, loss, and what else --metrics "
        f"names. Costs: {', '.join(COST_NAMES)}, file_bytes of the exported file, "
        "arena_bytes that it takes in TensorFlow Lite for Microcontrollers, luts on "
        "FPGAs. "
        "What ends in 'accuracy', 'mean_iou' or 'auc' is made larger, all else "
        "smaller, unless max:NAME or min:NAME says so.",
        flag_values=values,
    )
    _flags.metrics(values)
    flags.DEFINE_multi_string(
        "max",
        [],
        "Largest figure of a policy: weight_bytes=40KiB, latency_ms=250us, loss=1; "
        "names are those of --objectives. With --holdout metrics are bounded on the "
        "samples that are searched, and may miss the bound on those that tables report "
        "on.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "min",
        [],
        "Smallest figure of a policy: accuracy=0.85 (or 85%), ...; names are those of "
        "--objectives, and with --holdout metrics are bounded as for --max.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "fix",
        [],
        "Widths that entries keep: weights:stem=8, activations:stack1_*=4,8, ...",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "start",
        [],
        "Policies (.json) to start from; in the tables under the file's name, those of "
        "another front under the folder's name as well. Or w8a16, w4a16, ...: those of "
        "16-bit activations are measured if asked for, slowly, for targets that have "
        "them.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "holdout",
        0.0,
        "Share of the samples that the search does not see and that the tables report "
        "on; 0: search and report on all.",
        lower_bound=0.0,
        upper_bound=0.95,
        flag_values=values,
    )


def _define_choice(values: FlagValues) -> None:
    """Defines which policies of a front are named, and exported."""
    flags.DEFINE_float(
        "within",
        1.0,
        "Points of accuracy that may be lost for less cost: the verdict names the "
        "cheapest policy within them of w8a8.",
        lower_bound=0.0,
        upper_bound=100.0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "want",
        None,
        "The one policy to export: 'most accurate', 'knee', or 'fastest within 0.5', "
        "'smallest within 0.5', 'leanest within 0.5' (points of accuracy below w8a8); "
        "default: the whole front.",
        flag_values=values,
    )


def _define_efforts(values: FlagValues) -> None:
    """Defines how long is searched, and how."""
    flags.DEFINE_integer(
        "max_evaluations",
        400,
        "Largest number of policies per target.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "max_minutes",
        None,
        "Time per target; the front then depends on the machine.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "patience",
        15,
        "Cohorts without a gain in hypervolume before the search stops; 0: never.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "population_size",
        40,
        "Policies of a generation, or --max_evaluations if that is less (with "
        "--resume, that of the run that began). With a surrogate a third is measured "
        "at a time: raise it for more --jobs.",
        lower_bound=4,
        flag_values=values,
    )
    flags.DEFINE_float(
        "follow_up_share",
        0.15,
        "Share of --max_evaluations that each target after the first may measure anew, "
        "beside what the others know. The first is the one with the fewest policies.",
        lower_bound=0.01,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "sensitivity",
        True,
        "Start from the best sums of single-entry measurements.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "oversampling",
        8,
        "Policies bred for each that is measured, picked by a surrogate; 1: no "
        "surrogate.",
        lower_bound=1,
        flag_values=values,
    )


def _define_workers(values: FlagValues) -> None:
    """Defines what measures."""
    _flags.jobs(values)
    flags.DEFINE_enum(
        "executor",
        "local",
        ["local", "ray"],
        "Where these are: on this machine, or on a Ray cluster.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "ray_address",
        None,
        "Address of the cluster (host:port), for --executor=ray; default: "
        "$RAY_ADDRESS, else the one that 'ray start' started here, else one of this "
        "run alone.",
        flag_values=values,
    )
