"""How fast served plans are simulated: requests per minute of a 70B chat workload on one core.

Budget: 50,000 simulated requests a minute, whatever the plan. Real traffic is the Azure conversation
trace: the 2,000 requests of the examples, or all of it where NEWEL_DATA names a folder that has
traces/azure_llm_2023_conv.csv.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.spec_tree import Override
from planner.frontend.traces import read_trace
from planner.ir.trace import RequestTrace
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.simulate.serving import SimulationOptions, simulate_plan
from planner.simulate.serving_options import HostCache
from planner.verify import problem_of

BUDGET_PER_MINUTE = 50_000
NUM_REQUESTS = 20_000
EXAMPLE = Path(__file__).parents[2] / "examples" / "data" / "azure_chat_2023.csv"
SPEC = {
    "model": "llama-3.1-70b",
    "cluster": "4x8xh200",
    "workload": {
        "input_tokens": {"lognormal": {"median": 1020, "p90": 2500, "max": 15000}},
        "output_tokens": {"lognormal": {"median": 129, "p90": 451, "max": 1500}},
        "rate": 20.0,
    },
    "slo": {"ttft": "1s", "tpot": "50ms"},
}
TURNS = 8
BLOCK_TOKENS = 512


@cache
def planned(mode: str) -> Plan:
    spec = {**SPEC, "modes": [mode]}
    changes = [Override(path=(key,), value=value, origin=key) for key, value in spec.items()]
    return make_plan(None, Run(diagnostics=Diagnostics()), changes)


@cache
def azure() -> RequestTrace:
    folder = os.environ.get("NEWEL_DATA")
    path = Path(folder) / "traces" / "azure_llm_2023_conv.csv" if folder else EXAMPLE
    return read_trace(path, Diagnostics())


def with_blocks(trace: RequestTrace) -> RequestTrace:
    """Return a trace whose requests are turns of conversations: each prompt begins as the last one did."""
    blocks = tuple(
        tuple(1000 * (index // TURNS) + k for k in range(tokens // BLOCK_TOKENS))
        for index, tokens in enumerate(trace.input_tokens)
    )
    return replace(trace, blocks=blocks, block_tokens=BLOCK_TOKENS)


def measure(
    benchmark: Any, plan: Plan, options: SimulationOptions, trace: RequestTrace | None = None
) -> None:
    problem = problem_of(plan)
    spent: list[float] = []

    def run() -> int:
        start = process_time()
        report = simulate_plan(plan, problem, options, trace)
        spent.append(process_time() - start)
        return report.num_requests

    count = benchmark.pedantic(run, rounds=2)
    per_minute = count * 60.0 / min(spent)
    benchmark.extra_info["requests_per_cpu_minute"] = round(per_minute)
    assert count >= 0.99 * (trace.num_requests if trace is not None else NUM_REQUESTS)
    assert per_minute > BUDGET_PER_MINUTE


@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_simulate_chat(benchmark: Any, mode: str) -> None:
    measure(benchmark, planned(mode), SimulationOptions(num_requests=NUM_REQUESTS))


@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_replay_azure(benchmark: Any, mode: str) -> None:
    measure(benchmark, planned(mode), SimulationOptions(), azure())


def test_replay_azure_with_prefix_caches(benchmark: Any) -> None:
    tiers = (HostCache(name="dram", capacity_bytes=500 * 2**30, bytes_per_s=50e9),)
    options = SimulationOptions(routing="prefix-aware", tiers=tiers)
    measure(benchmark, planned("aggregated"), options, with_blocks(azure()))
