"""FJSP: flexible job shops (Brandimarte, Fattahi, Hurink): each operation on one of several machines.

Format: number of jobs, number of machines and possibly the mean flexibility on the first line; then
per job the number of operations and, per operation, the number of choices and pairs of machine
(from 1) and time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from planner.errors import InputError
from planner.frontend.instance_text import (
    InstanceSettings,
    Line,
    Numbers,
    checked_count,
    lines_of,
    parses,
    whole,
)
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task


@dataclass(frozen=True, slots=True)
class _Fjsp:
    """Reader of flexible job shops."""

    suffixes: tuple[str, ...] = (".fjs", ".fjsp")

    def accepts(self, text: str) -> bool:
        """Whether the text reads as a flexible job shop."""
        return parses(lambda: self.read(text, file="", settings=InstanceSettings()))

    def read(self, text: str, *, file: str, settings: InstanceSettings) -> SchedulingProblem:
        """Return the shop as a problem with one mode per eligible machine."""
        del settings
        num_jobs, num_machines, body = head(lines_of(text), file)
        numbers = Numbers(body, file=file)
        tasks: list[Task] = []
        lags: list[Lag] = []
        for job in range(num_jobs):
            for step in range(numbers.take("the number of operations", least=1)):
                if step:
                    lags.append(Lag(before=len(tasks) - 1, after=len(tasks)))
                tasks.append(Task(name=f"{job + 1}.{step + 1}", modes=_modes(numbers, num_machines)))
                checked_count(len(tasks), file=file, line=numbers.line, what="operations")
        if numbers.left:
            raise InputError("more numbers than the jobs need", file=file, line=numbers.line)
        machines = tuple(Resource(name=f"machine {m + 1}", capacity=1) for m in range(num_machines))
        return SchedulingProblem(
            name=PurePath(file).stem, tasks=tuple(tasks), resources=machines, lags=tuple(lags)
        )


def head(lines: list[Line], file: str) -> tuple[int, int, list[Line]]:
    """Return jobs, machines and the remaining lines; a third word is the mean flexibility."""
    if not lines or len(lines[0].words) not in (2, 3):
        raise InputError("the first line must hold jobs and machines", file=file, line=1)
    first = lines[0]
    counts = [
        checked_count(
            whole(word, file=file, line=first.number, what=what, least=1),
            file=file,
            line=first.number,
            what=what,
        )
        for word, what in zip(first.words[:2], ("jobs", "machines"), strict=True)
    ]
    if len(first.words) == 3:
        try:
            float(first.words[2])
        except ValueError:
            raise InputError(
                "the mean flexibility is not a number", file=file, line=first.number, value=first.words[2]
            ) from None
    return counts[0], counts[1], lines[1:]


def _modes(numbers: Numbers, num_machines: int) -> tuple[Mode, ...]:
    modes: list[Mode] = []
    for _ in range(numbers.take("the number of choices", least=1)):
        machine = numbers.take("a machine", least=1)
        if machine > num_machines:
            raise InputError(
                "unknown machine",
                file=numbers.file,
                line=numbers.line,
                value=machine,
                allowed=f"1 to {num_machines}",
            )
        duration = float(numbers.take("a time"))
        modes.append(
            Mode(
                name=f"machine {machine}",
                duration_s=duration,
                demands=(Demand(resource=machine - 1, amount=1),),
            )
        )
    return tuple(modes)


IMPORTER = _Fjsp()
