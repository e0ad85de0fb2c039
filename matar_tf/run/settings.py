"""What a retargeting run is asked for."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, TypeVar, cast

from matar_tf.errors import SearchError, did_you_mean
from matar_tf.evolution import (
    Limit,
    SearchOptions,
    is_front_name,
)
from matar_tf.io.files import as_path
from matar_tf.numbers import as_integer, as_number
from matar_tf.policy import Policy
from matar_tf.results import Objective
from matar_tf.space import PolicySpace
from matar_tf.tflite.metrics import METRIC_NAMES, figure_names
from matar_tf.tflite.profiles import (
    DEFAULT_PROFILE,
    MEASURING,
    check_int8,
    get_profile,
    measured_in,
)
from matar_tf.tflite.runtime import check_installed
from matar_tf.verdict import parse_want

__all__ = [
    "DEFAULT_FOLLOW_UP_SHARE",
    "EXECUTORS",
    "RunSettings",
    "now",
    "settings_of",
    "versions",
]

DEFAULT_FOLLOW_UP_SHARE: Final = 0.15
EXECUTORS: Final = ("local", "ray")
_MOST_POINTS: Final = 100
_LONGEST_NAME: Final = 100
_T = TypeVar("_T")


def now() -> str:
    """Returns the present time in UTC, ISO 8601, seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is asked for.

    Attributes:
      options: Settings of each search.
      metrics: What is measured of each policy; see `matar_tf.tflite.metrics`.
      follow_up_share: Share of the largest number of evaluations that each target
        after the first that is searched in full may measure anew, beside what the
        others know.
      fixed: Entries that every search leaves alone; see `fix_entries`.
      starts: Policies to start from, by name; they stand in the tables, too.
      holdout: Share of the samples that the searches do not see, and that all tables
        report on; 0 to search and report on all.
      within: Points of accuracy that may be lost for less cost, in verdicts.
      want: Kind of the one policy that is exported; None for whole fronts.
      allow_odd_data: Whether data that can hardly be meant so are searched on, with a
        warning.
      profile: How exported files store kernels.
      runtime: What measures policies; None for what the profile is for.
      num_jobs: Processes that measure policies; the fronts do not depend on it.
      executor: Where these are: ``local``, on this machine, or ``ray``, on a cluster;
        the fronts do not depend on it.
      ray_address: Address of the cluster; see `matar_tf.tflite.ray_evaluate`.
      store: Evaluation store to read and extend, shared with other runs; None for one
        of this run alone, in its output folder. The fronts do not depend on it.
      command: How the run was started, for the record.
      created: ISO time at which it was started, for the record; now by default.
      progress: Whether to show progress bars.
    """

    options: SearchOptions
    metrics: tuple[str, ...] = METRIC_NAMES
    follow_up_share: float = DEFAULT_FOLLOW_UP_SHARE
    fixed: tuple[str, ...] = ()
    starts: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    holdout: float = 0.0
    within: float = 1.0
    want: str | None = None
    allow_odd_data: bool = False
    profile: str = DEFAULT_PROFILE
    runtime: str | None = None
    num_jobs: int = 1
    executor: str = "local"
    ray_address: str | None = None
    store: Path | None = None
    command: str = ""
    created: str = field(default_factory=now)
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("profile", "executor"):
            if not isinstance(getattr(self, name), str):
                raise SearchError(
                    f"Expected a name as {name}, got {getattr(self, name)!r}."
                )
        if self.executor not in EXECUTORS:
            raise SearchError(
                f"Unknown executor {self.executor!r}. "
                f"{did_you_mean(self.executor, EXECUTORS)}"
            )
        if self.ray_address is not None and self.executor != "ray":
            raise SearchError(
                f"Expected the executor 'ray' for the cluster at {self.ray_address}, "
                f"got {self.executor!r}; choose ray, or leave the address out."
            )
        check_installed(self.measured_in)
        for name, policy in self.starts.items():
            _check_start(name, policy, self.profile)
        for name in ("holdout", "follow_up_share", "within"):
            object.__setattr__(self, name, as_number(getattr(self, name), f"as {name}"))
        object.__setattr__(self, "num_jobs", as_integer(self.num_jobs, "as jobs"))
        if self.num_jobs < 1:
            raise SearchError(
                f"Expected at least one process as jobs, got {self.num_jobs}."
            )
        self._check_shares()

    def _check_shares(self) -> None:
        if not 0 <= self.holdout < 1:
            raise SearchError(
                f"Expected a holdout of at least 0 and below 1, got {self.holdout}; it "
                "is a share of the samples."
            )
        if not 0 <= self.within <= _MOST_POINTS:
            raise SearchError(
                f"Expected 0 to {_MOST_POINTS} points of accuracy within which to "
                f"choose, got {self.within}."
            )
        if not 0 < self.follow_up_share <= 1:  # nor what is no number
            raise SearchError(
                f"Expected a follow_up_share above 0 and of 1 at most, got "
                f"{self.follow_up_share}; it is a share of the evaluations."
            )

    @property
    def num_follow_up(self) -> int:
        """How many policies a target may measure anew that others have taught."""
        return max(round(self.follow_up_share * self.options.max_evaluations), 1)

    @property
    def measured_in(self) -> str:
        """Name of the runtime that measures policies."""
        return measured_in(self.profile, self.runtime)

    @property
    def inexact_profile(self) -> str | None:
        """The profile, if what it exports must be measured as it is; else None.

        Files of all exact profiles have the same outputs, so that they share what was
        measured.
        """
        return None if get_profile(self.profile).exact else self.profile


# Each is a keyword of `matar_tf.search` and `matar_tf.retarget`.
def settings_of(  # noqa: PLR0913
    space: PolicySpace,
    *,
    seed: int = 0,
    objectives: Iterable[str | Objective] | None = None,
    max: Mapping[str, str | float] | Iterable[str] = (),
    min: Mapping[str, str | float] | Iterable[str] = (),
    metrics: Iterable[str] | None = None,
    max_evaluations: int = 400,
    max_minutes: float | None = None,
    patience: int | None = 15,
    population_size: int = 40,
    follow_up_share: float = DEFAULT_FOLLOW_UP_SHARE,
    sensitivity: bool = True,
    oversampling: int = 8,
    fix: Iterable[str] = (),
    start: Mapping[str, Policy | str | Path] | Iterable[str | Path] = (),
    holdout: float = 0.0,
    within: float = 1.0,
    want: str | None = None,
    allow_odd_data: bool = False,
    profile: str = DEFAULT_PROFILE,
    runtime: str | None = None,
    jobs: int = 1,
    executor: str = "local",
    ray_address: str | None = None,
    store: str | Path | None = None,
    progress: bool = True,
    command: str = "",
) -> RunSettings:
    """Returns what a run is asked for, from the words that a user has for it.

    Args:
      space: The policies of the network.
      seed: Of everything random.
      objectives: Metrics and costs to make better, at least one of each, by name
        (`matar_tf.figures`): ``accuracy``, ``latency_ms``, ``max:f1``; None for the
        first of `metrics`, and ``latency_ms``.
      max: Largest figures of a policy: ``{"weight_bytes": "40KiB"}``, or texts such as
        ``latency_ms=250us``.
      min: Smallest figures, likewise: ``{"accuracy": "85%"}``.
      metrics: What is measured; as for `matar_tf.evaluate`. None for accuracy and loss;
        a network of several outputs has others (`matar_tf.tflite.heads`).
      max_evaluations: Largest number of policies measured per target.
      max_minutes: Time per target; the front then depends on the machine.
      patience: Cohorts without a gain before a search stops; None for never.
      population_size: Policies of a generation.
      follow_up_share: Share of `max_evaluations` that each target after the first may
        measure anew, beside what the others know.
      sensitivity: Whether to start from the best sums of single-entry measurements.
      oversampling: Policies bred for each that is measured; 1 for no surrogate.
      fix: Widths that entries keep: ``weights:stem=8``, ``activations:stack1_*=4,8``.
      start: Policies to start from: by name, or paths of ``.json`` files, whose names
        stand in the tables, or names of uniform ones of 16-bit activations (``w8a16``):
        a search breeds none, and measures only those that are asked for, since LiteRT's
        kernels for them take a hundred times as long.
      holdout: Share of the samples that the search does not see and that tables report
        on; 0 to search and report on all.
      within: Points of accuracy that may be lost for less cost: the verdict names the
        cheapest policy within them of w8a8.
      want: The one policy to export: ``most accurate``, ``knee``, or ``fastest within
        0.5``, ``smallest within 0.5``, ``leanest within 0.5``; None for the front.
      allow_odd_data: Whether to go on, with a warning, where samples or labels can
        hardly be meant so: another range, order of channels, labels of other samples.
      profile: How files store kernels.
      runtime: What measures policies, ``litert`` or ``tflm``, that of
        microcontrollers; None for what the profile is for.
      jobs: Processes that measure.
      executor: Where these are: ``local`` or ``ray``.
      ray_address: Address of the cluster.
      store: Evaluation store to read and extend, shared by any number of runs.
      progress: Whether to show progress bars.
      command: How the run was started, for the record.

    Raises:
      MatarError: If one of them cannot be had.
    """
    metrics = METRIC_NAMES if metrics is None else _named(metrics, "metrics")
    kind, cost, points = (None, None, None) if want is None else parse_want(want)
    if objectives is None:
        objectives = (*figure_names(metrics[:1]), cost or "latency_ms")
    return RunSettings(
        options=SearchOptions(
            seed=seed,
            max_evaluations=max_evaluations,
            population_size=population_size,
            objectives=tuple(
                Objective.parse(one) if isinstance(one, str) else _objective(one)
                for one in _listed(objectives, "objectives")
            ),
            limits=(
                *(Limit.parse(text) for text in _texts(max, "max")),
                *(Limit.parse(text, is_minimum=True) for text in _texts(min, "min")),
            ),
            sensitivity=sensitivity,
            oversampling=oversampling,
            max_minutes=max_minutes,
            patience=patience,
        ),
        metrics=metrics,
        follow_up_share=follow_up_share,
        fixed=_named(fix, "fix"),
        starts=_starts(space, start),
        holdout=holdout,
        within=within if points is None else points,
        want=kind,
        allow_odd_data=allow_odd_data,
        profile=profile,
        runtime=runtime,
        num_jobs=jobs,
        executor=executor,
        ray_address=ray_address,
        store=None if store is None else as_path(store, "the store", SearchError),
        command=command,
        progress=progress,
    )


def _objective(value: object) -> Objective:
    if not isinstance(value, Objective):
        raise SearchError(f"Expected the name of an objective, got {value!r}.")
    return value


def _listed(values: Iterable[_T], what: str) -> tuple[_T, ...]:
    """Returns values; of a text, whose letters would be taken, the text alone."""
    if isinstance(values, str):
        parts = [values] if "=" in values else values.split(",")
        raise SearchError(
            f"Expected a list for {what}, got {values!r}; write {what}={parts!r}."
        )
    if isinstance(values, (bytes, Mapping)) or not isinstance(values, Iterable):
        raise SearchError(f"Expected a list for {what}, got {values!r}.")
    return tuple(values)


def _named(values: Iterable[str], what: str) -> tuple[str, ...]:
    """Returns texts of a list."""
    found = _listed(values, what)
    for one in found:
        if not isinstance(one, str):
            raise SearchError(f"Expected texts in {what}, got {one!r}.")
    return found


def _texts(
    bounds: Mapping[str, str | float] | Iterable[str], what: str
) -> tuple[str, ...]:
    """Returns bounds as texts: ``weight_bytes=40KiB``."""
    if isinstance(bounds, Mapping):
        return tuple(f"{name}={bound}" for name, bound in bounds.items())
    return _named(bounds, what)


def _starts(
    space: PolicySpace,
    given: Mapping[str, Policy | str | Path] | Iterable[str | Path],
) -> dict[str, Policy]:
    """Returns the policies to start from by the names that tables give them."""
    if isinstance(given, Mapping):
        named = cast("Mapping[str, Policy | str | Path]", given)
        _named(list(named), "the names of start")
        return {name: space.policy(policy) for name, policy in named.items()}
    starts: dict[str, Policy] = {}
    for text in _listed(given, "start"):
        if isinstance(text, str) and text in space.wide_names():
            starts[text] = space.named(text)
            continue
        is_path = isinstance(text, (str, Path))
        path = Path(text) if is_path else Path()
        if not is_path or path.suffix != ".json":
            raise SearchError(
                "Expected the path of a .json file with a policy to start from, got "
                f"{text!r}; uniform policies need none, every search starts from "
                "them already but for w8a16 and the like, and others need a name: "
                "{'mine': policy}."
            )
        name = path.stem
        if is_front_name(name):
            # As exported by a search: that of this one will have files of such names.
            name = f"{path.resolve().parent.name}_{name}"
        if name in starts:
            raise SearchError(
                f"Expected policies to start from in files of different names, got "
                f"{name!r} twice; rename one."
            )
        starts[name] = space.policy(path)
    return starts


def _check_start(name: str, policy: Policy, profile: str) -> None:
    """Checks that tables, pages and lines can show the name, and files the policy."""
    if policy.is_wide:
        check_int8(profile)
    fits = name.isprintable() and name.strip() == name and not set(name) & set("/\\")
    if not fits or not 0 < len(name) <= _LONGEST_NAME:
        raise SearchError(
            f"Expected a name of 1 to {_LONGEST_NAME} printable characters without "
            f"slashes for a policy to start from, got {name[:_LONGEST_NAME]!r}; rename "
            "it."
        )


def versions(runtime: str = "litert") -> dict[str, str]:
    """Returns the versions of what decides a search, for the record.

    Args:
      runtime: What measures policies.
    """
    names = ("matar_tf", "numpy", "deap", MEASURING[runtime])
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
