"""A target as a page that a person reads: every figure with its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from pydantic import BaseModel

from matar_tf.pricing.arrays import peak_macs_per_cycle
from matar_tf.pricing.constraints import CONSTRAINTS
from matar_tf.reporting.text import aligned
from matar_tf.targets.compute import TableCompute
from matar_tf.targets.fields import Section
from matar_tf.targets.loader import list_targets, load_target
from matar_tf.targets.sections import ArrayOps
from matar_tf.targets.target import Target
from matar_tf.workload import OpKind

__all__ = ["describe_catalogue", "describe_target"]

_NO_FIGURES = {
    "source",
    "assumed",
    "kind",
    "unit",
    "kinds",
    "rates",
    "entries",
    "kernels",
    "weight_bits",
    "activation_bits",
}

_MORE = ("cycles_per_input", "cycles_per_output", "cycles_per_weight")  # of a rate


_UNCHECKED = "not validated"


def describe_catalogue() -> str:
    """Returns the catalogue as a table: widths, peak rate, energy, what was checked."""
    header = (
        "name",
        "class",
        "W bits",
        "A bits",
        "MHz",
        "peak MAC/cycle",
        "energy",
        "compared",
    )
    rows = [header, *(_summary(load_target(name)) for name in list_targets())]
    return "\n".join(aligned(rows, left=range(len(header))))


def _summary(target: Target) -> tuple[str, ...]:
    weights = {bits for kind in OpKind for bits in target.weight_bits_for(kind)}
    compared = ", ".join(
        _UNCHECKED
        if entry.max_error_percent is None
        else f"{entry.kind} {entry.max_error_percent:g} %"
        for entry in target.validation
    )
    return (
        target.name,
        target.target_class,
        _widths(weights),
        _widths(target.activation_bits),
        f"{target.clock.frequency_hz / 1e6:g}",
        _peak(target),
        "-" if target.energy is None else target.energy.kind,
        compared,
    )


def _peak(target: Target) -> str:
    """Returns the rate of a large convolution at the narrowest and widest operands."""
    pairs = [
        (weight_bits, bits)
        for entry in target.ops_for(OpKind.CONV)
        if isinstance(entry, ArrayOps)
        for weight_bits in entry.weight_bits
        for bits in entry.activation_bits
    ]
    if isinstance(target.compute, TableCompute) or not pairs:
        return "-"
    rates = [peak_macs_per_cycle(target, *pick(pairs)) for pick in (min, max)]
    narrow, wide = (f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}" for rate in rates)
    return wide if narrow == wide else f"{narrow} .. {wide}"


def describe_target(target: Target) -> str:
    """Returns what a target takes, its figures with their sources, and its limits.

    Figures that no source gives are marked as assumptions.
    """
    lines = [
        f"{target.name} ({target.target_class})",
        target.description,
        "",
        "Compared with:",
        *_validations(target),
        "",
        "Takes (weight bits x input bits):",
        *_operations(target),
        f"  peak, narrowest .. widest operands: {_peak(target)} MAC per cycle",
        "",
        "Figures:",
        *_sections(target),
        "",
        "Limits:",
        *(f"  {name}: {sentence}" for name, sentence in CONSTRAINTS.items()),
    ]
    return "\n".join(lines)


def _validations(target: Target) -> Iterator[str]:
    for entry in target.validation:
        if entry.max_error_percent is None:
            yield f"  {_UNCHECKED}: {entry.against}"
            continue
        yield (
            f"  {entry.kind}: {entry.against}: error at most "
            f"{entry.max_error_percent:g} %"
        )
        yield f"    source: {entry.source}"


def _operations(target: Target) -> Iterator[str]:
    for entry in target.ops:
        figures = entry.model_dump()
        weights = figures.get("weight_bits")
        widths = _widths(figures["activation_bits"])
        pairs = widths if weights is None else f"{_widths(weights)} x {widths}"
        kinds = ", ".join(sorted(kind.value for kind in entry.kinds))
        yield f"  {entry.unit:7s} {pairs:24s} {kinds}"


def _sections(target: Target) -> Iterator[str]:
    for name in (
        "clock",
        "compute",
        "network",
        "cpu",
        "memory",
        "bandwidth",
        "buffers",
        "storage",
        "overhead",
        "energy",
        "backend",
    ):
        section = cast("BaseModel | None", getattr(target, name))
        if section is None:
            yield f"  {name}: none given"
            continue
        yield from _figures(name, section)
    for number, entry in enumerate(target.ops):
        yield from _figures(f"ops[{number}]", entry)
    for number, entry in enumerate(target.limits):
        kinds = ", ".join(kind.value for kind in entry.kinds)
        widths = entry.weight_bits
        at = f" at weights of {_widths(widths)} bits" if widths else ""
        yield f"  limits[{number}]: {kinds}{at}"
        yield from _figures(f"limits[{number}]", entry)


def _figures(name: str, section: BaseModel) -> Iterator[str]:
    values: dict[str, Any] = section.model_dump()
    assumed = set(values["assumed"])
    for key, value in values.items():
        if key in _NO_FIGURES or value is None:
            continue
        if isinstance(getattr(section, key), Section):
            yield from _figures(f"{name}.{key}", getattr(section, key))
            continue
        mark = " (assumed)" if key in assumed else ""
        yield f"  {name}.{key} = {_number(value)}{mark}"
    for rate in values.get("rates", ()):
        pairs = f"{_widths(rate['weight_bits'])} x {_widths(rate['activation_bits'])}"
        unit = "macs_per_cycle" if rate["macs_per_cycle"] else "cycles_per_mac"
        kinds = ", ".join(sorted(kind.value for kind in rate["kinds"] or ()))
        of = f" of {kinds}" if kinds else ""
        more = "".join(f", {key} = {rate[key]:g}" for key in _MORE if rate[key])
        yield f"  {name}.{unit} = {_number(rate[unit])}{more} at {pairs}{of}"
    for entry in values.get("kernels", ()):
        yield (
            f"  {name}.stored_bits = {entry['stored_bits']:g} at weights of "
            f"{entry['weight_bits']} bits"
        )
    if "entries" in values:
        yield f"  {name}.entries = {len(values['entries'])} measured rows"
    yield f"    source: {values['source']}"


def _number(value: object) -> str:
    if isinstance(value, tuple):  # two sides, or several such pairs
        parts = cast("tuple[object, ...]", value)
        nested = any(isinstance(one, tuple) for one in parts)
        return (" or " if nested else "x").join(map(_number, parts))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _widths(bits: Iterable[int]) -> str:
    return "/".join(str(width) for width in sorted(bits))
