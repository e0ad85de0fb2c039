"""Limits: the largest cost that a policy of the front may have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from matar_tf.errors import SearchError, did_you_mean

__all__ = ["CostLimit"]

_BYTES: Final = {"B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}
_TEXT: Final = re.compile(
    r"(?P<name>\w+)\s*=\s*(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>[A-Za-z]*)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CostLimit:
    """A cost and its largest allowed figure.

    Attributes:
      name: Name of the cost, such as ``weight_bytes``.
      bound: Largest allowed figure, in the unit of the cost; a figure equal to it is
        allowed.
    """

    name: str
    bound: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound) or self.bound <= 0:
            raise SearchError(
                f"Expected a finite limit above 0 for {self.name!r}, got {self.bound}."
            )

    @classmethod
    def parse(cls, text: str) -> CostLimit:
        """Reads ``latency_ms=2.5`` or ``weight_bytes=40KiB``.

        A number stands in the unit of the cost. Costs in bytes also take a unit: B,
        kB and MB (1,000 and 1,000,000), KiB and MiB (1,024 and 1,048,576).

        Raises:
          SearchError: If the text has another form or the unit does not fit.
        """
        match = _TEXT.fullmatch(text.strip())
        try:
            number = float(match["number"]) if match else math.nan
        except ValueError:
            number = math.nan
        if match is None or math.isnan(number):
            raise SearchError(
                f"Expected a limit such as 'weight_bytes=40KiB' or 'latency_ms=2.5', "
                f"got {text!r}."
            )
        name, unit = match["name"], match["unit"]
        if not unit:
            return cls(name=name, bound=number)
        if not name.endswith("_bytes"):
            raise SearchError(
                f"Expected a number without a unit for {name!r}, got {text!r}; only "
                "costs in bytes take one."
            )
        if unit not in _BYTES:
            raise SearchError(
                f"Unknown unit {unit!r} in {text!r}. {did_you_mean(unit, _BYTES)}"
            )
        return cls(name=name, bound=number * _BYTES[unit])

    def violation(self, costs: Mapping[str, float | None]) -> str | None:
        """Returns a sentence if the costs exceed the limit, else None.

        Raises:
          SearchError: If the limited cost is not among the costs, or has no figure.
        """
        known = sorted(name for name, cost in costs.items() if cost is not None)
        if self.name not in costs:
            raise SearchError(
                f"Unknown cost {self.name!r} in a limit. "
                f"{did_you_mean(self.name, known)}"
            )
        cost = costs[self.name]
        if cost is None:
            raise SearchError(
                f"Expected a limit on a cost that the target has a figure for, got "
                f"{self.name!r}; choose from {known}."
            )
        if cost <= self.bound:
            return None
        return f"{self.name} is {cost:g}, more than the requested {self.bound:g}."
