"""What a step waits for outside its layers: rings, sends and a common end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.training import TrainingStrategy, TrainingWorkload
from planner.space.training.evaluate import StepTime, TrainingEvaluator
from planner.space.training.plans import single
from planner.space.training.software import TrainingSoftware, load_training_software, training_cost_model

MODEL = load_model("llama-3.1-8b", diagnostics=Diagnostics())
MEGATRON = load_training_software("megatron-lm-2021")
FSDP = load_training_software("llm-foundry")
BUBBLE = load_training_software("zero-bubble")


def evaluator(software: TrainingSoftware, nodes: int, batch: int) -> TrainingEvaluator:
    name = f"{nodes}x8xa100@ib200" if nodes > 1 else "8xa100"
    group = parse_cluster(name, source=None, diagnostics=Diagnostics()).groups[0]
    workload = TrainingWorkload(global_batch=batch, seq_len=2048)
    costs = training_cost_model(group, software)
    return TrainingEvaluator(MODEL, group, costs, software, workload, np.array([1]))


def step(software: TrainingSoftware, nodes: int, strategy: TrainingStrategy, batch: int) -> StepTime:
    return evaluator(software, nodes, batch).evaluate(single(strategy), "fp16").time


def test_full_sharding_pays_for_the_length_of_a_ring_per_layer() -> None:
    exposed = replace(FSDP, dp_overlap=0.0, dp_efficiency=1.0)
    found = {
        nodes: step(exposed, nodes, TrainingStrategy(dp=8 * nodes, dp_shard=8 * nodes, zero=3), 8 * nodes)
        for nodes in (8, 64)
    }
    grown = float(found[64].data_parallel_s[0] - found[8].data_parallel_s[0])
    steps = (512 - 64) * 3.4e-6 + 63 * 14e-6 - (64 - 8) * 3.4e-6 - 7 * 14e-6
    layers = len(MODEL.layers)
    assert grown > 3 * (layers - 1) * steps  # two gathers and one scatter of every layer
    assert grown < 4 * layers * steps


def test_whole_activations_are_sent_without_scatter_and_gather() -> None:
    plan = single(TrainingStrategy(tp=8, pp=2))
    spread, whole = (
        float(evaluator(replace(MEGATRON, scatter_gather=split), 2, 8).hop_s(plan)[0])
        for split in (True, False)
    )
    assert 4.0 < whole / spread <= 8.0
    parallel = single(TrainingStrategy(tp=8, pp=2, sequence_parallel=True))
    same = evaluator(replace(MEGATRON, scatter_gather=False), 2, 8).hop_s(parallel)
    assert float(same[0]) == pytest.approx(spread)


@pytest.mark.parametrize("schedule", ["zb-2p", "zb-h2"])
def test_a_common_end_of_the_step_shows_the_start_of_the_last_stage(schedule: str) -> None:
    plan = TrainingStrategy(pp=8, schedule=schedule)
    free = step(BUBBLE, 1, plan, 32)
    bound = step(replace(BUBBLE, optimizer_sync=True), 1, plan, 32)
    stages = evaluator(BUBBLE, 1, 32).stage_times(single(plan), "fp16")
    start = float(stages.forward.sum() - stages.forward.max())
    assert float(bound.bubble_s[0]) == pytest.approx(max(start, float(free.bubble_s[0])))
    assert float(bound.bubble_s[0]) > float(free.bubble_s[0])


def test_a_common_end_does_not_slow_one_forward_one_backward() -> None:
    plan = TrainingStrategy(pp=8)
    free, bound = (step(replace(BUBBLE, optimizer_sync=sync), 1, plan, 32) for sync in (False, True))
    assert float(free.total_s[0]) == float(bound.total_s[0])


def test_offloaded_parameters_are_fetched_twice_for_every_micro_batch() -> None:
    bare = replace(MEGATRON, dp_overlap=0.0)
    plan = TrainingStrategy(tp=8, offload="optimizer_and_parameters")
    few, many = (step(bare, 1, plan, batch) for batch in (4, 12))
    kept = step(bare, 1, replace(plan, offload="optimizer"), 12)
    assert float(kept.data_parallel_s[0]) == 0.0
    assert many.data_parallel_s[0] == pytest.approx(3.0 * few.data_parallel_s[0])
    params = MODEL.num_params / 8
    link = evaluator(bare, 1, 4).group.host_link.bandwidth_bytes_per_s
    least = 12 * 2 * 2.0 * params / link
    assert least < many.data_parallel_s[0] < 3.0 * least


def test_fully_sharded_ranks_fetch_their_own_share() -> None:
    bare = replace(MEGATRON, dp_overlap=0.0)
    plan = TrainingStrategy(dp=8, dp_shard=8, zero=3)
    fetched = {}
    for zero, shard in ((2, 8), (3, 8)):
        own = replace(plan, zero=zero, dp_shard=shard)
        away = step(bare, 1, replace(own, offload="optimizer_and_parameters"), 8)
        here = step(bare, 1, replace(own, offload="optimizer"), 8)
        fetched[zero] = float(away.data_parallel_s[0] - here.data_parallel_s[0])
    assert fetched[2] > 6.0 * fetched[3] > 0.0


def test_what_compute_leaves_of_a_node_does_not_slow_a_slower_network() -> None:
    plan = TrainingStrategy(dp=16, dp_shard=16, zero=3)
    bare = replace(FSDP, dp_overlap=0.0, dp_efficiency=1.0)

    def exposed_s(software: TrainingSoftware, cluster: str) -> float:
        group = parse_cluster(cluster, source=None, diagnostics=Diagnostics()).groups[0]
        workload = TrainingWorkload(global_batch=16, seq_len=2048)
        costs = training_cost_model(group, software)
        found = TrainingEvaluator(MODEL, group, costs, software, workload, np.array([1]))
        return float(found.evaluate(single(plan), "fp16").time.data_parallel_s[0])

    slow = "2x8xa100@ib100"  # 100 GB/s of a node against 128 GB/s that are left inside
    assert exposed_s(replace(bare, dp_efficiency=0.7), slow) == pytest.approx(exposed_s(bare, slow), rel=0.02)
    assert exposed_s(replace(bare, dp_efficiency=0.02), slow) > 2.0 * exposed_s(bare, slow)
    inside = TrainingStrategy(dp=8, dp_shard=8, zero=3)
    whole, half = (
        float(step(replace(bare, dp_efficiency=share), 1, inside, 8).data_parallel_s[0])
        for share in (1.0, 0.5)
    )
    rings = 3.0 * (len(MODEL.layers) - 1) * 7 * 3.4e-6
    assert half - rings == pytest.approx(2.0 * (whole - rings), rel=0.05)
