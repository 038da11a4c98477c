"""Each mutant breaks one thing in a plan that keeps every rule; exactly the rule for it must fire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from planner.ir.problem import Problem
from planner.plan.schema import (
    Alternative,
    BindingConstraint,
    Infeasibility,
    InputModel,
    ObjectiveResult,
    Plan,
    Quantity,
)
from planner.verify import verify_plan

from .cases import priced, serving_plan, serving_pool, serving_problem

Mutation = Callable[[Plan], Plan]


@cache
def dense() -> tuple[Plan, Problem[Any]]:
    problem = serving_problem()
    plan = serving_plan(problem, serving_pool(problem, strategy={"tp": 4, "pp": 2}))
    return priced(plan.model_copy(update={"status": "feasible"}), problem), problem


@cache
def experts() -> tuple[Plan, Problem[Any]]:
    problem = serving_problem("deepseek-v3")
    pool = serving_pool(problem, replicas=1, weight_dtype="fp8_block", strategy={"tp": 8, "pp": 2, "ep": 8})
    plan = serving_plan(problem, pool)
    return priced(plan.model_copy(update={"status": "feasible"}), problem), problem


def with_pool(**changes: Any) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        pool = plan.pools[0]
        fields = dict(changes)
        if "strategy" in fields:
            fields["strategy"] = pool.strategy.model_copy(update=fields["strategy"])
        return plan.model_copy(update={"pools": [pool.model_copy(update=fields), *plan.pools[1:]]})

    return mutate


def with_plan(**changes: Any) -> Mutation:
    return lambda plan: plan.model_copy(update=changes)


def with_objective(status: str = "feasible", **changes: Any) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        objective = plan.objective.model_copy(update=changes)
        return plan.model_copy(update={"status": status, "objective": objective})

    return mutate


def with_prediction(name: str, quantity: Quantity) -> Mutation:
    return lambda plan: plan.model_copy(update={"predicted": {**plan.predicted, name: quantity}})


def with_devices(replica: int, edit: Callable[[list[str]], list[str]]) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        placement = list(plan.placement)
        old = placement[replica]
        placement[replica] = old.model_copy(update={"devices": edit(list(old.devices))})
        return plan.model_copy(update={"placement": placement})

    return mutate


def runner_up(
    value: float, relative: float | None, *, tie: bool = False, within_error: bool = False
) -> Mutation:
    other = Alternative(
        summary="other", objective_value=value, relative=relative, tie=tie, within_error=within_error
    )
    return with_plan(alternatives=[other])


def in_interval(low: float, high: float, other: Mutation) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        objective = plan.objective.model_copy(update={"low": low, "high": high})
        return other(plan.model_copy(update={"objective": objective}))

    return mutate


def swap(first: int, second: int) -> Callable[[list[str]], list[str]]:
    def edit(devices: list[str]) -> list[str]:
        devices[first], devices[second] = devices[second], devices[first]
        return devices

    return edit


def swapped_between_nodes(plan: Plan) -> Plan:
    """A device of replica 0 and one of replica 1, on another node, change places."""
    first, second = (list(r.devices) for r in plan.placement)
    first[0], second[0] = second[0], first[0]
    return with_devices(1, lambda _: second)(with_devices(0, lambda _: first)(plan))


MUTANTS: list[tuple[str, str, Mutation]] = [
    ("well-formed", "unknown version", with_plan(schema_version="9.0")),
    ("well-formed", "other kind", with_plan(kind="training")),
    ("well-formed", "no value", with_objective(value=None)),
    ("well-formed", "negative", with_prediction("x_s", Quantity(value=-1.0, unit="s"))),
    ("well-formed", "interval", with_prediction("x_s", Quantity(value=1.0, unit="s", low=2.0))),
    ("inventory", "no such group", with_pool(node_group="a100")),
    ("inventory", "other device", with_pool(device="a100")),
    ("inventory", "no such node", with_devices(0, lambda d: ["h100-9/0", *d[1:]])),
    ("inventory", "no such index", with_devices(0, lambda d: ["h100-0/8", *d[1:]])),
    ("inventory", "no device", with_devices(0, lambda d: ["h100-0", *d[1:]])),
    ("inventory", "used twice", with_devices(0, lambda d: [*d[:-1], "h100-1/0"])),
    ("proof", "gap", with_objective(gap=0.25)),
    ("proof", "beyond the bound", with_objective(bound=20.0, gap=0.25)),
    ("proof", "optimal with a gap", with_objective("optimal", bound=8.0, gap=0.5)),
    ("proof", "optimal without a bound", with_objective("optimal", bound=None, gap=None)),
    ("runners-up", "better", runner_up(8.0, -0.5, tie=True)),
    ("runners-up", "distance", runner_up(24.0, 0.1)),
    ("runners-up", "tie", runner_up(24.0, 0.5, tie=True)),
    ("runners-up", "inside no interval", runner_up(24.0, 0.5, within_error=True)),
    ("runners-up", "the plan outside its interval", in_interval(30.0, 40.0, runner_up(24.0, 0.5))),
    ("runners-up", "inside the interval", in_interval(12.0, 30.0, runner_up(24.0, 0.5))),
    ("digests", "other input", with_plan(inputs=[InputModel(role="model", name="x", sha256="0" * 64)])),
    ("digests", "missing input", with_plan(inputs=[])),
    ("choices", "model", with_pool(model="llama-3.1-8b")),
    ("choices", "engine", with_pool(engine="trtllm")),
    ("choices", "weights", with_pool(weight_dtype="nvfp4")),
    ("choices", "cache", with_pool(kv_dtype="nvfp4")),
    ("choices", "role", with_pool(role="prefill")),
    ("choices", "limit", with_pool(limits={"token_budget": 0, "max_num_seqs": 128})),
    ("layers", "missing layer", with_pool(layers_per_stage=[40, 39])),
    ("layers", "empty stage", with_pool(layers_per_stage=[80, 0])),
    ("layers", "one stage", with_pool(layers_per_stage=[80])),
    ("divisibility", "decode context", with_pool(strategy={"decode_cp": 3})),
    ("divisibility", "experts of a dense model", with_pool(strategy={"ep": 4, "moe_tp": 1})),
    ("ranks", "replica missing", with_pool(replicas=3)),
    ("ranks", "too few devices", with_devices(0, lambda d: d[:-1])),
    ("locality", "straddling", swapped_between_nodes),
]


def rules_that_fire(plan: Plan, problem: Problem[Any]) -> tuple[str, ...]:
    return tuple(sorted(verify_plan(plan, problem).failed_rules))


@pytest.mark.parametrize("base", [dense, experts])
def test_the_originals_keep_every_rule(base: Callable[[], tuple[Plan, Problem[Any]]]) -> None:
    assert rules_that_fire(*base()) == ()


@pytest.mark.parametrize(("rule", "what", "mutate"), MUTANTS, ids=[f"{r}: {w}" for r, w, _ in MUTANTS])
def test_exactly_the_rule_for_it_fires(rule: str, what: str, mutate: Mutation) -> None:
    plan, problem = dense()
    assert rules_that_fire(mutate(plan), problem) == (rule,)


@pytest.mark.parametrize(
    "degrees", [{"ep": 4}, {"ep": 4, "moe_tp": 4}, {"ep": 3, "moe_tp": 1}], ids=["too few", "too many", "odd"]
)
def test_expert_degrees_make_up_the_ranks_of_a_stage(degrees: dict[str, int]) -> None:
    plan, problem = experts()
    assert rules_that_fire(with_pool(strategy=degrees)(plan), problem) == ("divisibility",)


def test_budgets_are_kept() -> None:
    plan, problem = dense()
    few = replace(problem, budget=replace(problem.budget, num_devices=15))
    assert rules_that_fire(plan, few) == ("device-budget",)
    poor = replace(problem, budget=replace(problem.budget, usd_per_hour=39.9))
    assert rules_that_fire(plan, poor) == ("money-budget",)


def test_pinned_degrees_are_kept() -> None:
    plan, problem = dense()
    choices = replace(problem.payload.choices, fixed=(("tp", 8),))
    pinned = replace(problem, payload=replace(problem.payload, choices=choices))
    assert rules_that_fire(plan, pinned) == ("choices",)


def infeasible(binding: list[BindingConstraint]) -> Plan:
    plan, _ = dense()
    return plan.model_copy(
        update={
            "status": "infeasible",
            "pools": [],
            "placement": [],
            "objective": ObjectiveResult(
                name="min_devices", unit="devices", sense="min", value=None, bound=None, gap=None
            ),
            "infeasibility": Infeasibility(binding=binding, nearest_relaxation="set slo.tpot to 60 ms"),
        }
    )


def test_an_infeasible_plan_must_say_why() -> None:
    _, problem = dense()
    tpot = BindingConstraint(name="tpot_s", limit=0.01, best_reachable=0.02, unit="s", message="too tight")
    assert rules_that_fire(infeasible([tpot]), problem) == ()
    assert rules_that_fire(infeasible([]), problem) == ("infeasibility",)
    reached = tpot.model_copy(update={"best_reachable": 0.01})
    assert rules_that_fire(infeasible([reached]), problem) == ("infeasibility",)


def test_rules_that_rest_on_a_broken_one_are_skipped() -> None:
    plan, problem = dense()
    report = verify_plan(with_pool(device="a100")(plan), problem)
    outcomes = {f.rule: f.outcome for f in report.findings}
    assert outcomes["inventory"] == "failed"
    assert outcomes["ranks"] == outcomes["locality"] == "skipped"
