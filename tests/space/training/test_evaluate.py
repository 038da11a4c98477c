"""The training evaluator: conservation, monotony and agreement of one plan with many."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.library import device_cost_model
from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.training import Recompute, TrainingChoices, TrainingStrategy, TrainingWorkload
from planner.space.training.enumerate import degrees, expand
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.plans import single
from planner.space.training.software import load_training_software

WORKLOAD = TrainingWorkload(global_batch=32, seq_len=4096)


@pytest.fixture(scope="module")
def evaluator() -> TrainingEvaluator:
    group = parse_cluster("2x8xh100@ib400", source=None, diagnostics=Diagnostics()).groups[0]
    return TrainingEvaluator(
        load_model("llama-3.1-8b", diagnostics=Diagnostics()),
        group,
        device_cost_model(group.device),
        load_training_software("megatron"),
        WORKLOAD,
        np.array([1, 2, 4]),
    )


def test_many_plans_cost_what_each_costs_alone(evaluator: TrainingEvaluator) -> None:
    choices = TrainingChoices(max_micro_batch=2, zeros=(0, 1), recomputes=("none", "full"))
    points = degrees(evaluator.model, WORKLOAD, choices, 8, 4)
    plans = expand(
        [p for p in points if p.pp in (1, 2) and p.tp * p.pp * p.dp * p.cp == 8], evaluator.model, choices
    )
    together = evaluator.evaluate(plans)
    for i in range(0, len(plans), max(1, len(plans) // 25)):
        alone = evaluator.evaluate(plans.take(np.array([i])))
        assert alone.time.total_s[0] == pytest.approx(together.time.total_s[i], rel=1e-12)
        assert alone.peak_bytes[0] == pytest.approx(together.peak_bytes[i], rel=1e-12)


def test_recompute_trades_time_for_memory(evaluator: TrainingEvaluator) -> None:
    def run(recompute: Recompute) -> tuple[float, float]:
        strategy = TrainingStrategy(
            tp=2, dp=8, dp_shard=8, zero=1, sequence_parallel=True, recompute=recompute
        )
        result = evaluator.evaluate(single(strategy))
        return float(result.time.total_s[0]), float(result.peak_bytes[0])

    (none_s, none_bytes), (full_s, full_bytes) = run("none"), run("full")
    assert full_s > none_s
    assert full_bytes < none_bytes


def test_zero_stages_hold_ever_less(evaluator: TrainingEvaluator) -> None:
    peaks = [
        float(evaluator.evaluate(single(TrainingStrategy(dp=16, dp_shard=16, zero=zero))).peak_bytes[0])
        for zero in range(4)
    ]
    assert peaks == sorted(peaks, reverse=True)
