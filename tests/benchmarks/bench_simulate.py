"""How fast served plans are simulated: requests of a 70B chat workload on one core."""

from __future__ import annotations

from typing import Any

from planner.diagnostics import Diagnostics
from planner.frontend.spec_tree import Override
from planner.pipeline import Run, make_plan
from planner.simulate.serving import SimulationOptions, simulate_plan
from planner.verify import problem_of

NUM_REQUESTS = 20_000
SPEC = {
    "model": "llama-3.1-70b",
    "cluster": "4x8xh200",
    "workload": {
        "input_tokens": {"lognormal": {"median": 1020, "p90": 2500, "max": 8000}},
        "output_tokens": {"lognormal": {"median": 129, "p90": 451, "max": 1500}},
        "rate": 20.0,
    },
    "slo": {"ttft": "1s", "tpot": "50ms"},
}


def test_simulate_chat(benchmark: Any) -> None:
    changes = [Override(path=(key,), value=value, origin=key) for key, value in SPEC.items()]
    plan = make_plan(None, Run(diagnostics=Diagnostics()), changes)
    problem = problem_of(plan)
    options = SimulationOptions(num_requests=NUM_REQUESTS)
    report = benchmark.pedantic(simulate_plan, args=(plan, problem, options), rounds=3)
    benchmark.extra_info["requests_per_minute"] = NUM_REQUESTS * 60 / benchmark.stats.stats.min
    assert report.num_requests == NUM_REQUESTS
