"""Mutants whose structure is sound and whose numbers are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planner.ir.problem import Problem
from planner.plan.schema import DeviceMemory, Plan, Quantity
from planner.verify import verify_plan

from .cases import priced, serving_plan, serving_pool, serving_problem
from .test_structure import dense, rules_that_fire, with_objective, with_pool

Mutation = Callable[[Plan], Plan]


def with_memory(edit: Callable[[dict[str, float]], dict[str, float]], **changes: float) -> Mutation:
    """Edit the parts of stage 0; what is used follows unless `changes` says otherwise."""

    def mutate(plan: Plan) -> Plan:
        first, *rest = plan.pools[0].memory
        parts = edit({part.name: part.num_bytes for part in first.parts})
        fields = {"used_bytes": sum(parts.values()), "capacity_bytes": first.capacity_bytes, **changes}
        stage = DeviceMemory(stage=0, parts=[{"name": n, "num_bytes": b} for n, b in parts.items()], **fields)
        return with_pool(memory=[stage, *rest])(plan)

    return mutate


def moved(source: str, target: str, num_bytes: float) -> Callable[[dict[str, float]], dict[str, float]]:
    return lambda parts: {
        **parts,
        source: parts[source] - num_bytes,
        target: parts[target] + num_bytes,
    }


def times(quantity: Quantity, factor: float) -> Quantity:
    """A quantity and its interval, scaled."""
    bounds = {n: getattr(quantity, n) for n in ("value", "low", "high")}
    return quantity.model_copy(update={n: v * factor for n, v in bounds.items() if v is not None})


def scaled(name: str, factor: float) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        old = plan.predicted[name]
        return plan.model_copy(update={"predicted": {**plan.predicted, name: times(old, factor)}})

    return mutate


def pool_scaled(name: str, factor: float) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        old = plan.pools[0].predicted
        return with_pool(predicted={**old, name: times(old[name], factor)})(plan)

    return mutate


def same(parts: dict[str, float]) -> dict[str, float]:
    return parts


def served_less(plan: Plan) -> Plan:
    """A plan for half of the demand, with totals that follow from that."""
    names = ("request_rate_rps", "output_tokens_per_s", "output_tokens_per_s_per_device")
    for name in names:
        plan = scaled(name, 0.5)(plan)
    return scaled("usd_per_million_output_tokens", 2.0)(plan)


def half_price(plan: Plan) -> Plan:
    return scaled("usd_per_million_output_tokens", 0.5)(scaled("usd_per_hour", 0.5)(plan))


MUTANTS: list[tuple[str, str, Mutation]] = [
    ("memory", "parts do not add up", with_memory(same, used_bytes=1e9)),
    ("memory", "over capacity", with_memory(same, capacity_bytes=70e9)),
    ("memory", "capacity made up", with_memory(same, capacity_bytes=96e9)),
    ("memory", "weights too light", with_memory(moved("weights", "kv_cache", 1e9))),
    ("memory", "weights too heavy", with_memory(moved("kv_cache", "weights", 1e9))),
    ("memory", "no room for a request", with_memory(lambda p: {**p, "kv_cache": 1e8})),
    ("memory", "stage not stated", lambda plan: with_pool(memory=plan.pools[0].memory[:1])(plan)),
    ("load", "tokens too fast", pool_scaled("tpot_s", 0.5)),
    ("load", "first token too fast", pool_scaled("ttft_s", 0.4)),
    ("load", "rate out of reach", pool_scaled("request_rate_rps", 20.0)),
    ("load", "too many sequences", with_pool(limits={"token_budget": 8192, "max_num_seqs": 4})),
    ("load", "cache too small", with_memory(lambda p: {**p, "kv_cache": 1e9})),
    ("money-budget", "price", half_price),
    ("service-levels", "token limit", scaled("tpot_s", 10.0)),
    ("service-levels", "first token limit", scaled("ttft_s", 20.0)),
    ("totals", "tokens", scaled("output_tokens_per_s", 1.5)),
    ("totals", "tokens per device", scaled("output_tokens_per_s_per_device", 1.5)),
    ("totals", "price of tokens", scaled("usd_per_million_output_tokens", 0.5)),
    ("totals", "demand", served_less),
    ("objective", "value", with_objective(value=8.0, bound=8.0)),
    ("objective", "other goal", with_objective(name="min_cost")),
    ("objective", "sense", with_objective(sense="max")),
]


@pytest.mark.parametrize(("rule", "what", "mutate"), MUTANTS, ids=[f"{r}: {w}" for r, w, _ in MUTANTS])
def test_exactly_the_rule_for_it_fires(rule: str, what: str, mutate: Mutation) -> None:
    plan, problem = dense()
    assert rules_that_fire(mutate(plan), problem) == (rule,)


def test_a_pool_that_says_no_rate_carries_nothing() -> None:
    plan, problem = dense()
    assert rules_that_fire(with_pool(predicted={})(plan), problem) == ("load", "totals")


def test_pools_must_carry_what_the_plan_serves() -> None:
    plan, problem = dense()
    assert rules_that_fire(pool_scaled("request_rate_rps", 0.5)(plan), problem) == ("totals",)


def test_power_budget_is_kept() -> None:
    plan, problem = dense()
    # 16 x (700 W + 4600 W / 8) = 20.4 kW
    enough = replace(problem, budget=replace(problem.budget, power_w=20_400.0))
    assert rules_that_fire(plan, enough) == ()
    short = replace(problem, budget=replace(problem.budget, power_w=20_000.0))
    assert rules_that_fire(plan, short) == ("power-budget",)


def test_a_percentile_may_not_fall() -> None:
    plan, problem = dense()
    odd = {
        "ttft_p50_s": Quantity(value=0.3, unit="s"),
        "ttft_p99_s": Quantity(value=0.2, unit="s"),
    }
    mutant = plan.model_copy(update={"predicted": {**plan.predicted, **odd}})
    assert rules_that_fire(mutant, problem) == ("service-levels",)


def limited_at_p99() -> tuple[Plan, Problem[Any]]:
    plan, problem = dense()
    workload = problem.payload.workload
    strict = replace(workload, slo=replace(workload.slo, percentile=99.0))
    return plan, replace(problem, payload=replace(problem.payload, workload=strict))


def test_a_limit_at_a_percentile_needs_a_prediction_there() -> None:
    plan, problem = limited_at_p99()
    assert rules_that_fire(plan, problem) == ("service-levels",)
    high = {n: Quantity(value=0.04, unit="s") for n in ("ttft_p99_s", "tpot_p99_s")}
    complete = plan.model_copy(update={"predicted": {**plan.predicted, **high}})
    assert rules_that_fire(complete, problem) == ()


def called_optimal(plan: Plan) -> Plan:
    return plan.model_copy(update={"status": "optimal"})


def test_an_optimum_that_a_simple_configuration_beats_is_no_optimum() -> None:
    plan, problem = dense()  # 16 devices where 8 carry the demand
    assert rules_that_fire(called_optimal(plan), problem) == ("optimality",)
    few = replace(problem.payload.choices, weight_fmts=("bf16",), kv_fmts=("bf16",))
    narrow = replace(problem, payload=replace(problem.payload, choices=few))
    thorough = verify_plan(called_optimal(plan), narrow, thorough=True)
    assert thorough.failed_rules == ("optimality",)


def test_a_small_optimum_stands() -> None:
    problem = serving_problem()
    pool = serving_pool(problem, replicas=1, strategy={"tp": 4}, weight_dtype="fp8", kv_dtype="fp8")
    plan = priced(serving_plan(problem, pool), problem)
    assert rules_that_fire(plan, problem) == ()


def test_a_disaggregated_pair_is_checked_half_by_half() -> None:
    problem = serving_problem()
    plan = serving_plan(
        problem,
        serving_pool(problem, name="prefill", role="prefill", replicas=1, strategy={"tp": 4}),
        serving_pool(problem, name="decode", role="decode", replicas=1, strategy={"tp": 4}),
    )
    plan = priced(plan.model_copy(update={"status": "feasible"}), problem)
    assert rules_that_fire(plan, problem) == ()
    assert rules_that_fire(pool_scaled("ttft_s", 0.4)(plan), problem) == ("load",)
    other = [plan.pools[0], plan.pools[1].model_copy(update={"kv_dtype": "fp8"})]
    assert "handover" in rules_that_fire(plan.model_copy(update={"pools": other}), problem)
