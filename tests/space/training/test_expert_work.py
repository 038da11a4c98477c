"""Routed experts in training: launches, fused products, biases, what is sent, and what recompute saves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.model_graph import Experts, Layer, Linear, ModelGraph
from planner.ir.training import TrainingStrategy, TrainingWorkload
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.plans import single
from planner.space.training.software import TrainingSoftware, load_training_software, training_cost_model
from planner.space.training.stage_times import LayerTotals

MODEL = load_model("qwen3-30b-a3b", diagnostics=Diagnostics())
GROUP = parse_cluster("8xb200", source=None, diagnostics=Diagnostics()).groups[0]
PLAIN = replace(load_training_software("megatron-lm"), ep_overlap=0.0)
LAYERS = len(MODEL.layers)


def totals(software: TrainingSoftware, model: ModelGraph = MODEL, ep: int = 8, **plan: Any) -> LayerTotals:
    strategy = TrainingStrategy(dp=8, ep=ep, **plan)
    costs = training_cost_model(GROUP, software)
    workload = TrainingWorkload(global_batch=64, seq_len=4096)
    evaluator = TrainingEvaluator(model, GROUP, costs, software, workload, np.array([strategy.micro_batch]))
    return evaluator.work_of_all_layers(single(strategy))


def busy_s(found: LayerTotals) -> float:
    return float((found.forward + found.backward + found.weight_grad)[0])


def with_biases(model: ModelGraph) -> ModelGraph:
    def biased(layer: Layer) -> Layer:
        ops = tuple(replace(op, bias=True) if isinstance(op, Experts) else op for op in layer.ops)
        return replace(layer, ops=ops)

    return replace(model, layers=tuple(biased(layer) for layer in model.layers))


def test_launches_of_experts_bound_small_micro_batches_and_not_large_ones() -> None:
    launched = replace(PLAIN, per_expert_s=3e-3)
    # 16 experts on a rank: 48 ms per pass and layer, three passes, whatever the kernels take.
    assert busy_s(totals(launched)) == pytest.approx(3.0 * 16 * 3e-3 * LAYERS, rel=0.2)
    assert busy_s(totals(launched)) > 3.0 * busy_s(totals(PLAIN))
    large = {"micro_batch": 8}
    quick = replace(PLAIN, per_expert_s=2e-5)
    assert busy_s(totals(quick, **large)) == pytest.approx(busy_s(totals(PLAIN, **large)), rel=1e-9)


def test_half_as_many_experts_on_a_rank_take_half_the_launches() -> None:
    launched = replace(PLAIN, per_expert_s=1e-2)
    four, eight = (busy_s(totals(launched, ep=ep)) for ep in (4, 8))
    assert four == pytest.approx(2.0 * eight, rel=0.1)


def test_fused_products_of_experts_leave_the_rest_as_it_is() -> None:
    base, half, none = (busy_s(totals(replace(PLAIN, expert_scale=s))) for s in (1.0, 0.5, 0.0))
    assert half == pytest.approx((base + none) / 2.0, rel=1e-9)
    assert 0.2 * base < none < 0.9 * base


def test_fused_experts_are_those_of_the_named_devices_alone() -> None:
    profile = load_training_software("megatron-bridge-26.06")
    hopper = parse_cluster("8xh100", source=None, diagnostics=Diagnostics()).groups[0].device
    assert profile.on(GROUP.device).expert_scale == profile.expert_scale < 1.0
    assert profile.on(hopper).expert_scale == 1.0


def test_biases_of_experts_cost_what_they_move() -> None:
    moved = replace(PLAIN, expert_bias_bytes=300.0)
    biased, plain = totals(moved, with_biases(MODEL)), totals(moved)
    assert busy_s(biased) > busy_s(plain)
    extra = [float((getattr(biased, n) - getattr(plain, n))[0]) for n in ("forward", "backward")]
    assert extra[1] == pytest.approx(2.0 * extra[0])
    num_bytes = 300.0 * 4096 * 8 * MODEL.hidden_size * LAYERS
    assert sum(extra) == pytest.approx(num_bytes / GROUP.device.memory_bandwidth_bytes_per_s.value, rel=0.4)
    assert busy_s(totals(PLAIN, with_biases(MODEL))) == pytest.approx(busy_s(totals(PLAIN)))


def test_a_token_goes_once_to_a_rank_that_holds_several_of_its_experts() -> None:
    every, once = (float(totals(replace(PLAIN, sends_once=s)).comm[0]) for s in (False, True))
    # 8 of 128 experts on 8 ranks: 8 (1 - (7/8)^8) = 5.25 ranks hold any.
    assert once == pytest.approx(every * 5.25 / 8.0, rel=0.1)


def test_selective_recompute_drops_the_activations_of_experts() -> None:
    costs = training_cost_model(GROUP, PLAIN)
    workload = TrainingWorkload(global_batch=64, seq_len=4096)
    evaluator = TrainingEvaluator(MODEL, GROUP, costs, PLAIN, workload, np.array([1]))
    kept = {
        way: evaluator.evaluate(single(TrainingStrategy(dp=8, ep=8, recompute=way))).memory[0]
        for way in ("none", "selective")
    }
    assert kept["none"] is not None
    assert kept["selective"] is not None
    saved = float((kept["none"].activations - kept["selective"].activations)[0])
    experts = next(op for op in MODEL.layers[0].ops if isinstance(op, Experts))
    activations = 4096.0 * experts.top_k * experts.inter * 2.0 * LAYERS
    assert saved >= activations


def test_a_layer_that_predicts_a_further_token_passes_the_head_and_keeps_no_weights_of_it() -> None:
    head = next(op for op in MODEL.head if isinstance(op, Linear))
    further = Layer(kind="mtp", ops=(*MODEL.layers[-1].ops, replace(head, tied=True)))
    longer = replace(MODEL, layers=(*MODEL.layers, MODEL.layers[-1]))
    predicting = replace(MODEL, layers=(*MODEL.layers, further))
    plain, more = totals(PLAIN, longer), totals(PLAIN, predicting)
    flops = 2.0 * 4096 * MODEL.hidden_size * MODEL.vocab_size
    peak = GROUP.device.peak_flops_per_s["bf16"].value
    assert float((more.forward - plain.forward)[0]) > flops / peak
    costs = training_cost_model(GROUP, PLAIN)
    workload = TrainingWorkload(global_batch=64, seq_len=4096)

    def weights(model: ModelGraph) -> float:
        evaluator = TrainingEvaluator(model, GROUP, costs, PLAIN, workload, np.array([1]))
        memory = evaluator.evaluate(single(TrainingStrategy(dp=8, ep=8))).memory[0]
        assert memory is not None
        return float(memory.weights[0])

    assert weights(predicting) == pytest.approx(weights(longer))
