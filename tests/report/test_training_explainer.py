"""Explanations of training plans: what binds, what more hardware is worth, why not another shape."""

from __future__ import annotations

from functools import cache

import pytest

from planner.errors import InputError
from planner.pipeline import Run, explain, make_plan
from planner.plan.schema import Plan
from planner.report.explain_view import explanation_lines
from planner.report.plan_view import pool_words


@cache
def found() -> Plan:
    spec = {
        "kind": "training",
        "model": "llama-3.1-8b",
        "cluster": "2x8xa100@ib200",
        "workload": {"global_batch": 64, "seq_len": 4096, "tokens": "1T", "deadline": "900d"},
        "objective": "min_step_time",
        "fix": {"tp": 2},
    }
    return make_plan(spec, Run())


def test_the_time_of_a_step_is_all_there() -> None:
    explanation = explain(found(), Run(), vary=False)
    (bottleneck,) = explanation.bottlenecks
    assert sum(share for _, share in bottleneck.shares) == pytest.approx(1.0, abs=1e-6)
    assert bottleneck.shares[0][0] == "compute"
    assert any("The run of 1,000,000,000,000 tokens takes" in fact for fact in explanation.facts)


def test_effects_are_found_by_solving_again() -> None:
    explanation = explain(found(), Run(), why_not=[{"tp": 8}, {"tp": 3}])
    effects = {effect.change: effect for effect in explanation.effects}
    freed = effects["tp fixed to 2"]
    assert freed.better is not None
    assert freed.better >= 0.0
    twice = effects["twice the nodes (32 devices)"]
    assert twice.better is not None
    assert 0.3 < twice.better < 0.55
    worse = effects["tp=8"]
    assert worse.better is not None
    assert worse.better < 0.0
    assert effects["tp=3"].value is None
    assert "fix.tp" in effects["tp=3"].reason
    assert all(effects[f"twice the bandwidth of {link}"].better is not None for link in ("nvlink3", "ib200"))
    lines = "\n".join(explanation_lines(explanation))
    assert "Where the time goes" in lines
    assert "Why not" in lines


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="degree"):
        explain(found(), Run(), why_not=[{"tpp": 2}], vary=False)
    with pytest.raises(InputError, match="zero"):
        explain(found(), Run(), why_not=[{"zero": 7}], vary=False)


def test_a_job_is_named_by_what_it_decides() -> None:
    words = pool_words(found().pools[0])
    assert "tp2" in words
    assert "recompute" in words
    assert "ZeRO-" in words


def test_states_are_shared_by_context_ranks_too() -> None:
    pool = found().pools[0]
    assert pool.training is not None
    shared = pool.model_copy(
        update={
            "strategy": pool.strategy.model_copy(update={"cp": 4}),
            "training": pool.training.model_copy(update={"zero": 3, "dp_shard": 1}),
        }
    )
    assert "ZeRO-3 over 4 ranks" in pool_words(shared)
    whole = shared.model_copy(update={"training": pool.training.model_copy(update={"zero": 0})})
    assert "ZeRO-0, " in pool_words(whole)
