"""A fleet plan as serving plans, one per model: what backends launch, simulators run and rules check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from planner.ir.fleet import FleetModel, FleetProblem
from planner.ir.objective import Budget, Objective
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.plan.schema import ObjectiveResult, Plan, Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """One priced model of a fleet as a serving plan with its serving problem."""

    name: str
    plan: Plan
    problem: Problem[ServingProblem]


def model_parts(plan: Plan, problem: Problem[Any]) -> tuple[ModelPart, ...]:
    """Return the serving plan of every priced model that has pools, in the order of the spec.

    The problem text is left out of the parts; `print_ir` of a part's problem gives it.
    """
    payload = cast("FleetProblem", problem.payload)
    stated = cast("Mapping[str, Any]", plan.details.get("models", {}))
    found: list[ModelPart] = []
    for model in payload.models:
        pools = [pool for pool in plan.pools if pool.model == model.name]
        if model.serving is None or not pools:
            continue
        facts = cast("Mapping[str, Any]", stated.get(model.name, {}))
        served = _number(facts.get("served_rps"))
        part = _problem(problem, model, model.serving, served)
        names = {pool.name for pool in pools}
        base = model.serving.model.name
        found.append(
            ModelPart(
                name=model.name,
                problem=part,
                plan=plan.model_copy(
                    update={
                        "kind": "serving",
                        "name": model.name,
                        "status": "feasible",
                        "objective": ObjectiveResult(
                            name=part.objective.name, unit="", sense="min", value=0.0, bound=None, gap=None
                        ),
                        "pools": [pool.model_copy(update={"model": base}) for pool in pools],
                        "placement": [seat for seat in plan.placement if seat.pool in names],
                        "predicted": _quantities(facts.get("predicted", {})),
                        "alternatives": [],
                        "details": {},
                        "problem": "",
                    }
                ),
            )
        )
    return tuple(found)


def _problem(
    problem: Problem[Any], model: FleetModel, serving: ServingProblem, served_rps: float | None
) -> Problem[ServingProblem]:
    workload = replace(serving.workload, rate_rps=served_rps or None)
    return Problem(
        kind="serving",
        name=model.name,
        cluster=problem.cluster,
        objective=Objective(name="min_devices", robust=problem.objective.robust),
        budget=Budget(),
        options=problem.options,
        payload=replace(serving, workload=workload),
        inputs=problem.inputs,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _quantities(found: object) -> dict[str, Quantity]:
    if not isinstance(found, dict):
        return {}
    entries = cast("dict[str, Any]", found)
    return {name: Quantity.model_validate(value) for name, value in entries.items()}
