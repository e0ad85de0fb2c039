"""Bars: claims of the project, each with what was measured for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bar"]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A claim and what was measured for it."""

    name: str
    figure: str
    limit: str
    held: bool
