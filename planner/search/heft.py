"""HEFT: a list schedule by upward rank with insertion; seed and baseline of the exact search.

Source: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task scheduling for
heterogeneous computing", IEEE TPDS 13(3), 2002. Extended here to cumulative resources (a task
goes to the first gap that is wide and free enough) and to budgets (a mode is taken only if the
cheapest modes of the remaining tasks still fit).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush

from planner.ir.scheduling_problem import Lag, Mode, Run, Schedule, SchedulingProblem, lag_s, restricted

_FAR = float("inf")


class _Profile:
    """Units of one renewable resource in use over time, as steps."""

    __slots__ = ("capacity", "times", "used")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.times: list[float] = [0.0]
        self.used: list[int] = [0]

    def earliest(self, start: float, hold: float, amount: int) -> float:
        """Return the first time from `start` on at which `amount` is free for `hold`."""
        step = bisect_right(self.times, start) - 1
        limit = self.capacity - amount
        while True:
            end = start + hold
            blocked = -1
            index = step
            while index < len(self.times) and (self.times[index] < end or index == step):
                if self.used[index] > limit:
                    blocked = index
                index += 1
            if blocked < 0 or hold <= 0.0:
                return start
            if blocked + 1 >= len(self.times):
                return _FAR
            step = blocked + 1
            start = self.times[step]

    def add(self, start: float, hold: float, amount: int) -> None:
        """Take `amount` over [start, start + hold)."""
        if hold <= 0.0:
            return
        first, last = self._split(start), self._split(start + hold)
        for index in range(first, last):
            self.used[index] += amount

    def _split(self, time: float) -> int:
        index = bisect_left(self.times, time)
        if index == len(self.times) or self.times[index] != time:
            self.times.insert(index, time)
            self.used.insert(index, self.used[index - 1])
        return index


def upward_ranks(problem: SchedulingProblem) -> list[float] | None:
    """Return each task's longest remaining time with mean durations; None if the lags are cyclic."""
    order = topological_order(problem)
    if order is None:
        return None
    mean = [sum(m.duration_s for m in t.modes) / max(len(t.modes), 1) for t in problem.tasks]
    after: list[list[Lag]] = [[] for _ in problem.tasks]
    for lag in problem.lags:
        after[lag.before].append(lag)
    ranks = list(mean)
    for index in reversed(order):
        for lag in after[index]:
            wait = lag.lag_s + lag.off_site_s / 2
            wait += mean[index] if lag.kind.startswith("end") else 0.0
            wait -= mean[lag.after] if lag.kind.endswith("end") else 0.0
            ranks[index] = max(ranks[index], wait + ranks[lag.after])
    return ranks


def topological_order(problem: SchedulingProblem) -> list[int] | None:
    """Return the tasks so that no lag points backwards; None if the lags are cyclic."""
    waiting = [0] * len(problem.tasks)
    after: list[list[int]] = [[] for _ in problem.tasks]
    for lag in problem.lags:
        waiting[lag.after] += 1
        after[lag.before].append(lag.after)
    order = [i for i, count in enumerate(waiting) if count == 0]
    for index in order:
        for nxt in after[index]:
            waiting[nxt] -= 1
            if waiting[nxt] == 0:
                order.append(nxt)
    return order if len(order) == len(problem.tasks) else None


def heft(problem: SchedulingProblem) -> Schedule | None:
    """Return the HEFT schedule, or None where the list rule finds no feasible one or starts repeat."""
    ranks = upward_ranks(problem)
    return None if ranks is None else list_schedule(problem, ranks)


def list_schedule(
    problem: SchedulingProblem,
    priorities: Sequence[float],
    *,
    better: Callable[[float, Mode], tuple[float, float]] | None = None,
) -> Schedule | None:
    """Schedule ready tasks by falling priority, each in the mode that ends first.

    Parameters
    ----------
    problem
        What to schedule.
    priorities
        One per task; among the tasks whose predecessors are placed the highest goes next.
    better
        Orders the choices of a task: (end in seconds, mode) to a key, smallest wins.

    Returns
    -------
    The schedule, or None if a deadline or a budget is missed or the lags are cyclic.
    """
    if problem.period_s is not None:
        return None
    placer = _Placer(problem, better or (lambda end, mode: (end, mode.cost)))
    waiting = [len(lags) for lags in placer.lags_into]
    ready = [(-priorities[i], i) for i, count in enumerate(waiting) if count == 0]
    heapify(ready)
    while ready:
        _, index = heappop(ready)
        if not placer.place(index):
            return None
        for lag in placer.lags_from[index]:
            waiting[lag.after] -= 1
            if waiting[lag.after] == 0:
                heappush(ready, (-priorities[lag.after], lag.after))
    runs = [run for run in placer.runs if run is not None]
    return Schedule(runs=tuple(runs)) if len(runs) == len(problem.tasks) else None


