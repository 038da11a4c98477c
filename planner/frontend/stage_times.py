"""Stage times of a pipeline from a CSV file: one row per stage, columns by name."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from planner.errors import InputError

_REQUIRED = ("forward", "backward_input", "backward_weight")
_OPTIONAL = ("activation", "weight_activation")
_MAX_BYTES = 1 << 20
_LARGEST = 1e9


def read_stage_times(path: Path) -> list[dict[str, float]]:
    """Return the rows; times in the file's unit, activations in those of one micro-batch on one device.

    Raises
    ------
    InputError
        If the file cannot be read, a column is missing or unknown, or a cell is no number of zero or more.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read this file of stage times", file=str(path)) from error
    if len(data) > _MAX_BYTES:
        raise InputError("a file of stage times is at most 1 MiB", file=str(path))
    reader = csv.reader(io.StringIO(text))
    try:
        lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"this is no CSV: {error}", file=str(path), line=reader.line_num) from error
    if not lines:
        raise InputError("this file is empty", file=str(path))
    names = [cell.strip() for cell in lines[0][1]]
    unknown = [n for n in names if n not in _REQUIRED + _OPTIONAL]
    missing = [n for n in _REQUIRED if n not in names]
    if unknown or missing or len(set(names)) != len(names):
        raise InputError(
            "the first line names the columns",
            file=str(path),
            line=lines[0][0],
            value=",".join(names),
            allowed=f"{', '.join(_REQUIRED)} and, if wanted, {', '.join(_OPTIONAL)}",
        )
    return [_row(path, number, names, row) for number, row in lines[1:]]


def _row(path: Path, line: int, names: list[str], row: list[str]) -> dict[str, float]:
    if len(row) != len(names):
        raise InputError("as many cells as columns are needed", file=str(path), line=line, value=len(row))
    found: dict[str, float] = {}
    for name, cell in zip(names, row, strict=True):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not 0 <= value <= _LARGEST:
            raise InputError(
                "a number from zero to 1e9 is needed", file=str(path), line=line, key=name, value=cell
            )
        found[name] = value
    return found
