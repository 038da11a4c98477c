"""Degrees divide what they split: heads, experts, the ranks of a stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.model_graph import AttentionCore, Experts, ModelGraph, StateCore
from planner.ir.serving import ServingProblem
from planner.plan.schema import Pool
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    model = cast("ServingProblem", case.problem.payload).model
    for pool in case.plan.pools:
        for message in (*_heads(model, pool), *_experts(model, pool), *_context(model, pool)):
            yield Violation(message=f"pool {pool.name!r}: {message}")


def _heads(model: ModelGraph, pool: Pool) -> Iterator[str]:
    tp = pool.strategy.tp
    cores = {op for layer in model.layers for op in layer.ops if isinstance(op, AttentionCore | StateCore)}
    for heads in sorted({core.num_heads for core in cores}):
        if heads % tp:
            yield f"tp={tp} does not divide {heads} heads"
    for kv in sorted({c.num_kv_heads for c in cores if isinstance(c, AttentionCore) and c.kind == "gqa"}):
        if kv % tp and tp % kv:
            yield f"tp={tp} and {kv} KV heads do not divide one another"


def _experts(model: ModelGraph, pool: Pool) -> Iterator[str]:
    s = pool.strategy
    found = {op for layer in model.layers for op in layer.ops if isinstance(op, Experts)}
    group = s.tp * s.attention_dp * s.cp
    if not found:
        if s.ep != 1:
            yield f"ep={s.ep} for a model without experts"
        return
    if s.ep * s.moe_tp != group:
        yield f"ep x moe_tp = {s.ep} x {s.moe_tp} is not the {group} ranks of a stage"
    for op in found:
        if (op.num_experts + int(pool.limits.get("redundant_experts", 0))) % s.ep:
            yield f"ep={s.ep} does not divide {op.num_experts} experts"
        if op.inter % s.moe_tp:
            yield f"moe_tp={s.moe_tp} does not divide the width {op.inter} of an expert"


def _context(model: ModelGraph, pool: Pool) -> Iterator[str]:
    s = pool.strategy
    if s.tp % s.decode_cp:
        yield f"decode_cp={s.decode_cp} does not divide tp={s.tp}"
    if s.pp > len(model.layers):
        yield f"pp={s.pp} for {len(model.layers)} layers"


RULE = Rule(
    says="degrees divide what they split", check=_check, kinds=SERVING, of_parts=True, requires=("choices",)
)
