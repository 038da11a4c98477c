"""Search for kind ``fleet``: price the replicas of every model, then share the inventory exactly.

The solvers are loaded while other processes price already, which is a part of what a small fleet takes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from time import monotonic

from planner.diagnostics import Diagnostics
from planner.ir.candidates import SearchResult
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_question import check_goal
from planner.search.fleet_room import rooms_of
from planner.search.fleet_supplies import supplies_of
from planner.space.engine import CostSource, cached, installed_costs


def search(
    problem: Problem[FleetProblem],
    diagnostics: Diagnostics,
    *,
    costs: CostSource = installed_costs,
    stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """Return the best fleet, or why there is none.

    Raises
    ------
    InputError
        If the goal is unknown, a price is needed and unknown, or a failure domain is not described.
    """
    check_goal(problem)
    end_s = monotonic() + problem.options.time_limit_s

    def stopped() -> bool:
        return monotonic() > end_s or (stop is not None and stop())

    rooms = rooms_of(problem.cluster.groups, problem.payload)
    supplies = supplies_of(problem, cached(costs), diagnostics, stopped, _load_solvers)
    _note_idle(problem, diagnostics)
    from planner.search.fleet_infeasible import homeless
    from planner.search.fleet_solving import solved, without_plan

    report = homeless(problem, supplies)
    if report is not None:
        return without_plan(problem, supplies, "infeasible", report)
    return solved(problem, supplies, rooms, diagnostics, end_s)


def _load_solvers() -> None:
    import_module("planner.search.fleet_solving")


def _note_idle(problem: Problem[FleetProblem], diagnostics: Diagnostics) -> None:
    for model in problem.payload.models:
        if model.rate_rps <= 0.0:
            kept = f"{model.min_replicas} are kept" if model.min_replicas else "it gets no replicas"
            diagnostics.note("no-traffic", f"{model.name} has no traffic: {kept}")
