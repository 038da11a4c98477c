"""Plans to bytes and back, and search results to plans.

The bytes depend on nothing but the plan: fields in the schema's order, mappings sorted, floats in
their shortest form, no wall time unless it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from planner.diagnostics import Diagnostics
from planner.errors import InputError, NothingFoundError
from planner.ir.candidates import (
    AlternativeChoice,
    Estimate,
    InfeasibilityReport,
    ObjectiveValue,
    PoolChoice,
    Predictions,
    SearchResult,
)
from planner.ir.printer import print_ir
from planner.ir.problem import Problem
from planner.plan.files import write_text
from planner.plan.migrate import migrated
from planner.plan.schema import (
    Alternative,
    BindingConstraint,
    DeviceMemory,
    DiagnosticModel,
    Infeasibility,
    InputModel,
    MemoryPart,
    ObjectiveResult,
    Plan,
    Pool,
    Quantity,
    Replica,
    SolverInfo,
    StrategyModel,
    TrainingSettings,
)

MAX_PLAN_BYTES = 128 * 1024 * 1024


def plan_from_result(
    problem: Problem[Any],
    result: SearchResult,
    diagnostics: Diagnostics,
    *,
    details: Mapping[str, object],
    wall_time_s: float | None = None,
) -> Plan:
    """Return the plan that states a search result and carries its problem.

    Raises
    ------
    NothingFoundError
        If the search found nothing within its time.
    """
    if result.status == "nothing_found":
        raise NothingFoundError(
            f"no plan was found within {problem.options.time_limit_s:g} s, and none was proved impossible; "
            "raise search.time_limit (--time-limit) or fix some degrees (--fix)"
        )
    objective = result.objective
    return Plan(
        kind=problem.kind,
        name=problem.name,
        status=result.status,
        objective=ObjectiveResult(
            name=objective.name,
            unit=objective.unit,
            sense=objective.sense,
            value=objective.value,
            bound=objective.bound,
            gap=objective.gap,
            low=objective.low,
            high=objective.high,
        ),
        pools=[_pool(pool) for pool in result.pools],
        placement=[
            Replica(pool=r.pool, replica=r.replica, devices=list(r.devices)) for r in result.placement
        ],
        predicted=_predicted(result.predicted),
        alternatives=[_alternative(choice, objective) for choice in result.alternatives],
        infeasibility=_infeasibility(result.infeasibility),
        solver=SolverInfo(
            method=result.method,
            status=result.status,
            seed=problem.options.seed,
            wall_time_s=wall_time_s,
            work=_sorted(result.work),
            space=result.space,
        ),
        inputs=[InputModel(role=i.role, name=i.name, sha256=i.sha256) for i in problem.inputs],
        diagnostics=[
            DiagnosticModel(severity=e.severity, code=e.code, message=e.message) for e in diagnostics.entries
        ],
        details=_sorted({**details, **dict(result.details)}.items()),
        problem=print_ir(problem),
    )


def plan_text(plan: Plan) -> str:
    """Return the plan's bytes as text: JSON, one newline at the end."""
    return json.dumps(json.loads(plan.model_dump_json()), indent=2, ensure_ascii=False) + "\n"


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan file, atomically.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    write_text(path, plan_text(plan))


def read_plan(path: Path) -> Plan:
    """Return the plan in a file.

    Raises
    ------
    InputError
        If the file cannot be read or holds no plan.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_PLAN_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot read the plan: {reason}", file=str(path)) from None
    if len(data) > MAX_PLAN_BYTES:
        raise InputError("too large for a plan", file=str(path), allowed=f"{MAX_PLAN_BYTES} bytes")
    return plan_from_bytes(data, file=str(path))


def plan_from_bytes(data: bytes, *, file: str | None = None) -> Plan:
    """Return the plan in the bytes of a plan file, of this schema's version or an older one.

    Raises
    ------
    InputError
        If they hold no plan.
    """
    try:
        raw: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise InputError(f"this is no valid plan: no JSON ({reason})", file=file, line=line) from None
    if not isinstance(raw, dict):
        raise InputError("this is no valid plan: no JSON object", file=file)
    try:
        return Plan.model_validate(migrated(cast("dict[str, object]", raw), file=file))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"this is no valid plan: {first['msg']}",
            file=file,
            key=".".join(str(part) for part in first["loc"]) or None,
            value=first["input"] if first["loc"] else ...,
            hint="`newel schema plan` prints what a plan looks like.",
        ) from None


def _sorted(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return dict(sorted(pairs))


def _quantity(estimate: Estimate) -> Quantity:
    return Quantity(
        value=float(estimate.value),
        unit=estimate.unit,
        low=estimate.low,
        high=estimate.high,
        provenance=estimate.provenance.label,  # pyright: ignore[reportArgumentType] - the labels are the names
    )


def _predicted(predictions: Predictions) -> dict[str, Quantity]:
    return {name: _quantity(estimate) for name, estimate in sorted(predictions, key=lambda pair: pair[0])}


def _pool(pool: PoolChoice) -> Pool:
    return Pool(
        name=pool.name,
        role=pool.role,
        model=pool.model,
        replicas=pool.replicas,
        device=pool.device,
        node_group=pool.node_group,
        strategy=StrategyModel.model_validate(dict(pool.degrees)),
        weight_dtype=pool.weight_fmt,
        kv_dtype=pool.kv_fmt,
        engine=pool.engine,
        limits=_sorted(pool.limits),
        layers_per_stage=list(pool.layers_per_stage),
        predicted=_predicted(pool.predicted),
        memory=[
            DeviceMemory(
                stage=memory.stage,
                parts=[MemoryPart(name=name, num_bytes=num_bytes) for name, num_bytes in memory.parts],
                used_bytes=memory.used_bytes,
                capacity_bytes=memory.capacity_bytes,
            )
            for memory in pool.memory
        ],
        training=TrainingSettings.model_validate(dict(pool.settings)) if pool.settings else None,
    )


def _alternative(choice: AlternativeChoice, objective: ObjectiveValue) -> Alternative:
    return Alternative(
        label=choice.label,
        summary=choice.summary,
        objective_value=choice.objective_value,
        relative=choice.relative,
        tie=choice.tie,
        within_error=_inside(choice.objective_value, objective),
        pools=[_pool(pool) for pool in choice.pools],
        reason=choice.reason,
    )


def _inside(value: float | None, objective: ObjectiveValue) -> bool:
    """Return whether a value lies inside the 90 % interval of the objective."""
    if value is None or objective.low is None or objective.high is None:
        return False
    return objective.low <= value <= objective.high


def _infeasibility(report: InfeasibilityReport | None) -> Infeasibility | None:
    if report is None:
        return None
    return Infeasibility(
        binding=[
            BindingConstraint(
                name=limit.name,
                limit=limit.limit,
                best_reachable=limit.best_reachable,
                unit=limit.unit,
                message=limit.message,
            )
            for limit in report.binding
        ],
        nearest_relaxation=report.nearest_relaxation,
        relaxed=_sorted(report.relaxed),
    )
