"""Runners-up of fleets are the best answers of their kind, and choices of one model can be asked about."""

from __future__ import annotations

from functools import cache

import pytest

from planner.errors import InputError, UnknownNameError
from planner.pipeline import Run, explain, make_plan
from planner.plan.schema import Plan
from tests.fleet_cases import CHAT, spec, stage


@cache
def found() -> Plan:
    return make_plan(spec(CHAT, stage("embed", 150, h100=300, l40s=100), objective="min_cost"), Run())


def test_runners_up_cost_what_a_plan_of_their_kind_does() -> None:
    plan = found()
    by_label = {other.label: other for other in plan.alternatives}
    values = [other.objective_value for other in plan.alternatives if other.objective_value is not None]
    assert values == sorted(values)
    assert plan.objective.value is not None
    assert min(values) >= plan.objective.value
    kept = {**stage("embed", 150, h100=300, l40s=100), "places": "big"}
    narrowed = make_plan(spec(CHAT, kept, objective="min_cost"), Run())
    assert by_label["embed without l40s"].objective_value == pytest.approx(narrowed.objective.value)
    aggregated = make_plan(
        spec(
            {**CHAT, "modes": ["aggregated"]}, stage("embed", 150, h100=300, l40s=100), objective="min_cost"
        ),
        Run(),
    )
    ways = [other for label, other in by_label.items() if label == "chat by whole replicas"]
    used = {pool.role for pool in plan.pools if pool.model == "chat"}
    assert ways or used == {"aggregated"}
    for other in ways:
        assert other.objective_value == pytest.approx(aggregated.objective.value)


def test_none_are_sought_where_none_are_wanted() -> None:
    text = spec(stage("embed", 150, l40s=100), objective="min_cost", search={"alternatives": 0})
    assert make_plan(text, Run()).alternatives == []


def test_a_mode_and_a_degree_of_one_model_can_be_asked_about() -> None:
    asked = [{"chat": "aggregated"}, {"chat.tp": 2}, {"embed": "big"}]
    told = explain(found(), Run(), why_not=asked, vary=False)
    assert len(told.effects) == 3
    assert found().objective.value is not None
    for effect in told.effects:
        assert effect.value is not None
        assert effect.value >= found().objective.value * (1 - 1e-9)
    with pytest.raises(InputError, match="stated stage"):
        explain(found(), Run(), why_not=[{"embed.tp": 2}], vary=False)
    with pytest.raises(UnknownNameError, match="model"):
        explain(found(), Run(), why_not=[{"nobody": "big"}], vary=False)


def test_whole_replicas_are_taken_where_they_cost_no_more() -> None:
    for rate in (5, 40):
        plan = make_plan(spec({**CHAT, "rate": rate}, objective="min_cost"), Run())
        whole = [other for other in plan.alternatives if other.label == "chat by whole replicas"]
        assert not any(other.objective_value == plan.objective.value for other in whole)
        assert len({other.label for other in plan.alternatives}) == len(plan.alternatives)
