"""Time of one training evaluation among many, in seconds and amortised: ``make bench``."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.training import TrainingChoices, TrainingWorkload
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.grid import Space, points, rows, sharded
from planner.space.training.plans import concatenate
from planner.space.training.software import load_training_software, training_cost_model

LIMIT_S = 0.2e-3


def test_evaluation_amortised(benchmark: Any) -> None:
    diagnostics = Diagnostics()
    model = load_model("llama-3.1-70b", diagnostics=diagnostics)
    group = parse_cluster("64x8xh100@ib400", source=None, diagnostics=diagnostics).groups[0]
    workload = TrainingWorkload(global_batch=1024, seq_len=8192)
    choices = TrainingChoices(max_micro_batch=4)
    space = Space(model=model, workload=workload, choices=choices, num_devices=512)
    coarse = concatenate([p for p in points(space) if int(p.tp[0]) <= 8])
    whole = coarse.take(np.flatnonzero(coarse.tp * coarse.cp * coarse.pp * coarse.dp == 512))
    plans = sharded(space, rows(space, whole.take(np.arange(0, len(whole), 8))))
    software = load_training_software("megatron-lm")
    sizes = np.unique(plans.micro_batch)

    def evaluate() -> int:
        costs = training_cost_model(group, software)
        evaluator = TrainingEvaluator(model, group, costs, software, workload, sizes)
        return len(evaluator.evaluate(plans).peak_bytes)

    num_plans = benchmark.pedantic(evaluate, rounds=3, warmup_rounds=1)
    assert num_plans > 1000
    assert benchmark.stats.stats.min / num_plans < LIMIT_S
