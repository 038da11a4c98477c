"""The engines that exporters know, by the name that a plan calls them."""

from __future__ import annotations

from planner.backends import _sglang_engine, _vllm_engine
from planner.backends._engine import Engine
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan

ENGINES: dict[str, Engine] = {e.name: e for e in (_vllm_engine.ENGINE, _sglang_engine.ENGINE)}


def engine_of(backend: str, plan: Plan) -> Engine:
    """Return the engine that all pools of a plan run.

    Raises
    ------
    InputError
        If the plan has no pools.
    UnsupportedError
        If it mixes engines, or no exporter knows its engine.
    """
    names = sorted({pool.engine for pool in plan.pools})
    if not names:
        raise InputError(
            "this plan has nothing to launch",
            key="status",
            value=plan.status,
            hint="Only a plan with pools can be exported.",
        )
    if len(names) > 1 or names[0] not in ENGINES:
        raise UnsupportedError(
            f"{backend} launches plans of one engine",
            key="pools.engine",
            value=", ".join(names),
            allowed=", ".join(sorted(ENGINES)),
            hint="Plan again with --engine, or export each model's plan on its own.",
        )
    return ENGINES[names[0]]
