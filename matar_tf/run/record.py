"""The record of a run, ``run.json``: what it was asked for, what its searches did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from matar_tf.errors import SearchError
from matar_tf.figures import is_metric_value
from matar_tf.io.json_reader import JsonReader
from matar_tf.reporting import Asked
from matar_tf.results import SearchResult
from matar_tf.run.plan import Run
from matar_tf.run.predicting import measurements_digest
from matar_tf.run.settings import versions
from matar_tf.targets.digests import target_digest
from matar_tf.tflite.profiles import PROFILES

__all__ = ["RUN_FILE", "RunRecord", "asked_of", "read_record", "record_of"]

RUN_SCHEMA_VERSION: Final = 1
RUN_FILE: Final = "run.json"
_READER: Final = JsonReader(SearchError)
_Json: TypeAlias = dict[str, Any]
_NUMBER: Final = (int, float)
_OPTIONAL_NUMBER: Final = (int, float, type(None))
# What stands under each key; keys that some records of 0.1.0 lack have a default.
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "command": (str,),
    "created": (str,),
    "seed": (int,),
    "max_evaluations": (int,),
    "max_minutes": _OPTIONAL_NUMBER,
    "patience": (int, type(None)),
    "population_size": (int,),
    "sensitivity": (bool,),
    "oversampling": (int,),
    "crossover_prob": _NUMBER,
    "mutation_prob": _OPTIONAL_NUMBER,
    "metrics": (list,),
    "objectives": (list,),
    "limits": (list,),
    "follow_up_share": _NUMBER,
    "fixed": (list,),
    "starts": (dict,),
    "holdout": _NUMBER,
    "profile": (str,),
    "runtime": (str,),
    "store": (str, type(None)),
    "targets": (dict,),
    "artifact_digest": (str,),
    "float_metrics": (dict, type(None)),
    "float_verified": (bool,),
    "data": (str,),
    "data_digest": (str,),
    "network": (str,),
    "versions": (dict,),
    "planned_evaluations": (int,),
    "searches": (dict,),
    "failures": (dict,),
}
_PREDICTED: Final = "measurements of the artifact"
# What lists and objects hold.
_INNER_KINDS: Final[Mapping[str, type]] = {
    **dict.fromkeys(("metrics", "limits", "fixed"), str),
    **dict.fromkeys(("targets", "versions", "failures"), str),
    **dict.fromkeys(("objectives", "starts", "searches"), dict),
}
_NAMES: Final = {int: "number", float: "number", str: "text", dict: "object"}
# Of two runs in one folder, the second must ask for the same in these. It may have
# more evaluations, more time, more processes, and other files.
_SAME_WHEN_RESUMED: Final = (
    "artifact_digest",
    "data_digest",
    "seed",
    "metrics",
    "objectives",
    "limits",
    "fixed",
    "starts",
    "holdout",
    "targets",
    "follow_up_share",
    "population_size",
    "sensitivity",
    "oversampling",
    "crossover_prob",
    "mutation_prob",
    "runtime",
)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run was asked for, and what its searches did; fields are keys of the file.

    Attributes:
      command: How the run was started.
      created: ISO time at which it was started.
      seed: Of everything random.
      max_evaluations: Largest number of policies per target.
      max_minutes: Time per target, or None.
      patience: Cohorts without a gain before a search stops, or None.
      population_size: Policies of a generation.
      sensitivity: Whether single entries were measured first.
      oversampling: Policies bred for each that is measured.
      crossover_prob: Probability that a child has two parents.
      mutation_prob: Probability that a gene changes, or None.
      metrics: What was measured.
      objectives: What was made better, each as JSON.
      limits: Bounds, each as text.
      follow_up_share: What later targets may measure anew.
      fixed: Widths that entries keep, each as text.
      starts: Policies to start from, each as JSON, by name.
      holdout: Share of the samples that tables report on.
      profile: How files store kernels.
      runtime: What measures policies.
      store: Path of a shared evaluation store, or None.
      targets: SHA-256 of each target's description, by name.
      artifact_digest: SHA-256 of the network.
      float_metrics: What the float network reaches, or None.
      float_verified: Whether a digest of the artifact covers that.
      data: Name of the data; of a run without, that of the artifact's measurements.
      data_digest: SHA-256 of samples and labels.
      network: What the network is called; "" on earlier records.
      versions: Version by name of each package that matters.
      planned_evaluations: What the run that began in the folder was planned for.
      searches: What each search did, by target.
      failures: Why targets have no result, by name.
    """

    command: str
    created: str
    seed: int
    max_evaluations: int
    max_minutes: float | None
    patience: int | None
    population_size: int
    sensitivity: bool
    oversampling: int
    crossover_prob: float
    mutation_prob: float | None
    metrics: list[str]
    objectives: list[_Json]
    limits: list[str]
    follow_up_share: float
    fixed: list[str]
    starts: Mapping[str, _Json]
    holdout: float
    profile: str
    runtime: str
    store: str | None
    targets: Mapping[str, str]
    artifact_digest: str
    float_metrics: Mapping[str, float] | None
    float_verified: bool
    data: str
    data_digest: str
    versions: Mapping[str, str]
    planned_evaluations: int
    searches: Mapping[str, _Json] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    network: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            kinds, value = _KINDS[one.name], getattr(self, one.name)
            is_flag = isinstance(value, bool) and bool not in kinds
            if is_flag or not isinstance(value, kinds):
                name = _NAMES.get(kinds[0], kinds[0].__name__)
                raise SearchError(f"{one.name} is no {name}, but {value!r}")
        for key, kind in _INNER_KINDS.items():
            _check_held(key, getattr(self, key), kind)
        for key in ("max_evaluations", "planned_evaluations"):
            if getattr(self, key) < 1:
                raise SearchError(f"{key} is no number above 0")
        if any(Path(name).name != name or name in ("", "..") for name in self.targets):
            raise SearchError("targets are no names of folders")
        for name, value in (self.float_metrics or {}).items():
            if not is_metric_value(name, value):
                raise SearchError(f"float_metrics has {value!r} for {name[:80]!r}")

    @property
    def asked(self) -> Asked:
        """What the run was asked, as its page has it."""
        limits = tuple(self.limits)
        return Asked(network=self.network, data=self.data, limits=limits)

    @property
    def has_failed(self) -> bool:
        """Whether the run has ended without a result for any target."""
        return not self.searches and set(self.failures) == set(self.targets)

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return {"schema_version": RUN_SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: object) -> RunRecord:
        """Reads what `to_json` returned.

        Raises:
          SearchError: If a key is missing or unknown, or a value of another kind.
        """
        keys = ["schema_version", *_KINDS]
        if isinstance(value, dict):  # which earlier versions wrote without some keys
            value = {"float_verified": False, "searches": {}, "failures": {}, **value}
            value.setdefault("runtime", "litert")
            value.setdefault("network", "")
            if "max_evaluations" in value:
                value.setdefault("planned_evaluations", value["max_evaluations"])
        document = dict(_READER.object(value, "record of a run", keys))
        version = _READER.field(document, "schema_version", int)
        del document["schema_version"]
        if version != RUN_SCHEMA_VERSION:
            raise SearchError(f"its schema_version is {version!r}")
        return cls(**document)

    def resumed_from(self, earlier: RunRecord) -> RunRecord:
        """Returns the record of this run as one that goes on with an earlier one.

        It is planned for as many evaluations as the run that began, if they were fewer
        than a generation's: generations of other sizes would be another search, which
        might lack what was found.
        """
        plan = earlier.planned_evaluations
        return replace(
            self,
            searches=earlier.searches,
            failures=earlier.failures,
            planned_evaluations=plan
            if plan < earlier.population_size
            else self.max_evaluations,
        )

    def difference(self, earlier: RunRecord) -> str | None:
        """Returns why this run is another than an earlier one, None if it is not."""
        by_profile = ["profile"] if self._depends_on_profile(earlier) else []
        for key in (*_SAME_WHEN_RESUMED, *by_profile):
            here, there = getattr(self, key), getattr(earlier, key)
            if here != there:
                return (
                    f"Expected to resume a run with the same {key}, but the one that "
                    f"is there has {there!r} and this run {here!r}"
                )
        if self.max_evaluations < earlier.max_evaluations:
            return (
                "Expected to resume a run with at least as many evaluations, but the "
                f"one that is there has a max_evaluations of {earlier.max_evaluations} "
                f"and this run {self.max_evaluations}, with which policies would be "
                "lost"
            )
        return None

    def _depends_on_profile(self, earlier: RunRecord) -> bool:
        """Returns whether fronts follow from how files store kernels.

        They do where sizes of files count, or outputs differ from other profiles'.
        """
        exact = [name for name, profile in PROFILES.items() if profile.exact]
        asked = str([self.objectives, self.limits])
        sizes = ("file_bytes", "arena_bytes")
        return any(name in asked for name in sizes) or any(
            one.profile not in exact for one in (self, earlier)
        )

    def with_history(
        self,
        results: Iterable[SearchResult],
        left_out: Mapping[str, Mapping[str, str]],
        failures: Mapping[str, str],
    ) -> RunRecord:
        """Returns the record with what searches did, generation by generation.

        A failure stays on record until the target has a result.

        Args:
          results: What they found.
          left_out: Why policies with a name are in no table, by target and name.
          failures: Why targets have no result, by name.
        """
        searches = {
            result.target: {
                "num_evaluated": result.num_evaluated,
                "num_reused": result.num_reused,
                "stop_reason": result.stop_reason.value,
                "left_out": dict(left_out.get(result.target, {})),
                "history": [asdict(row) for row in result.history],
            }
            for result in results
        }
        failed = {**self.failures, **failures}
        return replace(
            self,
            searches={**self.searches, **searches},
            failures={one: why for one, why in failed.items() if one not in searches},
        )


