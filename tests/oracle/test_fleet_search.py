"""Fleets against brute force: every count of every stage on every kind, one at a time."""

from __future__ import annotations

from itertools import product
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.diagnostics import Diagnostics
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_master import Master, Work
from planner.search.fleet_milp import Effort, solve_milp
from planner.search.fleet_patterns import PatternSolver
from planner.search.fleet_question import master_of
from planner.search.fleet_room import rooms_of
from planner.search.fleet_supplies import supplies_of
from planner.space.engine import installed_costs
from tests.fleet_cases import stage

FAR = 1e12
Rates = list[tuple[float, dict[str, tuple[float, int]]]]


def problem(rates: Rates, nodes: dict[str, int], prices: dict[str, float]) -> Problem[FleetProblem]:
    from planner.frontend.spec_tree import spec_from_mapping
    from planner.frontend.specs import read_problem

    models: list[dict[str, Any]] = []
    for number, (rate, kinds) in enumerate(rates):
        entry = stage(f"s{number}", rate)
        entry["stated"] = {k: {"rate": r, "devices": n} for k, (r, n) in kinds.items()}
        models.append(entry)
    groups = [{"device": k, "nodes": n, "price": prices[k], "network": "ib400"} for k, n in nodes.items()]
    text = {"kind": "fleet", "cluster": {"groups": groups}, "models": models, "objective": "min_cost"}
    return read_problem(spec_from_mapping(text), Diagnostics())


def master(case: Problem[FleetProblem]) -> Master:
    supplies = supplies_of(case, installed_costs, Diagnostics(), lambda: False)
    return master_of(case, supplies, rooms_of(case.cluster.groups, case.payload))


def brute(rates: Rates, nodes: dict[str, int], prices: dict[str, float]) -> float:
    """The least price over all counts; devices of a kind are shared, slots are powers of two."""
    choices: list[list[dict[str, int]]] = []
    for rate, kinds in rates:
        most = {k: 8 * nodes[k] // n for k, (_, n) in kinds.items() if k in nodes}
        found: list[dict[str, int]] = []
        for counts in product(*(range(most[k] + 1) for k in most)):
            if sum(c * kinds[k][0] for k, c in zip(most, counts, strict=True)) >= rate * (1 - 1e-9):
                found.append({k: c * kinds[k][1] for k, c in zip(most, counts, strict=True)})
        choices.append(found)
    best = inf
    for picks in product(*choices):
        used = {k: sum(pick.get(k, 0) for pick in picks) for k in nodes}
        if all(used[k] <= 8 * nodes[k] for k in nodes):
            best = min(best, sum(prices[k] * n for k, n in used.items()))
    return best


CASES: list[tuple[Rates, dict[str, int], dict[str, float]]] = [
    ([(9.0, {"h100": (2.5, 1), "l40s": (1.0, 1)})], {"h100": 1, "l40s": 1}, {"h100": 3.0, "l40s": 1.1}),
    (
        [(9.0, {"h100": (2.5, 2), "l40s": (1.0, 1)}), (7.0, {"h100": (3.0, 1), "l40s": (1.1, 2)})],
        {"h100": 1, "l40s": 1},
        {"h100": 3.0, "l40s": 1.1},
    ),
    ([(30.0, {"h100": (2.0, 1)})], {"h100": 1}, {"h100": 1.0}),
]


@pytest.mark.parametrize(("rates", "nodes", "prices"), CASES)
def test_both_methods_find_the_optimum(rates: Rates, nodes: dict[str, int], prices: dict[str, float]) -> None:
    question = master(problem(rates, nodes, prices))
    expected = brute(rates, nodes, prices)
    by_covers = PatternSolver(master=question, work=Work()).solve(FAR, 0.0)
    (by_columns,) = solve_milp([question], Effort(seconds=10.0))
    assert by_covers is not None
    if expected == inf:
        assert by_covers.status == by_columns.status == "infeasible"
    else:
        assert by_covers.status == by_columns.status == "optimal"
        assert by_covers.value == pytest.approx(expected)
        assert by_columns.value == pytest.approx(expected)


_RATE = st.integers(1, 12).map(float)
_KIND = st.tuples(st.sampled_from([0.7, 1.0, 1.9, 3.3]), st.sampled_from([1, 2, 4]))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(_RATE, st.fixed_dictionaries({"h100": _KIND, "l40s": _KIND})), min_size=1, max_size=2)
)
def test_random_fleets_match_brute_force_and_more_is_never_worse(rates: Rates) -> None:
    nodes, prices = {"h100": 1, "l40s": 1}, {"h100": 2.99, "l40s": 1.03}
    expected = brute(rates, nodes, prices)
    found = PatternSolver(master=master(problem(rates, nodes, prices)), work=Work()).solve(FAR, 0.0)
    assert found is not None
    assert (found.value if found.value is not None else inf) == pytest.approx(expected)
    swapped = dict(reversed(nodes.items()))
    other = PatternSolver(master=master(problem(rates, swapped, prices)), work=Work()).solve(FAR, 0.0)
    assert other is not None
    assert (other.value if other.value is not None else inf) == pytest.approx(expected)
    more = PatternSolver(master=master(problem(rates, {"h100": 2, "l40s": 1}, prices)), work=Work()).solve(
        FAR, 0.0
    )
    assert more is not None
    assert (more.value if more.value is not None else inf) <= expected * (1 + 1e-9)
