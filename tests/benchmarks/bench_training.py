"""Time of one training evaluation among many, in seconds and amortised: ``make bench``."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.training import TrainingChoices, TrainingWorkload
from planner.space.training.enumerate import degrees, expand
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.software import load_training_software, training_cost_model

LIMIT_S = 0.2e-3


def test_evaluation_amortised(benchmark: Any) -> None:
    diagnostics = Diagnostics()
    model = load_model("llama-3.1-70b", diagnostics=diagnostics)
    group = parse_cluster("64x8xh100@ib400", source=None, diagnostics=diagnostics).groups[0]
    workload = TrainingWorkload(global_batch=1024, seq_len=8192)
    choices = TrainingChoices(max_micro_batch=4)
    points = [p for p in degrees(model, workload, choices, 512, 8) if p.tp * p.cp * p.pp * p.dp == 512]
    plans = expand(points, model, choices)
    software = load_training_software("megatron-lm")
    sizes = np.unique(plans.micro_batch)

    def evaluate() -> int:
        costs = training_cost_model(group, software)
        evaluator = TrainingEvaluator(model, group, costs, software, workload, sizes)
        return len(evaluator.evaluate(plans).peak_bytes)

    num_plans = benchmark.pedantic(evaluate, rounds=3, warmup_rounds=1)
    assert num_plans > 1000
    assert benchmark.stats.stats.min / num_plans < LIMIT_S
