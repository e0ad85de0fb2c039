"""What ``matar targets`` makes: targets with fitted rates, tables to be filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from absl import flags

from matar_tf.commands import _flags
from matar_tf.commands._command import Given

if TYPE_CHECKING:
    from absl.flags import FlagValues

    from matar_tf.run.calibrate import Calibration

__all__ = ["MAKING", "check_making", "define_making"]

_KIB: Final = 1 << 10
_MOST_FILES: Final = 500
_RESUME: Final = frozenset({"resume"})


def define_making(values: FlagValues) -> None:
    """Defines the flags of ``calibrate`` and ``template``."""
    flags.DEFINE_string(
        "name", None, "calibrate: name of the target.", flag_values=values
    )
    flags.DEFINE_string(
        "command",
        None,
        "calibrate: a command that gets the path of a .tflite file, in the place of "
        "{file} or last, and prints the milliseconds of one inference last; it is run "
        "without a shell. Default: LiteRT on this machine, one thread.",
        flag_values=values,
    )
    _flags.artifact(
        values,
        "calibrate: artifacts that are timed besides, with commas between them; "
        "template: the artifact",
    )
    flags.DEFINE_integer(
        "num_files",
        20,
        "calibrate: files to time, artifacts included.",
        lower_bound=1,
        upper_bound=_MOST_FILES,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_rounds",
        5,
        "calibrate: how often each is timed; its least time counts.",
        lower_bound=1,
        upper_bound=1000,
        flag_values=values,
    )
    flags.DEFINE_float(
        "timeout_s",
        600.0,
        "calibrate: seconds after which the command is ended.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "weight_kib",
        None,
        "calibrate: the most that the weights of a network take; default 256 with "
        "--command, else 4096.",
        lower_bound=16,
        upper_bound=1 << 16,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "tensor_kib",
        None,
        "calibrate: the most that a tensor takes; default 64 with --command, else 512.",
        lower_bound=8,
        upper_bound=1 << 13,
        flag_values=values,
    )
    _flags.targets(
        values, "template: a target whose widths are taken alone; default all widths."
    )
    flags.DEFINE_bool(
        "by_name",
        False,
        "template: a row for each layer, by its name, not for each shape.",
        flag_values=values,
    )
    _flags.output(
        values,
        "calibrate: the target, a .toml file; times are kept beside it in a .csv file. "
        "template: the table, a .csv file; default: it is printed.",
    )
    _flags.seed(values, "the networks of calibrate")
    _flags.resume(values, "calibrate: go on with the times that are there.")
    _flags.overwrite(values)


_USED: Final = {
    "calibrate": frozenset(
        {
            *("name", "command", "artifact", "num_files", "num_rounds", "timeout_s"),
            *("weight_kib", "tensor_kib", "output", "seed", "resume", "overwrite"),
        }
    ),
    "template": frozenset({"artifact", "targets", "by_name", "output", "overwrite"}),
}


def check_making(action: str, given: Given) -> None:
    """Refuses flags that an action of ``matar targets`` would not look at.

    Raises:
      TargetError: If there is one.
    """
    from matar_tf.errors import TargetError

    used = _USED.get(action, frozenset[str]())
    for name in sorted(frozenset().union(*_USED.values()) - used):
        if given.is_given(name):
            owners = " and ".join(one for one, names in _USED.items() if name in names)
            raise TargetError(
                f"Expected --{name} with {owners} alone, got it with {action}; leave "
                "it out."
            )


def _artifacts(given: Given) -> list[str]:
    return given.artifact.split(",") if given.artifact else []


def _calibrate(given: Given) -> int:
    """Times files, and writes a target with fitted rates."""
    from matar_tf.commands._common import open_artifact
    from matar_tf.commands._program import in_flags
    from matar_tf.errors import TargetError
    from matar_tf.run.calibrate import calibrate

    if given.name is None:
        raise TargetError(
            "Expected --name, the name of the target, got none; choose one."
        )
    found = calibrate(
        given.name,
        given.output or f"{given.name}.toml",
        command=given.value("command"),
        artifacts=[open_artifact(path) for path in _artifacts(given)],
        num_files=given.num_files,
        num_rounds=given.num_rounds,
        seed=given.seed,
        timeout_s=given.timeout_s,
        weight_bytes=given.weight_kib and _KIB * given.weight_kib,
        tensor_bytes=given.tensor_kib and _KIB * given.tensor_kib,
        resume=given.resume,
        overwrite=given.overwrite,
        on_start=lambda message: print(in_flags(message, _RESUME), flush=True),
    )
    _report(found, given.name)
    return 0


def _report(found: Calibration, name: str) -> None:
    print(f"\n{found.agreement}.")
    errors = sorted(found.rates.errors.items(), key=lambda pair: pair[1])
    print("Standard errors of the rates of layers, by kind:")
    for kind, error in errors:
        print(f"  {kind.value:16s} {100 * error:3.0f} %")
    kinds = [*(kind.value for kind in found.unknown), "16-bit activations"]
    print(f"Not measured, so refused by this target: {', '.join(kinds)}.")
    print(
        f"target {found.path}; times {found.times}. `matar targets show {found.path}` "
        f"prints it; --targets={found.path} takes it in the place of {name!r}."
    )


def _template(given: Given) -> int:
    """Writes the latency table of an artifact, to be filled in."""
    from pathlib import Path

    from matar_tf.commands._common import only_target, open_artifact
    from matar_tf.errors import TargetError
    from matar_tf.io.files import check_parent, write_atomically
    from matar_tf.pricing.table_template import table_template
    from matar_tf.targets import load_target

    artifacts = _artifacts(given)
    if len(artifacts) != 1:
        raise TargetError(
            f"Expected one artifact in --artifact, got {len(artifacts)}; name just one."
        )
    path = None if given.output is None else Path(given.output)
    if path is not None:
        check_parent(path, TargetError)
        if path.suffix != ".csv":
            raise TargetError(
                f"Expected a path that ends in .csv, got {given.output!r}."
            )
        if path.exists() and not given.overwrite:
            raise TargetError(
                f"Expected a free path, but {path} exists; choose another or pass "
                "overwrite=True."
            )
    artifact = open_artifact(artifacts[0])
    named = only_target(given)
    text = table_template(
        artifact.workload,
        artifact.space,
        target=None if named is None else load_target(named),
        by_name=given.by_name,
    )
    if path is None:
        print(text, end="")
        return 0
    write_atomically(path, text.encode())
    print(f"table {path}: {len(text.splitlines()) - 1} rows to fill in")
    return 0


MAKING: Final[Mapping[str, Callable[[Given], int]]] = {
    "calibrate": _calibrate,
    "template": _template,
}
