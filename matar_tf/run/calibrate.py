"""A target file of a device at hand, from the times of a few dozen files."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matar_tf.artifact import Artifact
from matar_tf.errors import TargetError
from matar_tf.io.files import as_path, check_parent, write_atomically
from matar_tf.numbers import as_integer
from matar_tf.pricing.fitting import (
    FittedRates,
    choose_networks,
    fit_rates,
    predict_each,
)
from matar_tf.run.fitted_target import Agreement, Device, target_text
from matar_tf.run.settings import now
from matar_tf.run.timing import (
    CommandTimer,
    TimedFile,
    Timer,
    Times,
    time_by_litert,
    time_files,
)
from matar_tf.targets.loader import parse_target
from matar_tf.tflite.build import ModelBuilder
from matar_tf.tflite.drawn_networks import DrawnNetwork, Limits, draw_networks
from matar_tf.tflite.runtime import LITERT_PACKAGE
from matar_tf.workload import OpKind

__all__ = ["Calibration", "calibrate"]

_LEAST_FILES: Final = 10
_MOST_FILES: Final = 500
_POOL: Final = 8  # networks to choose from, for each that is timed
_MOST_POOL: Final = 1000
_MOST_ROUNDS: Final = 1000
_SUFFIX: Final = ".toml"
_HOST_LIMITS: Final = Limits(weight_bytes=4 << 20, tensor_bytes=1 << 19)
_BOARD_LIMITS: Final = Limits(weight_bytes=1 << 18, tensor_bytes=1 << 16)
_NS_PER_MS: Final = 1e6
_LONGEST: Final = 300  # characters of a command in a target file


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted.

    Attributes:
      path: The target file.
      times: The file with all times.
      rates: Costs in nanoseconds, by term, with standard errors by kind of layer.
      agreement: How well times are predicted from those of other files.
      unknown: Kinds of layers that no file has: the target refuses them.
    """

    path: Path
    times: Path
    rates: FittedRates
    agreement: Agreement
    unknown: tuple[OpKind, ...]


