"""Search for kind ``serving``: price every replica shape, then combine pools exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from time import monotonic

from cost_models.serving.capacity import LatencyLimits
from hardware_profiles.provenance import Provenance
from planner.diagnostics import Diagnostics
from planner.ir.candidates import AlternativeChoice, ObjectiveValue, PoolChoice, SearchResult
from planner.ir.model_graph import Experts
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.search.serving_alternatives import alternatives
from planner.search.serving_answer import estimate, objective_sigma, plan_predictions
from planner.search.serving_bound import bound_without_search
from planner.search.serving_catalogue import Catalogue, Stop, build_catalogue
from planner.search.serving_dominance import undominated
from planner.search.serving_infeasible import explain_infeasible
from planner.search.serving_load import load_plan
from planner.search.serving_optimum import Optimum, optimum
from planner.search.serving_pools import PoolTables
from planner.search.serving_question import GOALS, Question, question_of
from planner.space.engine import CostSource, cached, costs_from
from planner.space.expert_copies import expert_map

_NEAR_CAPACITY = 0.9
"""Share of the capacity above which times to the first token were predicted 40 to 80 % too low."""
METHOD = "enumeration of replica shapes, knapsack over pools, integer program over groups (HiGHS)"
SPACE = (
    "replica shapes: every valid tp, pp (stages balanced for decode and for prefill), attention_dp, "
    "ep x moe_tp, cp, format, engine and token budget; pools: equal replicas behind queues of at "
    "most 64 each; traffic is shared in fixed parts; prefill and decode pools paired over a common link, of "
    "one kind on a single group and of any number on several"
)


def search(
    problem: Problem[ServingProblem],
    diagnostics: Diagnostics,
    *,
    costs: CostSource | None = None,
    stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """Return the optimal serving plan, or why there is none; `costs` stands in for the problem's source.

    The time limit, `stop` and Ctrl-C end the pricing of shapes early, the time limit the combining of pools
    too; the best plan found so far is then returned as feasible, with a bound and the gap to it.

    Raises
    ------
    InputError
        If the objective is unknown or a price is needed and unknown.
    """
    question = question_of(problem)
    deadline = monotonic() + problem.options.time_limit_s
    priced = costs_from(problem.payload.choices.costs) if costs is None else costs
    catalogue = _catalogue(problem, priced, diagnostics, _stopper(deadline, stop))
    tables = PoolTables(catalogue=catalogue, deadline=deadline)
    diagnostics.progress(f"combining pools of {len(catalogue.offers)} replica shapes")
    best = optimum(tables, question) if catalogue.offers else None
    if best is None:
        return _infeasible(tables, question, diagnostics)
    diagnostics.progress("comparing with runners-up")
    return _result(tables, question, best, diagnostics)


def _stopper(deadline: float, stop: Callable[[], bool] | None) -> Stop:
    return lambda: monotonic() > deadline or (stop is not None and stop())


def _catalogue(
    problem: Problem[ServingProblem], costs: CostSource, diagnostics: Diagnostics, stop: Stop
) -> Catalogue:
    catalogue = build_catalogue(problem, cached(costs), diagnostics, stop)
    catalogue.offers[:] = undominated(catalogue.offers)
    for builder in catalogue.builders.values():
        for remark in builder.remarks():
            diagnostics.note("cost-source", f"{builder.group.name}: {remark}")
    return catalogue


def _result(tables: PoolTables, question: Question, best: Optimum, diagnostics: Diagnostics) -> SearchResult:
    options = tables.catalogue.problem.options
    solution = best.solution
    proved = tables.catalogue.complete and not tables.cut_short
    bound = solution.bound if proved else bound_without_search(tables.catalogue, question)
    if not isfinite(best.plan.ttft_s):
        diagnostics.note(
            "no-latency-at-capacity",
            "the plan is run at its capacity, where the queue grows without end: latencies that include "
            "waiting have no value. A limit (slo), a rate or a concurrency gives them one",
        )
    _note_saturation(tables, question, best, diagnostics)
    _note_offload(tables, best, diagnostics)
    gap = None if bound is None else abs(solution.value - bound) / max(abs(solution.value), 1e-300)
    runners = _runners_up(tables, question, best) if options.num_alternatives > 0 else ()
    return SearchResult(
        status="optimal" if proved and gap is not None and gap <= 1e-9 else "feasible",
        objective=_with_interval(
            _objective(question, solution.value, bound, gap), objective_sigma(tables, best.plan, question)
        ),
        pools=best.pools,
        placement=best.placement,
        predicted=plan_predictions(tables, best.plan, solution, question),
        alternatives=runners,
        infeasibility=None,
        method=METHOD,
        work=_work(tables),
        space=SPACE,
        details=_expert_maps(tables.catalogue.problem.payload, best.pools),
    )


def _expert_maps(payload: ServingProblem, pools: tuple[PoolChoice, ...]) -> tuple[tuple[str, object], ...]:
    """Return which expert stands in which slot of every pool that holds copies, where loads say it."""
    found: dict[str, list[list[int]]] = {}
    for pool in pools if payload.expert_loads else ():
        copies, ranks = int(dict(pool.limits).get("redundant_experts", 0)), dict(pool.degrees)["ep"]
        if copies:
            found[pool.name] = _every_layer(payload, expert_map(payload.expert_loads, ranks, copies), copies)
    return (("expert_maps", found),) if found else ()


def _every_layer(payload: ServingProblem, slots: tuple[tuple[int, ...], ...], copies: int) -> list[list[int]]:
    """Return a row for each layer, as engines want them; rows of layers without experts say nothing."""
    model, rows = payload.model, iter(slots)
    plain = [slot % model.num_experts for slot in range(model.num_experts + copies)]
    sparse = [any(isinstance(op, Experts) for op in layer.ops) for layer in model.layers]
    if len(slots) == 1:
        return [list(slots[0]) if has_experts else plain for has_experts in sparse]
    return [list(next(rows)) if has_experts else plain for has_experts in sparse]


def _objective(
    question: Question, value: float | None, bound: float | None, gap: float | None
) -> ObjectiveValue:
    sense, unit = GOALS[question.goal]
    return ObjectiveValue(
        name=question.goal,
        unit=unit,
        sense=sense,
        value=value,
        bound=bound,
        gap=gap,
    )


def _note_saturation(tables: PoolTables, question: Question, best: Optimum, diagnostics: Diagnostics) -> None:
    """Say that latencies are uncertain where the load is close to what the pools can carry at all."""
    rate_rps = best.plan.rate_rps
    if question.concurrency is not None or not isfinite(best.plan.ttft_s):
        return
    most = load_plan(tables, best.solution.picks, replace(question, limits=LatencyLimits())).capacity_rps
    if rate_rps > _NEAR_CAPACITY * most:
        diagnostics.note(
            "near-capacity",
            f"the load is {rate_rps / most:.0%} of what the plan can carry at all "
            f"({most:.4g} requests/s): latencies this near capacity are uncertain, and waiting may be longer "
            f"than predicted; simulate the plan, or keep the load below {_NEAR_CAPACITY:.0%}",
        )


def _note_offload(tables: PoolTables, best: Optimum, diagnostics: Diagnostics) -> None:
    """Say what stays in host memory, as every step waits for it."""
    for pool, pick in zip(best.pools, best.solution.picks, strict=True):
        replica = tables.catalogue.offers[pick.offer].replica
        held = max(stage.host_bytes for stage in replica.stages)
        if held > 0.0:
            diagnostics.note(
                "weight-offload",
                f"{pool.name}: {replica.shape.offload} of every device ({held / 1e9:.1f} GB) stay in host "
                "memory and cross the host link while steps run; more devices or narrower weights avoid that",
            )


def _with_interval(objective: ObjectiveValue, sigma: float) -> ObjectiveValue:
    """Return an objective with the 90 % interval that a relative error makes of its value."""
    if objective.value is None or sigma <= 0.0:
        return objective
    around = estimate(objective.value, objective.unit, sigma, Provenance.ANALYTICAL)
    return replace(objective, low=around.low, high=around.high)


def _runners_up(tables: PoolTables, question: Question, best: Optimum) -> tuple[AlternativeChoice, ...]:
    """Return the runners-up; Ctrl-C here keeps the proved optimum and leaves them out."""
    options = tables.catalogue.problem.options
    try:
        return alternatives(tables, question, best, options.tie_tolerance, options.num_alternatives)
    except KeyboardInterrupt:
        return ()


def _work(tables: PoolTables) -> tuple[tuple[str, float | int], ...]:
    catalogue = tables.catalogue
    priced = sum(builder.pricer.num_priced for builder in catalogue.builders.values())
    return (
        ("shapes", catalogue.num_shapes),
        ("shapes_that_fit", catalogue.num_fitting),
        ("shapes_compared", len(catalogue.offers)),
        ("layer_parts_priced", priced),
        ("pools_evaluated", tables.num_evaluations),
    )


def _infeasible(tables: PoolTables, question: Question, diagnostics: Diagnostics) -> SearchResult:
    complete = tables.catalogue.complete and not tables.cut_short
    report = None
    if complete:
        diagnostics.progress("finding the nearest limits that can be met")
        report = explain_infeasible(tables, question)
    return SearchResult(
        status="infeasible" if complete else "nothing_found",
        objective=_objective(question, None, None, None),
        pools=(),
        placement=(),
        predicted=(),
        alternatives=(),
        infeasibility=report,
        method=METHOD,
        work=_work(tables),
        space=SPACE,
    )
