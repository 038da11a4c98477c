"""Time of one evaluation of a fixed serving configuration: ``make bench``."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.strategy import ServingStrategy
from planner.ir.workload import Lengths, ServingWorkload, Slo
from planner.space.engine import installed_costs
from planner.space.evaluate import Evaluator, FixedReplica

LIMIT_S = 1e-3
CASES = {
    "dense": ("llama-3.1-70b", ServingStrategy(tp=4), "fp8"),
    "pipeline": ("llama-3.1-70b", ServingStrategy(tp=2, pp=2), "fp8"),
    "experts": ("deepseek-v3", ServingStrategy(tp=1, attention_dp=8, ep=8), "fp8"),
}


def _evaluator(model: str) -> Evaluator:
    diagnostics = Diagnostics()
    group = parse_cluster("8xh200", source=None, diagnostics=diagnostics).groups[0]
    workload = ServingWorkload(lengths=Lengths(samples=((2000, 300, 1.0),)), slo=Slo(), rate_rps=1.0)
    return Evaluator(
        model=load_model(model, diagnostics=diagnostics),
        group=group,
        costs=installed_costs(group, "sglang"),
        workload=workload,
    )


@pytest.mark.parametrize("name", CASES)
def test_evaluation_of_a_configuration(benchmark: Any, name: str) -> None:
    """Configurations that were never asked before; layers are priced once per way of splitting them."""
    model, strategy, fmt = CASES[name]
    evaluator = _evaluator(model)
    sizes = count(64)

    def evaluate() -> object:
        fixed = FixedReplica(strategy=strategy, weight_fmt=fmt, max_num_seqs=next(sizes))
        return evaluator.evaluate(fixed)

    assert evaluate() is not None
    benchmark.pedantic(evaluate, rounds=200, warmup_rounds=5)
    assert benchmark.stats.stats.min < LIMIT_S