# Each is a keyword by itself.
def calibrate(  # noqa: PLR0913
    name: str,
    output: str | Path,
    *,
    command: str | None = None,
    artifacts: Sequence[Artifact] = (),
    num_files: int = 20,
    num_rounds: int = 5,
    seed: int = 0,
    timeout_s: float = 600.0,
    weight_bytes: int | None = None,
    tensor_bytes: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    on_start: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Times files of small random networks, and writes a target with fitted rates.

    The networks are those of some hundred from whose times the times of the others
    follow best; artifacts are timed whole, at their widest policies, besides. Times are
    kept beside the target as they come, in a file of its name that ends in ``.csv``.

    Args:
      name: Name of the target.
      output: Where to write it; ends in ``.toml``.
      command: What times a file: it gets its path, in the place of ``{file}`` or last,
        and prints milliseconds; it is run without a shell. None: LiteRT on this
        machine, with one thread.
      artifacts: Networks that are timed in any case.
      num_files: Files to time, artifacts included.
      num_rounds: How often each is timed; its least time counts.
      seed: Of the networks.
      timeout_s: Seconds after which the command is ended.
      weight_bytes: Most that the weights of a network take; None for 4 MiB on this
        machine, 256 KiB for a command.
      tensor_bytes: Most that a tensor takes; None for 512 KiB, or 64 KiB.
      resume: Whether to go on with the times that are there.
      overwrite: Whether to replace what is there.
      progress: Whether to show a bar.
      on_start: Called with what is ahead, in a sentence, before anything is timed.

    Raises:
      TargetError: If the name cannot be one, something is in the way, or a file cannot
        be timed.
    """
    path, csv_path = _paths(output, resume=resume, overwrite=overwrite)
    num_files, num_rounds = _checked(num_files, num_rounds, len(artifacts))
    device = _device(name, command, num_rounds)
    parse_target(_trial(device).encode(), path)
    usual = _HOST_LIMITS if command is None else _BOARD_LIMITS
    limits = Limits(
        weight_bytes=weight_bytes or usual.weight_bytes,
        tensor_bytes=tensor_bytes or usual.tensor_bytes,
    )
    networks = _networks(artifacts, num_files, seed, limits)
    files = [TimedFile(name=one.name, content=one.content) for one in networks]
    with tempfile.TemporaryDirectory() as folder:
        timer: Timer = time_by_litert
        if command is not None:
            timer = CommandTimer(
                command=command, timeout_s=timeout_s, folder=Path(folder)
            )
        if overwrite:
            csv_path.unlink(missing_ok=True)
        by = device.description
        times = Times(csv_path, by=by, keys=[one.key for one in files])
        on_start(_outlook(len(files), num_rounds, csv_path, command, timeout_s))
        measured = time_files(
            files, times, timer, num_rounds=num_rounds, progress=progress
        )
    workloads = [one.workload for one in networks]
    rates = fit_rates(workloads, [_NS_PER_MS * one for one in measured])
    predicted = [
        one / _NS_PER_MS
        for one in predict_each(
            workloads, [_NS_PER_MS * one for one in measured], rates.steps
        )
    ]
    agreement = Agreement.of(predicted, measured)
    pairs = zip(measured, predicted, strict=True)
    shown = dict(zip([one.key for one in files], pairs, strict=True))
    text = target_text(device, rates, agreement, shown)
    parse_target(text.encode(), path)
    write_atomically(path, text.encode())
    return Calibration(
        path=path,
        times=csv_path,
        rates=rates,
        agreement=agreement,
        unknown=tuple(kind for kind in OpKind if kind not in rates.errors),
    )


def _paths(output: str | Path, *, resume: bool, overwrite: bool) -> tuple[Path, Path]:
    """Returns where to write target and times."""
    path = as_path(output, "the target", TargetError)
    if path.suffix != _SUFFIX:
        raise TargetError(f"Expected a path that ends in {_SUFFIX}, got {str(path)!r}.")
    check_parent(path, TargetError)
    csv_path = path.with_suffix(".csv")
    for one in (path, csv_path):
        if one.is_dir():
            raise TargetError(
                f"Expected a free path at {one}, got a folder; choose another."
            )
    if overwrite and resume:
        raise TargetError(
            "Expected resume=True or overwrite=True, got both; leave one out."
        )
    if path.exists() and not overwrite:
        raise TargetError(
            f"Expected a free path, but {path} exists; choose another or pass "
            "overwrite=True."
        )
    if csv_path.exists() and not (resume or overwrite):
        raise TargetError(
            f"Expected a free path, but times are in {csv_path}; pass resume=True to "
            "go on with them, or overwrite=True to begin anew."
        )
    return path, csv_path


def _checked(num_files: int, num_rounds: int, num_artifacts: int) -> tuple[int, int]:
    num_files = as_integer(num_files, "as num_files")
    num_rounds = as_integer(num_rounds, "as num_rounds")
    least = max(_LEAST_FILES, num_artifacts)
    if not least <= num_files <= _MOST_FILES:
        raise TargetError(
            f"Expected {least} to {_MOST_FILES} files, got num_files={num_files}; "
            "choose another number."
        )
    if not 1 <= num_rounds <= _MOST_ROUNDS:
        raise TargetError(
            f"Expected 1 to {_MOST_ROUNDS} rounds, got num_rounds={num_rounds}; choose "
            "another number."
        )
    return num_files, num_rounds


def _device(name: str, command: str | None, num_rounds: int) -> Device:
    if command is None:
        version = importlib.metadata.version(LITERT_PACKAGE)
        by = f"LiteRT {version}, one thread, on {_machine()}"
    elif len(command) > _LONGEST:
        by = f"the command {command[:_LONGEST]}..."
    else:
        by = f"the command {command}"
    return Device(
        name=name,
        description=f"Files of 8-bit containers, timed by {by}",
        measured_by=f"Least of {num_rounds} times by {by}; {now()[:10]}",
        is_host=command is None,
    )


def _machine() -> str:
    """Returns what this machine is called: its processor, if that can be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return " ".join([*names[:1], platform.machine()])


def _trial(device: Device) -> str:
    """Returns a target file with invented rates: a wrong name is told before work."""
    (network,) = draw_networks(1)
    rates = fit_rates([network.workload], [1.0])
    return target_text(device, rates, Agreement.of([math.nan], [1.0]), {})


def _networks(
    artifacts: Sequence[Artifact], num_files: int, seed: int, limits: Limits
) -> list[DrawnNetwork]:
    given = [
        DrawnNetwork(
            name=f"artifact_{number}",
            content=ModelBuilder(one).build(one.space.widest()),
            workload=one.workload,
        )
        for number, one in enumerate(artifacts)
    ]
    pool = draw_networks(min(_POOL * num_files, _MOST_POOL), seed=seed, limits=limits)
    known = [*given, *pool]
    chosen = choose_networks(
        [one.workload for one in known], num_files, first=range(len(given))
    )
    return [known[index] for index in chosen]


def _outlook(
    num_files: int, num_rounds: int, csv_path: Path, command: str | None, limit: float
) -> str:
    how = "here, some seconds in all"
    if command is not None:
        how = f"in at most {limit:g} s each time"
    return (
        f"{num_files} files are timed, {num_rounds} times each, {how}; times are kept "
        f"in {csv_path}, with which resume=True goes on."
    )
