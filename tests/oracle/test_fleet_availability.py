"""Fleets that survive losses, against brute force over every count on every kind."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.diagnostics import Diagnostics
from planner.search.fleet_merge import joined
from planner.search.fleet_milp import Effort, solve_milp
from planner.search.fleet_question import master_of
from planner.search.fleet_room import rooms_of
from planner.search.fleet_supplies import supplies_of
from planner.space.engine import installed_costs
from tests.fleet_cases import fleet, stage

PRICES = {"h100": 3.0, "l40s": 1.0}
NODES = {"h100": 4, "l40s": 2}
SIZE = {"h100": 2, "l40s": 1}


def brute(rate: float, each: dict[str, float], lose: int, most: int) -> float:
    """The least price at which any `lose` nodes with `most` replicas each of the strongest kind may go."""
    best = inf
    for counts in product(*(range(most * NODES[kind] + 1) for kind in each)):
        numbers = dict(zip(each, counts, strict=True))
        carried = sum(n * each[kind] for kind, n in numbers.items())
        worst = max((each[kind] for kind, n in numbers.items() if n), default=0.0)
        if carried - lose * most * worst >= rate - 1e-9:
            best = min(best, sum(n * SIZE[kind] * PRICES[kind] for kind, n in numbers.items()))
    return best


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.sampled_from([1.0, 2.0, 3.5, 5.0, 7.0]),
    st.fixed_dictionaries(
        {"h100": st.sampled_from([1.0, 2.5, 4.0]), "l40s": st.sampled_from([0.6, 1.0, 1.4])}
    ),
    st.integers(1, 2),
    st.integers(1, 2),
)
def test_survivors_cost_least(rate: float, each: dict[str, float], lose: int, most: int) -> None:
    entry = stage("s", rate)
    entry["stated"] = {kind: {"rate": each[kind], "devices": SIZE[kind]} for kind in each}
    entry["availability"] = {"lose": lose, "most_per_domain": most}
    case = fleet(entry, objective="min_cost")
    rooms = rooms_of(case.cluster.groups, case.payload)
    question = master_of(case, supplies_of(case, installed_costs, Diagnostics(), lambda: False), rooms)
    (found,) = solve_milp([question], Effort(seconds=10.0))
    expected = brute(rate, each, lose, most)
    assert (found.value if found.value is not None else inf) == pytest.approx(expected)


def test_equal_queues_are_joined_where_nothing_is_lost_by_it() -> None:
    from planner.pipeline import Run, read
    from tests.fleet_cases import CHAT, spec

    case = read(spec(CHAT), Run())
    (supply,) = supplies_of(case, installed_costs, Diagnostics(), lambda: False)
    rooms = rooms_of(case.cluster.groups, case.payload)
    demand = master_of(case, [supply], rooms).demands[0]
    prefill = [c for c in supply.columns if c.role == "prefill"]
    offer = max({c.offer for c in prefill}, key=lambda o: sum(c.offer == o for c in prefill))
    sizes = {c.replicas: c for c in prefill if c.offer == offer and c.crosses == prefill[0].crosses}
    small = sizes[min(sizes)]
    ((one, count),) = joined([(small, max(sizes))], prefill, demand)
    assert (one.replicas * count, count) == (small.replicas * max(sizes), small.replicas)
