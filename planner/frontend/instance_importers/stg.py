"""STG: task graphs on identical processors (Kasahara's Standard Task Graph set).

Format: the number of tasks, then per task its number, time, number of predecessors and those
predecessors; the first and the last task are dummies. The number of processors is a setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from planner.errors import InputError
from planner.frontend.instance_text import InstanceSettings, Numbers, checked_count, lines_of, parses
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task


@dataclass(frozen=True, slots=True)
class _Stg:
    """Reader of .stg files."""

    suffixes: tuple[str, ...] = (".stg",)

    def accepts(self, text: str) -> bool:
        """Whether the text reads as a task graph."""
        return parses(lambda: self.read(text, file="", settings=InstanceSettings()))

    def read(self, text: str, *, file: str, settings: InstanceSettings) -> SchedulingProblem:
        """Return the graph on `settings.num_processors` processors."""
        numbers = Numbers(lines_of(text), file=file)
        count = checked_count(
            numbers.take("the number of tasks", least=1), file=file, line=numbers.line, what="tasks"
        )
        tasks: list[Task] = []
        lags: list[Lag] = []
        for index in range(count + 2):
            number = numbers.take("a task's number")
            if number != index:
                raise InputError("tasks are not in order", file=file, line=numbers.line, value=number)
            duration = numbers.take("a task's time")
            for _ in range(numbers.take("the number of predecessors")):
                before = numbers.take("a predecessor")
                if before >= index:
                    raise InputError(
                        "a predecessor that is not an earlier task",
                        file=file,
                        line=numbers.line,
                        value=before,
                    )
                lags.append(Lag(before=before, after=index))
            demands = (Demand(resource=0, amount=1),) if duration else ()
            tasks.append(
                Task(name=str(index), modes=(Mode(name="", duration_s=float(duration), demands=demands),))
            )
        if numbers.left:
            raise InputError("more numbers than tasks need", file=file, line=numbers.line)
        return SchedulingProblem(
            name=f"{PurePath(file).stem}@{settings.num_processors}",
            tasks=tuple(tasks),
            resources=(Resource(name="processors", capacity=settings.num_processors),),
            lags=tuple(lags),
        )


IMPORTER = _Stg()
