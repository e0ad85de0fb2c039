"""Policies: how many bits each weight tensor and each activation tensor gets.

Bits of weights belong to layers, bits of activations belong to tensors. A tensor
is named after the layer whose output is quantized; a tensor that feeds several
layers has one width. A `PolicySpace` lists the widths that each entry may take, a
`Policy` picks one width for each entry. Both are frozen, hashable and saved as
JSON with a ``schema_version``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from matar_tf.errors import PolicyError, did_you_mean
from matar_tf.io.json_reader import JsonReader

__all__ = [
    "ALL_BITS",
    "MAX_BITS",
    "MIN_BITS",
    "SCHEMA_VERSION",
    "Policy",
    "PolicySpace",
    "parse_uniform_name",
]

SCHEMA_VERSION: Final = 1
MIN_BITS: Final = 2
MAX_BITS: Final = 8
ALL_BITS: Final = tuple(range(MIN_BITS, MAX_BITS + 1))

_ARE_BITS = frozenset(ALL_BITS).issuperset
_UNIFORM_NAME = re.compile(r"w([0-9]+)a([0-9]+)")
_Json: TypeAlias = dict[str, Any]


def parse_uniform_name(name: str) -> tuple[int, int]:
    """Returns ``(weight_bits, activation_bits)`` of a name such as ``w4a8``.

    Raises:
      PolicyError: If the name has another form or a width is out of 2..8.
    """
    match = _UNIFORM_NAME.fullmatch(name)
    if match is None:
        raise PolicyError(
            f"Expected the name of a uniform policy such as 'w4a8', got {name!r}."
        )
    weight_bits, activation_bits = int(match[1]), int(match[2])
    for bits in (weight_bits, activation_bits):
        _check_bits(bits, f"uniform policy {name!r}")
    return weight_bits, activation_bits


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One width for each weight entry and each activation entry.

    Attributes:
      weights: Bits of the weights, by layer name.
      activations: Bits of the activations, by tensor name.
    """

    weights: Mapping[str, int]
    activations: Mapping[str, int]

    def __post_init__(self) -> None:
        for field in ("weights", "activations"):
            entries = cast("Mapping[str, int]", getattr(self, field))
            # A search makes many thousands: the usual case is checked as a whole.
            bits_of_all = entries.values()
            if set(map(type, bits_of_all)) != {int} or not _ARE_BITS(bits_of_all):
                for name, bits in entries.items():
                    _check_bits(bits, f"{field} entry {name!r}")
            object.__setattr__(self, field, MappingProxyType(dict(entries)))

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash(
            (frozenset(self.weights.items()), frozenset(self.activations.items()))
        )

    @functools.cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.to_canonical_json().encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_policy, (dict(self.weights), dict(self.activations))

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "weights": dict(self.weights),
            "activations": dict(self.activations),
        }

    def to_canonical_json(self) -> str:
        """Returns one line of JSON, equal for equal policies."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """Returns the SHA-256 of the canonical JSON, in hexadecimal."""
        return self._digest

    @classmethod
    def from_json(cls, value: object) -> Policy:
        """Reads what `to_json` returned.

        Raises:
          PolicyError: If a key is missing or unknown, or a width is not an integer
            in 2..8.
        """
        weights, activations = _read_entries(value, "policy")
        return cls(
            weights=cast("dict[str, int]", weights),
            activations=cast("dict[str, int]", activations),
        )


@dataclass(frozen=True, kw_only=True)
class PolicySpace:
    """The widths that each entry may take.

    Invariants: each tuple of widths is not empty, strictly ascending and within
    2..8; the order of the entries is the order of the network.

    Attributes:
      weights: Allowed bits of the weights, by layer name.
      activations: Allowed bits of the activations, by tensor name.
    """

    weights: Mapping[str, tuple[int, ...]]
    activations: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        for field in ("weights", "activations"):
            entries = cast("Mapping[str, Iterable[int]]", getattr(self, field))
            checked = {
                name: _check_choices(choices, f"{field} entry {name!r}")
                for name, choices in entries.items()
            }
            object.__setattr__(self, field, MappingProxyType(checked))

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_space, (dict(self.weights), dict(self.activations))

    @property
    def num_policies(self) -> int:
        """The number of policies in the space."""
        choices = (*self.weights.values(), *self.activations.values())
        return math.prod(len(widths) for widths in choices)

    def validate(self, policy: Policy) -> None:
        """Checks that a policy has exactly the entries and widths of this space.

        Raises:
          PolicyError: If an entry is missing, matches nothing, or takes a width
            that the space does not allow.
        """
        for field in ("weights", "activations"):
            allowed = cast("Mapping[str, tuple[int, ...]]", getattr(self, field))
            chosen = cast("Mapping[str, int]", getattr(policy, field))
            for name in chosen:
                if name not in allowed:
                    raise PolicyError(
                        f"The policy has the {field} entry {name!r}, which matches "
                        f"nothing in this network. {did_you_mean(name, allowed)}"
                    )
            for name, widths in allowed.items():
                if name not in chosen:
                    raise PolicyError(
                        f"The policy has no {field} entry for {name!r}; give it one "
                        f"of {list(widths)} bits."
                    )
                if chosen[name] not in widths:
                    raise PolicyError(
                        f"Expected one of {list(widths)} bits for the {field} entry "
                        f"{name!r}, got {chosen[name]}."
                    )

    def contains(self, policy: Policy) -> bool:
        """Returns whether a policy belongs to this space."""
        try:
            self.validate(policy)
        except PolicyError:
            return False
        return True

    def uniform(self, weight_bits: int, activation_bits: int) -> Policy:
        """Returns the policy with one width for all free entries.

        Entries with a single allowed width keep it: a first layer fixed at 8 bits
        stays at 8 in ``w4a4``.

        Raises:
          PolicyError: If a free entry does not allow the width.
        """
        return Policy(
            weights=_uniform(self.weights, weight_bits, "weights"),
            activations=_uniform(self.activations, activation_bits, "activations"),
        )

    def named(self, name: str) -> Policy:
        """Returns the uniform policy of a name such as ``w4a8``."""
        return self.uniform(*parse_uniform_name(name))

    def only(self, policy: Policy) -> PolicySpace:
        """Returns the space of one policy of this one.

        Raises:
          PolicyError: If the policy is not of this space.
        """
        self.validate(policy)
        return PolicySpace(
            weights={name: (bits,) for name, bits in policy.weights.items()},
            activations={name: (bits,) for name, bits in policy.activations.items()},
        )

    def widest(self) -> Policy:
        """Returns the policy with the most bits everywhere."""
        return self._extreme(-1)

    def narrowest(self) -> Policy:
        """Returns the policy with the fewest bits everywhere."""
        return self._extreme(0)

    def _extreme(self, place: int) -> Policy:
        return Policy(
            weights={name: bits[place] for name, bits in self.weights.items()},
            activations={name: bits[place] for name, bits in self.activations.items()},
        )

    def uniform_names(self, *, mixed: bool = False) -> tuple[str, ...]:
        """Returns the names of the uniform policies, widest first.

        Where no entry has a choice, its one width beside the usual 8 bits of the first
        and last layer counts; several of them count as 8 bits beside a choice on the
        other side, and without any choice no policy is uniform.

        Args:
          mixed: Whether weights and activations may differ (``w4a8``).
        """
        otherwise = (MAX_BITS,) if self.num_policies > 1 else ()
        weight_bits = _common_widths(self.weights.values(), otherwise)
        activation_bits = _common_widths(self.activations.values(), otherwise)
        return tuple(
            f"w{weights}a{activations}"
            for weights in reversed(weight_bits)
            for activations in reversed(activation_bits)
            if mixed or weights == activations
        )

    def with_choices(
        self,
        *,
        weights: Mapping[str, Iterable[int]] | None = None,
        activations: Mapping[str, Iterable[int]] | None = None,
    ) -> PolicySpace:
        """Returns a copy in which some entries take other widths.

        Raises:
          PolicyError: If a name matches nothing.
        """
        changed: list[dict[str, tuple[int, ...]]] = []
        for field, current, changes in (
            ("weights", self.weights, weights or {}),
            ("activations", self.activations, activations or {}),
        ):
            entries = dict(current)
            for name, choices in changes.items():
                if name not in entries:
                    raise PolicyError(
                        f"No {field} entry is named {name!r}. "
                        f"{did_you_mean(name, entries)}"
                    )
                entries[name] = tuple(choices)
            changed.append(entries)
        return PolicySpace(weights=changed[0], activations=changed[1])

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "weights": {name: list(widths) for name, widths in self.weights.items()},
            "activations": {
                name: list(widths) for name, widths in self.activations.items()
            },
        }

    @classmethod
    def from_json(cls, value: object) -> PolicySpace:
        """Reads what `to_json` returned.

        Raises:
          PolicyError: If a key is missing or unknown, or widths are malformed.
        """
        weights, activations = _read_entries(value, "policy space")
        return cls(
            weights=cast("dict[str, tuple[int, ...]]", weights),
            activations=cast("dict[str, tuple[int, ...]]", activations),
        )


def _make_policy(weights: dict[str, int], activations: dict[str, int]) -> Policy:
    return Policy(weights=weights, activations=activations)


def _make_space(
    weights: dict[str, tuple[int, ...]], activations: dict[str, tuple[int, ...]]
) -> PolicySpace:
    return PolicySpace(weights=weights, activations=activations)


def _check_bits(bits: object, where: str) -> int:
    if not isinstance(bits, int) or isinstance(bits, bool) or bits not in ALL_BITS:
        raise PolicyError(
            f"Expected an integer number of bits in {MIN_BITS}..{MAX_BITS} for the "
            f"{where}, got {bits!r}."
        )
    return bits


def _check_choices(choices: object, where: str) -> tuple[int, ...]:
    if isinstance(choices, str) or not isinstance(choices, Iterable):
        raise PolicyError(
            f"Expected a list of widths for the {where}, got {choices!r}."
        )
    widths = tuple(
        _check_bits(bits, where) for bits in cast("Iterable[object]", choices)
    )
    if not widths or list(widths) != sorted(set(widths)):
        raise PolicyError(
            f"Expected ascending, distinct widths for the {where}, got {list(widths)}."
        )
    return widths


def _uniform(
    entries: Mapping[str, tuple[int, ...]], bits: int, field: str
) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for name, widths in entries.items():
        if len(widths) == 1:
            chosen[name] = widths[0]
        elif bits in widths:
            chosen[name] = bits
        else:
            raise PolicyError(
                f"The {field} entry {name!r} allows {list(widths)} bits, so there is "
                f"no uniform policy with {bits}."
            )
    return chosen


def _common_widths(
    choices: Iterable[tuple[int, ...]], otherwise: tuple[int, ...]
) -> tuple[int, ...]:
    """Returns the widths that all entries with a choice have.

    Without any choice, the one width beside the usual 8 bits of the first and last
    layer; `otherwise` if there are several.
    """
    every = list(choices)
    free = [set(widths) for widths in every if len(widths) > 1]
    if free:
        return tuple(sorted(set[int].intersection(*free)))
    fixed = {widths[0] for widths in every} - {MAX_BITS} or {MAX_BITS}
    return tuple(fixed) if len(fixed) == 1 else otherwise


def _read_entries(value: object, what: str) -> tuple[object, object]:
    keys = ("schema_version", "weights", "activations")
    document = JsonReader(PolicyError).object(value, what, keys)
    if document["schema_version"] != SCHEMA_VERSION:
        raise PolicyError(
            f"Expected schema_version {SCHEMA_VERSION} in the {what}, got "
            f"{document['schema_version']!r}; write it with this version of "
            "matar_tf."
        )
    for key in ("weights", "activations"):
        if not isinstance(document[key], dict):
            raise PolicyError(
                f"Expected an object of names and widths under {key!r} in the {what}, "
                f"got {document[key]!r}."
            )
    return document["weights"], document["activations"]
