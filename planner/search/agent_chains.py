"""Chains of tasks that could swap their places in any schedule, as identical jobs of a shop can.

A chain is a line of tasks in which each is followed by the next alone and the next follows it alone: a
single task, a job, or an item's calls in a fan-out. Two are interchangeable when their tasks and the waits
inside are the same and the same tasks, by the same waits, stand before and after them.
"""

from __future__ import annotations

from dataclasses import replace

from planner.ir.scheduling_problem import Lag, SchedulingProblem

Chain = tuple[int, ...]


def equal_chains(problem: SchedulingProblem) -> list[list[Chain]]:
    """Return the classes of two and more interchangeable chains, by their first tasks."""
    into: list[list[Lag]] = [[] for _ in problem.tasks]
    out_of: list[list[Lag]] = [[] for _ in problem.tasks]
    for lag in problem.lags:
        into[lag.after].append(lag)
        out_of[lag.before].append(lag)
    paired = {i for t, task in enumerate(problem.tasks) if task.twin is not None for i in (t, task.twin)}
    paired |= {other for task in problem.tasks for mode in task.modes for other, _ in mode.needs}
    # under a period the tasks of a chain may be whole periods apart: single tasks alone are sure to swap
    whole = problem.period_s is None
    classes: dict[tuple[object, ...], list[Chain]] = {}
    for chain in _chains(into, out_of, whole=whole):
        if not paired.isdisjoint(chain):
            continue
        key = (
            tuple(replace(problem.tasks[t], name="") for t in chain),
            tuple(_waits(into[t], chain) for t in chain[1:]),
            tuple(sorted(((lag.before, *_wait(lag)) for lag in into[chain[0]]), key=repr)),
            tuple(sorted(((lag.after, *_wait(lag)) for lag in out_of[chain[-1]]), key=repr)),
        )
        classes.setdefault(key, []).append(chain)
    return [sorted(group) for group in classes.values() if len(group) > 1]


def _chains(into: list[list[Lag]], out_of: list[list[Lag]], *, whole: bool) -> list[Chain]:
    """Return the longest chains, every task in one of them or in a cycle of lags; or the tasks one by one."""
    following: dict[int, int] = {}
    for t, lags in enumerate(out_of):
        after = {lag.after for lag in lags}
        if whole and len(after) == 1:
            other = after.pop()
            if {lag.before for lag in into[other]} == {t} and other != t:
                following[t] = other
    chains: list[Chain] = []
    for t in sorted(set(range(len(into))) - set(following.values())):
        chain = [t]
        while chain[-1] in following:
            chain.append(following[chain[-1]])
        chains.append(tuple(chain))
    return chains


def _wait(lag: Lag) -> tuple[object, ...]:
    return (lag.kind, lag.lag_s, lag.off_site_s, lag.after_modes)


def _waits(lags: list[Lag], chain: Chain) -> tuple[tuple[object, ...], ...]:
    """Return the waits of a task of a chain for the one before it."""
    return tuple(sorted((_wait(lag) for lag in lags if lag.before in chain), key=repr))
