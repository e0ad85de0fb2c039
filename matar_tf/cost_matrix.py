"""What policies cost on targets: the noun between cost models and reports."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from matar_tf.errors import SearchError, did_you_mean
from matar_tf.figures import CostKind
from matar_tf.io.names import check_names

__all__ = ["CostMatrix", "MatrixEntry"]


@dataclass(frozen=True, kw_only=True)
class MatrixEntry:
    """One policy on one target.

    Attributes:
      policy: Name of the policy.
      target: Name of the target.
      kind: Where latency, cycles and bytes come from.
      figures: Costs by name, the unit in the name; empty if the policy is not allowed.
      violations: The limits that the policy breaks; none if it may run.
    """

    policy: str
    target: str
    kind: CostKind
    figures: Mapping[str, float | None]
    violations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.figures) == bool(self.violations):
            raise SearchError(
                f"Expected either figures or violations of {self.policy!r} on "
                f"{self.target!r}, got {len(self.figures)} and {len(self.violations)}."
            )
        object.__setattr__(self, "figures", MappingProxyType(dict(self.figures)))

    def __reduce__(self) -> tuple[Any, ...]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return _make_entry, ({**values, "figures": dict(self.figures)},)

    @property
    def legal(self) -> bool:
        """Whether the target allows the policy."""
        return not self.violations


@dataclass(frozen=True, kw_only=True)
class CostMatrix:
    """Every policy on every target.

    Attributes:
      policies: Names of the policies, in order.
      targets: Names of the targets, in order.
      entries: One for each pair.
      float_layers: Why each layer stays in float, by its name; "" if it is not known.
    """

    policies: tuple[str, ...]
    targets: tuple[str, ...]
    entries: tuple[MatrixEntry, ...]
    float_layers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if not self.policies or not self.targets:
            raise SearchError(
                f"Expected at least one policy and one target, got "
                f"{len(self.policies)} and {len(self.targets)}."
            )
        check_names([*self.policies, *self.targets], "a cost matrix", SearchError)
        check_names([*self.float_layers], "layers in float", SearchError)
        pairs = [(one.policy, one.target) for one in self.entries]
        expected = {(p, t) for p in self.policies for t in self.targets}
        if len(pairs) != len(expected) or set(pairs) != expected:
            raise SearchError(
                f"Expected one entry for each of {len(self.policies)} policies and "
                f"{len(self.targets)} targets, got {len(pairs)}."
            )

    def entry(self, policy: str, target: str) -> MatrixEntry:
        """Returns the entry of a pair.

        Raises:
          SearchError: If there is none.
        """
        if (policy, target) not in self._by_pair:
            name, names = policy, self.policies
            if policy in self.policies:
                name, names = target, self.targets
            raise SearchError(
                f"Expected a policy and a target of this matrix, got {name!r}. "
                f"{did_you_mean(str(name), names)}"
            )
        return self._by_pair[policy, target]

    @functools.cached_property
    def _by_pair(self) -> dict[tuple[str, str], MatrixEntry]:
        return {(one.policy, one.target): one for one in self.entries}


def _make_entry(values: dict[str, Any]) -> MatrixEntry:
    return MatrixEntry(**values)
