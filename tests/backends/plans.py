"""Hand-made plans of tests/data/plans and ways to change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.plan.schema import Plan

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
