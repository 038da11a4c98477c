"""Caches that move between groups are priced over the slowest link that joins any two of them."""

from __future__ import annotations

from planner.pipeline import Run, make_plan
from tests.fleet_cases import CHAT

GROUPS = [
    {"name": "big", "device": "h100", "nodes": 2, "price": 3.0, "network": "ib400"},
    {"name": "cheap", "device": "l40s", "nodes": 2, "price": 1.0, "network": "ib400"},
]


def transfer_s(*links: dict[str, object]) -> float:
    cluster = {"groups": GROUPS, "between_groups": "ib400", "group_links": list(links)}
    chat = {**CHAT, "modes": ["disaggregated"], "places": {"prefill": "cheap", "decode": "big"}}
    plan = make_plan({"kind": "fleet", "cluster": cluster, "models": [chat], "objective": "min_cost"}, Run())
    return max(p.predicted["kv_transfer_s"].value for p in plan.pools if p.role == "prefill")


def test_a_slow_link_between_two_groups_counts() -> None:
    slow = {"groups": ["big", "cheap"], "bandwidth": "1GB/s", "latency": "10us"}
    assert transfer_s(slow) > 5.0 * transfer_s()
