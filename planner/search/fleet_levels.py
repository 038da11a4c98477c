"""The day of a fleet: which level of traffic is solved how, alone or together with the starts between."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from planner.ir.fleet import FleetProblem, TrafficLevel
from planner.ir.problem import Problem
from planner.search.fleet_columns import ModelSupply
from planner.search.fleet_master import Master, MasterSolution, Work
from planner.search.fleet_milp import Effort, Transitions, solve_milp
from planner.search.fleet_patterns import PatternSolver
from planner.search.fleet_question import master_of
from planner.search.fleet_room import Room

ALWAYS = TrafficLevel(name="always", factor=1.0, hours=24.0)
_LARGE_ROOM = 1024
_GAP_OF_LARGE = 5e-4
"""Inventories of more devices are solved to this gap (half of what is promised) rather than to the end."""


def day_of(problem: Problem[FleetProblem]) -> tuple[TrafficLevel, ...]:
    """Return the levels of the day, one that always holds where none is stated."""
    return problem.payload.levels or (ALWAYS,)


def solve_day(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    rooms: Sequence[Room],
    day: Sequence[TrafficLevel],
    effort: tuple[float, Work],
) -> list[MasterSolution]:
    """Return one solution per level; each states value and bound of the whole day.

    Goals that maximise are reached at the level of most traffic, which then holds all day.
    """
    end_s, work = effort
    masters = [master_of(problem, supplies, rooms, factor=level.factor) for level in day]
    gap = _GAP_OF_LARGE if sum(room.num_devices for room in rooms) > _LARGE_ROOM else 0.0
    if not masters[0].minimises:
        busiest = max(range(len(day)), key=lambda at: day[at].factor)
        return solve_milp(
            [masters[busiest]], Effort(seconds=max(1.0, end_s - monotonic()), gap=max(gap, 1e-6))
        ) * len(day)
    if len(day) == 1:
        return [solve_alone(masters[0], end_s, gap, work)]
    hours = tuple(level.hours for level in day)
    start_hours = problem.payload.start_s / 3600.0
    if start_hours > 0.0:
        transitions = Transitions(hours=hours, start_hours=start_hours)
        effort_left = Effort(seconds=max(1.0, end_s - monotonic()), gap=max(gap, 1e-6))
        return solve_milp(masters, effort_left, transitions)
    return _mean([solve_alone(master, end_s, gap, work) for master in masters], hours)


def solve_alone(master: Master, end_s: float, gap: float, work: Work) -> MasterSolution:
    """Return the answer to one level that minimises: by covers where they apply, else by integer program."""
    if patterns_apply(master):
        found = PatternSolver(master=master, work=work).solve(end_s, gap)
        if found is not None:
            return found
    (answer,) = solve_milp([master], Effort(seconds=max(1.0, end_s - monotonic()), gap=max(gap, 1e-6)))
    return answer


def patterns_apply(master: Master) -> bool:
    """Return whether devices are all that models share: no failures to survive, no slots that clash."""
    if master.power.classes:
        return False
    for demand in master.demands:
        if demand.modes and (
            demand.rate_rps <= 0.0 or demand.model.tolerance is not None or demand.model.min_replicas
        ):
            return False
    columns = [c for d in master.demands for mode in d.modes for half in mode.halves for c in half]
    if any(sum(column.units) != column.replica_devices for column in columns):
        return False
    return all(
        set(room.binding_sizes({u for c in columns if c.group == index for u in c.units})) <= {1}
        for index, room in enumerate(master.rooms)
    )


def _mean(solutions: list[MasterSolution], hours: Sequence[float]) -> list[MasterSolution]:
    """Return the solutions with value and bound of the mean over the day."""
    missing = next((solution for solution in solutions if solution.value is None), None)
    if missing is not None:
        return [missing for _ in solutions]
    day = sum(hours)
    value = sum(h * (s.value or 0.0) for h, s in zip(hours, solutions, strict=True)) / day
    bound = sum(h * (s.bound or 0.0) for h, s in zip(hours, solutions, strict=True)) / day
    proved = all(solution.status == "optimal" for solution in solutions)
    return [
        MasterSolution(
            status="optimal" if proved else "feasible",
            choices=solution.choices,
            value=value,
            bound=bound,
            method=solution.method,
        )
        for solution in solutions
    ]
