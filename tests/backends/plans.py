"""Hand-made plans of tests/data/plans and ways to change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.plan.schema import DeviceMemory, MemoryPart, Plan, Pool

FOLDER = Path(__file__).parents[1] / "data" / "plans"
NAMES = sorted(p.stem for p in FOLDER.glob("*.json"))


def load(name: str) -> Plan:
    return Plan.model_validate_json((FOLDER / f"{name}.json").read_bytes())


def with_pool(plan: Plan, index: int = 0, **changes: Any) -> Plan:
    """The plan with fields of one pool replaced; `strategy` changes single degrees."""
    pool = plan.pools[index]
    if "strategy" in changes:
        changes["strategy"] = pool.strategy.model_copy(update=changes["strategy"])
    pools = list(plan.pools)
    pools[index] = pool.model_copy(update=changes)
    return plan.model_copy(update={"pools": pools})


def for_engine(plan: Plan, engine: str) -> Plan:
    """The plan for another engine: vLLM's own name of a limit becomes the plan's."""
    part = {"weights": 0.4, "kv_cache": 0.45, "activations": 0.03, "context": 0.02}
    memory = DeviceMemory(
        parts=[MemoryPart(name=name, num_bytes=share * 80e9) for name, share in part.items()],
        used_bytes=0.9 * 80e9,
        capacity_bytes=80e9,
    )
    pools: list[Pool] = []
    for pool in plan.pools:
        limits = dict(pool.limits)
        limits["memory_fraction"] = limits.pop("gpu_memory_utilization", 0.9)
        pools.append(pool.model_copy(update={"engine": engine, "limits": limits, "memory": [memory]}))
    return plan.model_copy(update={"pools": pools})
