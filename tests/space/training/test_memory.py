"""Memory of training stages where stacks differ: what is gathered, summed whole or rebuilt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.model_graph import Linear, Small
from planner.ir.training import TrainingStrategy, TrainingWorkload
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.memory import StageMemory
from planner.space.training.plans import single
from planner.space.training.software import TrainingSoftware, load_training_software, training_cost_model

MODEL = load_model("llama-3.1-8b", diagnostics=Diagnostics())
GROUP = parse_cluster("2x8xh100@ib400", source=None, diagnostics=Diagnostics()).groups[0]
FSDP = load_training_software("torchtitan")
DEEPSPEED = load_training_software("deepspeed-zero3")


def memory(software: TrainingSoftware, strategy: TrainingStrategy, model: str = "") -> StageMemory:
    graph = load_model(model, diagnostics=Diagnostics()) if model else MODEL
    costs = training_cost_model(GROUP, software)
    workload = TrainingWorkload(global_batch=32, seq_len=4096)
    batches = np.array([strategy.micro_batch])
    found = TrainingEvaluator(graph, GROUP, costs, software, workload, batches).evaluate(single(strategy))
    assert found.memory[0] is not None
    return found.memory[0]


def test_fsdp_without_resharding_holds_a_cast_of_all_weights() -> None:
    kept = memory(FSDP, TrainingStrategy(dp=8, dp_shard=8, zero=2))
    freed = memory(FSDP, TrainingStrategy(dp=8, dp_shard=8, zero=3))
    params = MODEL.num_params
    assert freed.weights[0] == pytest.approx(4.0 * params / 8, rel=0.01)
    assert kept.weights[0] - freed.weights[0] == pytest.approx(2.0 * params, rel=0.01)
    assert kept.gathered[0] < freed.gathered[0]


def test_fsdp_under_a_pipeline_sums_whole_gradients() -> None:
    alone = memory(FSDP, TrainingStrategy(dp=8, dp_shard=8, zero=2))
    piped = memory(FSDP, TrainingStrategy(dp=8, dp_shard=8, zero=2, pp=2))
    assert piped.gathered.max() > 4.0 * MODEL.num_params / 2 > alone.gathered.max()


def test_a_bound_on_live_parameters_bounds_what_is_gathered() -> None:
    strategy = TrainingStrategy(dp=8, dp_shard=8, zero=3)
    free = memory(replace(DEEPSPEED, max_live_params=float("inf")), strategy)
    bound = memory(replace(DEEPSPEED, max_live_params=1e8), strategy)
    layer = sum(op.num_params for op in MODEL.layers[0].ops if isinstance(op, Linear | Small))
    assert free.gathered[0] == pytest.approx(layer * (2 * 2 + DEEPSPEED.reduce_bytes), rel=0.01)
    largest = max(1e8, layer / 3)
    assert bound.gathered[0] == pytest.approx(2 * largest + 1e8 * DEEPSPEED.reduce_bytes, rel=0.01)


def test_logits_take_another_path_where_the_vocabulary_is_split() -> None:
    strategy = TrainingStrategy(tp=8, dp=1, micro_batch=16, sequence_parallel=True, recompute="full")
    split = memory(FSDP, strategy)
    same = memory(replace(FSDP, parallel_logit_bytes=None), strategy)
    tokens, vocabulary = 16 * 4096, MODEL.vocab_size / 8
    more = (FSDP.parallel_logit_bytes or 0.0) - FSDP.logit_bytes
    assert split.workspace[0] - same.workspace[0] == pytest.approx(tokens * vocabulary * more, rel=0.01)


def test_selective_recompute_rebuilds_queries_keys_and_values_of_latent_attention() -> None:
    software = load_training_software("megatron-lm")
    plan = TrainingStrategy(pp=2, ep=8, dp=8, dp_shard=8, zero=1)
    none = memory(software, plan, "deepseek-v3")
    selective = memory(software, replace(plan, recompute="selective"), "deepseek-v3")
    heads, width = 128, 192 + 192 + 128
    latent = 4096 * heads * width * 2.0 * 30 * 2  # layers of the first stage, two micro-batches in flight
    assert none.activations[0] - selective.activations[0] > latent


def test_buffers_of_a_pipeline_grow_with_the_micro_batches_of_a_step() -> None:
    strategy = TrainingStrategy(dp=4, dp_shard=4, zero=2, pp=4, recompute="full")
    kept, none = (
        memory(replace(FSDP, passed_buffers=passed), strategy).activations for passed in (True, False)
    )
    # 8 micro-batches of 4096 tokens: an input and a gradient of 16 bit each, on every stage.
    assert kept - none == pytest.approx(np.full(4, 2 * 8 * 4096 * MODEL.hidden_size * 2.0))
    alone = TrainingStrategy(dp=8, dp_shard=8, zero=2, recompute="full")
    assert memory(FSDP, alone).activations == pytest.approx(
        memory(replace(FSDP, passed_buffers=False), alone).activations
    )


def test_kernels_that_are_not_fused_keep_copies_around_gates_and_attention() -> None:
    software = load_training_software("megatron-lm")
    strategy = TrainingStrategy(tp=2)
    eager, fused = (
        memory(replace(software, eager_copies=copies), strategy).activations[0] for copies in (True, False)
    )
    width = 14336 + MODEL.hidden_size  # the gate, and the output of attention, over two tensor ranks
    assert eager - fused == pytest.approx(4096 * width / 2 * 2.0 * len(MODEL.layers))
