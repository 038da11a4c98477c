"""The optimum of a question, made definite: equal plans are told apart, and the plan is placed on devices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.ir.candidates import PoolChoice, ReplicaPlacement
from planner.ir.objective import Budget
from planner.search.serving_answer import placement_of, pool_choices
from planner.search.serving_catalogue import Offer
from planner.search.serving_latency import fastest
from planner.search.serving_load import LoadedPlan, load_plan
from planner.search.serving_pools import PoolTables
from planner.search.serving_question import Accept, Question
from planner.search.serving_solver import SAME, Solution, objective_values, solve, used_resources

_REPLACEABLE_GOALS = frozenset({"min_devices", "min_cost", "min_power", "min_cost_per_token"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """A solution with its pools at their load and its placement."""

    solution: Solution
    plan: LoadedPlan
    pools: tuple[PoolChoice, ...]
    placement: tuple[ReplicaPlacement, ...]


def optimum(tables: PoolTables, question: Question) -> Optimum | None:
    """Return the best plan that can also be placed, or None if there is none.

    If the optimum cannot be packed into scale-up domains, shapes whose stages do not divide a domain are
    left out: the plan is then feasible, and the bound of the full space stays beside it.
    """
    solution = best_solution(tables, question)
    if solution is None:
        return None
    found = _placed(tables, question, solution)
    if found is not None:
        return found
    second = best_solution(tables, replace(question, accept=_dividing(tables, question)))
    if second is None:
        return None
    return _placed(tables, question, replace(second, bound=solution.bound))


def best_solution(tables: PoolTables, question: Question) -> Solution | None:
    """Return the optimum; among plans of equal objective the one with least end-to-end latency.

    For goals that minimise resources, the fastest plan within exactly these resources is asked for.
    """
    if question.goal == "min_latency":
        return fastest(tables, question)
    if question.goal == "max_throughput" and question.concurrency is not None:
        return _closed_loop_throughput(tables, question)
    if question.goal == "min_cost_per_token" and question.concurrency is not None:
        return _closed_loop_cost(tables, question)
    solution = solve(tables, question)
    loaded = question.rate_rps is not None or question.concurrency is not None
    if solution is None or question.goal not in _REPLACEABLE_GOALS or not loaded:
        return solution
    return _fastest_of_equals(tables, question, solution)


def _closed_loop_throughput(tables: PoolTables, question: Question) -> Solution | None:
    """Return the plan of highest throughput at a fixed number of requests: the one of least latency."""
    found = fastest(tables, question)
    if found is None or question.concurrency is None:
        return None
    value = question.concurrency / found.value * tables.catalogue.requests.mean_output_tokens
    return replace(found, value=value, bound=value)


def _closed_loop_cost(tables: PoolTables, question: Question) -> Solution | None:
    """Return the plan whose price times latency is least, over the fastest plan of every size.

    With a fixed number of requests, tokens per second are inverse to the latency. On several groups sizes
    do not tell the price, so the plan is then only a good one and zero the bound.
    """
    tokens = tables.catalogue.requests.mean_output_tokens
    most = sum(question.resources.num_devices)
    if question.budget.num_devices is not None:
        most = min(most, question.budget.num_devices)
    best: Solution | None = None
    for size in range(1, most + 1):
        if tables.out_of_time():
            break
        found = fastest(tables, replace(question, budget=replace(question.budget, num_devices=size)))
        if found is None or found.num_devices < size:
            continue
        rate_rps = (question.concurrency or 0) / found.value
        usd = float(used_resources(np.array([found.devices]), question.resources)[1][0])
        value = usd / (rate_rps * tokens * 3600.0) * 1e6
        if best is None or value < best.value * (1.0 - SAME):
            proved = value if len(question.resources.num_devices) == 1 else 0.0
            best = replace(found, value=value, bound=proved)
    return best


def _fastest_of_equals(tables: PoolTables, question: Question, solution: Solution) -> Solution:
    count, usd, power = used_resources(np.array([solution.devices]), question.resources)
    narrowed = replace(
        question,
        goal="min_latency",
        budget=Budget(
            num_devices=int(count[0]) if question.goal == "min_devices" else question.budget.num_devices,
            usd_per_hour=float(usd[0])
            if question.goal in ("min_cost", "min_cost_per_token")
            else question.budget.usd_per_hour,
            power_w=float(power[0]) if question.goal == "min_power" else question.budget.power_w,
        ),
    )
    other = fastest(tables, narrowed)
    if other is None:
        return solution
    value = float(
        objective_values(
            question,
            np.array([solution.capacity]),
            np.array([other.devices]),
            tables.catalogue.requests.mean_output_tokens,
        )[0]
    )
    if value > solution.value * (1.0 + SAME):
        return solution
    if load_plan(tables, solution.picks, question).e2e_s <= other.value * (1.0 + SAME):
        return solution
    return replace(other, value=solution.value, bound=solution.bound)


def _placed(tables: PoolTables, question: Question, solution: Solution) -> Optimum | None:
    plan = load_plan(tables, solution.picks, question)
    pools = pool_choices(tables, plan)
    placement = placement_of(tables, solution, tuple(pool.name for pool in pools))
    if placement is None:
        return None
    return Optimum(solution=solution, plan=plan, pools=pools, placement=placement)


def _dividing(tables: PoolTables, question: Question) -> Accept:
    groups = tables.catalogue.groups

    def accept(offer: Offer) -> bool:
        domain, size = groups[offer.group].domain_size, offer.replica.num_devices
        fits = domain % size == 0 if size <= domain else size % domain == 0
        return question.accept(offer) and fits

    return accept
