"""What a device holds fits into it: parts add up, weights are what they must be, a request finds room.

Weights are worked out again operator by operator and may differ from the plan's by 2 %, the size of
what engines pad and replicate without saying.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.cluster import NodeGroup
from planner.ir.serving import ServingProblem
from planner.plan.schema import DeviceMemory, Pool
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule, differs
from planner.verify.serving.shards import (
    device_bytes,
    sequence_bytes,
    stage_adapter_bytes,
    stage_weight_bytes,
)
from planner.verify.serving.streaming import away_from

WEIGHT_TOLERANCE = 0.02
_SUM_TOLERANCE = 1e-6
_HOST_SHARE = 0.8
"""Share of host memory that weights may take."""


def _check(case: Case) -> Iterator[Violation]:
    groups = {group.name: group for group in case.problem.cluster.groups}
    payload = cast("ServingProblem", case.problem.payload)
    for pool in case.plan.pools:
        stages = [memory.stage for memory in pool.memory]
        if sorted(stages) != list(range(pool.strategy.pp)):
            yield Violation(message=f"pool {pool.name!r} states the memory of stages {stages}")
            continue
        for memory in pool.memory:
            for violation in (
                *_host(payload, pool, memory, groups[pool.node_group]),
                *_sums(memory, groups[pool.node_group]),
                *_contents(payload, pool, memory),
            ):
                where = f"pool {pool.name!r}, stage {memory.stage}: "
                yield Violation(message=where + violation.message, numbers=violation.numbers)


def _sums(memory: DeviceMemory, group: NodeGroup) -> Iterator[Violation]:
    total = sum(part.num_bytes for part in memory.parts)
    there = device_bytes(group)
    numbers = (("parts", total), ("used", memory.used_bytes), ("capacity", memory.capacity_bytes))
    if differs(total, memory.used_bytes, _SUM_TOLERANCE):
        yield Violation(message="the parts are not what is used", numbers=numbers)
    if memory.used_bytes > memory.capacity_bytes * (1 + _SUM_TOLERANCE):
        yield Violation(message="more is used than there is", numbers=numbers)
    if memory.capacity_bytes > there * (1 + _SUM_TOLERANCE):
        yield Violation(message=f"the device has {there:.4g} bytes", numbers=numbers)


def _contents(payload: ServingProblem, pool: Pool, memory: DeviceMemory) -> Iterator[Violation]:
    parts = {part.name: part.num_bytes for part in memory.parts}
    away = away_from(payload.model, pool, memory.stage)
    own = stage_weight_bytes(payload.model, pool, memory.stage) - (away.num_bytes if away else 0.0)
    stated = parts.get("weights", 0.0)
    if differs(stated, own, WEIGHT_TOLERANCE):
        yield Violation(
            message=f"weights are {own / 1e9:.2f} GB, the plan says {stated / 1e9:.2f}",
            numbers=(("own", own), ("claimed", stated)),
        )
    yield from _adapters(payload, pool, memory.stage, parts.get("adapters", 0.0))
    longest = sequence_bytes(payload.model, pool, memory.stage, payload.workload.lengths.max_total)
    cache = parts.get("kv_cache", 0.0)
    if longest > cache * (1 + _SUM_TOLERANCE):
        yield Violation(
            message=f"the longest request needs {longest / 1e9:.3f} GB of cache, there is {cache / 1e9:.3f}",
            numbers=(("needed", longest), ("cache", cache)),
        )


def _host(payload: ServingProblem, pool: Pool, memory: DeviceMemory, group: NodeGroup) -> Iterator[Violation]:
    """Yield what is wrong with weights that stay in host memory: there is room for them and for a buffer."""
    away = away_from(payload.model, pool, memory.stage)
    if away is None:
        return
    taken = away.num_bytes * min(group.devices_per_node, group.num_devices)
    if taken > group.host_memory_bytes * _HOST_SHARE * (1 + WEIGHT_TOLERANCE):
        yield Violation(
            message=f"{taken / 1e9:.1f} GB of weights do not fit {_HOST_SHARE:.0%} of the host's memory",
            numbers=(("taken", taken), ("there", group.host_memory_bytes)),
        )
    buffer = sum(part.num_bytes for part in memory.parts if part.name == "weight_buffers")
    if buffer < away.buffer_bytes * (1 - WEIGHT_TOLERANCE):
        yield Violation(
            message=f"copied weights need a buffer of {away.buffer_bytes / 1e9:.2f} GB",
            numbers=(("own", away.buffer_bytes), ("claimed", buffer)),
        )


def _adapters(payload: ServingProblem, pool: Pool, stage: int, stated: float) -> Iterator[Violation]:
    held = payload.adapters
    own = 0.0 if held is None else stage_adapter_bytes(payload.model, pool, stage, held)
    if differs(stated, own, WEIGHT_TOLERANCE):
        yield Violation(
            message=f"adapters take {own / 1e9:.2f} GB, the plan says {stated / 1e9:.2f}",
            numbers=(("own", own), ("claimed", stated)),
        )


RULE = Rule(
    says="weights and a request's cache fit, and the parts add up",
    check=_check,
    kinds=SERVING,
    of_parts=True,
    requires=("layers", "divisibility", "inventory"),
    of_steps=True,
)
