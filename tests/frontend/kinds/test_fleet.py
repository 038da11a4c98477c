"""Specs of fleets: what is refused and where, and the corners that have an answer."""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import InputError
from planner.pipeline import Run, make_plan
from tests.fleet_cases import CHAT, fleet, spec, stage


@pytest.mark.parametrize(
    ("models", "keys", "match"),
    [
        ([{**CHAT, "rate": -1}], {}, r"models\[0\]\.rate"),
        ([{k: v for k, v in CHAT.items() if k != "rate"}], {}, "rate: is missing"),
        ([{**CHAT, "modell": 1}], {}, "unknown key"),
        ([{**CHAT, "slo": {"ttft": 1}}], {}, r"\(chat\) slo.ttft"),
        ([CHAT, CHAT], {}, "stands twice"),
        ([{**CHAT, "places": "b200"}], {}, "unknown device kind or group"),
        ([{**CHAT, "stated": {"h100": {"rate": 1}}}], {}, "give a model, or"),
        ([CHAT], {"objective": "min_latency"}, "unknown objective"),
        ([CHAT], {"power_domain_power": "1 kW"}, "power_domain_nodes"),
        (
            [CHAT],
            {"levels": [{"name": "x", "factor": 1, "hours": 24}, {"name": "y", "factor": 1, "hours": 1}]},
            "day",
        ),
        ([{**CHAT, "rate": 1, "variants": [{"name": "a", "rate": 1}]}], {}, "variants together"),
    ],
)
def test_wrong_specs_are_refused_with_their_place(
    models: list[dict[str, Any]], keys: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        fleet(*models, **keys)


def test_traffic_of_zero_gets_no_replicas_and_says_so() -> None:
    plan = make_plan(spec(stage("idle", 0, h100=10), stage("busy", 5, h100=10)), Run())
    assert [pool.model for pool in plan.pools] == ["busy"]
    assert any(entry.code == "no-traffic" for entry in plan.diagnostics)
    alone = make_plan(spec(stage("idle", 0, h100=10)), Run())
    assert alone.status == "optimal"
    assert alone.objective.value == 0.0


def test_a_model_that_fits_nowhere_is_named() -> None:
    plan = make_plan(spec({**CHAT, "model": "llama-3.1-405b", "replica_devices": 1}), Run())
    assert plan.status == "infeasible"
    assert plan.infeasibility is not None
    assert plan.infeasibility.binding[0].name == "chat"


def test_contradicting_limits_name_the_budget() -> None:
    plan = make_plan(
        spec(stage("s", 50, h100=10), budget={"usd_per_hour": 6}, objective="min_devices"), Run()
    )
    assert plan.infeasibility is not None
    assert {"budget.usd_per_hour", "traffic"} <= {limit.name for limit in plan.infeasibility.binding}


def test_an_odd_node_is_a_group_of_its_own() -> None:
    text = {**spec(stage("s", 30, h100=10)), "cluster": "11xh100"}
    plan = make_plan(text, Run())
    assert plan.objective.value == pytest.approx(3 * 2.99)


def test_goodput_serves_the_tenant_of_priority_first() -> None:
    low = {**stage("low", 100, h100=10), "priority": 1}
    high = {**stage("high", 100, h100=10), "priority": 5}
    plan = make_plan({**spec(low, high), "cluster": "12xh100", "objective": "max_goodput"}, Run())
    served = {name: facts["served_rps"] for name, facts in plan.details["models"].items()}  # pyright: ignore
    assert served["high"] == pytest.approx(100.0)
    assert served["low"] == pytest.approx(20.0)


def test_max_load_scales_every_model_alike() -> None:
    plan = make_plan(
        {
            **spec(stage("a", 20, h100=10), stage("b", 20, h100=10)),
            "cluster": "8xh100",
            "objective": "max_load",
        },
        Run(),
    )
    assert plan.objective.value == pytest.approx(2.0)
