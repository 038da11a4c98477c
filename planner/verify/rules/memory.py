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

WEIGHT_TOLERANCE = 0.02
_SUM_TOLERANCE = 1e-6


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
    own = stage_weight_bytes(payload.model, pool, memory.stage)
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
