"""Re-planning after a loss: the same plan as far as it stands, and the least that has to move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from planner.diagnostics import Diagnostics
from planner.errors import InputError, NothingFoundError, UnknownNameError, VerificationError
from planner.ir.candidates import ObjectiveValue, SearchResult
from planner.ir.cluster import Cluster, NodeGroup
from planner.ir.fleet import FleetProblem
from planner.ir.printer import print_ir
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.pipeline import DETAILS, Run, search, solve
from planner.plan.schema import Plan, Pool, Replica
from planner.plan.seats import keep_seats, refill
from planner.plan.serialize import plan_from_result
from planner.search.fleet_answer import totals_of
from planner.search.fleet_columns import ModelSupply
from planner.search.fleet_details import details_of
from planner.search.fleet_room import rooms_of
from planner.search.fleet_supplies import stored_supplies
from planner.space.engine import cached, installed_costs
from planner.verify import problem_of, verify_plan

if TYPE_CHECKING:
    from planner.search.fleet_milp import ShapeKey
    from planner.search.fleet_replan import Replanned, Standing

METHOD = "integer program over the plan's own shapes: fewest starts and best value (HiGHS)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What was lost: names of nodes; `tolerance` is the share of the objective given up to move less.

    Without one, fleets that minimise start as few replicas as can be and then look for the best objective.
    """

    nodes: tuple[str, ...]
    tolerance: float | None = None


def replan(plan: Plan, loss: Loss, run: Run) -> Plan:
    """Return the plan after the loss of nodes.

    Raises
    ------
    InputError
        If a node is not in the inventory, or the plan cannot be re-planned.
    VerificationError
        If the new plan does not pass the checker, which is a bug of ours.
    """
    problem = problem_of(plan)
    loss = replace(loss, nodes=lost_nodes(problem.cluster, loss.nodes))
    if plan.status == "infeasible":
        raise InputError("this plan has nothing that could be lost", key="status", value=plan.status)
    with run.phase("replan"):
        if plan.kind == "fleet" and problem.payload.power_domains:
            raise InputError(
                "under power domains that groups share, what stands cannot be kept while replicas move",
                key="power_domains",
                hint="Use --plan-anew.",
            )
        if plan.kind == "fleet":
            found, after = _fleet(plan, problem, loss, run.diagnostics)
        elif plan.kind == "serving":
            found, after = _serving(plan, problem, loss, run)
        else:
            raise InputError("only fleet and serving plans can be re-planned", key="kind", value=plan.kind)
    report = verify_plan(found, after)
    if not report.passed:
        wrong = "; ".join(f"{f.rule}: {f.message}" for f in report.findings if f.outcome == "failed")
        raise VerificationError(f"the new plan does not pass the checker ({wrong}). This is a bug in newel.")
    return found


def plan_anew(plan: Plan, loss: Loss, run: Run) -> Plan:
    """Return the best plan on what is left, whatever has to move.

    Raises
    ------
    InputError
        If a node is not in the inventory.
    """
    problem = problem_of(plan)
    loss = replace(loss, nodes=lost_nodes(problem.cluster, loss.nodes))
    if problem.kind == "fleet":
        lost = tuple(sorted({*problem.payload.lost_nodes, *loss.nodes}))
        return solve(replace(problem, payload=replace(problem.payload, lost_nodes=lost)), run)
    return solve(replace(problem, cluster=_without(problem.cluster, frozenset(loss.nodes))), run)


