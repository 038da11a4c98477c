"""Expectations over branches and loops of agent graphs, against values summed by hand over the outcomes."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest

from planner.pipeline import Run, check, make_plan
from planner.plan.schema import Plan
from planner.search.agent_expected import expected_bound
from planner.simulate.agent_plan import drawn_runs, expected_run
from planner.space.agent_flat import flow_of
from planner.space.agent_flatten import flatten
from planner.verify import problem_of

# no prefill and no overhead to speak of: an answer of n tokens takes n hundredths of a second
FAST = "{prefill_tokens_per_s: 1e12, decode_s_per_token: 0.01, overhead_s: 0, usd_per_million_output: 9000}"
SLOW = "{prefill_tokens_per_s: 1e12, decode_s_per_token: 0.02, overhead_s: 0, usd_per_million_output: 1000}"
MODELS = f"kind: agents\nmodels: {{fast: {FAST}, slow: {SLOW}}}\n"


def _plan(text: str, tmp_path: Path) -> Plan:
    spec = tmp_path / "agents.yaml"
    spec.write_text(MODELS + text)
    return make_plan(spec, Run())


def test_branches_that_exclude_each_other_do_not_run_side_by_side(tmp_path: Path) -> None:
    plan = _plan(
        "nodes:\n  r: {kind: router}\n  a: {model: fast, output: 100}\n  b: {model: fast, output: 300}\n"
        "  z: {model: fast, output: 50}\n"
        "edges: [{from: r, to: a, probability: 0.6}, {from: r, to: b, probability: 0.4}, a -> z, b -> z]\n",
        tmp_path,
    )
    assert plan.predicted["latency_s"].value == pytest.approx(0.6 * 1.5 + 0.4 * 3.5)
    assert plan.predicted["latency_p50_s"].value == pytest.approx(1.5)
    assert plan.predicted["latency_p99_s"].value == pytest.approx(3.5)
    assert plan.status == "optimal"
    assert plan.objective.bound == pytest.approx(0.6 * 1.5 + 0.4 * 3.5, rel=1e-4)
    assert check(plan).passed


def test_rounds_of_a_loop_follow_each_other(tmp_path: Path) -> None:
    plan = _plan(
        "nodes:\n  w: {model: fast, output: 100}\n  c: {model: fast, output: 20}\n"
        "edges: [w -> c, {from: c, to: w, max_rounds: 3, probability: 0.5}, c -> end]\n",
        tmp_path,
    )
    assert plan.predicted["latency_s"].value == pytest.approx(1.2 * (0.5 + 2 * 0.25 + 3 * 0.25))


def test_a_model_is_chosen_before_it_is_known_how_branches_go(tmp_path: Path) -> None:
    # the money is enough for the fast model on the rare branch, not on the likely one
    text = (
        "budget_usd: 0.62\nnodes:\n  r: {kind: router}\n  a: {models: [fast, slow], output: 100}\n"
        "  b: {models: [fast, slow], output: 100}\n  z: {models: [fast, slow], output: 50}\n"
        "edges: [{from: r, to: a, probability: 0.8}, {from: r, to: b, probability: 0.2}, a -> z, b -> z]\n"
    )
    plan = _plan(text, tmp_path)
    usd = {"fast": 9e-3, "slow": 1e-3}
    pace = {"fast": 0.01, "slow": 0.02}
    best = min(
        0.8 * (100 * pace[a] + 50 * pace[z]) + 0.2 * (100 * pace[b] + 50 * pace[z])
        for a, b, z in product(pace, pace, pace)
        if 0.8 * 100 * usd[a] + 0.2 * 100 * usd[b] + 50 * usd[z] <= 0.62
    )
    assert plan.objective.value == pytest.approx(best, rel=1e-4)
    assert plan.status == "optimal"


def test_a_deadline_holds_in_every_outcome(tmp_path: Path) -> None:
    text = (
        "deadline_s: {}\nnodes:\n  q: {{model: fast, output: 100}}\n  big: {{model: fast, output: 400}}\n"
        "edges: [{{from: q, to: big, probability: 0.1}}, {{from: q, to: end, probability: 0.9}}]\n"
    )
    late = _plan(text.format(4.9), tmp_path)
    assert late.status == "infeasible"
    assert late.infeasibility is not None
    assert late.infeasibility.relaxed["deadline_s"] == pytest.approx(5.0)
    assert _plan(text.format(5.01), tmp_path).predicted["latency_s"].value == pytest.approx(1.4)


def test_limits_that_only_go_together_are_named_together(tmp_path: Path) -> None:
    text = (
        "deadline_s: 2\nperiod_s: 1\nnodes:\n"
        "  a: {model: fast, output: 300}\n  b: {model: fast, output: 300}\n"
    )
    plan = _plan(text, tmp_path)
    assert plan.status == "infeasible"
    assert plan.infeasibility is not None
    assert {one.name for one in plan.infeasibility.binding} == {"deadline_s", "period_s"}
    assert plan.infeasibility.relaxed["deadline_s"] >= 3.0
    assert " and " in plan.infeasibility.nearest_relaxation
    assert check(plan).passed


def _random_graph(seed: int) -> str:
    """Return a graph of calls and routers whose branches meet again."""
    rng = random.Random(seed)
    nodes = ["  c0: {model: fast, output: 40}"]
    edges: list[str] = []
    for i in range(1, 9):
        kind = "{kind: router}" if rng.random() < 0.3 else f"{{model: slow, output: {rng.choice([30, 90])}}}"
        nodes.append(f"  c{i}: {kind}")
        for source in rng.sample(range(i), min(i, rng.randint(1, 2))):
            chance = f", probability: {rng.choice([0.25, 0.4])}" if rng.random() < 0.3 else ""
            edges.append(f"{{from: c{source}, to: c{i}{chance}}}")
    return "nodes:\n" + "\n".join(nodes) + f"\nedges: [{', '.join(edges)}]\n"


@pytest.mark.parametrize("seed", range(10))
def test_the_simulated_expectation_is_the_predicted_one(seed: int, tmp_path: Path) -> None:
    text = _random_graph(seed).replace("model: slow", "models: [slow, fast]")
    spec = tmp_path / "agents.yaml"
    spec.write_text(MODELS.replace("overhead_s: 0,", "overhead_s: 0, slots: 9,") + text)
    plan = make_plan(spec, Run())
    graph = problem_of(plan).payload.graph
    run = expected_run(graph, plan.details)
    assert run.latency_s == pytest.approx(plan.predicted["latency_s"].value, rel=1e-3)
    assert run.ttft_s == pytest.approx(plan.predicted["ttft_s"].value, rel=1e-3)
    runs = drawn_runs(graph, plan.details, num_runs=600, seed=1)
    mean = sum(r.latency_s for r in runs) / len(runs)
    assert mean == pytest.approx(run.latency_s, rel=0.1)
    assert check(plan).passed


def test_the_checker_adds_up_the_outcomes(tmp_path: Path) -> None:
    plan = _plan(
        "nodes:\n  q: {model: fast, output: 100}\n  big: {model: fast, output: 400}\n"
        "edges: [{from: q, to: big, probability: 0.5}, {from: q, to: end, probability: 0.5}]\n",
        tmp_path,
    )
    claimed = plan.predicted["latency_s"].model_copy(update={"value": 1.5})
    lying = plan.model_copy(update={"predicted": {**plan.predicted, "latency_s": claimed}})
    assert "agent-schedule" in check(lying).failed_rules


@pytest.mark.parametrize("goal", ["min_latency", "min_ttft", "min_cost"])
@pytest.mark.parametrize("seed", range(12))
def test_no_plan_goes_below_what_outcomes_are_bounded_by(goal: str, seed: int, tmp_path: Path) -> None:
    text = f"goal: {goal}\n" + _random_graph(seed).replace("model: slow", "models: [slow, fast]")
    if seed % 3 == 0:
        text = text.replace("output: 90}", "output: 90, join: any}")
    plan = _plan(text, tmp_path)
    payload = problem_of(plan).payload
    bound = expected_bound(payload, flow_of(flatten(payload.graph)))
    assert 0.0 < bound <= plan.objective.value * (1 + 1e-6)


def test_loops_with_more_outcomes_than_are_planned_keep_a_bound(tmp_path: Path) -> None:
    loops = "".join(
        f"  w{k}: {{model: fast, output: 100}}\n  c{k}: {{model: fast, output: 20}}\n" for k in range(4)
    )
    edges = ", ".join(
        f"w{k} -> c{k}, {{from: c{k}, to: w{k}, max_rounds: 3, probability: 0.5}}" for k in range(4)
    )
    chain = ", ".join(f"c{k} -> w{k + 1}" for k in range(3))
    plan = _plan(f"nodes:\n{loops}edges: [{edges}, {chain}, c3 -> end]\n", tmp_path)
    mean = 4 * 1.2 * (0.5 + 2 * 0.25 + 3 * 0.25)
    assert plan.status == "feasible"
    assert plan.predicted["latency_s"].value == pytest.approx(mean, rel=0.05)
    assert plan.objective.bound is not None
    assert 0.9 * mean <= plan.objective.bound <= mean * (1 + 1e-6)
    assert check(plan).passed


def test_a_call_that_leads_to_several_ends_is_not_loaded_before_one_alone(tmp_path: Path) -> None:
    # c0, then c1 and c2 on the only slot: the first tokens are soonest if the shorter one goes first
    plan = _plan(
        "goal: min_ttft\nnodes:\n  c0: {model: fast, output: 40}\n  c1: {model: fast, output: 100}\n"
        "  c2: {model: fast, output: 10}\nedges: [c0 -> c1, c0 -> c2]\n",
        tmp_path,
    )
    assert plan.status == "optimal"
    assert plan.objective.value == pytest.approx((0.41 + 0.51) / 2, rel=1e-4)
