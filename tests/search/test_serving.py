"""The serving search from problem to result."""

from __future__ import annotations

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.candidates import SearchResult
from planner.ir.model_graph import ModelGraph
from planner.ir.objective import Budget
from planner.search.kinds.serving import search
from planner.search.serving_bound import bound_without_search
from planner.search.serving_catalogue import build_catalogue
from planner.search.serving_question import question_of
from tests.serving_cases import H100, H200, cluster, costs, group, problem


@pytest.fixture(scope="module")
def llama() -> ModelGraph:
    return load_model("llama-3.1-70b", diagnostics=Diagnostics())


def solved(case: object) -> SearchResult:
    return search(case, Diagnostics(), costs=costs)  # type: ignore[arg-type]


def value(result: SearchResult) -> float:
    assert result.objective.value is not None
    return result.objective.value


def test_70b_on_eight_devices_is_optimal_and_meets_its_limits(llama: ModelGraph) -> None:
    result = solved(problem(llama, cluster(group(H200, 1))))
    predicted = dict(result.predicted)
    assert result.status == "optimal"
    assert result.objective.gap == 0.0
    assert predicted["ttft_s"].value <= 1.0
    assert predicted["tpot_s"].value <= 0.03
    assert sum(pool.num_devices for pool in result.pools) <= 8
    placed = [device for replica in result.placement for device in replica.devices]
    assert len(placed) == len(set(placed)) == sum(pool.num_devices for pool in result.pools)
    for pool in result.pools:
        for stage in pool.memory:
            assert stage.used_bytes <= stage.capacity_bytes


def test_10_requests_per_second_of_70b_need_at_most_20_h100(llama: ModelGraph) -> None:
    result = solved(problem(llama, cluster(group(H100, 4)), rate=10.0, goal="min_devices"))
    assert value(result) <= 20
    assert dict(result.predicted)["request_rate_rps"].value == pytest.approx(10.0)
    assert dict(result.predicted)["capacity_rps"].value >= 10.0 * (1 - 1e-6)


def test_deepseek_on_16_h100_uses_stages_and_beats_tensor_parallelism_over_nodes() -> None:
    model = load_model("deepseek-v3", diagnostics=Diagnostics())
    where = cluster(group(H100, 2))
    best = solved(problem(model, where, weight_fmts=("fp8_block",)))
    wide = solved(problem(model, where, weight_fmts=("fp8_block",), fixed=(("tp", 16), ("pp", 1))))
    assert any(dict(pool.degrees)["pp"] > 1 for pool in best.pools)
    assert value(best) > 1.1 * value(wide)


def test_both_formats_are_compared_where_both_are_allowed(llama: ModelGraph) -> None:
    where = cluster(group(H100, 1))
    both = solved(problem(llama, where, weight_fmts=("bf16", "fp8")))
    alone = {fmt: value(solved(problem(llama, where, weight_fmts=(fmt,)))) for fmt in ("bf16", "fp8")}
    assert value(both) >= max(alone.values())
    assert {pool.weight_fmt for pool in both.pools} == {"fp8"}
    assert any(other.label == "best in bf16" for other in both.alternatives)


def test_two_device_kinds_share_the_work_by_price(llama: ModelGraph) -> None:
    where = cluster(group(H100, 2, price=3.0), group(H200, 1, price=4.0))
    both = solved(problem(llama, where, rate=8.0, goal="min_cost"))
    assert both.status == "optimal"
    spent = sum(p.num_devices * (3.0 if p.node_group == H100.name else 4.0) for p in both.pools)
    assert value(both) == pytest.approx(spent)


def test_budgets_hold(llama: ModelGraph) -> None:
    result = solved(problem(llama, cluster(group(H200, 2)), budget=Budget(num_devices=6)))
    assert sum(pool.num_devices for pool in result.pools) <= 6
    priced = solved(problem(llama, cluster(group(H200, 2)), budget=Budget(usd_per_hour=15.0)))
    assert sum(pool.num_devices for pool in priced.pools) <= 5


def test_a_closed_loop_keeps_the_number_inside(llama: ModelGraph) -> None:
    result = solved(problem(llama, cluster(group(H200, 1)), concurrency=32))
    predicted = dict(result.predicted)
    inside = predicted["request_rate_rps"].value * predicted["e2e_s"].value
    assert inside == pytest.approx(32.0, rel=1e-3)


