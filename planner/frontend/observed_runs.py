"""Reads the records that ``newel run --runs`` writes: what calls took, and which branches were taken."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from planner.errors import InputError
from planner.frontend.yaml_source import read_text

RECORD_KIND = "newel-run"
RECORD_VERSION = 1
MAX_RECORDS = 100_000
_MAX_BYTES = 64 * 1024 * 1024
_ROUND = re.compile(r"@+\d+")
_Plain = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """One request to a model: times in seconds, tokens (None where the server did not count them)."""

    model: str
    start_s: float
    first_s: float
    end_s: float
    prompt_tokens: float | None
    prompt_chars: float
    output_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCall:
    """One call that was done: its node without rounds, tokens, seconds of work."""

    node: str
    kind: str
    prompt_tokens: float | None
    output_tokens: float
    work_s: float
    requests: tuple[SeenRequest, ...]


@dataclass(slots=True, kw_only=True)
class ObservedRuns:
    """What a folder of records holds.

    `branches` maps ``source -> target`` to (times taken, times decided); `errors` the relative errors of the
    predictions that the runs were made with, by figure.
    """

    num_runs: int = 0
    calls: list[SeenCall] = field(default_factory=list[SeenCall])
    branches: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    errors: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


def read_runs(folder: Path, graph_name: str) -> tuple[ObservedRuns, list[Path]]:
    """Return what the records of a graph in a folder say, and their files.

    Raises
    ------
    InputError
        If there is no such folder, a record cannot be read, or none is of this graph.
    """
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix == ".json")
    except OSError as error:
        raise InputError(f"the folder cannot be read: {error.strerror}", file=str(folder)) from None
    if len(files) > MAX_RECORDS:
        raise InputError("too many records", file=str(folder), value=len(files), allowed=f"{MAX_RECORDS}")
    seen, used, others = ObservedRuns(), list[Path](), set[str]()
    for file in files:
        record = _record(file)
        if record.get("graph") != graph_name:
            others.add(str(record.get("graph")))
        elif record.get("status") == "done":
            _take(seen, record, file)
            used.append(file)
    if not used:
        raise InputError(
            f"no finished run of graph {graph_name!r}",
            file=str(folder),
            value=", ".join(sorted(others)[:5]) or "no record",
            hint="newel run ... --runs FOLDER writes records.",
        )
    return seen, used


def _record(file: Path) -> dict[str, object]:
    try:
        found: object = json.loads(read_text(file, max_bytes=_MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is no record of a run: no JSON ({error})", file=str(file)) from None
    if not isinstance(found, dict) or cast("_Plain", found).get("kind") != RECORD_KIND:
        raise InputError("this is no record of a run", file=str(file), hint="Keep the folder for records.")
    record = cast("dict[str, object]", found)
    if record.get("version") != RECORD_VERSION:
        raise InputError(
            "this version of records is not known",
            file=str(file),
            key="version",
            value=record.get("version"),
            allowed=str(RECORD_VERSION),
        )
    return record


def _take(seen: ObservedRuns, record: _Plain, file: Path) -> None:
    try:
        seen.num_runs += 1
        for entry in cast("list[_Plain]", record["calls"]):
            if entry["status"] == "done" and not entry["reused"] and entry["kind"] != "router":
                seen.calls.append(_call(entry))
        for name, counts in cast("Mapping[str, list[int]]", record["branches"]).items():
            taken, decided = seen.branches.get(name, (0, 0))
            seen.branches[name] = (taken + int(counts[0]), decided + int(counts[1]))
        for figure, error in _errors(record):
            seen.errors.setdefault(figure, []).append(error)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"the record is malformed ({type(error).__name__}: {error})", file=str(file)
        ) from None


def _call(entry: _Plain) -> SeenCall:
    requests = tuple(_request(r) for r in cast("list[_Plain]", entry["requests"]))
    single = len(requests) == 1
    return SeenCall(
        node=_ROUND.sub("", str(entry["node"])),
        kind=str(entry["kind"]),
        prompt_tokens=requests[0].prompt_tokens if single else None,
        output_tokens=_number(entry["output_tokens"]),
        work_s=max(_number(entry["end_s"]) - _number(entry["start_s"]), 0.0),
        requests=requests,
    )


def _request(entry: _Plain) -> SeenRequest:
    prompt = entry["prompt_tokens"]
    return SeenRequest(
        model=str(entry["model"]),
        start_s=_number(entry["start_s"]),
        first_s=_number(entry["first_s"]),
        end_s=_number(entry["end_s"]),
        prompt_tokens=None if prompt is None else _number(prompt),
        prompt_chars=_number(entry["prompt_chars"]),
        output_tokens=_number(entry["output_tokens"]),
    )


def _errors(record: _Plain) -> Iterator[tuple[str, float]]:
    predicted = cast("_Plain", record["predicted"])
    for figure in ("ttft_s", "latency_s"):
        measured, claimed = record[figure], predicted.get(figure)
        if measured is not None and claimed is not None and _number(measured) > 0:
            yield figure, _number(claimed) / _number(measured) - 1


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
