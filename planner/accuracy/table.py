"""A CSV of measurements as columns, read once and checked: nothing is guessed from a bad file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError, shown

FloatArray = NDArray[np.float64]

_MAX_FILE_BYTES = 1 << 30
_MAX_FIELD_CHARS = 4096
_MAX_COLUMNS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns of text by name, all of one length; blank cells are empty strings."""

    file: str
    columns: dict[str, Sequence[str]]
    num_rows: int

    def text(self, name: str, default: str = "") -> Sequence[str]:
        """Return a column, or `default` everywhere if the file has no such column."""
        return self.columns.get(name) or [default] * self.num_rows

    def number(self, name: str) -> FloatArray:
        """Return a column as numbers: NaN where blank or missing, infinity where it is no number."""
        column = self.columns.get(name)
        if column is None:
            return np.full(self.num_rows, math.nan)
        return np.array([_number(cell) for cell in column], dtype=np.float64)


def read_table(path: Path) -> Table:
    """Read a CSV file with a header line; cells are stripped, unknown columns are kept.

    Raises
    ------
    InputError
        If the file is missing, too large, not UTF-8, empty, or has rows that do not match its header.
    """
    file = str(path)
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError("the file is too large", file=file, allowed="at most 1 GiB")
        with path.open(encoding="utf-8-sig", newline="") as handle:
            return _parse(file, handle)
    except OSError as error:
        raise InputError(f"cannot read the file ({error.strerror})", file=file) from error
    except UnicodeDecodeError as error:
        raise InputError("the file is not UTF-8 text", file=file) from error


def _parse(file: str, handle: TextIO) -> Table:
    previous = csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.reader(handle)
    try:
        header = [name.strip() for name in next(reader, list[str]())]
        _check_header(file, header)
        rows = _checked_rows(file, reader, len(header))
    except csv.Error as error:
        raise InputError(f"not a CSV file ({error})", file=file, line=reader.line_num) from error
    finally:
        csv.field_size_limit(previous)
    if not rows:
        raise InputError("the file has a header but no rows", file=file)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return Table(file=file, columns={k: v for k, v in columns.items() if k}, num_rows=len(rows))


def _checked_rows(file: str, reader: Iterable[list[str]], width: int) -> list[list[str]]:
    rows: list[list[str]] = []
    for row in reader:
        if not row:
            continue
        if len(row) != width:
            raise InputError(
                "a row has another number of cells than the header",
                file=file,
                line=len(rows) + 2,
                value=len(row),
                allowed=f"{width} cells",
            )
        rows.append(row)
    return rows


def _check_header(file: str, header: list[str]) -> None:
    if not any(header):
        raise InputError("the file is empty", file=file, allowed="a header line and rows")
    if len(header) > _MAX_COLUMNS:
        raise InputError("too many columns", file=file, value=len(header), allowed=f"at most {_MAX_COLUMNS}")
    doubled = sorted({name for name in header if name and header.count(name) > 1})
    if doubled:
        raise InputError("a column occurs twice", file=file, line=1, value=shown(doubled[0]))


def _number(cell: str) -> float:
    cell = cell.strip()
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        return math.inf
    return math.inf if math.isnan(value) else value
