"""Plans of the search pass the checker on real profiles, away from the shipped examples."""

from __future__ import annotations

import numpy as np
import pytest

from planner import plan, verify

CASES = [
    ("llama-3.1-70b", "8xh100", {}, {}),
    ("llama-3.1-8b", "8x8xh100", {"rate": 100}, {"objective": "min_latency"}),
    ("llama-3.1-70b", "8xh200+16xl40s", {}, {}),
    ("gpt-oss-120b", "4xmi300x", {"rate": 3}, {"objective": "min_cost"}),
    ("llama-3.1-8b", "2xl40s", {"concurrency": 24}, {}),
    ("llama-3.1-8b", "2xl40s", {"concurrency": 24}, {"objective": "min_cost_per_token"}),
    ("llama-3.1-70b", "8xh100", {"rate": 2}, {"objective": "max_throughput"}),
    ("phi-4", "4xh100", {}, {"objective": "min_latency"}),
    ("llama-3.1-8b", "1xb200", {"input_tokens": 100, "output_tokens": 10}, {}),
]


@pytest.mark.parametrize(("model", "cluster", "load", "more"), CASES)
def test_plans_pass_the_checker(model, cluster, load, more):
    lengths = {"input_tokens": 2000, "output_tokens": 300}
    found = plan(model=model, cluster=cluster, workload={**lengths, **load}, slo={"tpot": "60ms"}, **more)
    assert found.status == "optimal"
    assert verify(found).passed


def test_steps_of_both_models_agree_around_the_tiles_of_a_kernel() -> None:
    """At 64 and 128 sequences one more takes another tile on an A100; batches fluctuate across that edge."""
    from cost_models.serving.iteration import step_time
    from planner.plan.parts import model_parts
    from planner.search.fleet_shapes import supply_from
    from planner.space.engine import cached, installed_costs
    from planner.verify import problem_of
    from planner.verify.rule import Case
    from planner.verify.serving.steps import Batch
    from planner.verify.serving.view import pool_views

    found = plan(
        {
            "kind": "fleet",
            "objective": "min_cost",
            "cluster": {"groups": [{"device": "a100", "nodes": 2, "price": 1.8}]},
            "models": [
                {
                    "name": "chat",
                    "model": "qwen3-32b",
                    "workload": {"input_tokens": 2000, "output_tokens": 300},
                    "slo": {"ttft": "2s", "tpot": "60ms", "percentile": "p90"},
                    "formats": {"weights": ["fp8"]},
                    "fix": {"tp": 1, "pp": 2},
                    "modes": ["disaggregated"],
                    "rate": 5,
                }
            ],
        }
    )
    problem = problem_of(found)
    supply = supply_from(problem, 0, found.details["shapes"]["chat"], cached(installed_costs))
    (part,) = model_parts(found, problem)
    view = next(v for v in pool_views(Case(plan=part.plan, problem=part.problem)) if v.pool.role == "decode")
    shape = found.details["queues"][view.pool.name]["shape"]
    assert supply.tables is not None
    tables = supply.tables.catalogue.offers[shape].replica.tables
    for batch in (32, 48, 56, 64, 65, 72, 80, 96, 112, 128, 129, 144, 192, 256):
        own = view.load.pricer.slot_seconds(
            Batch(decode=float(batch), context=view.requests.context, deviation=batch**0.5)
        )
        (other,) = step_time(tables, np.array([float(batch)]), np.array([0.0])).slot_s
        assert own == pytest.approx(float(other), rel=0.06), batch
    plain = [
        view.load.pricer.slot_seconds(Batch(decode=n, context=view.requests.context)) for n in (64.0, 65.0)
    ]
    assert plain[1] > 1.1 * plain[0]
