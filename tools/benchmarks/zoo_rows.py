"""Rows and bars of ``tools/benchmark.py zoo``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tools.benchmarks.bars import Bar

__all__ = ["HEADER", "NUM_EVALUATIONS", "Agreement", "Row", "zoo_bars"]

NUM_EVALUATIONS: Final = 20  # of each search
_LARGEST_OFF: Final = 1e-5  # relative, of a copy's outputs
_LEAST_SHARE: Final = 0.99
_LEAST_DECIDED: Final = 200


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A policy's file in LiteRT against the Keras network.

    Attributes:
      within: Values that are at most a level of the last grid apart.
      values: Values in all.
      same: Rows of outputs that are decided, and name the same class.
      decided: Rows whose two largest outputs are more than two levels apart.
      rows: Rows in all; 0 of a network that tells no classes apart.
      off: int8 tensors on which simulator and runtime differ.
      tensors: int8 tensors in all.
    """

    within: int
    values: int
    same: int = 0
    decided: int = 0
    rows: int = 0
    off: int = 0
    tensors: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one network.

    Attributes:
      name: Of the network, and of what it was made in if not tf_keras.
      failure: What kept it from its end; empty if nothing did.
      kinds: Of its layers.
      macs: Multiply-accumulates of its file, and of these on int8 kernels.
      least_share: Of the former that is to be on int8 kernels.
      floats: Operators inside of the file that make floats.
      off: How far its outputs are from those of the Keras 3 network that it was made
        of, over the largest of these.
      front: Policies that a search found.
      moved: Largest difference of outputs before it was saved and after.
      file_bytes: Of the file of w8a8.
      seconds: Of a processor: to quantize, to package and for a policy's file.
      agreements: By policy.
      made: SHA-256 of its layers and weights, in hex.
      same_as: Name of the row of the same network, which this one is a copy of.
    """

    name: str
    failure: str = ""
    kinds: tuple[str, ...] = ()
    macs: tuple[int, int] = (0, 0)
    least_share: float = 1.0
    floats: int = 0
    off: float = 0.0
    front: int = 0
    moved: float = math.inf
    file_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    made: str = ""
    same_as: str = ""

    def to_text(self) -> str:
        """Returns the row of the table."""
        if self.failure:
            return f"{self.name:19s} {self.failure}"
        if self.same_as:
            return f"{self.name:19s} the same layers and weights as {self.same_as}"
        share = f"{self.macs[1] / max(self.macs[0], 1):.0%}"
        seconds = "/".join(f"{one:.3g}" for one in self.seconds.values())
        size = f"{self.file_bytes / 1e3:.0f}"
        lines = [f"{self.name:19s} {share:>5s} {size:>8s} {seconds:>15s}"]
        lines[0] += f"  {', '.join(self.kinds)}"
        for policy, one in self.agreements.items():
            text = f"{policy:5s} {one.within / one.values:.2%} within a level"
            if one.rows:
                text += f", same class {one.same} of {one.decided} (of {one.rows})"
            text += f", simulator {one.tensors - one.off} of {one.tensors} tensors"
            lines.append(f"{'':19s} {text}")
        return "\n".join(lines)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Row:
        """Reads what `dataclasses.asdict` made."""
        agreements = {
            name: Agreement(**one) for name, one in document["agreements"].items()
        }
        pair = tuple(document["macs"])
        return cls(**{**document, "macs": pair, "agreements": agreements})


HEADER: Final = (
    f"{'network':19s} {'int8':>5s} {'kB':>8s} {'s':>15s}  kinds of layers\n"
    f"{'':19s} int8: of all MACs; s: processor seconds, quantize/package/file"
)


def zoo_bars(rows: Sequence[Row]) -> Iterator[Bar]:
    """Yields the bars of all rows; a network that failed counts in the first alone."""
    ended = [row for row in rows if not row.failure]
    yield Bar(
        name="networks that are quantized, fitted, saved, packaged and exported",
        figure=f"{len(ended)} of {len(rows)}",
        limit="all",
        held=len(ended) == len(rows),
    )
    if not ended:
        return
    moved = max(row.moved for row in ended)
    yield Bar(
        name="largest difference that saving and loading makes",
        figure=f"{moved:g}",
        limit="0",
        held=moved == 0,
    )
    off = max(row.off for row in ended)
    yield Bar(
        name="largest relative difference from the network of Keras 3",
        figure=f"{off:.2g}",
        limit=f"{_LARGEST_OFF:g}",
        held=off <= _LARGEST_OFF,
    )
    fewest = min(row.front for row in ended)
    yield Bar(
        name=f"policies in the front of {NUM_EVALUATIONS} evaluations",
        figure=f"{fewest} at least",
        limit="1",
        held=fewest > 0,
    )
    whole = [row for row in ended if row.least_share == 1.0]
    num_floats = sum(row.floats for row in whole)
    short = [
        row.name
        for row in ended
        if row.macs[1] < row.least_share * row.macs[0] or row.macs[0] == 0
    ]
    yield Bar(
        name="networks whose share of MACs with integer kernels falls short, and "
        "operators inside that make floats where none should",
        figure=f"{', '.join(short) or 'none'}, {num_floats}",
        limit="none, 0",
        held=not short and not num_floats,
    )
    found = {
        f"{row.name}, {policy}": one
        for row in ended
        for policy, one in row.agreements.items()
    }
    yield _share_bar(
        "least share of values within a level of Keras'",
        {name: (one.within, one.values) for name, one in found.items()},
    )
    decided = {name: (one.same, one.decided) for name, one in found.items() if one.rows}
    if decided:
        what = "least share of decided samples of the same class"
        yield _share_bar(what, decided)
        fewest = min(decided, key=lambda name: decided[name][1])
        number = decided[fewest][1]
        yield Bar(
            name="fewest decided samples",
            figure=f"{number}, {fewest}",
            limit=f"at least {_LEAST_DECIDED}",
            held=number >= _LEAST_DECIDED,
        )
    off = {name: one.off for name, one in found.items() if one.off}
    yield Bar(
        name="int8 tensors on which simulator and runtime differ",
        figure=f"{sum(off.values())} of {sum(one.tensors for one in found.values())}"
        + "".join(f"; {name}: {number}" for name, number in off.items()),
        limit="0",
        held=not off,
    )


def _share_bar(what: str, counts: dict[str, tuple[int, int]]) -> Bar:
    shares = {name: part / max(whole, 1) for name, (part, whole) in counts.items()}
    worst = min(shares, key=shares.__getitem__)
    least = shares[worst]
    short = sum(share < _LEAST_SHARE for share in shares.values())
    return Bar(
        name=what,
        figure=f"{least:.2%}, {worst} ({short} of {len(shares)} short)",
        limit=f"at least {_LEAST_SHARE:.0%}",
        held=least >= _LEAST_SHARE,
    )
