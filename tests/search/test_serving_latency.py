"""The fastest plan against every plan, and ties told apart by latency."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from cost_models.serving.capacity import Entries, meets, position_at_rate, state_at
from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.model_graph import ModelGraph
from planner.search.kinds.serving import search
from planner.search.serving_catalogue import build_catalogue
from planner.search.serving_contexts import inner_contexts
from planner.search.serving_latency import fastest
from planner.search.serving_pools import PoolTables, role_limits
from planner.search.serving_question import question_of
from tests.serving_cases import H100, cluster, costs, device, group, problem

SMALL = device("small-test", 24e9, 0.8e12, 120e12, None)


@cache
def llama() -> ModelGraph:
    return load_model("llama-3.1-8b", diagnostics=Diagnostics())


@pytest.mark.parametrize("rate", [0.3, 1.2])
def test_no_plan_is_faster_than_the_fastest(rate: float) -> None:
    case = problem(
        llama(),
        cluster(group(SMALL, 1, per_node=4)),
        isl=1000,
        osl=100,
        ttft=2.0,
        tpot=0.06,
        rate=rate,
        goal="min_latency",
        token_budgets=(1024, 2048),
        max_num_seqs=64,
    )
    catalogue = build_catalogue(case, costs, Diagnostics(), lambda: False)
    tables, question = PoolTables(catalogue=catalogue), question_of(case)

    def halves(role, context):
        for row, index in enumerate(catalogue.by_role(role)):
            offer = catalogue.offers[index]
            if role == "decode" and offer.cache_lanes < context.lanes:
                continue
            for replicas in range(1, 4 // offer.replica.num_devices + 1):
                pools, entries = tables.pools(role, context), Entries.one(row, replicas)
                position = position_at_rate(pools, entries, rate)
                if position[0] < 0.0:
                    continue
                state = state_at(pools, entries, position)
                if meets(pools, entries, state, role_limits(role, context, question.limits))[0]:
                    seconds = {
                        "aggregated": state.e2e_s,
                        "prefill": state.ttft_s,
                        "decode": state.tpot_s * 99.0,
                    }[role]
                    yield replicas * offer.replica.num_devices, float(seconds[0])

    plans = [seconds for _, seconds in halves("aggregated", None)]
    for context in inner_contexts(catalogue, 0, question):
        for used, first in halves("prefill", context):
            plans.extend(first + second for more, second in halves("decode", context) if used + more <= 4)
    found = fastest(tables, question)
    assert found is not None
    assert found.value == pytest.approx(min(plans), rel=1e-9)


def test_among_plans_of_equal_size_the_fastest_is_taken() -> None:
    case = problem(llama(), cluster(group(H100, 1)), rate=3.0, goal="min_devices", ttft=2.0)
    result = search(case, Diagnostics(), costs=costs)
    assert result.objective.value is not None
    same = problem(
        llama(),
        cluster(group(H100, 1)),
        rate=3.0,
        goal="min_latency",
        ttft=2.0,
        budget=case.budget.__class__(num_devices=int(result.objective.value)),
    )
    fast = search(same, Diagnostics(), costs=costs)
    assert dict(result.predicted)["e2e_s"].value == pytest.approx(fast.objective.value or np.nan, rel=1e-6)
