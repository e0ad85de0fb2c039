"""What a developer measured of many policies, so that others need no data to search.

Numbers alone: policies, and metrics of each on two halves of some samples. Ranks of
policies carry over from samples that were trained on, levels do not: these come from
policies that were measured on held-out samples, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from matar_tf.errors import ArtifactError, shown
from matar_tf.figures import is_metric_value
from matar_tf.io.json_reader import JsonReader
from matar_tf.io.names import check_names
from matar_tf.policy import MAX_BITS, MIN_BITS, Policy
from matar_tf.space import PolicySpace

__all__ = [
    "DIVERGENCE",
    "MAX_POLICIES",
    "MIN_LEVELS",
    "MIN_POLICIES",
    "NUM_HALVES",
    "Levels",
    "Measurements",
]

DIVERGENCE: Final = "divergence"  # from the widest policy's outputs
NUM_HALVES: Final = 2
MIN_POLICIES: Final = 8
MIN_LEVELS: Final = 2
MAX_POLICIES: Final = 2048  # what a predictor learns from within seconds
_MAX_SAMPLES: Final = 1 << 40
_SCHEMA_VERSION: Final = 1
_READER: Final = JsonReader(ArtifactError)
_DIGITS: Final = re.compile(f"[{MIN_BITS}-{MAX_BITS}]+")
_KEYS: Final = (
    *("schema_version", "policies", "metrics", "num_samples", "trained_on"),
    *("levels", "cross_validation"),
)
_LEVEL_KEYS: Final = ("policies", "metrics", "num_samples")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels:
    """Policies that were measured on samples that nobody trained on.

    Attributes:
      policies: Two or more, different.
      metrics: Their metrics by name, ``[num_policies]``.
      num_samples: Number of samples; 0 if it is not known.

    Raises:
      ArtifactError: If a value cannot be a metric's, or numbers do not fit.
    """

    policies: tuple[Policy, ...]
    metrics: Mapping[str, Array]
    num_samples: int

    def __post_init__(self) -> None:
        _check_policies(self.policies, MIN_LEVELS)
        _check_count(self.num_samples, 0)
        shape = (len(self.policies),)
        object.__setattr__(self, "metrics", _checked(self.metrics, shape))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (Levels, _plain(self))


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurements:
    """Metrics of many policies of one network.

    Attributes:
      policies: Different ones, spread over the space.
      metrics: Their metrics by name, on each half of the samples:
        ``[2, num_policies]``. `DIVERGENCE` is how far outputs are from those of the
        widest policy, and needs no labels.
      num_samples: Number of samples, both halves together.
      trained_on: Whether the network was trained on them: then metrics are better
        than they are elsewhere, and `levels` set the scale.
      levels: What sets the scale; None where metrics are of held-out samples.
      cross_validation: How far policies' figures were from those predicted without
        them, by name: see `matar_tf.predictor.cross_validation`.

    Raises:
      ArtifactError: If there are too few policies or too many, one comes twice, a
        value cannot be a metric's, or there are no levels where there must be some.
    """

    policies: tuple[Policy, ...]
    metrics: Mapping[str, Array]
    num_samples: int
    trained_on: bool
    levels: Levels | None = None
    cross_validation: Mapping[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        _check_policies(self.policies, MIN_POLICIES)
        _check_count(self.num_samples, NUM_HALVES)
        shape = (NUM_HALVES, len(self.policies))
        object.__setattr__(self, "metrics", _checked(self.metrics, shape))
        errors = _checked({**self.cross_validation}, ())
        errors = {name: float(value) for name, value in errors.items()}
        object.__setattr__(self, "cross_validation", MappingProxyType(errors))
        if self.trained_on != (self.levels is not None):
            raise ArtifactError(
                "Expected levels on held-out samples for measurements of samples that "
                f"were trained on, and for these alone, got trained_on="
                f"{self.trained_on} and {'no ' * (self.levels is None)}levels; measure "
                "again."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (Measurements, _plain(self))

    def __repr__(self) -> str:
        source = "training" if self.trained_on else "held-out"
        return (
            f"{len(self.policies)} policies measured on {self.num_samples:,} {source} "
            f"samples ({', '.join(self.metrics)})"
        )

    def check_space(self, space: PolicySpace) -> None:
        """Checks that all policies are of a space.

        Raises:
          PolicyError: If one is not.
        """
        for policy in self.policies:
            space.validate(policy)
        for policy in () if self.levels is None else self.levels.policies:
            space.validate(policy)

    def to_json(self, space: PolicySpace) -> dict[str, Any]:
        """Returns the JSON object that `from_json` reads: bits in a space's order."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "policies": _texts(self.policies, space),
            "metrics": _lists(self.metrics),
            "num_samples": self.num_samples,
            "trained_on": self.trained_on,
            "levels": self.levels
            and {
                "policies": _texts(self.levels.policies, space),
                "metrics": _lists(self.levels.metrics),
                "num_samples": self.levels.num_samples,
            },
            "cross_validation": dict(self.cross_validation),
        }

    @classmethod
    def from_json(cls, value: object, space: PolicySpace) -> Measurements:
        """Reads what `to_json` returned.

        Raises:
          ArtifactError: If a key is missing or unknown, or see `Measurements`.
        """
        document = _READER.object(value, "measurements", _KEYS)
        _READER.check_version(document, "measurements", _SCHEMA_VERSION)
        levels: Levels | None = None
        if document["levels"] is not None:
            inner = _READER.object(document["levels"], "levels", _LEVEL_KEYS)
            levels = Levels(
                policies=_policies(inner, space),
                metrics=_READER.field(inner, "metrics", dict),
                num_samples=_READER.field(inner, "num_samples", int),
            )
        return cls(
            policies=_policies(document, space),
            metrics=_READER.field(document, "metrics", dict),
            num_samples=_READER.field(document, "num_samples", int),
            trained_on=_READER.field(document, "trained_on", bool),
            levels=levels,
            cross_validation=_READER.field(document, "cross_validation", dict),
        )


