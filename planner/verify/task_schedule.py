"""An independent check of a schedule against its scheduling problem."""

from __future__ import annotations

from planner.ir.scheduling_problem import Mode, Schedule, SchedulingProblem

_TOLERANCE = 1e-9


def schedule_violations(problem: SchedulingProblem, schedule: Schedule) -> list[str]:
    """Return what a schedule breaks, in words; empty if nothing.

    Times are compared with a relative tolerance of 1e-9 of the makespan.
    """
    if len(schedule.runs) != len(problem.tasks):
        return [f"{len(schedule.runs)} runs for {len(problem.tasks)} tasks"]
    modes: list[Mode] = []
    for task, run in zip(problem.tasks, schedule.runs, strict=True):
        if not 0 <= run.mode < len(task.modes):
            return [f"task {task.name!r}: no mode {run.mode}"]
        if task.twin is not None and schedule.runs[task.twin].mode != run.mode:
            return [f"task {task.name!r}: mode {run.mode}, but its twin has another"]
        modes.append(task.modes[run.mode])
    for task, mode in zip(problem.tasks, modes, strict=True):
        for other, site in mode.needs:
            if modes[other].site != site:
                return [f"task {task.name!r} needs {problem.tasks[other].name!r} at {site!r}"]
    slack_s = _TOLERANCE * max([1.0, *(run.end_s for run in schedule.runs)])
    return [
        *_time_violations(problem, schedule, modes, slack_s),
        *_lag_violations(problem, schedule, modes, slack_s),
        *_resource_violations(problem, schedule, modes, slack_s),
    ]


def _time_violations(
    problem: SchedulingProblem, schedule: Schedule, modes: list[Mode], slack_s: float
) -> list[str]:
    found: list[str] = []
    for task, run, mode in zip(problem.tasks, schedule.runs, modes, strict=True):
        if abs(run.end_s - run.start_s - mode.duration_s) > slack_s:
            found.append(f"task {task.name!r} runs {run.end_s - run.start_s} s, not {mode.duration_s} s")
        if run.start_s < task.release_s - slack_s or run.start_s < -slack_s:
            found.append(f"task {task.name!r} starts at {run.start_s}, before its release")
        if task.deadline_s is not None and run.end_s > task.deadline_s + slack_s:
            found.append(f"task {task.name!r} ends at {run.end_s}, after its deadline {task.deadline_s}")
    return found


def _lag_violations(
    problem: SchedulingProblem, schedule: Schedule, modes: list[Mode], slack_s: float
) -> list[str]:
    found: list[str] = []
    for lag in problem.lags:
        if not lag.holds(schedule.runs[lag.after].mode):
            continue
        before, after = schedule.runs[lag.before], schedule.runs[lag.after]
        left = before.end_s if lag.kind in ("end_start", "end_end") else before.start_s
        right = after.end_s if lag.kind in ("end_end", "start_end") else after.start_s
        needed = lag.lag_s
        if modes[lag.before].site != modes[lag.after].site:
            needed += lag.off_site_s
        if right - left < needed - slack_s:
            names = problem.tasks[lag.before].name, problem.tasks[lag.after].name
            found.append(f"{lag.kind} lag {names[0]!r} to {names[1]!r}: {right - left} s of {needed} s")
    return found


def _resource_violations(
    problem: SchedulingProblem, schedule: Schedule, modes: list[Mode], slack_s: float
) -> list[str]:
    events: list[list[tuple[float, int]]] = [[] for _ in problem.resources]
    totals = [0] * len(problem.resources)
    for run, mode in zip(schedule.runs, modes, strict=True):
        for demand in mode.demands:
            totals[demand.resource] += demand.amount
            held_s = mode.duration_s if demand.hold_s is None else demand.hold_s
            if held_s > 2 * slack_s:
                begin, end = run.start_s + slack_s, run.start_s + held_s - slack_s
                events[demand.resource] += _events(begin, end, demand.amount, problem.period_s)
    found: list[str] = []
    for resource, steps, total in zip(problem.resources, events, totals, strict=True):
        used = peak = 0
        for _, change in sorted(steps):
            used += change
            peak = max(peak, used)
        most = peak if resource.renewable else total
        if most > resource.capacity:
            found.append(f"resource {resource.name!r}: {most} of {resource.capacity} used")
    return found


def _events(begin: float, end: float, amount: int, period_s: float | None) -> list[tuple[float, int]]:
    """Return the changes of what is held, folded into one period if there is one."""
    if period_s is None:
        return [(begin, amount), (end, -amount)]
    whole, rest = divmod(end - begin, period_s)
    first = begin % period_s
    found = [(0.0, amount * int(whole)), (first, amount)]
    last = first + rest
    if last > period_s:
        found += [(0.0, amount), (last - period_s, -amount)]
    else:
        found.append((last, -amount))
    return found
