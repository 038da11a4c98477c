"""The scheduling problem: tasks with modes, resources and time lags, whatever the tasks stand for.

A task runs once, without interruption, in exactly one of its modes (a replica, a model, a
degree). Times are seconds as floats; amounts and capacities are whole units. Instances of
public sets that have no unit of time are read with one second per unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

LagKind = Literal["end_start", "start_start", "end_end", "start_end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something limited. Renewable: at any time; otherwise: in total (money, energy).

    A renewable resource lends `capacity` units; what a task holds comes back when it ends.
    """

    name: str
    capacity: int
    renewable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Units of a resource (by index) that a mode needs.

    They are held while the task runs, or for `hold_s` from its start (a rate limit of N calls per
    window is a capacity of N held for the window). A non-renewable resource is used up.
    """

    resource: int
    amount: int
    hold_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to run a task. `site` is where it runs, for lags that apply between sites.

    `needs` are (task, site): the mode may be used only if each of those tasks runs at that site.
    """

    name: str
    duration_s: float
    demands: tuple[Demand, ...] = ()
    site: str = ""
    cost: float = 0.0
    needs: tuple[tuple[int, str], ...] = ()

    def hold_s(self, demand: Demand) -> float:
        """Seconds from the start for which `demand` is held."""
        return self.duration_s if demand.hold_s is None else demand.hold_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task. `weight` is its end's weight in the objective, `deadline_s` the latest end.

    `twin` is an earlier task (by index) whose mode it must share.
    """

    name: str
    modes: tuple[Mode, ...]
    release_s: float = 0.0
    deadline_s: float | None = None
    weight: float = 0.0
    twin: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """A minimum time between an end or start of `before` and a start or end of `after` (indices).

    end_start: start(after) >= end(before) + lag. start_start lets the consumer of a stream begin early,
    end_end keeps it from ending before the producer's last part was seen. A negative lag is a
    maximum time the other way round. `off_site_s` is added when the two modes' sites differ.
    `after_modes` are the modes of `after` (by index) under which the lag holds; None: under all.
    """

    before: int
    after: int
    kind: LagKind = "end_start"
    lag_s: float = 0.0
    off_site_s: float = 0.0
    after_modes: tuple[int, ...] | None = None

    def holds(self, after_mode: int) -> bool:
        """Whether the lag applies when `after` runs in that mode."""
        return self.after_modes is None or after_mode in self.after_modes


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingProblem:
    """Tasks, resources and lags; minimise makespan_weight * makespan + sum of weight * end + mode costs.

    The makespan counts tasks whose `Task` is listed; it starts at time 0. With a `period_s` the same schedule
    begins again every so many seconds, and renewable resources are shared by all that then run at once.
    """

    name: str
    tasks: tuple[Task, ...]
    resources: tuple[Resource, ...] = ()
    lags: tuple[Lag, ...] = ()
    makespan_weight: float = 1.0
    period_s: float | None = None

    def objective(self, schedule: Schedule) -> float:
        """Return the value of a schedule."""
        runs = schedule.runs
        makespan = max((run.end_s for run in runs), default=0.0)
        return self.makespan_weight * makespan + sum(
            task.weight * run.end_s + task.modes[run.mode].cost
            for task, run in zip(self.tasks, runs, strict=True)
        )

    def demands(self) -> Iterator[tuple[int, int, Demand]]:
        """Yield every (task index, mode index, demand)."""
        for t, task in enumerate(self.tasks):
            for m, mode in enumerate(task.modes):
                for demand in mode.demands:
                    yield t, m, demand


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where and when a task runs: index of its mode, start and end in seconds."""

    mode: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One run per task, in the order of the problem's tasks."""

    runs: tuple[Run, ...]


def lag_s(problem: SchedulingProblem, lag: Lag, before_mode: int, after_mode: int) -> float:
    """Return the seconds that `lag` asks for under the given modes."""
    if lag.off_site_s == 0.0:
        return lag.lag_s
    before = problem.tasks[lag.before].modes[before_mode].site
    after = problem.tasks[lag.after].modes[after_mode].site
    return lag.lag_s + (0.0 if before == after else lag.off_site_s)


def restricted(problem: SchedulingProblem, kept: Sequence[Sequence[int]]) -> SchedulingProblem:
    """Return a problem with only the modes `kept` per task, in that order."""
    tasks = tuple(
        replace(task, modes=tuple(task.modes[m] for m in modes))
        for task, modes in zip(problem.tasks, kept, strict=True)
    )
    lags: list[Lag] = []
    for lag in problem.lags:
        if lag.after_modes is None:
            lags.append(lag)
            continue
        left = tuple(i for i, m in enumerate(kept[lag.after]) if m in lag.after_modes)
        if left:
            every = len(left) == len(kept[lag.after])
            lags.append(replace(lag, after_modes=None if every else left))
    return replace(problem, tasks=tasks, lags=tuple(lags))


def without_loads(problem: SchedulingProblem) -> SchedulingProblem:
    """Return a problem in which nothing that comes back is limited."""
    kept = {i for i, resource in enumerate(problem.resources) if not resource.renewable}
    tasks = tuple(
        replace(
            task,
            modes=tuple(
                replace(m, demands=tuple(d for d in m.demands if d.resource in kept)) for m in task.modes
            ),
        )
        for task in problem.tasks
    )
    return replace(problem, tasks=tasks)


def faults(problem: SchedulingProblem) -> list[str]:
    """Return what makes a problem malformed (not what makes it infeasible)."""
    found: list[str] = []
    num_tasks, num_resources = len(problem.tasks), len(problem.resources)
    for index, task in enumerate(problem.tasks):
        if not task.modes:
            found.append(f"task {task.name!r} has no mode")
        if task.twin is not None and not (
            0 <= task.twin < index and len(problem.tasks[task.twin].modes) == len(task.modes)
        ):
            found.append(f"task {task.name!r} shares the mode of task {task.twin}, which it cannot")
        for mode in task.modes:
            if not 0.0 <= mode.duration_s < float("inf"):
                found.append(f"task {task.name!r}, mode {mode.name!r}: duration {mode.duration_s}")
            found += [
                f"task {task.name!r}, mode {mode.name!r}: demand {d.amount} of resource {d.resource}"
                for d in mode.demands
                if d.amount < 0 or not 0 <= d.resource < num_resources or (d.hold_s or 0.0) < 0.0
            ]
            if not all(0 <= other < num_tasks for other, _ in mode.needs):
                found.append(f"task {task.name!r}, mode {mode.name!r} needs a task that is not there")
    for lag in problem.lags:
        if not (0 <= lag.before < num_tasks and 0 <= lag.after < num_tasks):
            found.append(f"lag between tasks {lag.before} and {lag.after} of {num_tasks}")
    if problem.period_s is not None and not 0.0 < problem.period_s < float("inf"):
        found.append(f"period {problem.period_s}")
    found += [f"resource {r.name!r}: capacity {r.capacity}" for r in problem.resources if r.capacity < 0]
    return found
