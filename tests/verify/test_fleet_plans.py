"""Mutants of a found fleet plan: a lie about it is caught by the rule that knows better."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest

from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.verify import problem_of, verify_plan
from tests.fleet_cases import CHAT, spec, stage


@cache
def found() -> Plan:
    chat = {**CHAT, "availability": {"lose": 1, "of": "node"}, "places": "big"}
    text = spec(
        chat,
        {**stage("embed", 150, l40s=100), "places": "cheap"},
        rack_power="10 kW",
        levels=[{"name": "day", "factor": 1, "hours": 12}, {"name": "night", "factor": 0.3, "hours": 12}],
        start_time="5 min",
    )
    return make_plan(text, Run())


def failed(change: Callable[[dict[str, Any]], None]) -> set[str]:
    data = deepcopy(found().model_dump())
    change(data)
    plan = Plan.model_validate(data)
    return set(verify_plan(plan, problem_of(plan)).failed_rules)


def test_the_plan_itself_keeps_every_rule() -> None:
    plan = found()
    report = verify_plan(plan, problem_of(plan))
    assert report.passed
    names = {f.rule for f in report.findings}
    assert {"fleet-demand", "fleet-room", "fleet-availability", "fleet-objective", "load", "memory"} <= names


def _pool(data: dict[str, Any], model: str) -> dict[str, Any]:
    return next(pool for pool in data["pools"] if pool["model"] == model)


def _seats(data: dict[str, Any], model: str) -> list[dict[str, Any]]:
    name = _pool(data, model)["name"]
    return [seat for seat in data["placement"] if seat["pool"] == name]


def _serve_less(data: dict[str, Any]) -> None:
    data["details"]["models"]["embed"]["served_rps"] = 100.0


def _claim_more(data: dict[str, Any]) -> None:
    _pool(data, "embed")["predicted"]["capacity_rps"]["value"] = 1000.0


def _crowd_a_node(data: dict[str, Any]) -> None:
    first, second = _seats(data, "chat")[:2]
    node = first["devices"][0].rsplit("/", 1)[0]
    second["devices"] = [f"{node}/{7 - i}" for i in range(len(second["devices"]))]


def _claim_less_loss(data: dict[str, Any]) -> None:
    for pool in data["pools"]:
        if pool["model"] == "chat":
            pool["predicted"]["capacity_rps"] |= {"value": 40.0, "low": 30.0, "high": 50.0}


def _overload_a_rack(data: dict[str, Any]) -> None:
    seats = _seats(data, "embed") + _seats(data, "chat")
    data["placement"] = seats
    chat = _pool(data, "chat")
    size = len(_seats(data, "chat")[0]["devices"])
    chat["replicas"] = 16 // size
    data["placement"] = _seats(data, "embed") + [
        {
            "pool": chat["name"],
            "replica": i,
            "devices": [f"big-{(i * size + k) // 8}/{(i * size + k) % 8}" for k in range(size)],
        }
        for i in range(16 // size)
    ]


def _move_to_a_forbidden_group(data: dict[str, Any]) -> None:
    pool = _pool(data, "embed")
    pool["node_group"], pool["device"] = "big", "h100"
    for number, seat in enumerate(_seats(data, "embed")):
        seat["devices"] = [f"big-3/{number}"]


def _cheaper(data: dict[str, Any]) -> None:
    goal = data["objective"]
    goal["value"] *= 0.9
    goal["bound"] = goal["value"]


def _hide_a_start(data: dict[str, Any]) -> None:
    for level in data["details"]["levels"]:
        level["started_devices"] = dict.fromkeys(level["started_devices"], 40)


def _other_pools_at_peak(data: dict[str, Any]) -> None:
    level = data["details"]["levels"][0]
    next(iter(level["pools"].values()))["replicas"] += 1


def _slow(data: dict[str, Any]) -> None:
    predicted = data["details"]["models"]["chat"]["predicted"]
    predicted["ttft_p90_s"]["value"] = predicted["ttft_p90_s"]["high"] = 3.0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (_serve_less, "fleet-demand"),
        (_claim_more, "fleet-demand"),
        (_crowd_a_node, "fleet-availability"),
        (_claim_less_loss, "fleet-availability"),
        (_overload_a_rack, "fleet-room"),
        (_move_to_a_forbidden_group, "fleet-room"),
        (_cheaper, "fleet-objective"),
        (_hide_a_start, "fleet-objective"),
        (_other_pools_at_peak, "fleet-objective"),
        (_slow, "service-levels"),
    ],
)
def test_mutant_is_caught(change: Callable[[dict[str, Any]], None], rule: str) -> None:
    assert rule in failed(change)
