"""Decode can go on with the cache that prefill sends: blocks are moved as they are."""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule
from planner.verify.serving.shards import cache_format


def _check(case: Case) -> Iterator[Violation]:
    model = case.problem.payload.model
    halves = {
        role: {
            (pool.engine, cache_format(model, pool.kv_dtype)) for pool in case.plan.pools if pool.role == role
        }
        for role in ("prefill", "decode")
    }
    for role, other in (("prefill", "decode"), ("decode", "prefill")):
        for engine, fmt in sorted(halves[role] - halves[other]):
            yield Violation(
                message=f"no {other} pool shares the {fmt} cache of the {role} pools under {engine}"
            )


RULE = Rule(
    says="prefill and decode pools share engine and cache format",
    check=_check,
    kinds=SERVING,
    of_parts=True,
    requires=("choices",),
)
