"""What a retargeting run is asked for."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import SearchError, did_you_mean
from matar_tf.evolution import SearchOptions
from matar_tf.policy import Policy
from matar_tf.tflite.metrics import METRIC_NAMES
from matar_tf.tflite.profiles import DEFAULT_PROFILE, get_profile
from matar_tf.tflite.runtime import LITERT_PACKAGE

__all__ = ["DEFAULT_FOLLOW_UP_SHARE", "EXECUTORS", "RunSettings", "now", "versions"]

DEFAULT_FOLLOW_UP_SHARE: Final = 0.15
EXECUTORS: Final = ("local", "ray")


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
      profile: How exported files store kernels.
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
    profile: str = DEFAULT_PROFILE
    num_jobs: int = 1
    executor: str = "local"
    ray_address: str | None = None
    store: Path | None = None
    command: str = ""
    created: str = field(default_factory=now)
    progress: bool = True

    def __post_init__(self) -> None:
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
        if not 0 < self.follow_up_share <= 1:  # nor what is no number
            raise SearchError(
                f"Expected a follow_up_share above 0 and of 1 at most, got "
                f"{self.follow_up_share}; it is a share of the evaluations."
            )

    @property
    def inexact_profile(self) -> str | None:
        """The profile, if what it exports must be measured as it is; else None.

        Files of all exact profiles have the same outputs, so that they share what was
        measured.
        """
        return None if get_profile(self.profile).exact else self.profile

    def to_json(self) -> dict[str, Any]:
        """Returns what the run is asked for, for its record."""
        options = self.options
        return {
            "command": self.command,
            "created": self.created,
            "seed": options.seed,
            "max_evaluations": options.max_evaluations,
            "max_minutes": options.max_minutes,
            "patience": options.patience,
            "population_size": options.population_size,
            "sensitivity": options.sensitivity,
            "oversampling": options.oversampling,
            "crossover_prob": options.crossover_prob,
            "mutation_prob": options.mutation_prob,
            "metrics": list(self.metrics),
            "objectives": [one.to_json() for one in options.objectives],
            "limits": [
                f"{one.name} {'>=' if one.is_minimum else '<='} {one.bound!r}"
                for one in options.limits
            ],
            "follow_up_share": self.follow_up_share,
            "fixed": list(self.fixed),
            "starts": {name: one.to_json() for name, one in self.starts.items()},
            "holdout": self.holdout,
            "profile": self.profile,
            "store": None if self.store is None else str(self.store),
        }


def versions() -> dict[str, str]:
    """Returns the versions of what decides a search, for the record."""
    names = ("matar_tf", "numpy", "deap", LITERT_PACKAGE)
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