def _made(kind: type[Any], values: dict[str, Any]) -> Any:
    """Returns what was pickled."""
    return kind(**values)


def _plain(one: Any) -> dict[str, Any]:
    """Returns the fields of an object with mappings that pickle."""
    found = {field.name: getattr(one, field.name) for field in fields(one)}
    return {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in found.items()
    }


def _check_policies(policies: Sequence[Policy], least: int) -> None:
    number = len(policies)
    if not least <= number <= MAX_POLICIES:
        raise ArtifactError(
            f"Expected {least} to {MAX_POLICIES} measured policies, got {number}; "
            "measure as many."
        )
    if any(policy.is_wide for policy in policies):
        raise ArtifactError(
            f"Expected measured policies of {MIN_BITS} to {MAX_BITS} bits, got one of "
            "16-bit activations, which tell nothing of others; measure it by itself."
        )
    if len(set(policies)) < number:
        raise ArtifactError(
            f"Expected different policies, got one of {number} twice; measure again."
        )


def _check_count(number: int, least: int) -> None:
    if type(number) is not int or not least <= number <= _MAX_SAMPLES:
        raise ArtifactError(
            f"Expected at least {least} samples as num_samples of measurements, got "
            f"{shown(number)}; measure again."
        )


def _checked(metrics: Mapping[str, Any], shape: tuple[int, ...]) -> Mapping[str, Array]:
    """Returns metrics as arrays of a shape, all finite, shares within 0..1."""
    check_names(metrics, "metrics", ArtifactError)
    found: dict[str, Array] = {}
    for name, values in metrics.items():
        try:
            array = np.asarray(values)
        except ValueError:  # lists of different lengths
            array = np.asarray(None)
        numbers = array.ravel().tolist()
        if array.shape != shape or not all(is_metric_value(name, x) for x in numbers):
            raise ArtifactError(
                f"Expected finite numbers of shape {shape} for the measured {name!r}, "
                f"shares within 0..1, got {shown(values)}; measure again."
            )
        found[name] = array.astype(np.float64)
        found[name].flags.writeable = False
    if shape and not found:
        raise ArtifactError("Expected one or more metrics in measurements, got none.")
    return MappingProxyType(found)


def _texts(policies: Iterable[Policy], space: PolicySpace) -> list[str]:
    """Returns a digit for each entry, weights first, in the order of a space."""
    return [
        "".join(
            str(bits[name])
            for names, bits in (
                (space.weights, policy.weights),
                (space.activations, policy.activations),
            )
            for name in names
        )
        for policy in policies
    ]


def _policies(document: Mapping[str, Any], space: PolicySpace) -> tuple[Policy, ...]:
    texts = _READER.field(document, "policies", list)
    cut = len(space.weights)
    length = cut + len(space.activations)
    found: list[Policy] = []
    for text in cast("list[object]", texts):
        is_text = isinstance(text, str) and _DIGITS.fullmatch(text) is not None
        if not is_text or len(cast("str", text)) != length:
            raise ArtifactError(
                f"Expected {length} digits of {MIN_BITS} to {MAX_BITS}, the bits of "
                f"each entry, for a measured policy, got {shown(text)}; measure again."
            )
        bits = [*map(int, cast("str", text))]
        found.append(
            Policy(
                weights=dict(zip(space.weights, bits[:cut], strict=True)),
                activations=dict(zip(space.activations, bits[cut:], strict=True)),
            )
        )
    return tuple(found)


def _lists(metrics: Mapping[str, Array]) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in metrics.items()}
