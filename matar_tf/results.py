"""Results: the nouns that cross from searches to reports and files.

All are frozen and hashable, and `SearchResult` is saved as JSON with a
``schema_version``. Readers are strict: a missing or unknown key is an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from matar_tf.errors import SearchError, did_you_mean
from matar_tf.figures import figure_texts, larger_is_better
from matar_tf.io.json_reader import JsonReader
from matar_tf.io.names import check_names, is_name
from matar_tf.numbers import as_number
from matar_tf.policy import Policy

__all__ = [
    "SCHEMA_VERSION",
    "Candidate",
    "Generation",
    "Objective",
    "Provenance",
    "SearchResult",
    "StopReason",
]

SCHEMA_VERSION: Final = 1
_Json: TypeAlias = dict[str, Any]
_READER: Final = JsonReader(SearchError)


class StopReason(str, Enum):
    """Why a search ended; the values are saved in files."""

    MAX_EVALUATIONS = "max_evaluations"
    MAX_MINUTES = "max_minutes"
    PATIENCE = "patience"
    ENUMERATED = "enumerated"
    PLANNED = "planned"
    EXHAUSTED = "exhausted"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A metric or a cost that the search makes better.

    Inside the search all objectives are minimised; the sign is turned here and
    nowhere else.

    Attributes:
      name: Name of a metric ("accuracy") or of a cost ("latency_ms").
      maximize: Whether larger is better.
    """

    name: str
    maximize: bool = False

    def __post_init__(self) -> None:
        if not is_name(self.name) or not self.name:
            raise SearchError(
                f"Expected the name of a metric or cost, got {self.name!r}."
            )

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Reads ``accuracy``, ``latency_ms``, ``max:f1`` or ``min:top1_accuracy``.

        Without a prefix, names that end in "accuracy" are maximised and all others
        minimised.
        """
        prefix, colon, name = text.partition(":")
        if not colon:
            return cls(name=text, maximize=larger_is_better(text))
        if prefix not in ("max", "min"):
            raise SearchError(
                f"Expected 'max:' or 'min:' before the name of an objective, got "
                f"{text!r}. {did_you_mean(prefix, ('max', 'min'))}"
            )
        return cls(name=name, maximize=prefix == "max")

    def to_minimized(self, value: float) -> float:
        """Returns the value with the sign that makes smaller better."""
        return -value if self.maximize else value

    def from_minimized(self, value: float) -> float:
        """Inverts `to_minimized`."""
        return -value if self.maximize else value

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Objective:
        """Reads what `to_json` returned."""
        document = _READER.object(value, "objective", ("name", "maximize"))
        return cls(
            name=_READER.field(document, "name", str),
            maximize=_READER.field(document, "maximize", bool),
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Candidate:
    """A policy with what was measured and estimated for it.

    Attributes:
      name: Unique in its list: "w8a8", "policy_03".
      policy: The policy.
      metrics: Measured quality by name, such as accuracy in [0, 1] and loss.
      costs: Costs on the target by name, the unit in the name; None where the
        target gives no figure.
    """

    name: str
    policy: Policy
    metrics: Mapping[str, float]
    costs: Mapping[str, float | None]

    def __post_init__(self) -> None:
        check_names([self.name, *self.metrics, *self.costs], "candidates", SearchError)
        for field in ("metrics", "costs"):
            figures = {
                key: None
                if value is None and field == "costs"
                else _check_number(value, f"{field[:-1]} {key!r} of {self.name!r}")
                for key, value in getattr(self, field).items()
            }
            object.__setattr__(self, field, MappingProxyType(figures))

    def __repr__(self) -> str:
        texts = figure_texts({**self.metrics, **self.costs})
        return f"<{self.name}: {', '.join(texts)}>"

    def __hash__(self) -> int:
        return hash((self.name, self.policy))

    def __reduce__(self) -> tuple[Any, ...]:
        return Candidate.from_json, (self.to_json(),)

    def value(self, objective: Objective) -> float:
        """Returns the metric or cost of an objective, in its own sign.

        Raises:
          SearchError: If there is no figure of that name.
        """
        figures = {**self.costs, **self.metrics}
        figure = figures.get(objective.name)
        if figure is None:
            raise SearchError(
                f"Candidate {self.name!r} has no figure for {objective.name!r}. "
                f"{did_you_mean(objective.name, figures)}"
            )
        return figure

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return {
            "name": self.name,
            "policy": self.policy.to_json(),
            "metrics": dict(self.metrics),
            "costs": dict(self.costs),
        }

    @classmethod
    def from_json(cls, value: object) -> Candidate:
        """Reads what `to_json` returned."""
        document = _READER.object(value, "candidate", [one.name for one in fields(cls)])
        both = ("metrics", "costs")
        read: _Json = {key: _READER.field(document, key, dict) for key in both}
        return cls(
            name=_READER.field(document, "name", str),
            policy=Policy.from_json(document["policy"]),
            **read,
        )


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a result comes from.

    Attributes:
      seed: Seed of the search.
      command: The command line, or a description of the call.
      versions: Version by name of each package or tool that matters.
      artifact_digest: SHA-256 of the artifact, or another name that changes with it.
      data_digest: The same for everything else that the metrics depend on: samples,
        their order, the runtime.
      num_samples: Number of samples that the metrics were measured on.
      created: Time of the run in ISO format, given by the caller.
    """

    seed: int
    command: str
    versions: Mapping[str, str]
    artifact_digest: str
    data_digest: str
    num_samples: int
    created: str

    def __post_init__(self) -> None:
        check_names([*self.versions, *self.versions.values()], "versions", SearchError)
        object.__setattr__(self, "versions", MappingProxyType(dict(self.versions)))
        if self.num_samples < 0:
            raise SearchError(
                f"Expected a num_samples of at least 0, got {self.num_samples}."
            )
        try:
            datetime.fromisoformat(self.created.replace("Z", "+00:00"))
        except ValueError as error:
            raise SearchError(
                "Expected an ISO time such as '2030-01-31T12:00:00+00:00' in created, "
                f"got {self.created!r}."
            ) from error

    def __hash__(self) -> int:
        return hash((self.seed, self.artifact_digest, self.data_digest, self.created))

    def __reduce__(self) -> tuple[Any, ...]:
        return Provenance.from_json, (self.to_json(),)

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return {
            "seed": self.seed,
            "command": self.command,
            "versions": dict(self.versions),
            "artifact_digest": self.artifact_digest,
            "data_digest": self.data_digest,
            "num_samples": self.num_samples,
            "created": self.created,
        }

    @classmethod
    def from_json(cls, value: object) -> Provenance:
        """Reads what `to_json` returned."""
        texts = ("command", "artifact_digest", "data_digest", "created")
        document = _READER.object(
            value, "provenance", (*texts, "seed", "versions", "num_samples")
        )
        return cls(
            seed=_READER.field(document, "seed", int),
            num_samples=_READER.field(document, "num_samples", int),
            versions=cast("dict[str, str]", _READER.field(document, "versions", dict)),
            **{key: _READER.field(document, key, str) for key in texts},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """The state of a search after one generation; all numbers are running totals.

    Attributes:
      generation: 0 for the first cohort.
      num_evaluated: Policies measured in this run so far.
      num_reused: Policies whose metrics came from the store so far.
      best_metric: Best value so far of the first objective that is a metric.
      hypervolume: Hypervolume of the front so far, as a share of the box between the
        best and the worst value that the final front has in each objective (the
        worst is moved out by a tenth of the range). Comparable within one run only.
    """

    generation: int
    num_evaluated: int
    num_reused: int
    best_metric: float
    hypervolume: float

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Generation:
        """Reads what `to_json` returned."""
        keys = [field.name for field in fields(cls)]
        document = _READER.object(value, "generation", keys)
        return cls(
            generation=_READER.field(document, "generation", int),
            num_evaluated=_READER.field(document, "num_evaluated", int),
            num_reused=_READER.field(document, "num_reused", int),
            best_metric=_check_number(document["best_metric"], "best_metric"),
            hypervolume=_check_number(document["hypervolume"], "hypervolume"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """What a search found for one target.

    Invariants: no member of the front dominates another or equals it in all
    objectives; the front is sorted by the first objective that is a cost, cheapest
    first.

    Attributes:
      target: Name of the target.
      objectives: What was made better, in the order of the request.
      front: The Pareto-optimal candidates, "policy_00" first.
      references: Evaluated candidates to compare with, such as "w8a8".
      num_evaluated: Policies measured in this run.
      num_reused: Policies whose metrics came from the store.
      stop_reason: Why the search ended.
      history: One row per generation.
      provenance: Where the result comes from.
      within: Points of accuracy that may be lost for less cost, in a verdict on it.
      heads: Outputs of a network of several; metrics of one begin with its name.
    """

    target: str
    objectives: tuple[Objective, ...]
    front: tuple[Candidate, ...]
    references: tuple[Candidate, ...]
    num_evaluated: int
    num_reused: int
    stop_reason: StopReason
    history: tuple[Generation, ...]
    provenance: Provenance
    within: float = 1.0
    heads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_names([self.target], "targets", SearchError)
        check_names(self.heads, "outputs", SearchError)
        for field in ("front", "references"):
            names = Counter(candidate.name for candidate in getattr(self, field))
            if twice := sorted(name for name, count in names.items() if count > 1):
                raise SearchError(f"Expected distinct names in {field}, got {twice}.")

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped the search before its end."""
        return self.stop_reason is StopReason.INTERRUPTED

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "objectives": [objective.to_json() for objective in self.objectives],
            "front": [candidate.to_json() for candidate in self.front],
            "references": [candidate.to_json() for candidate in self.references],
            "num_evaluated": self.num_evaluated,
            "num_reused": self.num_reused,
            "stop_reason": self.stop_reason.value,
            "history": [row.to_json() for row in self.history],
            "provenance": self.provenance.to_json(),
            **({} if self.within == 1.0 else {"within": self.within}),
            **({"heads": list(self.heads)} if self.heads else {}),
        }

    @classmethod
    def from_json(cls, value: object) -> SearchResult:
        """Reads what `to_json` returned.

        Raises:
          SearchError: If a key is missing or unknown, or a value has another type.
          PolicyError: If a policy is malformed.
        """
        lists = ("objectives", "front", "references", "history", "heads")
        keys = ["schema_version", *(field.name for field in fields(SearchResult))]
        if isinstance(value, dict):  # earlier versions wrote none
            value = {"within": 1.0, "heads": [], **cast("_Json", value)}
        document = _READER.object(value, "search result", keys)
        _READER.check_version(document, "search result", SCHEMA_VERSION)
        rows: dict[str, list[object]] = {
            key: _READER.field(document, key, list) for key in lists
        }
        reason = _READER.field(document, "stop_reason", str)
        if reason not in (known := {one.value for one in StopReason}):
            hint = did_you_mean(reason, known)
            raise SearchError(f"Unknown stop_reason {reason!r}. {hint}")
        return cls(
            target=_READER.field(document, "target", str),
            objectives=tuple(Objective.from_json(row) for row in rows["objectives"]),
            front=tuple(Candidate.from_json(row) for row in rows["front"]),
            references=tuple(Candidate.from_json(row) for row in rows["references"]),
            stop_reason=StopReason(reason),
            history=tuple(Generation.from_json(row) for row in rows["history"]),
            provenance=Provenance.from_json(document["provenance"]),
            num_evaluated=_READER.field(document, "num_evaluated", int),
            num_reused=_READER.field(document, "num_reused", int),
            within=_check_number(document["within"], "within"),
            heads=tuple(cast("list[str]", rows["heads"])),
        )


def _check_number(value: object, what: str) -> float:
    number = float(as_number(value, f"for {what}"))
    if not math.isfinite(number):
        raise SearchError(f"Expected a finite number for {what}, got {number}.")
    return number
