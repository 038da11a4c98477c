"""PSPLIB: resource-constrained projects, single-mode (.sm) and multi-mode (.mm).

Format: Kolisch, Sprecher, "PSPLIB - a project scheduling problem library", EJOR 96, 1996. Resources come as
R (renewable), N (used up) and D (both at once); D counts as one of each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from planner.errors import InputError
from planner.frontend.instance_text import InstanceSettings, Line, checked_count, lines_of, whole
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task

_SECTIONS = ("PRECEDENCE", "REQUESTS/DURATIONS", "RESOURCEAVAILABILITIES")
_KINDS = {"renewable": "R", "nonrenewable": "N", "doubly": "D"}


@dataclass(frozen=True, slots=True)
class _Psplib:
    """Reader of PSPLIB files."""

    suffixes: tuple[str, ...] = (".sm", ".mm")

    def accepts(self, text: str) -> bool:
        """Whether the three section titles are there."""
        return all(section in text for section in _SECTIONS)

    def read(self, text: str, *, file: str, settings: InstanceSettings) -> SchedulingProblem:
        """Return the project as a problem."""
        del settings
        lines = lines_of(text, comment="\0")
        kinds = _resource_kinds(lines, file)
        precedence = _section(lines, "PRECEDENCE", file)
        successors = _successors(precedence, file)
        declared = {int(line.words[0]): line for line in precedence}
        modes = _modes(_section(lines, "REQUESTS/DURATIONS", file), len(kinds), file)
        amounts = _capacities(_section(lines, "RESOURCEAVAILABILITIES", file), len(kinds), file)
        resources, columns = _resources(kinds, amounts)
        jobs = sorted(successors)
        index = {job: i for i, job in enumerate(jobs)}
        for job in jobs:
            _check_modes(job, modes.get(job, []), declared[job], file)
        tasks = tuple(_task(job, modes[job], columns) for job in jobs)
        lags: list[Lag] = []
        for job in jobs:
            for line, after in successors[job]:
                if after not in index:
                    raise InputError("unknown successor", file=file, line=line, value=after)
                lags.append(Lag(before=index[job], after=index[after]))
        return SchedulingProblem(name=_name(file), tasks=tasks, resources=resources, lags=tuple(lags))


def _name(file: str) -> str:
    return re.sub(r"\.[a-z]+$", "", file.replace("\\", "/").rsplit("/", 1)[-1])


def _resource_kinds(lines: list[Line], file: str) -> list[str]:
    """One letter per column, in the order R, N, D."""
    kinds: list[str] = []
    for line in lines:
        words = line.words
        if len(words) >= 4 and words[0] == "-" and words[1] in _KINDS:
            at = words.index(":") + 1 if ":" in words[:-1] else 0
            count = whole(words[at], file=file, line=line.number, what="the number of resources")
            kinds += [_KINDS[words[1]]] * checked_count(count, file=file, line=line.number, what="resources")
    return kinds


def _section(lines: list[Line], title: str, file: str) -> list[Line]:
    """Return the lines of numbers after a title, up to the next row of stars."""
    for position, line in enumerate(lines):
        if line.words[0].startswith(title):
            body: list[Line] = []
            for row in lines[position + 1 :]:
                if row.words[0].startswith("*"):
                    break
                if row.words[0].lstrip("-").isdigit():
                    body.append(row)
            return body
    raise InputError(f"no section {title}", file=file)


def _numbers(line: Line, file: str) -> list[int]:
    return [whole(w, file=file, line=line.number, what="an entry") for w in line.words]


def _successors(body: list[Line], file: str) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for line in body:
        row = _numbers(line, file)
        if len(row) < 3 or len(row) != 3 + row[2]:
            raise InputError(
                "a precedence line needs job, modes, number of successors and that many successors",
                file=file,
                line=line.number,
                value=" ".join(line.words),
            )
        if row[0] in found:
            raise InputError("a job that has a line already", file=file, line=line.number, value=row[0])
        found[row[0]] = [(line.number, job) for job in row[3:]]
    if not found:
        raise InputError("no jobs under PRECEDENCE RELATIONS", file=file)
    checked_count(len(found), file=file, line=body[-1].number, what="jobs")
    return found


def _check_modes(job: int, rows: list[list[int]], line: Line, file: str) -> None:
    """Refuse a job whose request lines are not as many as the modes that its precedence line declares."""
    if len(rows) != int(line.words[1]) or not rows:
        raise InputError(
            f"job {job} has {len(rows)} lines under REQUESTS/DURATIONS, not one per mode",
            file=file,
            line=line.number,
            value=line.words[1],
        )


def _modes(body: list[Line], num_columns: int, file: str) -> dict[int, list[list[int]]]:
    """Per job the rows [duration, demand per column]; a row without a job number continues the job."""
    found: dict[int, list[list[int]]] = {}
    job: int | None = None
    for line in body:
        row = _numbers(line, file)
        if len(row) == num_columns + 3:
            job, row = row[0], row[1:]
        if job is None or len(row) != num_columns + 2:
            raise InputError(
                f"a request line needs mode, duration and {num_columns} amounts, the job before the first",
                file=file,
                line=line.number,
                value=" ".join(line.words),
            )
        found.setdefault(job, []).append(row[1:])
    return found


def _capacities(body: list[Line], num_columns: int, file: str) -> list[int]:
    if num_columns == 0:
        return []
    if not body or len(body[0].words) != num_columns:
        line = body[0].number if body else None
        raise InputError(f"RESOURCEAVAILABILITIES needs {num_columns} amounts", file=file, line=line)
    return _numbers(body[0], file)


def _resources(kinds: list[str], amounts: list[int]) -> tuple[tuple[Resource, ...], list[list[int]]]:
    """Return the resources, and for each column the resources it stands for."""
    resources: list[Resource] = []
    columns: list[list[int]] = []
    for column, (kind, amount) in enumerate(zip(kinds, amounts, strict=True)):
        columns.append([])
        for renewable in (True, False):
            if kind in ("D", "R" if renewable else "N"):
                columns[-1].append(len(resources))
                resources.append(Resource(name=f"{kind}{column + 1}", capacity=amount, renewable=renewable))
    return tuple(resources), columns


def _task(job: int, rows: list[list[int]], columns: list[list[int]]) -> Task:
    modes = tuple(
        Mode(
            name=str(number),
            duration_s=float(row[0]),
            demands=tuple(
                Demand(resource=r, amount=amount)
                for amount, stands_for in zip(row[1:], columns, strict=True)
                for r in stands_for
                if amount
            ),
        )
        for number, row in enumerate(rows, start=1)
    )
    return Task(name=str(job), modes=modes)


IMPORTER = _Psplib()
