"""Tensor communication of a layer: what is gathered in which width, and what recompute gathers again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.training import TrainingStrategy, TrainingWorkload
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.plans import single
from planner.space.training.software import TrainingSoftware, load_training_software, training_cost_model
from planner.space.training.stage_times import LayerTotals

MODEL = load_model("llama-3.1-8b", diagnostics=Diagnostics())
GROUP = parse_cluster("8xh100", source=None, diagnostics=Diagnostics()).groups[0]
PLAN = single(TrainingStrategy(tp=8, micro_batch=4, sequence_parallel=True))


def totals(software: TrainingSoftware, fmt: str) -> LayerTotals:
    workload = TrainingWorkload(global_batch=4, seq_len=8192)
    costs = training_cost_model(GROUP, software)
    found = TrainingEvaluator(MODEL, GROUP, costs, software, workload, np.array([4]))
    return found.work_of_all_layers(PLAN, fmt)


def test_inputs_of_quantised_products_are_gathered_in_their_width() -> None:
    software = replace(load_training_software("megatron-lm"), tp_overlap=0.0, regather_overlap=1.0)
    half, eighth = (float(totals(software, fmt).comm[0]) for fmt in ("bf16", "fp8"))
    # Forward gathers one of four transfers (gather and reduce, forward and backward), at half the bytes.
    assert 0.8 * half < eighth < 0.93 * half


def test_saving_single_operators_gathers_inputs_again() -> None:
    whole = load_training_software("torchtitan")
    some = totals(whole, "bf16")
    hidden = totals(replace(whole, tp_overlap=1.0), "bf16")
    again = float(some.selective[0] - hidden.selective[0])
    forward_and_backward = float(some.comm[0] - hidden.comm[0])
    assert again == pytest.approx(forward_and_backward / 4.0, rel=0.15)
    none = totals(replace(whole, selective_products=0.0), "bf16")
    assert none.selective[0] < some.selective[0]
