"""Policies: how many bits each weight tensor and each activation tensor gets.

Bits of weights belong to layers, bits of activations belong to tensors. A tensor
is named after the layer whose output is quantized; a tensor that feeds several
layers has one width. A `matar_tf.space.PolicySpace` lists the widths that each entry
may take, a `Policy` picks one width for each entry. Both are frozen, hashable and saved
as JSON with a ``schema_version``.

Beside the widths of a space, all activations together may have 16 bits (``w8a16``):
kernels of 16-bit activations read and make no others, and their steps follow from those
of the widest width.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from matar_tf.errors import PolicyError
from matar_tf.io.json_reader import JsonReader
from matar_tf.io.names import check_names

__all__ = [
    "ALL_BITS",
    "MAX_BITS",
    "MIN_BITS",
    "SCHEMA_VERSION",
    "WIDE_BITS",
    "Policy",
    "check_bits",
    "parse_uniform_name",
    "read_entries",
    "read_policy",
    "row_of",
]

SCHEMA_VERSION: Final = 1
MIN_BITS: Final = 2
MAX_BITS: Final = 8
ALL_BITS: Final = tuple(range(MIN_BITS, MAX_BITS + 1))
WIDE_BITS: Final = 16  # of all activations of a network, or of none

_ARE_BITS = frozenset(ALL_BITS).issuperset
_UNIFORM_NAME = re.compile(r"w([1-9][0-9]{0,2})a([1-9][0-9]{0,2})")  # one name each
_Json: TypeAlias = dict[str, Any]


def parse_uniform_name(name: str) -> tuple[int, int]:
    """Returns ``(weight_bits, activation_bits)`` of a name such as ``w4a8``.

    Raises:
      PolicyError: If the name has another form or a width is out of 2..8; that of
        activations may be 16.
    """
    match = _UNIFORM_NAME.fullmatch(name)
    if match is None:
        raise PolicyError(
            f"Expected the name of a uniform policy such as 'w4a8', got {name!r}."
        )
    weight_bits, activation_bits = int(match[1]), int(match[2])
    check_bits(weight_bits, f"uniform policy {name!r}")
    if activation_bits != WIDE_BITS:
        check_bits(activation_bits, f"uniform policy {name!r}")
    return weight_bits, activation_bits


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One width for each weight entry and each activation entry.

    Attributes:
      weights: Bits of the weights, by layer name.
      activations: Bits of the activations, by tensor name; 16 for all or for none.
    """

    weights: Mapping[str, int]
    activations: Mapping[str, int]

    def __post_init__(self) -> None:
        for field in ("weights", "activations"):
            entries = cast("Mapping[str, int]", getattr(self, field))
            # A search makes many thousands: the usual case is checked as a whole.
            bits_of_all = entries.values()
            check_names(entries, f"{field} entries", PolicyError)
            if set(map(type, bits_of_all)) != {int} or not _ARE_BITS(bits_of_all):
                entries = _checked(entries, field)
            object.__setattr__(self, field, MappingProxyType(dict(entries)))

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def is_wide(self) -> bool:
        """Whether the activations have 16 bits."""
        return WIDE_BITS in self.activations.values()

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
        weights, activations = read_entries(value, "policy")
        return cls(
            weights=cast("dict[str, int]", weights),
            activations=cast("dict[str, int]", activations),
        )


def _checked(entries: Mapping[str, int], field: str) -> dict[str, int]:
    """Returns bits as Python's integers."""
    wide = [name for name, bits in entries.items() if bits == WIDE_BITS]
    if field != "activations" or not wide:
        return {
            name: check_bits(bits, f"{field} entry {name!r}")
            for name, bits in entries.items()
        }
    if len(wide) < len(entries):
        other = next(name for name in entries if name not in wide)
        raise PolicyError(
            f"Expected {WIDE_BITS} bits for all activations or for none, got "
            f"{WIDE_BITS} for {wide[0]!r} and {entries[other]!r} for {other!r}; "
            "kernels of 16-bit activations read and make no others."
        )
    return dict.fromkeys(entries, WIDE_BITS)


def _make_policy(weights: dict[str, int], activations: dict[str, int]) -> Policy:
    return Policy(weights=weights, activations=activations)


def read_policy(path: str | Path) -> Policy:
    """Reads the policy of a ``.json`` file.

    Raises:
      PolicyError: If there is none.
    """
    return Policy.from_json(JsonReader(PolicyError).read(Path(path)))


def check_bits(bits: object, where: str) -> int:
    """Returns a number of bits as Python's integer, from one of any kind.

    Raises:
      PolicyError: If it is none in 2..8; `where` says of what.
    """
    is_integer = not isinstance(bits, bool) and isinstance(bits, Integral)
    if not is_integer or bits not in ALL_BITS:
        raise PolicyError(
            f"Expected an integer number of bits in {MIN_BITS}..{MAX_BITS} for the "
            f"{where}, got {bits!r}."
        )
    return int(cast("int", bits))


def row_of(bits: Sequence[int], width: int) -> int:
    """Returns the place of a width among those of an entry; the last for 16 bits."""
    return len(bits) - 1 if width == WIDE_BITS else bits.index(width)


def read_entries(value: object, what: str) -> tuple[object, object]:
    """Returns what stands under ``weights`` and ``activations`` in a JSON object.

    Raises:
      PolicyError: If the object has another form.
    """
    keys = ("schema_version", "weights", "activations")
    reader = JsonReader(PolicyError)
    document = reader.object(value, what, keys)
    reader.check_version(document, what, SCHEMA_VERSION)
    for key in ("weights", "activations"):
        if not isinstance(document[key], dict):
            raise PolicyError(
                f"Expected an object of names and widths under {key!r} in the {what}, "
                f"got {document[key]!r}."
            )
    return document["weights"], document["activations"]
