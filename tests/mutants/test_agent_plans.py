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
