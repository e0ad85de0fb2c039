"""Reads latency tables: measured values by layer and widths, as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import TargetError, did_you_mean
from matar_tf.io.files import read_at_most
from matar_tf.io.names import check_names
from matar_tf.policy import MAX_BITS, MIN_BITS, WIDE_BITS
from matar_tf.targets.fields import MAX_FIGURE, MIN_FIGURE

__all__ = ["COLUMNS", "read_latency_table"]

COLUMNS: Final = ("layer", "weight_bits", "activation_bits", "value", "unit")
_SECONDS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_MAX_BYTES: Final = 1 << 22
# In memory each row takes some 2,000 bytes. A network of 400 layers has 20,000.
_MAX_ROWS: Final = 50_000


def read_latency_table(
    folder: Path, file: str, frequency_hz: int
) -> list[dict[str, Any]]:
    """Returns the rows of a CSV file with a header, values in cycles.

    Columns: ``layer`` (name of a layer, or its shape as `layer_shape` writes it),
    ``weight_bits`` (empty for a layer without weights), ``activation_bits``, ``value``
    and ``unit``: cycles, s, ms, us or ns, for one sample.

    Args:
      folder: Folder of the target file, which the table must be in.
      file: Path of the table, relative to it.
      frequency_hz: Clock that times are converted with.

    Raises:
      TargetError: If the file cannot be read, a column is missing or unknown, a cell is
        no number or out of its range or empty, a unit is unknown, or two rows are for
        the same layer and widths.
    """
    path = _path_of(folder, file)
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    try:
        given = list(reader.fieldnames or ())
        _check_columns(given, path)
        rows: list[dict[str, Any]] = []
        seen: set[tuple[Any, ...]] = set()
        empty: list[int] = []
        for row in reader:
            where = f"line {reader.line_num} of {str(path)!r}"
            if row.get("value") is not None and not row["value"].strip():
                empty.append(reader.line_num)
                continue
            entry = _read_row(row, where, frequency_hz)
            key = (entry["layer"], entry["weight_bits"], entry["activation_bits"])
            if key in seen:
                raise TargetError(f"{where}: a second row for {key}; keep one.")
            seen.add(key)
            rows.append(entry)
            if len(rows) > _MAX_ROWS:
                raise TargetError(
                    f"{where}: expected at most {_MAX_ROWS} rows; leave out rows that "
                    "the network does not need."
                )
    except csv.Error as error:
        raise TargetError(
            f"line {reader.reader.line_num} of {str(path)!r}: expected CSV, got: "
            f"{error}; mend the line."
        ) from error
    if empty:
        raise TargetError(
            f"Expected a value in each row of the latency table {str(path)!r}, got "
            f"{len(empty)} rows without one, the first of them line {empty[0]}; fill "
            "them in, or remove the rows: what has none, the target does not run."
        )
    if not rows:
        raise TargetError(
            f"Expected rows below the header of the latency table {str(path)!r}, got "
            "none; add one for each layer and pair of widths."
        )
    return rows


def _path_of(folder: Path, file: str) -> Path:
    """Returns the path of a table, which must be in the folder of its target."""
    path = folder / file
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        is_file = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise TargetError(
            f"Expected the path of a latency table in compute.file, got {file!r}: "
            f"{error}."
        ) from error
    if Path(file).is_absolute() or not inside:
        raise TargetError(
            "Expected a relative path within the folder of the target in compute.file, "
            f"got {file!r}; put the latency table beside the target file."
        )
    if not is_file:
        raise TargetError(
            f"Expected a regular file as latency table at {str(path)!r}, found none; "
            "check compute.file."
        )
    return path


def _read_text(path: Path) -> str:
    try:
        # Excel writes a byte order mark.
        return read_at_most(path, _MAX_BYTES, TargetError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TargetError(
            f"Expected a readable latency table at {str(path)!r}, got: {error}."
        ) from error


def _check_columns(given: list[str], path: Path) -> None:
    for name in given:
        if name not in COLUMNS:
            raise TargetError(
                f"Unknown column {name!r} in the latency table {str(path)!r}. "
                f"{did_you_mean(name, COLUMNS)}"
            )
    if sorted(given) != sorted(COLUMNS):
        raise TargetError(
            f"Expected the columns {list(COLUMNS)} in the latency table "
            f"{str(path)!r}, got {given}."
        )


def _read_row(
    row: dict[str | None, Any], where: str, frequency_hz: int
) -> dict[str, Any]:
    # What stands beyond the header comes under the key None.
    if None in row:
        raise TargetError(
            f"{where}: expected {len(COLUMNS)} cells, got also {row[None]}; remove "
            "them (decimals are written with a point)."
        )
    cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if not cells["layer"]:
        raise TargetError(
            f"{where}: expected the name or the shape of a layer, got nothing."
        )
    check_names([cells["layer"]], f"layers in {where}", TargetError)
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
    narrow = None if activation_bits == WIDE_BITS else activation_bits
    for bits in (weight_bits, narrow):
        if bits is not None and not MIN_BITS <= bits <= MAX_BITS:
            raise TargetError(
                f"{where}: expected a number of bits in {MIN_BITS}..{MAX_BITS}, got "
                f"{bits}."
            )
    cycles = value if unit == "cycles" else value * _SECONDS[unit] * frequency_hz
    # Not a number is not within the range either.
    if not MIN_FIGURE <= cycles <= MAX_FIGURE:
        raise TargetError(
            f"{where}: expected a value of {MIN_FIGURE:g} to {MAX_FIGURE:g} "
            f"cycles, got {cells['value']!r} {unit}."
        )
    return {
        "layer": cells["layer"],
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "cycles": cycles,
    }
