"""The training evaluator: conservation, monotony and agreement of one plan with many."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.library import device_cost_model
from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.training import Recompute, TrainingChoices, TrainingStrategy, TrainingWorkload
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.grid import Space, points, rows, sharded
from planner.space.training.plans import concatenate, single
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
    space = Space(model=evaluator.model, workload=WORKLOAD, choices=choices, num_devices=8)
    coarse = concatenate([p for p in points(space) if int(p.tp[0]) <= 4])
    some = (coarse.pp <= 2) & (coarse.tp * coarse.pp * coarse.dp * coarse.cp == 8)
    plans = sharded(space, rows(space, coarse.take(np.flatnonzero(some))))
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


def test_exchanging_heads_and_rings_both_share_a_sequence(evaluator: TrainingEvaluator) -> None:
    def run(ulysses: int) -> tuple[float, float, float]:
        strategy = TrainingStrategy(cp=8, dp=2, dp_shard=2, zero=2, cp_ulysses=ulysses)
        result = evaluator.evaluate(single(strategy))
        time = result.time
        return float(time.compute_s[0]), float(time.layer_comm_s[0]), float(result.peak_bytes[0])

    ring, both, heads = run(1), run(2), run(8)
    assert ring[0] == both[0] == heads[0]
    assert ring[2] == both[2] == heads[2]
    assert len({ring[1], both[1], heads[1]}) == 3
    assert min(ring[1], both[1], heads[1]) > 0.0
