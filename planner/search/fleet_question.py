"""From a fleet problem and the supplies of its models to master problems, one per level of traffic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.errors import InputError, UnknownNameError
from planner.ir.fleet import FleetModel, FleetProblem
from planner.ir.objective import Budget
from planner.ir.problem import Problem
from planner.search.fleet_answer import tokens_of
from planner.search.fleet_columns import ModelSupply
from planner.search.fleet_master import GOALS, Demand, Master, modes_of, resource_rows, unit_costs
from planner.search.fleet_power import NO_SHARED_POWER, joint_cells, shared_power
from planner.search.fleet_room import JOINT, Room, cell_devices, device_power_w


def check_goal(problem: Problem[FleetProblem]) -> None:
    """Refuse an unknown goal, and money where a price is unknown.

    Raises
    ------
    InputError
        Naming what is wrong.
    """
    goal = problem.objective.name
    if goal not in GOALS:
        raise UnknownNameError("objective", goal, list(GOALS))
    unpriced = [g.name for g in problem.cluster.groups if g.usd_per_device_hour is None]
    if unpriced and (goal == "min_cost" or problem.budget.usd_per_hour is not None):
        raise InputError(
            f"no price is known for {', '.join(unpriced)}",
            key="cluster",
            hint="Give a price for every group, or choose an objective without money.",
        )


def master_of(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    rooms: Sequence[Room],
    *,
    factor: float = 1.0,
    goal: str | None = None,
    budget: Budget | None = None,
) -> Master:
    """Return the master problem at a level of traffic; a model without any demand has no modes."""
    name = goal or problem.objective.name
    limits = budget or problem.budget
    columns = [column for supply in supplies for column in supply.columns]
    rows = resource_rows(
        rooms,
        columns,
        (
            (
                "devices",
                np.ones(len(rooms)),
                None if limits.num_devices is None else float(limits.num_devices),
            ),
            ("usd_per_hour", unit_costs("min_cost", rooms), limits.usd_per_hour),
            ("power_w", np.array([device_power_w(room.group) for room in rooms]), limits.power_w),
        ),
    )
    return Master(
        goal=name,
        demands=tuple(
            _demand(problem, model, supply, rooms, factor)
            for model, supply in zip(problem.payload.models, supplies, strict=True)
        ),
        rooms=tuple(rooms),
        rows=rows,
        unit_cost=tuple(float(cost) for cost in unit_costs(name, rooms)),
        power=shared_power(problem.payload, rooms) if problem.payload.power_domains else NO_SHARED_POWER,
    )


def _demand(
    problem: Problem[FleetProblem],
    model: FleetModel,
    supply: ModelSupply,
    rooms: Sequence[Room],
    factor: float,
) -> Demand:
    rate = model.rate_rps * factor
    idle = rate <= 0.0 and model.min_replicas == 0
    cells: tuple[int, ...] = ()
    joint: tuple[tuple[tuple[int, ...], int], ...] = ()
    if model.tolerance is not None:
        domain = model.tolerance.domain
        sizes = [cell_devices(room.group, domain, problem.payload) for room in rooms]
        if JOINT in sizes:
            joint = joint_cells(problem.payload, rooms)
        else:
            cells = tuple(room.num_cells(size) for room, size in zip(rooms, sizes, strict=True))
    return Demand(
        model=model,
        modes=() if idle else modes_of(supply.columns),
        rate_rps=rate,
        tokens=tokens_of(model),
        cells=cells,
        joint_cells=joint,
    )
