"""Integer time for the solver: seconds become ticks, rounded in the safe direction.

Durations, holds and lags are rounded up and deadlines down, so a schedule in ticks is a schedule
in seconds. Where all times share a decimal unit the ticks are exact; otherwise the optimum
of the rounded problem lies at most one tick per task and lag on a chain above the true one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from planner.ir.scheduling_problem import Demand, Lag, Mode, Run, Schedule, SchedulingProblem, Task

_MAX_DECIMALS = 6
_MAX_EXACT_TICKS = 1e9
_TICKS_PER_HORIZON = 2e7
_SLACK = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """The problem in ticks of `tick_s` seconds; `exact` when nothing was rounded.

    `problem` has the shape of the original with whole numbers in place of seconds.
    """

    tick_s: float
    exact: bool
    problem: SchedulingProblem

    @property
    def error_s(self) -> float:
        """How much the rounded optimum's makespan can exceed the true one, seconds.

        In an optimal schedule every start is explained by a chain of tasks and lags that visits a
        task once; rounding adds less than a tick at each of its links.
        """
        num_links = 2 * len(self.problem.tasks) + 1
        return 0.0 if self.exact else num_links * self.tick_s


def _times(problem: SchedulingProblem) -> Iterator[float]:
    yield problem.period_s or 0.0
    for task in problem.tasks:
        yield task.release_s
        yield task.deadline_s or 0.0
        for mode in task.modes:
            yield mode.duration_s
            for demand in mode.demands:
                yield demand.hold_s or 0.0
    for lag in problem.lags:
        yield lag.lag_s
        yield lag.off_site_s


def _common_unit(times: Iterable[float], horizon_s: float) -> float | None:
    """Return the largest decimal-based unit of which every time is a multiple, if there is one."""
    values = [t for t in set(times) if t != 0.0]
    if not values:
        return 1.0
    for decimals in range(_MAX_DECIMALS + 1):
        scale = 10**decimals
        wholes = [round(t * scale) for t in values]
        if all(
            abs(t * scale - w) <= 1e-9 * max(1.0, abs(t * scale)) for t, w in zip(values, wholes, strict=True)
        ):
            unit = math.gcd(*wholes) / scale
            return unit if horizon_s / unit <= _MAX_EXACT_TICKS else None
    return None


def horizon_s(problem: SchedulingProblem) -> float:
    """Return a time by which some optimal schedule of a feasible problem has ended, seconds."""
    work = sum(
        max((max([m.duration_s, *map(m.hold_s, m.demands)]) for m in t.modes), default=0.0)
        for t in problem.tasks
    )
    waits = sum(max(lag.lag_s, 0.0) + lag.off_site_s for lag in problem.lags)
    # under a period each task may have to wait for its place in it
    waits += (problem.period_s or 0.0) * len(problem.tasks)
    return max((t.release_s for t in problem.tasks), default=0.0) + work + waits


def to_ticks(problem: SchedulingProblem) -> Ticks:
    """Return the problem in ticks."""
    span_s = max(horizon_s(problem), 1e-9)
    unit = _common_unit(_times(problem), span_s)
    tick_s = unit if unit is not None else span_s / _TICKS_PER_HORIZON
    if unit is None and problem.period_s is not None:
        # starts are equal or not modulo the period: it is a whole number of ticks
        tick_s = problem.period_s / math.ceil(problem.period_s / tick_s)

    def up(seconds: float) -> int:
        return math.ceil(seconds / tick_s - _SLACK)

    def down(seconds: float) -> int:
        return math.floor(seconds / tick_s + _SLACK)

    def demand(d: Demand) -> Demand:
        return d if d.hold_s is None else replace(d, hold_s=up(d.hold_s))

    def mode(m: Mode) -> Mode:
        return replace(m, duration_s=up(m.duration_s), demands=tuple(map(demand, m.demands)))

    def task(t: Task) -> Task:
        deadline = None if t.deadline_s is None else down(t.deadline_s)
        return replace(t, modes=tuple(map(mode, t.modes)), release_s=up(t.release_s), deadline_s=deadline)

    def lag(g: Lag) -> Lag:
        return replace(g, lag_s=up(g.lag_s), off_site_s=up(g.off_site_s))

    period = None if problem.period_s is None else max(round(problem.period_s / tick_s), 1)
    ticked = replace(
        problem,
        tasks=tuple(map(task, problem.tasks)),
        lags=tuple(map(lag, problem.lags)),
        period_s=period,
    )
    return Ticks(tick_s=tick_s, exact=unit is not None, problem=ticked)


def to_seconds(problem: SchedulingProblem, ticks: Ticks, schedule: Schedule) -> Schedule:
    """Return a schedule in ticks as one in seconds, left-shifted in the same order.

    Every task starts as early as releases, lags and the order on shared resources allow, so the
    float schedule is never later than the rounded one.
    """
    scaled = _scaled(problem, ticks.tick_s, schedule)
    if ticks.exact or problem.period_s is not None:
        return scaled
    return _left_shifted(problem, ticks.problem, schedule) or scaled


def _scaled(problem: SchedulingProblem, tick_s: float, schedule: Schedule) -> Schedule:
    runs: list[Run] = []
    for task, run in zip(problem.tasks, schedule.runs, strict=True):
        start = round(run.start_s * tick_s, 9)
        runs.append(Run(mode=run.mode, start_s=start, end_s=start + task.modes[run.mode].duration_s))
    return Schedule(runs=tuple(runs))


def _left_shifted(
    problem: SchedulingProblem, ticked: SchedulingProblem, schedule: Schedule
) -> Schedule | None:
    """Longest paths over lags and the resource order of `schedule`; None if they do not settle."""
    runs = schedule.runs
    modes = [t.modes[r.mode] for t, r in zip(problem.tasks, runs, strict=True)]
    starts = [t.release_s for t in problem.tasks]
    arcs = _lag_arcs(problem, modes, [r.mode for r in runs]) + _resource_arcs(problem, ticked, schedule)
    for _ in range(len(runs) + 1):
        moved = False
        for before, after, weight in arcs:
            earliest = starts[before] + weight
            if earliest > starts[after] + 1e-12 * max(1.0, abs(earliest)):
                starts[after], moved = earliest, True
        if not moved:
            return Schedule(
                runs=tuple(
                    Run(mode=r.mode, start_s=s, end_s=s + m.duration_s)
                    for r, s, m in zip(runs, starts, modes, strict=True)
                )
            )
    return None


def _lag_arcs(
    problem: SchedulingProblem, modes: list[Mode], chosen: list[int]
) -> list[tuple[int, int, float]]:
    arcs: list[tuple[int, int, float]] = []
    for lag in problem.lags:
        if not lag.holds(chosen[lag.after]):
            continue
        before, after = modes[lag.before], modes[lag.after]
        wait = lag.lag_s + (lag.off_site_s if before.site != after.site else 0.0)
        wait += before.duration_s if lag.kind.startswith("end") else 0.0
        wait -= after.duration_s if lag.kind.endswith("end") else 0.0
        arcs.append((lag.before, lag.after, wait))
    return arcs


def _resource_arcs(
    problem: SchedulingProblem, ticked: SchedulingProblem, schedule: Schedule
) -> list[tuple[int, int, float]]:
    """Arcs that keep tasks apart on a resource where the schedule in ticks had them apart."""
    users: dict[int, list[tuple[float, float, int, float]]] = {}
    for index, run in enumerate(schedule.runs):
        mode, rounded = problem.tasks[index].modes[run.mode], ticked.tasks[index].modes[run.mode]
        for demand, rounded_demand in zip(mode.demands, rounded.demands, strict=True):
            if demand.amount and problem.resources[demand.resource].renewable:
                free = run.start_s + rounded.hold_s(rounded_demand)
                users.setdefault(demand.resource, []).append((run.start_s, free, index, mode.hold_s(demand)))
    arcs: list[tuple[int, int, float]] = []
    for group in users.values():
        group.sort()
        for position, (_, free, index, hold) in enumerate(group):
            arcs += [(index, later, hold) for start, _, later, _ in group[position + 1 :] if start >= free]
    return arcs
