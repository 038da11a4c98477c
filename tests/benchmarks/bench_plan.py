"""Times of whole plans, from spec to checked plan: ``make bench``."""

from __future__ import annotations

from typing import Any

import pytest

from planner.pipeline import Run, make_plan

FIXED = {"input_tokens": 4000, "output_tokens": 500}
LIMITS = {"ttft": "1s", "tpot": "30ms"}
CASES: dict[str, dict[str, Any]] = {
    "70b on 8 gpus": {"model": "llama-3.1-70b", "cluster": "8xh200", "workload": FIXED, "slo": LIMITS},
    "70b on 64 gpus": {
        "model": "llama-3.1-70b",
        "cluster": "8x8xh100@ib400",
        "workload": {**FIXED, "rate": 10},
        "slo": LIMITS,
        "objective": "min_devices",
    },
    "deepseek on 16 gpus": {"model": "deepseek-v3", "cluster": "2x8xh100@ib400", "workload": FIXED},
}


@pytest.mark.parametrize("name", CASES)
def test_plan(benchmark: Any, name: str) -> None:
    plan = benchmark.pedantic(lambda: make_plan(CASES[name], Run()), rounds=3, warmup_rounds=1)
    assert plan.objective.gap == 0.0
