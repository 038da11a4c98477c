"""CSV traces with a header: one request per row, columns under any of their usual names.

Known spellings include those of the Azure LLM inference traces (TIMESTAMP, ContextTokens,
GeneratedTokens) and of BurstGPT (Timestamp, Request tokens, Response tokens). A log of served requests
also says when their tokens came: durations (ttft_s, e2e_ms) or times on the clock of the arrivals.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from math import isfinite

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.ir.trace import RequestTrace

_ARRIVAL = ("t_s", "arrival", "arrival_s", "arrival_time", "arrived_at", "timestamp", "time", "time_s", "t")
_INPUT = (
    "input", "input_tokens", "input_length", "isl", "prompt_tokens", "prompt", "context_tokens",
    "contexttokens", "request_tokens", "num_prefill_tokens",
)  # fmt: skip
_OUTPUT = (
    "output", "output_tokens", "output_length", "osl", "completion_tokens", "generated_tokens",
    "generatedtokens", "response_tokens", "num_decode_tokens",
)  # fmt: skip
_SESSION = ("session", "session_id", "conversation_id", "program", "program_id")
_TENANT = ("tenant", "tenant_id", "user", "user_id", "client_id")
_PRIORITY = ("priority",)
_FIRST = ("first_token_s", "first_token_time")
_FINISH = ("finish_s", "last_token_s", "finish_time", "completion_time")
_TTFT = {"ttft_s": 1.0, "ttft_ms": 1e-3, "time_to_first_token_s": 1.0, "time_to_first_token_ms": 1e-3}
_E2E = {"e2e_s": 1.0, "e2e_ms": 1e-3, "latency_s": 1.0, "latency_ms": 1e-3}
_MAX_TOKENS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """A column that says when something came: a duration in units of `scale_s`, or a time if that is None."""

    column: int
    scale_s: float | None

    def after_s(self, row: _Row, arrival_s: float | None) -> float:
        """Return the seconds from the arrival of a row's request."""
        name = "measured time"
        if self.scale_s is not None:
            return row.seconds(self.column, name) * self.scale_s
        if arrival_s is None:
            raise row.error("a time needs an arrival to count from", name, row.cells[self.column])
        after = row.time_s(self.column, name) - arrival_s
        if after < 0.0:
            raise row.error("lies before the arrival", name, row.cells[self.column].strip())
        return after


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Positions of the columns; None for those that a trace does not have."""

    arrival: int | None
    input: int
    output: int
    session: int | None
    tenant: int | None
    priority: int | None
    first: _Moment | None
    last: _Moment | None

    @property
    def num_needed(self) -> int:
        moments = (moment.column for moment in (self.first, self.last) if moment is not None)
        optional = (self.arrival, self.session, self.tenant, self.priority, *moments)
        return max(self.input, self.output, *(c for c in optional if c is not None)) + 1


@dataclass(slots=True, kw_only=True)
class _Owners:
    """Whose requests they are: sessions and tenants numbered in order of appearance."""

    numbers: dict[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])
    session: list[int] = field(default_factory=list[int])
    tenant: list[int] = field(default_factory=list[int])
    priority: list[int] = field(default_factory=list[int])

    def add(self, columns: _Columns, row: _Row) -> None:
        """Note the owner of a row's request."""
        for column, seen in ((columns.session, self.session), (columns.tenant, self.tenant)):
            if column is not None:
                name = (column, row.cells[column].strip())
                seen.append(self.numbers.setdefault(name, len(self.numbers)))
        if columns.priority is not None:
            self.priority.append(row.whole(columns.priority, "priority"))


@dataclass(slots=True, kw_only=True)
class _Measured:
    """When the first and the last tokens came, seconds after the arrivals."""

    ttft_s: list[float] = field(default_factory=list[float])
    e2e_s: list[float] = field(default_factory=list[float])

    def add(self, columns: _Columns, row: _Row, arrival_s: float | None) -> None:
        """Note what was measured of a row's request."""
        if columns.first is not None:
            self.ttft_s.append(columns.first.after_s(row, arrival_s))
        if columns.last is not None:
            self.e2e_s.append(columns.last.after_s(row, arrival_s))
            if self.ttft_s and self.e2e_s[-1] < self.ttft_s[-1]:
                raise row.error("ends before its first token", "measured time", self.e2e_s[-1])