def placed_again(problem: SchedulingProblem, schedule: Schedule) -> Schedule | None:
    """Return the tasks placed anew in the order of their starts, each as early as it can be; modes stay."""
    single = restricted(problem, [[r.mode] for r in schedule.runs])
    found = list_schedule(single, [-r.start_s for r in schedule.runs])
    if found is None:
        return None
    runs = tuple(replace(n, mode=r.mode) for n, r in zip(found.runs, schedule.runs, strict=True))
    return Schedule(runs=runs)


def settled(problem: SchedulingProblem, schedule: Schedule) -> Schedule:
    """Return a schedule with its tasks placed again in the order of their starts, as early as they can be.

    Modes stay. What does not bind the objective may stand anywhere in a solver's answer; here it does not.
    The schedule itself is returned where the new one is worse or there is none.
    """
    again = placed_again(problem, schedule)
    if again is None or problem.objective(again) > problem.objective(schedule):
        return schedule
    return again


class _Placer:
    """Places tasks one by one, keeping profiles and budgets."""

    def __init__(
        self, problem: SchedulingProblem, better: Callable[[float, Mode], tuple[float, float]]
    ) -> None:
        self.problem = problem
        self.better = better
        self.runs: list[Run | None] = [None] * len(problem.tasks)
        self.lags_into: list[list[Lag]] = [[] for _ in problem.tasks]
        self.lags_from: list[list[Lag]] = [[] for _ in problem.tasks]
        for lag in problem.lags:
            self.lags_into[lag.after].append(lag)
            self.lags_from[lag.before].append(lag)
        # tasks that share their mode go by the first of them
        self.kin = [i if t.twin is None else t.twin for i, t in enumerate(problem.tasks)]
        self.modes: dict[int, int] = {}
        self.profiles = [_Profile(r.capacity) for r in problem.resources]
        # budgets, by resource: what is left after the cheapest modes of tasks that have none yet
        self.left = {i: r.capacity for i, r in enumerate(problem.resources) if not r.renewable}
        self.least = [{r: _least(task.modes, r) for r in self.left} for task in problem.tasks]
        for least in self.least:
            for resource, amount in least.items():
                self.left[resource] -= amount

    def place(self, index: int) -> bool:
        """Give the task its best mode and time; False if there is none."""
        task = self.problem.tasks[index]
        best: tuple[tuple[float, float], int, float] | None = None
        forced = self.modes.get(self.kin[index])
        for number, mode in enumerate(task.modes):
            if forced not in (None, number) or not self._affordable(index, mode) or not self._met(mode):
                continue
            start = self._earliest(index, number)
            if start == _FAR or (task.deadline_s is not None and start + mode.duration_s > task.deadline_s):
                continue
            key = self.better(start + mode.duration_s, mode)
            if best is None or key < best[0]:
                best = (key, number, start)
        if best is None:
            return False
        self._take(index, best[1], best[2])
        return True

    def _met(self, mode: Mode) -> bool:
        """Whether the tasks that a mode needs run where it needs them."""
        for other, site in mode.needs:
            run = self.runs[other]
            if run is None or self.problem.tasks[other].modes[run.mode].site != site:
                return False
        return True

    def _affordable(self, index: int, mode: Mode) -> bool:
        """Whether the budgets left after the cheapest modes of the others allow this one."""
        used = dict.fromkeys(self.left, 0)
        for demand in mode.demands:
            if demand.resource in used:
                used[demand.resource] += demand.amount
        return all(used[i] - self.least[index][i] <= left for i, left in self.left.items())

    def _earliest(self, index: int, number: int) -> float:
        mode = self.problem.tasks[index].modes[number]
        start = self.problem.tasks[index].release_s
        for lag in self.lags_into[index]:
            run = self.runs[lag.before]
            if run is None:
                return _FAR
            if not lag.holds(number):
                continue
            wait = lag_s(self.problem, lag, run.mode, number)
            base = run.end_s if lag.kind.startswith("end") else run.start_s
            start = max(start, base + wait - (mode.duration_s if lag.kind.endswith("end") else 0.0))
        return self._first_gap(mode, max(start, 0.0))

    def _first_gap(self, mode: Mode, start: float) -> float:
        demands = [d for d in mode.demands if d.amount and self.problem.resources[d.resource].renewable]
        while start < _FAR:
            later = start
            for demand in demands:
                later = self.profiles[demand.resource].earliest(later, mode.hold_s(demand), demand.amount)
            if later == start:
                return start
            start = later
        return _FAR

    def _take(self, index: int, number: int, start: float) -> None:
        mode = self.problem.tasks[index].modes[number]
        self.modes[self.kin[index]] = number
        self.runs[index] = Run(mode=number, start_s=start, end_s=start + mode.duration_s)
        for resource, amount in self.least[index].items():
            self.left[resource] += amount
        for demand in mode.demands:
            if self.problem.resources[demand.resource].renewable:
                self.profiles[demand.resource].add(start, mode.hold_s(demand), demand.amount)
            else:
                self.left[demand.resource] -= demand.amount


def _least(modes: tuple[Mode, ...], resource: int) -> int:
    return min((sum(d.amount for d in m.demands if d.resource == resource) for m in modes), default=0)
