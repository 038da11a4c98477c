"""Plans of the search pass the checker on real profiles, away from the shipped examples."""

from __future__ import annotations

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