def test_unreachable_limits_name_what_binds_and_a_relaxation_that_works(llama: ModelGraph) -> None:
    where = cluster(group(H200, 1))
    result = solved(problem(llama, where, ttft=0.05))
    assert result.status == "infeasible"
    assert result.infeasibility is not None
    relaxed = dict(result.infeasibility.relaxed)
    assert set(relaxed) == {"ttft_s"}
    assert solved(problem(llama, where, ttft=float(relaxed["ttft_s"]))).status == "optimal"


def test_limits_that_bind_together_are_loosened_together(llama: ModelGraph) -> None:
    where = cluster(group(H200, 1))
    result = solved(problem(llama, where, ttft=0.1, tpot=0.005))
    assert result.infeasibility is not None
    relaxed = {name: float(loose) for name, loose in result.infeasibility.relaxed}
    assert relaxed["ttft_s"] / 0.1 == pytest.approx(relaxed["tpot_s"] / 0.005)
    assert solved(problem(llama, where, ttft=relaxed["ttft_s"], tpot=relaxed["tpot_s"])).status == "optimal"


def test_a_model_that_fits_nowhere_is_said_so(llama: ModelGraph) -> None:
    result = solved(problem(llama, cluster(group(H100, 1, per_node=1))))
    assert result.status == "infeasible"
    assert result.infeasibility is not None
    assert result.infeasibility.binding[0].name == "memory_bytes"


def test_the_same_problem_gives_the_same_answer(llama: ModelGraph) -> None:
    case = problem(llama, cluster(group(H100, 2)), rate=5.0, goal="min_devices", percentile=90.0)
    assert solved(case) == solved(case)


def test_an_early_stop_returns_what_was_found(llama: ModelGraph) -> None:
    calls = iter(range(10_000))
    case = problem(llama, cluster(group(H200, 1)))
    result = search(case, Diagnostics(), costs=costs, stop=lambda: next(calls) > 1)
    assert result.status == "feasible"
    assert result.objective.value is not None
    assert result.objective.bound is not None
    assert result.objective.bound > result.objective.value
    assert result.objective.gap is not None
    assert result.objective.gap > 0.0


def test_the_bound_without_search_is_never_beaten(llama: ModelGraph) -> None:
    for rate, goal in ((None, "max_throughput"), (2.0, "min_devices"), (2.0, "min_cost")):
        case = problem(llama, cluster(group(H200, 2)), rate=rate, goal=goal, weight_fmts=("bf16", "fp8"))
        catalogue = build_catalogue(case, costs, Diagnostics(), lambda: True)
        bound = bound_without_search(catalogue, question_of(case))
        assert bound is not None
        best = value(solved(case))
        assert best < bound if goal == "max_throughput" else best > bound


def test_the_objective_has_the_interval_of_the_speed(llama: ModelGraph) -> None:
    rated = solved(problem(llama, cluster(group(H100, 4)), rate=10.0, goal="min_devices"))
    capacity = dict(rated.predicted)["capacity_rps"]
    assert capacity.high is not None
    assert rated.objective.high == pytest.approx(value(rated) * capacity.high / capacity.value)
    assert rated.objective.low == pytest.approx(value(rated) * capacity.value / capacity.high)


def test_devices_that_memory_decides_are_exact(llama: ModelGraph) -> None:
    result = solved(problem(llama, cluster(group(H100, 1)), ttft=None, tpot=None, goal="min_devices"))
    assert (result.objective.low, result.objective.high) == (None, None)


@pytest.mark.parametrize(("share", "noted"), [(0.8, 0), (0.95, 1)])
def test_a_load_near_the_capacity_is_noted_once(llama: ModelGraph, share: float, noted: int) -> None:
    where, limits = cluster(group(H200, 1)), {"ttft": None, "tpot": None}
    fixed = (("pp", 1), ("tp", 8))
    most = solved(problem(llama, where, fixed=fixed, modes=("aggregated",), **limits))
    rate = share * dict(most.predicted)["capacity_rps"].value
    diagnostics = Diagnostics()
    search(
        problem(llama, where, rate=rate, goal="min_latency", fixed=fixed, modes=("aggregated",), **limits),
        diagnostics,
        costs=costs,
    )
    assert [entry.code for entry in diagnostics.entries].count("near-capacity") == noted
