"""Mutants of a plan of an agent graph: exactly the rule on its schedule fires."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.verify import problem_of, verify_plan

TEXT = """\
kind: agents
budget_usd: 1.2
deadline_s: 10
models:
  large: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, overhead_s: 0, slots: 1,
          usd_per_million_output: 10000, quality: 1}
  small: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.03, overhead_s: 0, slots: 1,
          usd_per_million_output: 1000, quality: 0}
nodes:
  x: {models: [large, small], output: 100}
  y: {models: [small], output: 100}
edges: [x -> y]
"""

Calls = dict[str, dict[str, Any]]


@cache
def found() -> Plan:
    with TemporaryDirectory() as folder:
        spec = Path(folder) / "agents.yaml"
        spec.write_text(TEXT)
        return make_plan(spec, Run())


def mutant(edit: Callable[[Calls], object]) -> Plan:
    details = deepcopy(found().details)
    calls = {str(call["name"]): call for call in details["calls"]}  # pyright: ignore
    edit(calls)
    details["calls"] = list(calls.values())
    return found().model_copy(update={"details": details})


def failed(plan: Plan) -> tuple[str, ...]:
    return verify_plan(plan, problem_of(found())).failed_rules


def shift(call: dict[str, Any], by_s: float) -> None:
    call["start_s"] += by_s
    call["end_s"] += by_s


def test_the_original_keeps_every_rule() -> None:
    assert failed(found()) == ()


@pytest.mark.parametrize(
    "edit",
    [
        lambda calls: calls.pop("y"),
        lambda calls: calls["y"].update(model="large"),
        lambda calls: calls["y"].update(model="no such model"),
        lambda calls: shift(calls["y"], -0.9),
        lambda calls: shift(calls["y"], 9.0),
    ],
    ids=["call missing", "model not allowed", "model unknown", "before its input", "after the deadline"],
)
def test_exactly_the_rule_on_the_schedule_fires(edit: Callable[[Calls], object]) -> None:
    assert failed(mutant(edit)) == ("agent-schedule",)


def test_the_budget_of_money_is_kept() -> None:
    cost = found().predicted["cost_usd"].model_copy(update={"value": 1.3, "low": None, "high": None})
    dear = found().model_copy(update={"predicted": {**found().predicted, "cost_usd": cost}})
    assert failed(dear) == ("agent-schedule",)


MANY = TEXT.replace("budget_usd: 1.2\ndeadline_s: 10", "goal: max_throughput").replace("slots: 1", "slots: 3")
MANY = MANY.replace("[small], output: 100", "[small], output: 20")


@cache
def mixed() -> Plan:
    with TemporaryDirectory() as folder:
        spec = Path(folder) / "agents.yaml"
        spec.write_text(MANY)
        return make_plan(spec, Run())


def test_the_original_mixture_keeps_every_rule() -> None:
    assert len(mixed().details["routes"]) == 2  # pyright: ignore
    assert verify_plan(mixed(), problem_of(mixed())).failed_rules == ()


def _more_runs(details: dict[str, Any]) -> None:
    for route in details["routes"]:
        route["runs_per_s"] *= 1.1


def _other_share(details: dict[str, Any]) -> None:
    details["routes"][0]["share"], details["routes"][1]["share"] = 0.5, 0.5


def _other_price(details: dict[str, Any]) -> None:
    details["load"][0]["price"] *= 1.1


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (_more_runs, "agent-throughput"),
        (_other_price, "agent-throughput"),
        (lambda details: details.update(load_limit=0.9), "agent-throughput"),
        (lambda details: details.pop("load"), "agent-throughput"),
        (_other_share, "agent-schedule"),
        (lambda details: details["routes"][1]["calls"].pop(), "agent-schedule"),
    ],
    ids=["more runs", "other price", "busier than stated", "no prices", "other share", "call missing"],
)
def test_exactly_the_rule_on_the_mixture_fires(edit: Callable[[dict[str, Any]], object], rule: str) -> None:
    details = deepcopy(mixed().details)
    edit(details)
    wrong = mixed().model_copy(update={"details": details})
    assert verify_plan(wrong, problem_of(mixed())).failed_rules == (rule,)


def test_runs_per_second_above_the_routes_are_refused() -> None:
    objective = mixed().objective
    assert objective.value is not None
    assert objective.bound is not None
    more = objective.model_copy(update={"value": objective.value * 1.05, "bound": objective.bound * 1.05})
    wrong = mixed().model_copy(update={"objective": more})
    assert verify_plan(wrong, problem_of(mixed())).failed_rules == ("agent-throughput",)
