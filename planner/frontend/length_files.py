"""Lengths of training sequences from files: a list, a histogram, JSON lines, a Megatron-LM dataset index.

- text or CSV: one length per line, or columns named `length` and, for a histogram, `count`
- JSON lines: objects with `length` (or `num_tokens`), or bare numbers
- `.idx`: the index of a Megatron-LM indexed dataset (magic MMIDIDX, version 1): the lengths of its sequences
"""

from __future__ import annotations

import csv
import io
import json
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from planner.errors import InputError

_MAX_BYTES = 1 << 28
_MOST_LENGTHS = 10_000_000
_LONGEST = 1 << 30
_INDEX_MAGIC = b"MMIDIDX\x00\x00"
_INDEX_HEADER = "<QBQQ"
_JSON_KEYS = ("length", "num_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSource:
    """Lengths in file order (`weights` empty), or a histogram to draw from."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...] = ()

    def batches(self, num_sequences: int, num_batches: int, seed: int) -> list[tuple[int, ...]]:
        """Return global batches: in file order, or drawn from the histogram.

        Raises
        ------
        InputError
            If a list has too few lengths.
        """
        wanted = num_sequences * num_batches
        if self.weights:
            drawn = random.Random(seed).choices(self.lengths, self.weights, k=wanted)
        else:
            if wanted > len(self.lengths):
                raise InputError(
                    "the file has too few sequences", value=len(self.lengths), allowed=f"{wanted} or more"
                )
            drawn = list(self.lengths[:wanted])
        return [tuple(drawn[i * num_sequences : (i + 1) * num_sequences]) for i in range(num_batches)]


def read_lengths(path: Path) -> LengthSource:
    """Return what a file of lengths holds.

    Raises
    ------
    InputError
        If it cannot be read or a line is no length.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError("cannot read this file of lengths", file=str(path)) from error
    if len(data) > _MAX_BYTES:
        raise InputError("a file of lengths is at most 256 MiB", file=str(path))
    if data.startswith(_INDEX_MAGIC):
        return LengthSource(lengths=_index(data, path))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("this file is neither text nor a dataset index", file=str(path)) from error
    first = text.lstrip()[:1]
    found = _json_lines(text, path) if first == "{" else _table(text, path)
    if not found.lengths:
        raise InputError("this file holds no length", file=str(path))
    return found


def _index(data: bytes, path: Path) -> tuple[int, ...]:
    """Return the sequence lengths of a Megatron-LM index: after the header they come as 32-bit integers."""
    start = len(_INDEX_MAGIC)
    size = struct.calcsize(_INDEX_HEADER)
    if len(data) < start + size:
        raise InputError("this dataset index is cut off", file=str(path))
    version, _, count, _ = struct.unpack_from(_INDEX_HEADER, data, start)
    if version != 1:
        raise InputError("this dataset index has another version", file=str(path), value=version, allowed="1")
    if count > _MOST_LENGTHS or start + size + 4 * count > len(data):
        raise InputError("this dataset index is cut off or too large", file=str(path), value=count)
    lengths = struct.unpack_from(f"<{count}i", data, start + size)
    kept = tuple(length for length in lengths if length > 0)
    if not kept or max(kept) > _LONGEST:
        raise InputError("this dataset index holds no usable length", file=str(path))
    return kept


def _json_lines(text: str, path: Path) -> LengthSource:
    lengths: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError("this line is no JSON", file=str(path), line=number) from error
        value: object = entry
        if isinstance(entry, dict):
            fields = cast("dict[str, Any]", entry)
            value = next((fields[key] for key in _JSON_KEYS if key in fields), None)
        lengths.append(_length(value, path, number))
    return LengthSource(lengths=tuple(lengths))


def _table(text: str, path: Path) -> LengthSource:
    try:
        rows = [
            (number, [cell.strip() for cell in row])
            for number, row in enumerate(csv.reader(io.StringIO(text)), start=1)
            if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#")
        ]
    except csv.Error as error:
        raise InputError(f"this is no CSV: {error}", file=str(path)) from error
    if not rows:
        return LengthSource(lengths=())
    names, column, counts = rows[0][1], 0, -1
    if not names[0].isdigit() or len(names) > 1:
        if "length" not in names:
            raise InputError(
                "the first line names the columns",
                file=str(path),
                line=rows[0][0],
                value=",".join(names)[:60],
                allowed="length and, for a histogram, count",
            )
        column = names.index("length")
        counts = names.index("count") if "count" in names else -1
        rows = rows[1:]
    lengths: list[int] = []
    weights: list[float] = []
    for number, row in rows:
        if len(row) <= max(column, counts):
            raise InputError("as many cells as columns are needed", file=str(path), line=number)
        lengths.append(_length(row[column], path, number))
        if counts >= 0:
            weights.append(_weight(row[counts], path, number))
    if weights and sum(weights) <= 0:
        raise InputError("at least one count is positive", file=str(path))
    return LengthSource(lengths=tuple(lengths), weights=tuple(weights))


def _length(value: object, path: Path, line: int) -> int:
    digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12
    number = int(cast("str", value)) if digits else value
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _LONGEST:
        raise InputError(
            "a length is a whole number of tokens",
            file=str(path),
            line=line,
            value=str(value)[:60],
            allowed=f"1 to {_LONGEST}",
        )
    return number


def _weight(value: str, path: Path, line: int) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1e18:
        raise InputError("a count is zero or more", file=str(path), line=line, value=value[:60])
    return number
