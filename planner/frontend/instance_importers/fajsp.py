"""FAJSP: flexible job and assembly shops as a graph of operations, the general form of the FJSPLib library.

Format: number of operations, of precedences and of machines; per precedence a line `before after job`,
operations from 0; then per operation the number of choices and pairs of machine (from 0) and time.
Source of the format: ScheduleOpt/benchmarks, flexible-jobshop, section "The fajsp format".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from planner.errors import InputError
from planner.frontend.instance_text import InstanceSettings, Numbers, checked_count, lines_of, parses
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task


@dataclass(frozen=True, slots=True)
class _Fajsp:
    """Reader of flexible assembly shops."""

    suffixes: tuple[str, ...] = (".fajsp",)

    def accepts(self, text: str) -> bool:
        """Whether the text reads as a flexible assembly shop."""
        return parses(lambda: self.read(text, file="", settings=InstanceSettings()))

    def read(self, text: str, *, file: str, settings: InstanceSettings) -> SchedulingProblem:
        """Return the shop as a problem with one mode per eligible machine."""
        del settings
        lines = lines_of(text)
        if not lines or len(lines[0].words) != 3:
            raise InputError(
                "the first line must hold operations, precedences and machines", file=file, line=1
            )
        numbers = Numbers(lines, file=file)
        num_tasks, num_arcs, num_machines = (
            checked_count(numbers.take(what, least=least), file=file, line=1, what=what)
            for what, least in (("operations", 1), ("precedences", 0), ("machines", 1))
        )
        lags: list[Lag] = []
        for _ in range(num_arcs):
            before, after = (_below(numbers, num_tasks, "operation") for _ in range(2))
            numbers.take("a job")
            lags.append(Lag(before=before, after=after))
        tasks = tuple(Task(name=str(t), modes=_modes(numbers, num_machines)) for t in range(num_tasks))
        if numbers.left:
            raise InputError("more numbers than the operations need", file=file, line=numbers.line)
        machines = tuple(Resource(name=f"machine {m}", capacity=1) for m in range(num_machines))
        return SchedulingProblem(name=PurePath(file).stem, tasks=tasks, resources=machines, lags=tuple(lags))


def _below(numbers: Numbers, count: int, what: str) -> int:
    value = numbers.take(f"a number of a {what}")
    if value >= count:
        raise InputError(
            f"unknown {what}",
            file=numbers.file,
            line=numbers.line,
            value=value,
            allowed=f"0 to {count - 1}",
        )
    return value


def _modes(numbers: Numbers, num_machines: int) -> tuple[Mode, ...]:
    modes: list[Mode] = []
    for _ in range(numbers.take("the number of choices", least=1)):
        machine = _below(numbers, num_machines, "machine")
        demands = (Demand(resource=machine, amount=1),)
        modes.append(
            Mode(name=f"machine {machine}", duration_s=float(numbers.take("a time")), demands=demands)
        )
    return tuple(modes)


IMPORTER = _Fajsp()