class ColumnsCsv:
    """Reads comma-separated traces by the names in their header."""

    def recognises(self, first_line: str) -> bool:
        """Return whether the header names an input and an output column."""
        names = _normalised(first_line.split(","))
        return _find(names, _INPUT) is not None and _find(names, _OUTPUT) is not None

    def read(self, text: str, file: str, diagnostics: Diagnostics) -> RequestTrace:
        """Return the trace; rows must be in order of arrival."""
        reader = csv.reader(StringIO(text))
        columns: _Columns | None = None
        times: list[float] = []
        inputs: list[int] = []
        outputs: list[int] = []
        owners, measured = _Owners(), _Measured()
        num_empty = 0
        try:
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if columns is None:
                    columns = _columns(row)
                    continue
                where = _Row(cells=row, file=file, line=reader.line_num)
                if len(row) < columns.num_needed:
                    raise where.error("row has too few cells", "row", len(row))
                num_in, num_out = where.tokens(columns.input, "input"), where.tokens(columns.output, "output")
                if columns.arrival is not None:
                    _append_time(times, where.time_s(columns.arrival), where)
                if num_in == 0 or num_out == 0:
                    num_empty += 1
                    if columns.arrival is not None:
                        times.pop()
                    continue
                inputs.append(num_in)
                outputs.append(num_out)
                owners.add(columns, where)
                measured.add(columns, where, times[-1] if times else None)
        except csv.Error as error:
            raise InputError(f"not valid CSV: {error}", file=file, line=reader.line_num) from None
        if num_empty:
            diagnostics.warn(
                "trace-empty-requests",
                f"{num_empty} requests of the trace without input or output were left out",
            )
        start = times[0] if times else 0.0
        return RequestTrace(
            source=file,
            arrival_s=tuple(time - start for time in times),
            input_tokens=tuple(inputs),
            output_tokens=tuple(outputs),
            session=tuple(owners.session),
            tenant=tuple(owners.tenant),
            priority=tuple(owners.priority),
            ttft_s=tuple(measured.ttft_s),
            e2e_s=tuple(measured.e2e_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    cells: list[str]
    file: str
    line: int

    def error(self, message: str, what: str, value: object, allowed: str | None = None) -> InputError:
        return InputError(message, file=self.file, line=self.line, key=what, value=value, allowed=allowed)

    def tokens(self, column: int, what: str) -> int:
        """Return a whole number of tokens, which spreadsheets like to write as 12.0."""
        text = self.cells[column].strip()
        try:
            value = float(text)
        except ValueError:
            raise self.error("not a number of tokens", what, text) from None
        if not isfinite(value) or value != int(value) or not 0 <= value <= _MAX_TOKENS:
            raise self.error("not a number of tokens", what, text, f"a whole number from 0 to {_MAX_TOKENS}")
        return int(value)

    def whole(self, column: int, what: str) -> int:
        """Return a whole number."""
        try:
            return int(self.cells[column].strip())
        except ValueError:
            raise self.error("not a whole number", what, self.cells[column].strip()) from None

    def seconds(self, column: int, what: str) -> float:
        """Return a duration in the unit of its column."""
        text = self.cells[column].strip()
        try:
            value = float(text)
        except ValueError:
            raise self.error("not a duration", what, text) from None
        if not isfinite(value) or value < 0:
            raise self.error("not a duration", what, text, "a number, zero or more")
        return value

    def time_s(self, column: int, what: str = "arrival") -> float:
        """Return a time in seconds; dates count from 1970 and are taken as UTC."""
        text = self.cells[column].strip()
        try:
            value = float(text)
        except ValueError:
            try:
                stamp = datetime.fromisoformat(text)
            except ValueError:
                raise self.error("neither seconds nor a date with time", what, text) from None
            return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
        if not isfinite(value):
            raise self.error(f"{what} must be a finite number", what, text)
        if value < 0:
            raise self.error(f"{what} must not be negative", what, text)
        return value


def _append_time(times: list[float], time_s: float, row: _Row) -> None:
    if times and time_s < times[-1]:
        raise row.error("arrives before the row above it; sort the trace by arrival", "arrival", time_s)
    times.append(time_s)


def _columns(header: list[str]) -> _Columns:
    names = _normalised(header)
    input_column, output_column = _find(names, _INPUT), _find(names, _OUTPUT)
    # `recognises` has found both before.
    assert input_column is not None
    assert output_column is not None
    return _Columns(
        arrival=_find(names, _ARRIVAL),
        input=input_column,
        output=output_column,
        session=_find(names, _SESSION),
        tenant=_find(names, _TENANT),
        priority=_find(names, _PRIORITY),
        first=_moment(names, _TTFT, _FIRST),
        last=_moment(names, _E2E, _FINISH),
    )


def _moment(names: list[str], durations: dict[str, float], times: tuple[str, ...]) -> _Moment | None:
    for name, scale in durations.items():
        if name in names:
            return _Moment(column=names.index(name), scale_s=scale)
    column = _find(names, times)
    return None if column is None else _Moment(column=column, scale_s=None)


def _normalised(header: list[str]) -> list[str]:
    return [name.strip().lstrip("\ufeff").lower().replace(" ", "_").replace("-", "_") for name in header]


def _find(names: list[str], spellings: tuple[str, ...]) -> int | None:
    return next((names.index(spelling) for spelling in spellings if spelling in names), None)


IMPORTER = ColumnsCsv()
