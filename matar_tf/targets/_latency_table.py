"""Reads latency tables: measured values by layer and widths, as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import TargetError, did_you_mean

__all__ = ["read_latency_table"]

_COLUMNS: Final = ("layer", "weight_bits", "activation_bits", "value", "unit")
_SECONDS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def read_latency_table(path: Path, frequency_hz: int) -> list[dict[str, Any]]:
    """Returns the rows of a CSV file with a header, values in cycles.

    Columns: ``layer`` (name of a layer, or its shape as `layer_shape` writes it),
    ``weight_bits`` (empty for a layer without weights), ``activation_bits``, ``value``
    and ``unit``: cycles, s, ms, us or ns, for one sample.

    Args:
      path: The file.
      frequency_hz: Clock that times are converted with.

    Raises:
      TargetError: If the file cannot be read, a column is missing or unknown, a cell is
        no number, a unit is unknown, or two rows are for the same layer and widths.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(
            f"Expected a readable latency table at {str(path)!r}, got: {error}."
        ) from error
    reader = csv.DictReader(text.splitlines())
    given = list(reader.fieldnames or ())
    for name in given:
        if name not in _COLUMNS:
            raise TargetError(
                f"Unknown column {name!r} in the latency table {str(path)!r}. "
                f"{did_you_mean(name, _COLUMNS)}"
            )
    if sorted(given) != sorted(_COLUMNS):
        raise TargetError(
            f"Expected the columns {list(_COLUMNS)} in the latency table "
            f"{str(path)!r}, got {given}."
        )
    rows: list[dict[str, Any]] = []
    seen: set[tuple[Any, ...]] = set()
    for row in reader:
        where = f"line {reader.line_num} of {str(path)!r}"
        entry = _read_row(row, where, frequency_hz)
        key = (entry["layer"], entry["weight_bits"], entry["activation_bits"])
        if key in seen:
            raise TargetError(f"{where}: a second row for {key}; keep one.")
        seen.add(key)
        rows.append(entry)
    return rows


def _read_row(
    row: dict[str, str | None], where: str, frequency_hz: int
) -> dict[str, Any]:
    cells = {name: (row.get(name) or "").strip() for name in _COLUMNS}
    unit = cells["unit"]
    if unit != "cycles" and unit not in _SECONDS:
        raise TargetError(
            f"{where}: expected a unit, got {unit!r}. "
            f"{did_you_mean(unit, ('cycles', *_SECONDS))}"
        )
    try:
        weight_bits = int(cells["weight_bits"]) if cells["weight_bits"] else None
        activation_bits = int(cells["activation_bits"])
        value = float(cells["value"])
    except ValueError as error:
        raise TargetError(
            f"{where}: expected whole numbers of bits and a number as value, got "
            f"{list(cells.values())}."
        ) from error
    return {
        "layer": cells["layer"],
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "cycles": value if unit == "cycles" else value * _SECONDS[unit] * frequency_hz,
    }
