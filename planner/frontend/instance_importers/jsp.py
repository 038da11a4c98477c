"""JSP: job shops (Fisher and Thompson, Lawrence, Taillard and others), in the common text form.

Format: number of jobs and of machines, then per job a line of pairs machine (from 0) and time, one
pair per machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from planner.errors import InputError
from planner.frontend.instance_text import InstanceSettings, Numbers, checked_count, lines_of, parses
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task


@dataclass(frozen=True, slots=True)
class _Jsp:
    """Reader of job shops."""

    suffixes: tuple[str, ...] = (".jsp", ".jss")

    def accepts(self, text: str) -> bool:
        """Whether the text reads as a job shop."""
        return parses(lambda: self.read(text, file="", settings=InstanceSettings()))

    def read(self, text: str, *, file: str, settings: InstanceSettings) -> SchedulingProblem:
        """Return the shop as a problem."""
        del settings
        numbers = Numbers(lines_of(text), file=file)
        num_jobs, num_machines = (
            numbers.take("the number of jobs", least=1),
            numbers.take("machines", least=1),
        )
        checked_count(num_jobs * num_machines, file=file, line=numbers.line, what="operations")
        tasks: list[Task] = []
        lags: list[Lag] = []
        for job in range(num_jobs):
            seen: set[int] = set()
            for step in range(num_machines):
                machine, duration = numbers.take("a machine"), numbers.take("a time")
                if machine >= num_machines or machine in seen:
                    raise InputError(
                        "a job must visit each machine once", file=file, line=numbers.line, value=machine
                    )
                seen.add(machine)
                if step:
                    lags.append(Lag(before=len(tasks) - 1, after=len(tasks)))
                mode = Mode(
                    name="", duration_s=float(duration), demands=(Demand(resource=machine, amount=1),)
                )
                tasks.append(Task(name=f"{job + 1}.{step + 1}", modes=(mode,)))
        if numbers.left:
            raise InputError("more numbers than the jobs need", file=file, line=numbers.line)
        machines = tuple(Resource(name=f"machine {m}", capacity=1) for m in range(num_machines))
        return SchedulingProblem(
            name=PurePath(file).stem, tasks=tuple(tasks), resources=machines, lags=tuple(lags)
        )


IMPORTER = _Jsp()
