"""Power domains that two kinds of nodes share, against brute force over what runs in each domain."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.pipeline import Run, make_plan
from planner.replanning import Loss, plan_anew, replan
from planner.verify import problem_of, verify_plan
from tests.fleet_cases import fleet, spec, stage

PRICES = {"h100": 3.0, "l40s": 1.0}
DOMAINS = 2
"""Each of two nodes of one kind and one of the other: the whole inventory of `fleet_cases`."""
ROOM = {"h100": 16, "l40s": 8}


def watts(case: Problem[FleetProblem]) -> dict[str, float]:
    return {
        g.device.name: g.device.tdp_w.value + g.node_power_overhead_w / g.devices_per_node
        for g in case.cluster.groups
    }


def one_domain(cap: float, size: dict[str, int], power: dict[str, float]) -> set[tuple[int, int]]:
    """Replicas of both kinds that one domain runs."""
    found: set[tuple[int, int]] = set()
    for counts in product(*(range(ROOM[k] // size[k] + 1) for k in ("h100", "l40s"))):
        used = sum(n * size[k] * power[k] for n, k in zip(counts, ("h100", "l40s"), strict=True))
        if used <= cap * (1 + 1e-9):
            found.add(counts)
    return found


def brute(rate: float, each: dict[str, float], size: dict[str, int], ways: set[tuple[int, int]]) -> float:
    best = inf
    for first, second in product(ways, repeat=DOMAINS):
        numbers = {"h100": first[0] + second[0], "l40s": first[1] + second[1]}
        if sum(n * each[k] for k, n in numbers.items()) >= rate - 1e-9:
            best = min(best, sum(n * size[k] * PRICES[k] for k, n in numbers.items()))
    return best


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.sampled_from([4.0, 9.0, 14.0, 20.0]),
    st.fixed_dictionaries({"h100": st.sampled_from([1.0, 2.5]), "l40s": st.sampled_from([0.6, 1.0])}),
    st.fixed_dictionaries({"h100": st.sampled_from([2, 4]), "l40s": st.sampled_from([1, 2])}),
    st.sampled_from([2_000.0, 6_000.0, 9_000.0, 13_000.0]),
)
def test_what_runs_under_shared_caps_costs_least(
    rate: float, each: dict[str, float], size: dict[str, int], cap: float
) -> None:
    entry = stage("s", rate)
    entry["stated"] = {kind: {"rate": each[kind], "devices": size[kind]} for kind in each}
    domains = [{"nodes": {"big": 2, "cheap": 1}, "power": f"{cap}W", "count": DOMAINS}]
    keys = {"objective": "min_cost", "power_domains": domains, "search": {"alternatives": 0}}
    case = fleet(entry, **keys)
    expected = brute(rate, each, size, one_domain(cap, size, watts(case)))
    plan = make_plan(spec(entry, **keys), Run(diagnostics=Diagnostics()))
    assert (plan.objective.value if plan.objective.value is not None else inf) == pytest.approx(expected)
    if plan.status != "infeasible":
        assert verify_plan(plan, problem_of(plan)).passed


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.sampled_from([1.0, 2.0, 3.0, 4.5]),
    st.sampled_from([1.0, 2.5]),
    st.integers(1, 2),
    st.sampled_from([(1, 1), (2, 2), (3, 1)]),
)
def test_a_shared_domain_is_lost_with_all_its_kinds(
    rate: float, fast: float, most: int, split: tuple[int, int]
) -> None:
    each = {"h100": fast, "l40s": 1.0}
    entry = stage("s", rate, **each)
    entry["availability"] = {"lose": 1, "of": "power", "most_per_domain": most}
    # One domain of some nodes of both kinds; every node left is a domain by itself.
    domains = [{"nodes": {"big": split[0], "cheap": split[1]}}]
    keys = {"objective": "min_cost", "power_domains": domains, "search": {"alternatives": 0}}
    alone = {"h100": 4 - split[0], "l40s": 2 - split[1]}
    best = inf
    for a, b in product(range(most * 5 + 1), range(most * 3 + 1)):
        fits = a <= most * (alone["h100"] + 1) and b <= most * (alone["l40s"] + 1)
        fits = fits and a + b <= most * (alone["h100"] + alone["l40s"] + 1)
        worst = max(fast if a else 0.0, 1.0 if b else 0.0)
        if fits and a * fast + b - most * worst >= rate - 1e-9:
            best = min(best, a * PRICES["h100"] + b * PRICES["l40s"])
    plan = make_plan(spec(entry, **keys), Run(diagnostics=Diagnostics()))
    assert (plan.objective.value if plan.objective.value is not None else inf) == pytest.approx(best)
    if plan.status != "infeasible":
        assert verify_plan(plan, problem_of(plan)).passed


def test_the_checker_adds_up_both_kinds() -> None:
    entry = stage("s", 20.0, h100=1.0, l40s=1.0)
    keys = {"objective": "min_cost", "search": {"alternatives": 0}}
    plan = make_plan(spec(entry, **keys), Run(diagnostics=Diagnostics()))
    tight = [{"nodes": {"big": 2, "cheap": 1}, "power": "4kW", "count": 2}]
    case = fleet(entry, power_domains=tight, **keys)
    report = verify_plan(plan, case)
    assert "fleet-room" in report.failed_rules
    assert any("power domain 0 takes" in finding.message for finding in report.findings)


def test_replanning_under_shared_domains_is_refused() -> None:
    entry = stage("s", 5.0, h100=1.0, l40s=1.0)
    domains = [{"nodes": {"big": 2, "cheap": 1}, "power": "9kW"}]
    plan = make_plan(spec(entry, objective="min_cost", power_domains=domains), Run(diagnostics=Diagnostics()))
    with pytest.raises(InputError, match="cannot be kept"):
        replan(plan, Loss(nodes=("cheap-0",)), Run(diagnostics=Diagnostics()))
    anew = plan_anew(plan, Loss(nodes=("cheap-0",)), Run(diagnostics=Diagnostics()))
    assert anew.status == "optimal"


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ([{"nodes": {"big": 3}, "count": 2}], "only 4 nodes"),
        ([{"nodes": {"bigg": 1}}], "node group"),
        ([{"nodes": {}}], "at least 1"),
        ([{"nodes": {"big": 1}, "power": "9"}], "power"),
    ],
)
def test_domains_that_are_not_there_are_refused(domains: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fleet(stage("s", 1.0, h100=1.0), power_domains=domains)
