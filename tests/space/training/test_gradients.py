"""Formats of gradients on the wire: bytes, memory, and what hides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cost_models.work import Stream
from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.training import Gradients, TrainingChoices, TrainingStrategy, TrainingWorkload
from planner.space.training.evaluate import Evaluation, TrainingEvaluator
from planner.space.training.gradients import wire_bytes
from planner.space.training.grid import Space, gradient_formats
from planner.space.training.plans import GRADIENTS, single
from planner.space.training.software import load_training_software, training_cost_model

MODEL = load_model("llama-3.2-1b", diagnostics=Diagnostics())
PARAMS = MODEL.num_params
MEGATRON = replace(load_training_software("megatron-lm"), dp_overlap=0.0)
DEEPSPEED = replace(load_training_software("deepspeed-zero3"), dp_overlap=0.0)


def priced(software: Any, strategy: TrainingStrategy, nodes: int = 2) -> Evaluation:
    group = parse_cluster(f"{nodes}x8xa100@ib200", source=None, diagnostics=Diagnostics()).groups[0]
    workload = TrainingWorkload(global_batch=64, seq_len=2048)
    costs = training_cost_model(group, software)
    return TrainingEvaluator(MODEL, group, costs, software, workload, np.array([1])).evaluate(
        single(strategy)
    )


def plan(gradients: Gradients, **changes: Any) -> TrainingStrategy:
    return TrainingStrategy(dp=16, dp_shard=16, gradients=gradients, **changes)


def traffic(found: Evaluation) -> float:
    return float(found.time.data_parallel_s[0])


def test_sixteen_bit_gradients_take_half_the_reduction_and_half_the_buffer() -> None:
    whole, half = (priced(MEGATRON, plan(g)) for g in ("full", "bf16"))
    assert traffic(half) == pytest.approx(traffic(whole) / 2, rel=0.02)
    assert whole.memory[0] is not None
    assert half.memory[0] is not None
    assert whole.memory[0].gradients[0] == pytest.approx(4.0 * PARAMS, rel=0.01)
    assert half.memory[0].gradients[0] == pytest.approx(2.0 * PARAMS, rel=0.01)


def test_the_cast_of_sixteen_bit_gradients_counts_where_nothing_else_is_held() -> None:
    tight = replace(MEGATRON, loss_bytes=0.0, logit_bytes=0.0)
    strategy = plan("bf16", recompute="full", tp=1)
    found = priced(tight, strategy)
    assert found.memory[0] is not None
    held = found.memory[0].activations[0] + found.memory[0].workspace[0]
    assert held == pytest.approx(4.0 * PARAMS, rel=0.01)


def test_software_that_reduces_sixteen_bit_gains_nothing() -> None:
    whole, half = (priced(DEEPSPEED, plan(g, zero=3)) for g in ("full", "bf16"))
    assert traffic(whole) == traffic(half)
    assert whole.peak_bytes[0] == half.peak_bytes[0]


def test_four_bit_gradients_send_a_quarter_between_nodes_and_nothing_less_inside_one() -> None:
    whole, quarter = (priced(DEEPSPEED, plan(g, zero=3)) for g in ("full", "int4"))
    assert traffic(quarter) < traffic(whole)
    alone = [
        priced(DEEPSPEED, TrainingStrategy(dp=8, dp_shard=8, zero=3, gradients=g), 1)
        for g in ("full", "int4")
    ]
    assert traffic(alone[0]) == traffic(alone[1])


def test_the_signs_of_the_momentum_hide_behind_nothing_and_keep_their_errors() -> None:
    hiding = replace(DEEPSPEED, dp_overlap=0.99)
    shown, hidden = (priced(s, plan("1bit")) for s in (DEEPSPEED, hiding))
    assert traffic(shown) == traffic(hidden)
    group = parse_cluster("2x8xa100@ib200", source=None, diagnostics=Diagnostics()).groups[0]
    packing = training_cost_model(group, DEEPSPEED).price(
        Stream(num_bytes=np.array([20.0 * PARAMS]), num_kernels=4.0)
    )
    assert traffic(shown) > float(packing.time_s[0])
    whole = priced(DEEPSPEED, plan("full"))
    assert whole.memory[0] is not None
    assert shown.memory[0] is not None
    errors = shown.memory[0].gradients[0] - whole.memory[0].gradients[0]
    assert errors == pytest.approx((4.0 + 4.0 / 16) * PARAMS, rel=0.01)


@pytest.mark.parametrize(
    ("name", "less"),
    [("1bit", 5.0), ("int4", 4.0)],
)
def test_volumes_of_the_papers(name: Gradients, less: float) -> None:
    """1-bit Adam sends up to 5 times less with a warm-up of 15 % (arXiv 2102.02888, abstract and section 7).

    ZeRO++ sends a quarter of the gradients between nodes (arXiv 2306.10209, table 1).
    """
    nodes = np.array([8.0])
    own = float(wire_bytes(single(plan("full")), DEEPSPEED, nodes)[0])
    sent = float(wire_bytes(single(plan(name)), DEEPSPEED, nodes)[0])
    warm_up = 0.15 if name == "1bit" else 0.0
    assert own / (warm_up * own + (1 - warm_up) * sent) == pytest.approx(less, rel=0.02)


def test_formats_that_rest_on_a_way_of_sharing_are_open_only_there() -> None:
    choices = TrainingChoices(gradients=GRADIENTS)
    workload = TrainingWorkload(global_batch=64, seq_len=2048)
    space = Space(model=MODEL, workload=workload, choices=choices, num_devices=16)

    def names(ranks: tuple[int, int, int], zero: int) -> list[str]:
        return [GRADIENTS[i] for i in gradient_formats(space, ranks, zero)]

    assert names((16, 16, 1), 3) == ["full", "bf16", "int4"]
    assert names((16, 8, 1), 3) == ["full", "bf16"]
    assert names((16, 16, 1), 1) == ["full", "bf16"]
    assert names((16, 16, 1), 0) == ["full", "bf16", "1bit"]
    assert names((1, 1, 1), 0) == ["full", "bf16"]
    experts = load_model("mixtral-8x7b", diagnostics=Diagnostics())
    assert gradient_formats(replace(space, model=experts), (16, 16, 1), 3) == [0, 1]