def _check_held(key: str, held: list[Any] | Mapping[str, Any], kind: type) -> None:
    """Checks what a list or an object of a record holds."""
    for one in held.values() if isinstance(held, Mapping) else held:
        if not isinstance(one, kind):
            raise SearchError(f"{key} holds no {_NAMES[kind]}, but {one!r}")


def asked_of(run: Run) -> Asked:
    """Returns what a run is asked, as its page has it."""
    return Asked(
        network=run.artifact.name,
        data=_PREDICTED if run.data is None else run.data.name,
        limits=tuple(
            f"{one.name} {'>=' if one.is_minimum else '<='} {one.bound!r}"
            for one in run.settings.options.limits
        ),
    )


def record_of(run: Run) -> RunRecord:
    """Returns the record of a run that begins."""
    settings, options, asked = run.settings, run.settings.options, asked_of(run)
    return RunRecord(
        command=settings.command,
        created=settings.created,
        seed=options.seed,
        max_evaluations=options.max_evaluations,
        max_minutes=options.max_minutes,
        patience=options.patience,
        population_size=options.population_size,
        sensitivity=options.sensitivity,
        oversampling=options.oversampling,
        crossover_prob=options.crossover_prob,
        mutation_prob=options.mutation_prob,
        metrics=list(settings.metrics),
        objectives=[one.to_json() for one in options.objectives],
        limits=list(asked.limits),
        follow_up_share=settings.follow_up_share,
        fixed=list(settings.fixed),
        starts={name: one.to_json() for name, one in settings.starts.items()},
        holdout=settings.holdout,
        profile=settings.profile,
        runtime=settings.measured_in,
        store=None if settings.store is None else str(settings.store),
        targets={one.name: target_digest(one) for one in run.targets},
        artifact_digest=run.artifact.digest(),
        float_metrics=run.artifact.accuracy.get("float"),
        float_verified=run.artifact.is_verified,
        data=asked.data,
        data_digest=measurements_digest(run.artifact)
        if run.data is None
        else run.data.digest(),
        network=asked.network,
        versions=versions(settings.measured_in),
        planned_evaluations=options.max_evaluations,
    )


def read_record(output: Path) -> RunRecord:
    """Returns the record of the run in a folder.

    Raises:
      SearchError: If there is none, or it cannot be read.
    """
    try:
        return RunRecord.from_json(_READER.read(output / RUN_FILE, RUN_FILE))
    except SearchError as error:
        raise SearchError(
            f"Expected the record of a run in {output / RUN_FILE}, but: "
            f"{str(error).rstrip('.')}. Search again, into another folder."
        ) from error
