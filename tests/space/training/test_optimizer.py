"""Adam on the host: its memory bandwidth, the transfers beside it, and what the host can hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.ir.cluster import NodeGroup
from planner.ir.training import TrainingStrategy
from planner.space.training.optimizer import update_s
from planner.space.training.plans import single
from planner.space.training.software import load_training_software, training_cost_model

SOFTWARE = load_training_software("deepspeed-zero3")
PARAMS = np.array([1e9])


def node(**changes: float | None) -> NodeGroup:
    group = parse_cluster("8xa100", source=None, diagnostics=Diagnostics()).groups[0]
    return replace(group, **changes)  # pyright: ignore[reportArgumentType] - numbers of the fields named


def seconds(group: NodeGroup, dp: int = 8, offload: str = "optimizer") -> float:
    plan = single(TrainingStrategy(dp=dp, dp_shard=dp, zero=2, offload=offload))
    return float(update_s(training_cost_model(group, SOFTWARE), group, SOFTWARE, plan, PARAMS)[0])


def test_cpu_adam_takes_what_was_measured_on_a_dgx_2() -> None:
    # ZeRO-Offload, table 4: 0.22, 0.51, 1.03, 2.41 and 2.57 s for 1, 2, 4, 8 and 10 billion parameters
    alone = seconds(node(host_memory_bytes_per_s=256e9), dp=1)
    transfers = seconds(node(host_memory_bytes_per_s=None), dp=1)
    assert 0.22 < alone - transfers * 4.0 / 6.0 < 0.31


def test_devices_of_a_node_share_the_memory_of_their_host() -> None:
    group = node(host_memory_bytes_per_s=400e9)
    down = seconds(node(host_memory_bytes_per_s=None)) * 4.0 / 6.0  # gradients come before the update
    assert seconds(group, dp=8) - down == pytest.approx(8.0 * (seconds(group, dp=1) - down), rel=1e-3)


def test_more_host_bandwidth_is_never_slower_and_ends_at_the_link() -> None:
    found = [seconds(node(host_memory_bytes_per_s=rate * 1e9)) for rate in (10, 50, 100, 400, 1000, 1e5)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 4.0 * found[2] > 4.0 * found[-1]
    unknown = seconds(node(host_memory_bytes_per_s=None))
    assert found[-1] == pytest.approx(unknown, rel=1e-3)  # what the link takes remains
    assert found[2] > 5.0 * unknown


def test_states_that_the_host_cannot_hold_are_no_plan() -> None:
    states = 8 * 1e9 * 12.0
    assert np.isfinite(seconds(node(host_memory_bytes=states * 1.01)))
    assert not np.isfinite(seconds(node(host_memory_bytes=states * 0.99)))
    both = "optimizer_and_parameters"
    assert not np.isfinite(seconds(node(host_memory_bytes=states * 1.01), offload=both))
    assert np.isfinite(seconds(node(host_memory_bytes=1.0), offload="none"))
