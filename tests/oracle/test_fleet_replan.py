"""Re-planned fleets against brute force: the fewest starts over all counts, and the least price at these."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.pipeline import Run, make_plan
from planner.plan.diff import diff_plans
from planner.plan.schema import Plan
from planner.replanning import Loss, replan
from tests.fleet_cases import stage

KINDS = {"h100": (2, 3.0, 2.5), "l40s": (2, 1.0, 1.0)}
"""Nodes, price and rate of a device."""
NAMES = ("a", "b")


def fleet_plan(rates: tuple[float, float]) -> Plan:
    groups = [
        {"device": kind, "nodes": nodes, "price": price, "network": "ib400"}
        for kind, (nodes, price, _) in KINDS.items()
    ]
    stated = {kind: rate for kind, (_, _, rate) in KINDS.items()}
    models = [stage(name, rate, **stated) for name, rate in zip(NAMES, rates, strict=True)]
    return make_plan(
        {"kind": "fleet", "cluster": {"groups": groups}, "models": models, "objective": "min_cost"}, Run()
    )


def kept(plan: Plan, lost: str) -> dict[tuple[str, str], int]:
    """Replicas of each stage on each kind that do not stand on the lost node."""
    found = dict.fromkeys(product(NAMES, KINDS), 0)
    pools = {pool.name: (pool.model, pool.device) for pool in plan.pools}
    for seat in plan.placement:
        if not seat.devices[0].startswith(f"{lost}/"):
            found[pools[seat.pool]] += 1
    return found


def brute(rates: tuple[float, float], stays: dict[tuple[str, str], int], lost: str) -> tuple[float, float]:
    """The fewest starts, and the least price of any answer that starts no more."""
    room = {kind: 8 * (nodes - lost.startswith(kind)) for kind, (nodes, _, _) in KINDS.items()}
    best = (inf, inf)
    choices = [
        [
            counts
            for counts in product(*(range(room[kind] + 1) for kind in KINDS))
            if sum(n * KINDS[k][2] for n, k in zip(counts, KINDS, strict=True)) >= rate - 1e-9
        ]
        for rate in rates
    ]
    for picked in product(*choices):
        if any(sum(own[at] for own in picked) > room[kind] for at, kind in enumerate(KINDS)):
            continue
        starts = sum(
            max(0, n - stays[name, kind])
            for name, own in zip(NAMES, picked, strict=True)
            for n, kind in zip(own, KINDS, strict=True)
        )
        price = sum(n * KINDS[kind][1] for own in picked for n, kind in zip(own, KINDS, strict=True))
        best = min(best, (float(starts), price))
    return best


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.tuples(st.sampled_from([2.0, 5.0, 9.0, 12.0]), st.sampled_from([1.0, 4.0, 8.0])),
    st.sampled_from(["h100-0", "l40s-0", "l40s-1"]),
)
def test_no_more_is_started_than_any_answer_must(rates: tuple[float, float], lost: str) -> None:
    before = fleet_plan(rates)
    starts, price = brute(rates, kept(before, lost), lost)
    after = replan(before, Loss(nodes=(lost,)), Run())
    if starts == inf:
        assert after.status == "infeasible"
        return
    moved = [change for change in diff_plans(before, after).moves if change.after is not None]
    assert (
        len(moved) == starts == after.details["replanned"]["started"] == after.details["replanned"]["least"]
    )
    assert after.objective.value == pytest.approx(price, rel=2e-3)
    assert not any(d.startswith(f"{lost}/") for seat in after.placement for d in seat.devices)
