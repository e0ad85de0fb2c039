"""Limits: the largest or smallest figure that a policy of the front may have."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from matar_tf.errors import SearchError, did_you_mean
from matar_tf.figures import FIGURES, is_share, units_of

__all__ = ["Breach", "Limit", "breach_of"]

_TEXT: Final = re.compile(
    r"(?P<name>\w+)\s*=\s*(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>[A-Za-zµ]*|%)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A cost or a metric and its bound.

    Attributes:
      name: Name of the cost or metric, such as ``weight_bytes``.
      bound: Largest allowed figure, in its own unit; a figure equal to it is allowed.
      is_minimum: Whether the bound is the smallest allowed figure instead.
    """

    name: str
    bound: float
    is_minimum: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound) or self.bound <= 0:
            raise SearchError(
                f"Expected a finite limit above 0 for {self.name!r}, got {self.bound}."
            )

    @classmethod
    def parse(cls, text: str, *, is_minimum: bool = False) -> Limit:
        """Reads ``latency_ms=2.5``, ``accuracy=0.85`` or ``weight_bytes=40KiB``.

        A number stands in the unit of the figure, or its unit follows: B, kB and MB
        (1,000 and 1,000,000), KiB and MiB (1,024 and 1,048,576) for bytes, ns, us, ms
        and s for times, pJ, nJ, uJ, mJ and J for energies. Accuracies also come in
        percent: ``accuracy=85%``.

        Args:
          text: Name and bound.
          is_minimum: Whether the bound is the smallest allowed figure.

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
        is_accuracy = name.endswith("_accuracy")  # of an output, or binary
        if (is_share(name) and not unit) or (
            (is_share(name) or is_accuracy) and unit == "%"
        ):
            share = number / 100 if unit else number
            if share > 1:
                raise SearchError(
                    f"Expected a share of 1 at most as a limit for {name!r}, got "
                    f"{text!r}; write 0.85 or 85% for 85 of 100 samples."
                )
            return cls(name=name, bound=share, is_minimum=is_minimum)
        if not unit:
            return cls(name=name, bound=number, is_minimum=is_minimum)
        units = units_of(name)
        if units is None:
            known = [one.name for one in FIGURES]
            hint = "" if name in known else f" {did_you_mean(name, known)}"
            raise SearchError(
                f"Expected a number without a unit for {name!r}, got {text!r}; only "
                f"bytes, times, energies and shares take one.{hint}"
            )
        if unit not in units:
            raise SearchError(
                f"Unknown unit {unit!r} in {text!r}. {did_you_mean(unit, units)}"
            )
        return cls(name=name, bound=number * units[unit], is_minimum=is_minimum)

    def violation(self, figures: Mapping[str, float | None]) -> str | None:
        """Returns a sentence if the figures do not keep to the limit, else None.

        Raises:
          SearchError: If the limited figure is not among them, or is None.
        """
        figure = self._figure(figures)
        if self._excess(figure) <= 0:
            return None
        relation = "less" if self.is_minimum else "more"
        return (
            f"{self.name} is {figure:.10g}, {relation} than the requested "
            f"{self.bound:.10g}."
        )

    def shortfall(self, figures: Mapping[str, float | None]) -> float:
        """Returns by how much the figures miss the limit, as a share of it; 0 if not.

        Raises:
          SearchError: If the limited figure is not among them, or is None.
        """
        return max(self._excess(self._figure(figures)), 0.0) / self.bound

    def _excess(self, figure: float) -> float:
        return self.bound - figure if self.is_minimum else figure - self.bound

    def _figure(self, figures: Mapping[str, float | None]) -> float:
        known = sorted(name for name, figure in figures.items() if figure is not None)
        if self.name not in figures:
            raise SearchError(
                f"Unknown cost or metric {self.name!r} in a limit. "
                f"{did_you_mean(self.name, known)}"
            )
        figure = figures[self.name]
        if figure is None:
            raise SearchError(
                f"Expected a limit on a cost that the target has a figure for, got "
                f"{self.name!r}; choose from {known}."
            )
        return figure


class Breach(NamedTuple):
    """What is wrong with a policy.

    Attributes:
      texts: One sentence for each constraint and limit that it breaks.
      shortfall: By how much its figures miss their limits, in shares of these.
    """

    texts: tuple[str, ...]
    shortfall: float = 0.0


def breach_of(limits: Iterable[Limit], figures: Mapping[str, float | None]) -> Breach:
    """Returns the limits that some figures break, and by how much."""
    texts: list[str] = []
    shortfall = 0.0
    for limit in limits:
        text = limit.violation(figures)
        if text is not None:
            texts.append(text)
            shortfall += limit.shortfall(figures)
    return Breach(tuple(texts), shortfall)