def lost_nodes(cluster: Cluster, names: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes that names stand for: nodes, groups, or parts such as ``h100/rack-2`` (from 0).

    Raises
    ------
    InputError
        If there is nothing of such a name; the names that are alike are listed.
    """
    known: dict[str, tuple[str, ...]] = {}
    for group in cluster.groups:
        nodes = [group.node_name(number) for number in range(group.num_nodes)]
        known |= {node: (node,) for node in nodes}
        for level in group.levels:
            each = max(1, level.num_devices // group.devices_per_node)
            if 1 < each < group.num_nodes:
                for part in range(-(-group.num_nodes // each)):
                    own = tuple(nodes[part * each : (part + 1) * each])
                    known[f"{group.name}/{level.name}-{part}"] = own
        known.setdefault(group.name, tuple(nodes))
    for name in names:
        if name not in known:
            raise UnknownNameError("node", name, sorted(known))
    return tuple(dict.fromkeys(node for name in names for node in known[name]))


def _stands(seat: Replica, lost: frozenset[str]) -> bool:
    return not any(device.rpartition("/")[0] in lost for device in seat.devices)


def _fleet(
    plan: Plan, problem: Problem[FleetProblem], loss: Loss, diagnostics: Diagnostics
) -> tuple[Plan, Problem[FleetProblem]]:
    payload = problem.payload
    lost = frozenset((*payload.lost_nodes, *loss.nodes))
    if payload.levels:
        diagnostics.note("replan-levels", "only the busiest level is re-planned; plan anew for the others")
    after = replace(problem, payload=replace(payload, lost_nodes=tuple(sorted(lost)), levels=()))
    if payload.levels:
        factor = max(level.factor for level in payload.levels)
        models = tuple(replace(m, rate_rps=m.rate_rps * factor) for m in payload.models)
        after = replace(after, payload=replace(after.payload, models=models))
    stored = cast("Mapping[str, Sequence[Mapping[str, Any]]]", plan.details.get("shapes", {}))
    supplies = stored_supplies(after, stored, cached(installed_costs), _load_solvers)
    from planner.search.fleet_infeasible import too_much
    from planner.search.fleet_levels import ALWAYS
    from planner.search.fleet_replan import replan_fleet

    standing, hit = _survivors(plan, after, supplies, lost)
    found = replan_fleet(after, supplies, standing, hit, loss.tolerance)
    if found is None:
        report = too_much(after, supplies, rooms_of(after.cluster.groups, after.payload), 1.0)
        carried = dict(report.relaxed).get("traffic")
        if isinstance(carried, float) and carried >= 1.0:
            raise NothingFoundError("what is left carries the traffic, but no answer was found in time")
        result = _result(plan, None)
        result = replace(result, status="infeasible", infeasibility=report)
        return plan_from_result(after, result, diagnostics, details=_details(after)), after
    levels = [(ALWAYS, list(found.answers))]
    result = replace(
        _result(plan, found),
        pools=tuple(pool for answer in found.answers for pool in answer.pools),
        placement=found.placement,
        predicted=totals_of(after, found.answers),
        details=(
            *details_of(after, supplies, levels, 0),
            ("replanned", {"lost": sorted(lost), "started": found.num_started, "least": found.least_starts}),
        ),
    )
    return plan_from_result(after, result, diagnostics, details=_details(after)), after


def _load_solvers() -> None:
    import_module("planner.search.fleet_replan")


def _details(problem: Problem[Any]) -> dict[str, object]:
    return {**DETAILS.get(problem.kind)(problem), "objective_robust": problem.objective.robust}


def _result(plan: Plan, found: Replanned | None) -> SearchResult:
    """Return the frame of a result: less hardware is never better, so the old bound still holds."""
    goal = plan.objective
    value = None if found is None else found.value
    bound = goal.bound if not plan.details.get("levels") else None
    gap = None
    if value is not None and bound is not None:
        gap = abs(value - bound) / max(abs(value), 1e-300) if value != bound else 0.0
        better = value < bound if goal.sense == "min" else value > bound
        if better:
            # Shapes are priced otherwise than when the plan was made: its bound says nothing any more.
            bound, gap = None, None
    return SearchResult(
        status="optimal" if gap is not None and gap <= 1e-6 else "feasible",
        objective=ObjectiveValue(
            name=goal.name,
            unit=goal.unit,
            sense=goal.sense,
            value=value,
            bound=bound if value is not None else None,
            gap=gap,
        ),
        pools=(),
        placement=(),
        predicted=(),
        alternatives=(),
        infeasibility=None,
        method=METHOD,
        work=()
        if found is None
        else (("replicas_started", found.num_started), ("least_starts", found.least_starts)),
        space="the shapes of the plan before",
    )


def _survivors(
    plan: Plan, problem: Problem[FleetProblem], supplies: Sequence[ModelSupply], lost: frozenset[str]
) -> tuple[list[Standing], frozenset[int]]:
    """Return the replicas that still stand, and the models that lost some or stand on unknown shapes."""
    from planner.search.fleet_milp import shape_key
    from planner.search.fleet_replan import Standing

    names = {model.name: at for at, model in enumerate(problem.payload.models)}
    keys = {pool.name: _key_of(plan, pool, names[pool.model], problem) for pool in plan.pools}
    known = {shape_key(column) for supply in supplies for column in supply.columns}
    standing: list[Standing] = []
    hit: set[int] = set()
    for seat in plan.placement:
        key = keys[seat.pool]
        if key not in known or not _stands(seat, lost):
            hit.add(key[0])
        else:
            standing.append(Standing(key=key, devices=tuple(seat.devices)))
    return standing, frozenset(hit)


def _key_of(plan: Plan, pool: Pool, model: int, problem: Problem[FleetProblem]) -> ShapeKey:
    """Return the shape that the plan says a pool has."""
    groups = [group.name for group in problem.cluster.groups]
    queues = cast("Mapping[str, Mapping[str, Any]]", plan.details.get("queues", {}))
    try:
        facts = queues[pool.name]
        return (
            model,
            pool.role,
            groups.index(pool.node_group),
            int(facts["shape"]),
            int(facts["split"]),
            bool(facts["crosses"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "the plan does not say which shape a pool has",
            key=f"details.queues.{pool.name}",
            value=str(error),
        ) from None


def _serving(
    plan: Plan, problem: Problem[ServingProblem], loss: Loss, run: Run
) -> tuple[Plan, Problem[ServingProblem]]:
    """Re-plan a serving plan: lost replicas on free devices if there are any, else a search on the rest."""
    lost = frozenset(loss.nodes)
    after = replace(problem, cluster=_without(problem.cluster, lost))
    placement = refill(plan, after.cluster, lost)
    if placement is not None:
        return plan.model_copy(update={"placement": placement, "problem": print_ir(after)}), after
    result = search(after, run)
    found = plan_from_result(after, result, run.diagnostics, details=_details(after))
    return found.model_copy(update={"placement": keep_seats(plan, found, lost)}), after


def _without(cluster: Cluster, lost: frozenset[str]) -> Cluster:
    """Return the cluster without nodes; groups of which nothing is left are gone."""
    groups: list[NodeGroup] = []
    for group in cluster.groups:
        names = tuple(group.node_name(number) for number in range(group.num_nodes))
        left = tuple(name for name in names if name not in lost)
        if len(left) == len(names):
            groups.append(group)
        elif left:
            groups.append(replace(group, num_nodes=len(left), node_names=left))
    if not groups:
        raise InputError("nothing is left of the inventory", key="--lost", value=sorted(lost))
    return replace(cluster, groups=tuple(groups))
