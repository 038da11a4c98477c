"""Activations on the host: what stays on the device, what the link shows, what the host holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import load_model
from planner.ir.cluster import NodeGroup
from planner.ir.training import Offload, TrainingStrategy, TrainingWorkload
from planner.space.training.evaluate import Evaluation, TrainingEvaluator
from planner.space.training.plans import AWAY, OFFLOADS, leanest_offload, single
from planner.space.training.software import load_training_software, training_cost_model

MODEL = load_model("llama-3.1-8b", diagnostics=Diagnostics())
SOFTWARE = load_training_software("megatron-lm")
PLAN = TrainingStrategy(tp=2, pp=2, dp=2, dp_shard=2, zero=1, sequence_parallel=True)


def group(link_bytes_per_s: float = 55e9, **changes: float | None) -> NodeGroup:
    found = parse_cluster("8xh100", source=None, diagnostics=Diagnostics()).groups[0]
    link = replace(found.host_link, bandwidth_bytes_per_s=link_bytes_per_s)
    return replace(found, host_link=link, **changes)  # pyright: ignore[reportArgumentType] - named numbers


def priced(where: NodeGroup, offload: Offload, **changes: object) -> Evaluation:
    workload = TrainingWorkload(global_batch=32, seq_len=8192)
    costs = training_cost_model(where, SOFTWARE)
    found = TrainingEvaluator(MODEL, where, costs, SOFTWARE, workload, np.array([1]))
    return found.evaluate(single(replace(PLAN, offload=offload, **changes)))  # pyright: ignore[reportArgumentType]


def test_the_device_keeps_two_layers() -> None:
    here, there = (priced(group(), offload).memory[0] for offload in ("none", "activations"))
    assert here is not None
    assert there is not None
    layers, held = 16, np.array([2.0, 1.0])
    assert there.activations == pytest.approx(2.0 * here.activations / held / layers, rel=1e-6)
    assert there.optimizer == pytest.approx(here.optimizer)
    both = priced(group(), "optimizer_and_activations").memory[0]
    assert both is not None
    assert both.optimizer.max() == 0.0
    assert both.activations == pytest.approx(there.activations)


def test_a_quicker_link_is_never_slower_and_hides_in_the_end() -> None:
    here = float(priced(group(), "none").time.total_s[0])
    rates = (5e9, 20e9, 55e9, 200e9, 900e9)
    free = group(host_memory_bytes_per_s=None)
    found = [
        float(
            priced(
                replace(free, host_link=replace(free.host_link, bandwidth_bytes_per_s=r)), "activations"
            ).time.total_s[0]
        )
        for r in rates
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 2.0 * here
    assert found[-1] == pytest.approx(here, rel=1e-6)


def test_devices_of_a_node_share_the_memory_of_their_host() -> None:
    slow, quick = (
        float(priced(group(900e9, host_memory_bytes_per_s=rate), "activations").time.total_s[0])
        for rate in (50e9, 5e12)
    )
    assert slow > 1.2 * quick


def test_what_the_host_cannot_hold_is_no_plan() -> None:
    assert np.isfinite(priced(group(), "activations").peak_bytes[0])
    assert not np.isfinite(priced(group(host_memory_bytes=50e9), "activations").peak_bytes[0])
    assert np.isfinite(priced(group(host_memory_bytes=50e9), "none").peak_bytes[0])


def test_recomputed_layers_send_their_inputs_alone() -> None:
    slow = group(5e9, host_memory_bytes_per_s=None)
    whole = priced(slow, "activations").time.total_s[0]
    inputs = priced(slow, "activations", recompute="full").time.total_s[0]
    assert inputs < 0.6 * whole


def test_the_leanest_offload_keeps_away_what_any_does() -> None:
    for first in OFFLOADS:
        for second in OFFLOADS:
            found = leanest_offload((first, second))
            for part in AWAY.values():
                assert part[found] == (part[OFFLOADS.index(first)] or part[OFFLOADS.index(second)])
