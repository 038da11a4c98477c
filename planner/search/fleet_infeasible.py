"""Why a fleet has no plan: models that fit nowhere, budgets that bind, traffic beyond the inventory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from planner.ir.candidates import BindingLimit, InfeasibilityReport
from planner.ir.fleet import FleetProblem
from planner.ir.objective import Budget
from planner.ir.problem import Problem
from planner.search.fleet_columns import ModelSupply
from planner.search.fleet_milp import Effort, solve_milp
from planner.search.fleet_question import master_of
from planner.search.fleet_room import Room
from planner.search.serving_infeasible import explain_infeasible

_EFFORT = Effort(seconds=10.0, gap=1e-4)
_SHADE = 1e-3
"""What the best reachable load is lowered by, so that the change named is feasible in spite of the gap."""
_BUDGETS = (
    ("num_devices", "min_devices", "devices", "budget.devices"),
    ("usd_per_hour", "min_cost", "USD/h", "budget.usd_per_hour"),
    ("power_w", "min_power", "W", "budget.power"),
)


def homeless(problem: Problem[FleetProblem], supplies: Sequence[ModelSupply]) -> InfeasibilityReport | None:
    """Return the report on models with traffic that no replica can serve at all, None if there are none."""
    binding: list[BindingLimit] = []
    relaxations: list[str] = []
    relaxed: list[tuple[str, float | int | str]] = []
    for model, supply in zip(problem.payload.models, supplies, strict=True):
        if supply.columns or (model.rate_rps <= 0.0 and not model.min_replicas):
            continue
        report = _alone(supply)
        if report is None:
            message = (
                "no device of the inventory has a stated capacity for it"
                if model.stated
                else (f"no replica of at most {model.replica_devices} devices fits any group it may use")
            )
            binding.append(_limit(model.name, None, None, "", message))
            relaxations.append(f"let {model.name} use larger replicas (replica_devices) or other devices")
            relaxed.append((f"{model.name}.replica_devices", 2 * model.replica_devices))
            continue
        for limit in report.binding:
            name = f"{model.name}.{limit.name}"
            binding.append(_limit(name, limit.limit, limit.best_reachable, limit.unit, limit.message))
        relaxations.append(f"{model.name}: {report.nearest_relaxation}")
        relaxed.extend((f"{model.name}.{name}", value) for name, value in report.relaxed)
    if not binding:
        return None
    return InfeasibilityReport(
        binding=tuple(binding), nearest_relaxation="; ".join(relaxations), relaxed=tuple(relaxed)
    )


def _alone(supply: ModelSupply) -> InfeasibilityReport | None:
    """Return what the serving search says about the least traffic, None where no shape fits memory."""
    if supply.tables is None or supply.question is None or not supply.tables.catalogue.offers:
        return None
    resources = supply.question.resources
    few = tuple(min(count, 16) for count in resources.num_devices)
    question = replace(
        supply.question,
        goal="min_devices",
        rate_rps=1e-6,
        resources=replace(resources, num_devices=few),
    )
    return explain_infeasible(supply.tables, question)


def too_much(
    problem: Problem[FleetProblem], supplies: Sequence[ModelSupply], rooms: Sequence[Room], factor: float
) -> InfeasibilityReport:
    """Return which budgets bind, and the share of the traffic that the inventory carries."""
    binding = list(_budgets(problem, supplies, rooms, factor))
    load = _reachable(problem, supplies, rooms, factor, problem.budget)
    binding.append(
        _limit(
            "traffic",
            1.0,
            load,
            "times the stated traffic",
            f"the inventory carries {load:.4g} times the stated traffic within all limits",
        )
    )
    options = [limit for limit in binding if limit.limit and limit.best_reachable]
    nearest = min(options, key=_change, default=None)
    if nearest is None:
        return InfeasibilityReport(
            binding=tuple(binding),
            nearest_relaxation="add devices or drop a rule on availability",
            relaxed=(),
        )
    return InfeasibilityReport(
        binding=tuple(binding),
        nearest_relaxation=f"set {nearest.name} to {nearest.best_reachable:.6g} {nearest.unit}",
        relaxed=((nearest.name, float(nearest.best_reachable or 0.0)),),
    )


def _change(limit: BindingLimit) -> float:
    ratio = (limit.best_reachable or 0.0) / (limit.limit or 1.0)
    return max(ratio, 1.0 / ratio) if ratio > 0.0 else float("inf")


def _budgets(
    problem: Problem[FleetProblem], supplies: Sequence[ModelSupply], rooms: Sequence[Room], factor: float
) -> Iterator[BindingLimit]:
    for field, goal, unit, name in _BUDGETS:
        limit = getattr(problem.budget, field)
        if limit is None:
            continue
        lifted = replace(problem.budget, **{field: None})
        master = master_of(problem, supplies, rooms, factor=factor, goal=goal, budget=lifted)
        (answer,) = solve_milp([master], _EFFORT)
        if answer.value is not None and answer.value > limit:
            yield _limit(
                name,
                float(limit),
                answer.value,
                unit,
                f"{limit:.6g} {unit} is too little with all else as asked; {answer.value:.6g} {unit} is not",
            )


def _reachable(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    rooms: Sequence[Room],
    factor: float,
    budget: Budget,
) -> float:
    master = master_of(problem, supplies, rooms, factor=factor, goal="max_load", budget=budget)
    (answer,) = solve_milp([master], _EFFORT)
    return max(0.0, (answer.value or 0.0) * (1.0 - _SHADE))


def _limit(name: str, limit: float | None, best: float | None, unit: str, message: str) -> BindingLimit:
    return BindingLimit(name=name, limit=limit, best_reachable=best, unit=unit, message=message)
