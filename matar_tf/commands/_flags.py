"""The one vocabulary: every flag that more than one command has is defined here."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from absl import flags
from absl.flags import FlagValues

__all__ = [
    "ALIASES",
    "allow_odd_data",
    "artifact",
    "compare",
    "data",
    "expect_digest",
    "float_network",
    "form",
    "jobs",
    "measure",
    "metrics",
    "model",
    "num_samples",
    "output",
    "overwrite",
    "policies",
    "profile",
    "recipe",
    "resume",
    "runtime",
    "seed",
    "store",
    "targets",
    "trained_on",
    "trust",
]

# Other names of flags, for all commands that have these.
ALIASES: Final = MappingProxyType({"policy": "policies", "target": "targets"})


def artifact(values: FlagValues, which: str = "The artifact") -> None:
    """Defines ``--artifact``."""
    flags.DEFINE_string(
        "artifact", None, f"{which}: a directory or a .matar file.", flag_values=values
    )


def expect_digest(values: FlagValues) -> None:
    """Defines ``--expect_digest``."""
    flags.DEFINE_string(
        "expect_digest",
        None,
        "SHA-256 that the artifact must have, as its maker published it: the one that "
        "is printed when an artifact is written or opened.",
        flag_values=values,
    )


def trust(values: FlagValues) -> None:
    """Defines ``--trust``."""
    flags.DEFINE_string(
        "trust",
        None,
        "PEM file of the public key, or of certificates, by which the artifact must be "
        "signed.",
        flag_values=values,
    )


def model(values: FlagValues, what: str) -> None:
    """Defines ``--model``, the file of a network."""
    flags.DEFINE_string("model", None, what, flag_values=values)


def recipe(values: FlagValues, default: str | None = None) -> None:
    """Defines ``--recipe``."""
    flags.DEFINE_string(
        "recipe",
        default,
        "Name of a recipe of the folder recipes/ of the project's source, which is not "
        "installed with it, or path of a recipe's file (my_recipe.py), which is "
        "executed; with variants: "
        "digits_resnet8[:quick][:scratch][:bfloat16][:power_of_two].",
        flag_values=values,
    )


def float_network(values: FlagValues) -> None:
    """Defines ``--float``."""
    flags.DEFINE_string(
        "float",
        None,
        "A trained float network (.h5) to start from; default: train one.",
        flag_values=values,
    )


def data(
    values: FlagValues,
    what: str = "Samples and labels to measure on",
    *,
    otherwise: str = "",
) -> None:
    """Defines ``--data``; `otherwise` says what happens without it."""
    flags.DEFINE_string(
        "data",
        None,
        f"{what}: 'digits', a path.npz, or package.module:function{otherwise}.",
        flag_values=values,
    )


def allow_odd_data(values: FlagValues) -> None:
    """Defines ``--allow_odd_data``."""
    flags.DEFINE_bool(
        "allow_odd_data",
        False,
        "Only warn of samples and labels that can hardly be meant so: of another range "
        "or order of channels, or labels of other samples.",
        flag_values=values,
    )


def num_samples(values: FlagValues) -> None:
    """Defines ``--num_samples``."""
    flags.DEFINE_integer(
        "num_samples",
        None,
        "Measure on the first so many samples; default all.",
        lower_bound=1,
        flag_values=values,
    )


def policies(values: FlagValues, default: Sequence[str] | None, what: str) -> None:
    """Defines ``--policies``."""
    flags.DEFINE_list(
        "policies",
        default and list(default),
        f"{what}: names of uniform ones (w4a8, w8a16), or paths of .json files.",
        flag_values=values,
    )


def targets(values: FlagValues, what: str) -> None:
    """Defines ``--targets``."""
    flags.DEFINE_list("targets", None, what, flag_values=values)


def output(values: FlagValues, what: str) -> None:
    """Defines ``--output``."""
    flags.DEFINE_string("output", None, what, flag_values=values)


def overwrite(values: FlagValues, what: str = "what stands at --output") -> None:
    """Defines ``--overwrite``."""
    flags.DEFINE_bool("overwrite", False, f"Replace {what}.", flag_values=values)


def resume(values: FlagValues, what: str) -> None:
    """Defines ``--resume``."""
    flags.DEFINE_bool("resume", False, what, flag_values=values)


def seed(values: FlagValues, what: str) -> None:
    """Defines ``--seed``."""
    flags.DEFINE_integer(
        "seed", 0, f"Seed of {what}.", lower_bound=0, flag_values=values
    )


def trained_on(values: FlagValues) -> None:
    """Defines ``--trained_on``."""
    flags.DEFINE_bool(
        "trained_on",
        False,
        "The network was trained on the samples: measure the training samples of "
        "--data; uniform policies of the accuracy table set the scale.",
        flag_values=values,
    )


def store(values: FlagValues, what: str) -> None:
    """Defines ``--store``; `what` says of whom, and what is done without it."""
    flags.DEFINE_string(
        "store",
        None,
        f"Evaluation store (SQLite) to read and extend, {what}.",
        flag_values=values,
    )


def jobs(values: FlagValues) -> None:
    """Defines ``--jobs``."""
    flags.DEFINE_integer(
        "jobs", 1, "Processes that measure.", lower_bound=1, flag_values=values
    )


def measure(values: FlagValues, what: str) -> None:
    """Defines ``--measure``."""
    flags.DEFINE_integer(
        "measure",
        None,
        f"Policies to measure {what}.",
        lower_bound=0,
        flag_values=values,
    )


def metrics(values: FlagValues) -> None:
    """Defines ``--metrics``."""
    flags.DEFINE_list(
        "metrics",
        None,
        "What to measure: of classes accuracy, loss, top_K_accuracy, mean_iou, auc, of "
        "values mean_squared_error, mean_absolute_error, smooth_l1, binary_accuracy; "
        "of samples without labels agreement; or package.module:function; of one "
        "output of several its name before one of these: boxes_mean_absolute_error. "
        "Default accuracy and loss; of several outputs see the tools' README.",
        flag_values=values,
    )


def profile(values: FlagValues) -> None:
    """Defines ``--profile``."""
    flags.DEFINE_enum(
        "profile",
        "int8",
        ["int8", "packed-litert", "packed-float", "packed-portable", "tflm"],
        "How exported files store kernels.",
        flag_values=values,
    )


def file_format(values: FlagValues) -> None:
    """Defines ``--format``."""
    flags.DEFINE_enum(
        "format",
        "tflite",
        ["tflite", "qonnx", "onnx"],
        "What is written: a .tflite file; QONNX, for FINN, hls4ml and other compilers "
        "of FPGAs; ONNX, for onnxruntime.",
        flag_values=values,
    )


def runtime(
    values: FlagValues,
    choices: Sequence[str],
    what: str,
    default: str | None = "litert",
) -> None:
    """Defines ``--runtime``."""
    flags.DEFINE_enum(
        "runtime",
        default,
        list(choices),
        f"{what}; tflm is that of microcontrollers, which rounds in another way.",
        flag_values=values,
    )


def compare(values: FlagValues, default: str, choices: Sequence[str]) -> None:
    """Defines ``--compare``."""
    auto = " (auto: if there is one and TensorFlow is installed)"
    flags.DEFINE_enum(
        "compare",
        default,
        list(choices),
        "What exported files must agree with: the artifact's Keras network"
        f"{auto if 'auto' in choices else ''}, or nothing.",
        flag_values=values,
    )


def form(
    values: FlagValues, choices: Sequence[str], what: str = "Form of the table"
) -> None:
    """Defines ``--format``; the first choice is the default."""
    flags.DEFINE_enum(
        "format", choices[0], list(choices), f"{what}.", flag_values=values
    )
