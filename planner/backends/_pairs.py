"""Prefill and decode pools: which pairs an engine can hand KV caches between."""

from __future__ import annotations

from collections.abc import Sequence

from planner.errors import UnsupportedError
from planner.plan.schema import Plan, Pool


def check_roles(engine: str, plan: Plan) -> None:
    """Refuse mixtures of roles that one router cannot serve, and pairs that cannot exchange caches.

    Raises
    ------
    UnsupportedError
        Naming the decision.
    """
    for model in sorted({pool.model for pool in plan.pools}):
        pools = [pool for pool in plan.pools if pool.model == model]
        roles = {pool.role for pool in pools}
        if "aggregated" in roles and len(roles) > 1:
            raise UnsupportedError(
                f"the router of {engine} serves a model either from prefill and decode pools or from whole "
                "servers",
                key="pools.role",
                value=", ".join(sorted(roles)),
            )
        if roles != {"aggregated"}:
            _check_pair(engine, pools)


def _check_pair(engine: str, pools: Sequence[Pool]) -> None:
    if {pool.role for pool in pools} != {"prefill", "decode"}:
        raise UnsupportedError(
            "a disaggregated plan needs a prefill pool and a decode pool",
            key="pools.role",
            value=", ".join(p.role for p in pools),
        )
    if len({p.kv_dtype for p in pools}) > 1:
        raise UnsupportedError(
            f"{engine} moves KV blocks as they are, so prefill and decode need one KV format",
            key="pools.kv_dtype",
            value=", ".join(p.kv_dtype for p in pools),
        )
    sizes = {p.limits["block_size"] for p in pools if "block_size" in p.limits}
    if len(sizes) > 1:
        raise UnsupportedError(
            f"{engine} moves KV blocks as they are, so prefill and decode need one block size",
            key="pools.limits.block_size",
            value=", ".join(str(size) for size in sorted(sizes)),
        )
