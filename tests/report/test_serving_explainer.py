"""Explanations of serving plans: where time goes, what binds, what more would be worth, and why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner import pipeline
from planner.errors import InputError
from planner.pipeline import Run
from planner.plan.schema import Plan
from planner.report.explain_view import explanation_lines
from planner.report.kinds.serving import EXPLAINER
from planner.verify import problem_of

SPEC = {
    "model": "llama-3.1-8b",
    "cluster": "2xh100",
    "workload": {"input_tokens": 1000, "output_tokens": 200, "rate": "4/s"},
    "slo": {"ttft": "1s", "tpot": "6ms"},
    "budget": {"devices": 2},
    "objective": "min_devices",
    "fix": {"pp": 1},
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return pipeline.make_plan(SPEC, Run())


def test_shares_of_a_step_sum_to_one_and_add_up(plan: Plan) -> None:
    found = EXPLAINER.bottlenecks(problem_of(plan), plan)
    assert {part.pool for part in found} == {pool.name for pool in plan.pools}
    for part in found:
        assert sum(share for _, share in part.shares) == pytest.approx(1.0)
        assert [share for _, share in part.shares] == sorted((s for _, s in part.shares), reverse=True)


def test_the_decode_step_is_about_the_predicted_time_per_token(plan: Plan) -> None:
    decode = next(p for p in EXPLAINER.bottlenecks(problem_of(plan), plan) if p.step.startswith("decode"))
    # Mixed steps carry prompt tokens too, so the pure decode step is the shorter one.
    assert 0.4 * plan.predicted["tpot_s"].value < decode.step_s <= plan.predicted["tpot_s"].value * 1.05


def test_every_limit_is_lifted_once_and_links_are_doubled(plan: Plan) -> None:
    problem = problem_of(plan)
    variations = EXPLAINER.variations(problem, plan)
    limits = [v.change for v in variations if v.sort == "limit"]
    assert limits == ["ttft at most 1 s", "tpot at most 6 ms", "at most 2 devices"]
    resources = {v.change: v.problem for v in variations if v.sort == "resource"}
    assert resources["one more device in the budget"].budget.num_devices == 3
    doubled = next(p for change, p in resources.items() if change.startswith("twice the bandwidth"))
    before, after = problem.cluster.groups[0].levels[0].link, doubled.cluster.groups[0].levels[0].link
    assert after.bandwidth_bytes_per_s == 2 * before.bandwidth_bytes_per_s


def test_without_a_budget_the_cluster_grows(plan: Plan) -> None:
    problem = replace(problem_of(plan), budget=replace(problem_of(plan).budget, num_devices=None))
    grown = next(v for v in EXPLAINER.variations(problem, plan) if v.change.startswith("one more"))
    assert grown.problem.cluster.num_devices == problem.cluster.num_devices + 1


def test_why_not_fixes_what_it_says(plan: Plan) -> None:
    problem = problem_of(plan)
    fixed = EXPLAINER.fixed(problem, {"tp": 2, "weights": "fp8", "mode": "aggregated"})
    choices = fixed.payload.choices
    assert dict(choices.fixed) == {"pp": 1, "tp": 2}
    assert choices.weight_fmts == ("fp8",)
    assert choices.modes == ("aggregated",)
    assert choices.kv_fmts == problem.payload.choices.kv_fmts
    with pytest.raises(InputError, match="unknown choice"):
        EXPLAINER.fixed(problem, {"tq": 2})
    with pytest.raises(InputError, match="must be a whole number"):
        EXPLAINER.fixed(problem, {"tp": "many"})


def test_an_explanation_reads_well(plan: Plan) -> None:
    found = pipeline.explain(plan, Run(), why_not=[{"tp": 1}])
    text = "\n".join(explanation_lines(found))
    for heading in ("Where the time goes", "Your limits", "What more hardware would be worth", "Why not"):
        assert heading in text
    assert "linear layers" in text
    effect = found.effects[-1]
    assert effect.change == "tp=1"
    assert effect.better is None or effect.better <= 1e-9
