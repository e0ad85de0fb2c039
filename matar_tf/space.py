"""Policy spaces: the widths that each entry of a policy may take."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from matar_tf.errors import PolicyError, did_you_mean, shown
from matar_tf.io.names import check_names
from matar_tf.patterns import matching
from matar_tf.policy import (
    MAX_BITS,
    SCHEMA_VERSION,
    WIDE_BITS,
    Policy,
    check_bits,
    parse_uniform_name,
    read_entries,
    read_policy,
)
from matar_tf.scales import FREE, check_scale

__all__ = ["PolicySpace"]

_Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PolicySpace:
    """The widths that each entry may take.

    Invariants: each tuple of widths is not empty, strictly ascending and within
    2..8; the order of the entries is the order of the network.

    Attributes:
      weights: Allowed bits of the weights, by layer name.
      activations: Allowed bits of the activations, by tensor name.
      scale: What scales the network has: ``free``, or ``power_of_two``.
    """

    weights: Mapping[str, tuple[int, ...]]
    activations: Mapping[str, tuple[int, ...]]
    scale: str = FREE

    def __post_init__(self) -> None:
        for field in ("weights", "activations"):
            entries = cast("Mapping[str, Iterable[int]]", getattr(self, field))
            check_names(entries, f"{field} entries", PolicyError)
            checked = {
                name: _check_choices(choices, f"{field} entry {name!r}")
                for name, choices in entries.items()
            }
            object.__setattr__(self, field, MappingProxyType(checked))
        check_scale(self.scale, PolicyError)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_space, (dict(self.weights), dict(self.activations), self.scale)

    @property
    def num_policies(self) -> int:
        """The number of policies in the space."""
        choices = (*self.weights.values(), *self.activations.values())
        return math.prod(len(widths) for widths in choices)

    def size_text(self, *, of_policies: bool = False) -> str:
        """Returns the number of policies as printed: ``2,401``, ``5.9e+37``.

        Args:
          of_policies: Whether the noun follows: ``1 policy``, ``2,401 policies``.
        """
        if of_policies:
            noun = "policy" if self.num_policies == 1 else "policies"
            return f"{self.size_text()} {noun}"
        # Floats end at 1.8e308, and networks of 365 free entries are beyond.
        number = self.num_policies
        if number < 1_000_000:
            return f"{number:,}"
        return f"{number:.3g}" if number < 10**300 else f"{Decimal(number):.2e}"

    def described(self) -> str:
        """Returns the number of policies, and which scales they have if not free."""
        scales = "" if self.scale == FREE else ", scales of powers of two"
        return f"{self.size_text(of_policies=True)}{scales}"

    def validate(self, policy: Policy) -> None:
        """Checks that a policy has exactly the entries and widths of this space.

        Activations of 16 bits are those of every space.

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
                is_wide = field == "activations" and policy.is_wide
                if chosen[name] not in widths and not is_wide:
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
        stays at 8 in ``w4a4``. In ``w4a16`` all activations have 16.

        Raises:
          PolicyError: If a free entry does not allow the width.
        """
        if activation_bits == WIDE_BITS:
            activations = dict.fromkeys(self.activations, WIDE_BITS)
        else:
            activations = _uniform(self.activations, activation_bits, "activations")
        return Policy(
            weights=_uniform(self.weights, weight_bits, "weights"),
            activations=activations,
        )

    def named(self, name: str) -> Policy:
        """Returns the uniform policy of a name such as ``w4a8``."""
        return self.uniform(*parse_uniform_name(name))

    def policy(
        self,
        policy: Policy | str | Path,
        *,
        weights: Mapping[str, int] | None = None,
        activations: Mapping[str, int] | None = None,
    ) -> Policy:
        """Returns a policy of this space, from whatever names one.

        Args:
          policy: A policy, the name of a uniform one (``w4a8``), or the path of a
            ``.json`` file.
          weights: Bits of single weight entries, by name or pattern of names (as of
            files: ``stem*``); later ones win.
          activations: The same of activation entries.

        Raises:
          PolicyError: If there is no such policy, a pattern matches nothing, or the
            result is not of this space.
        """
        if not isinstance(policy, Policy):
            is_file = str(policy).endswith(".json")
            policy = read_policy(policy) if is_file else self.named(str(policy))
        if weights or activations:
            policy = Policy(
                weights=_changed(policy.weights, weights, "weights"),
                activations=_changed(policy.activations, activations, "activations"),
            )
        self.validate(policy)
        return policy

    def only(self, policy: Policy) -> PolicySpace:
        """Returns the space of one policy of this one.

        Raises:
          PolicyError: If the policy is not of this space.
        """
        self.validate(policy)
        return replace(
            self,
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

    def wide_names(self) -> tuple[str, ...]:
        """Returns the names of the uniform policies with 16-bit activations."""
        otherwise = (MAX_BITS,) if self.num_policies > 1 else ()
        widths = _common_widths(self.weights.values(), otherwise)
        return tuple(f"w{bits}a{WIDE_BITS}" for bits in reversed(widths))

    def with_choices(
        self,
        *,
        weights: Mapping[str, Iterable[int]] | None = None,
        activations: Mapping[str, Iterable[int]] | None = None,
    ) -> PolicySpace:
        """Returns a copy in which some entries take other widths.

        Args:
          weights: Widths of weight entries, by name or pattern of names (as of files:
            ``stem*``, ``*`` for all); later ones win.
          activations: The same of activation entries.

        Raises:
          PolicyError: If a name or pattern matches nothing.
        """
        changed: list[dict[str, tuple[int, ...]]] = []
        for field, current, changes in (
            ("weights", self.weights, weights or {}),
            ("activations", self.activations, activations or {}),
        ):
            entries = dict(current)
            for name, choices in changes.items():
                found = matching(entries, name, field)
                entries |= dict.fromkeys(found, _check_choices(choices, repr(name)))
            changed.append(entries)
        return replace(self, weights=changed[0], activations=changed[1])

    def to_json(self) -> _Json:
        """Returns the JSON object that `from_json` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "weights": {name: list(widths) for name, widths in self.weights.items()},
            "activations": {
                name: list(widths) for name, widths in self.activations.items()
            },
            # Spaces of earlier versions have none, and stay as they were.
            **({} if self.scale == FREE else {"scale": self.scale}),
        }

    @classmethod
    def from_json(cls, value: object) -> PolicySpace:
        """Reads what `to_json` returned.

        Raises:
          PolicyError: If a key is missing or unknown, or widths or scale are malformed.
        """
        document = value
        scale: object = FREE
        if isinstance(value, dict) and "scale" in value:
            given = cast("dict[str, object]", value)
            scale = given["scale"]
            document = {key: one for key, one in given.items() if key != "scale"}
        weights, activations = read_entries(document, "policy space")
        return cls(
            weights=cast("dict[str, tuple[int, ...]]", weights),
            activations=cast("dict[str, tuple[int, ...]]", activations),
            scale=check_scale(scale, PolicyError),
        )


def _make_space(
    weights: dict[str, tuple[int, ...]],
    activations: dict[str, tuple[int, ...]],
    scale: str = FREE,
) -> PolicySpace:
    return PolicySpace(weights=weights, activations=activations, scale=scale)


def _changed(
    bits: Mapping[str, int], changes: Mapping[str, int] | None, kind: str
) -> dict[str, int]:
    """Returns bits by entry, with those that patterns name replaced."""
    changed = dict(bits)
    for pattern, width in (changes or {}).items():
        changed |= dict.fromkeys(matching(bits, pattern, kind), width)
    return changed


def _check_choices(choices: object, where: str) -> tuple[int, ...]:
    if isinstance(choices, str) or not isinstance(choices, Iterable):
        raise PolicyError(
            f"Expected a list of widths for the {where}, got {shown(choices)}."
        )
    widths = tuple(
        check_bits(bits, where) for bits in cast("Iterable[object]", choices)
    )
    if not widths or list(widths) != sorted(set(widths)):
        raise PolicyError(
            f"Expected ascending, distinct widths for the {where}, got "
            f"{shown(list(widths))}."
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
