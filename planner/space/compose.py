"""Composes the dimensions: every valid shape of one replica, pruned as soon as a part is invalid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import cast

from planner.ir.serving import RejectedShape, Role
from planner.ir.strategy import ServingStrategy
from planner.space.dimension import DIMENSIONS, Dimension, SpaceFacts, Value

_DEGREES = ("tp", "pp", "attention_dp", "ep", "moe_tp", "prefill_cp", "decode_cp")
_ALIASES = {"cp": "prefill_cp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShape:
    """One replica before it is priced; `layers_per_stage` is chosen with prices at hand.

    `offload` says which weights stay in host memory (see `planner.ir.weight_offload`).
    """

    role: Role
    group: str
    engine: str
    weight_fmt: str
    kv_fmt: str
    strategy: ServingStrategy
    token_budget: int
    max_num_seqs: int
    offload: str = ""


def is_rejected(shape: ReplicaShape, rejected: RejectedShape) -> bool:
    """Return whether a shape was rejected; engines are told budgets of at least their sequences."""
    told = max(shape.token_budget, rejected.max_num_seqs)
    return (told, shape.role, shape.group, shape.engine, shape.weight_fmt, shape.kv_fmt) == (
        rejected.token_budget,
        rejected.role,
        rejected.group,
        rejected.engine,
        rejected.weight_fmt,
        rejected.kv_fmt,
    ) and (shape.strategy, shape.offload) == (rejected.strategy, rejected.offload)


def shapes(facts: SpaceFacts) -> Iterator[ReplicaShape]:
    """Yield every valid replica shape of one role on one group under one engine, in a fixed order."""
    fixed = {_ALIASES.get(name, name): value for name, value in facts.choices.fixed}
    if facts.role != "prefill":
        fixed.pop("prefill_cp", None)
    if facts.role == "prefill":
        fixed.pop("decode_cp", None)
    for shape in _valid(facts, fixed):
        if not any(is_rejected(shape, rejected) for rejected in facts.choices.rejected):
            yield shape


def _valid(facts: SpaceFacts, fixed: dict[str, int]) -> Iterator[ReplicaShape]:
    for chosen in _expand(facts, _ordered(), {}, fixed):
        degrees = {name: cast("int", chosen[name]) for name in (*_DEGREES, "redundant_experts")}
        yield ReplicaShape(
            role=facts.role,
            group=facts.group.name,
            engine=facts.engine.engine,
            weight_fmt=str(chosen["weight_fmt"]),
            kv_fmt=str(chosen["kv_fmt"]),
            strategy=ServingStrategy(**degrees),
            token_budget=cast("int", chosen["token_budget"]),
            max_num_seqs=cast("int", chosen["max_num_seqs"]),
            offload=str(chosen["offload"]),
        )


@cache
def _ordered() -> tuple[Dimension, ...]:
    return tuple(sorted((dim for _, dim in DIMENSIONS.items()), key=lambda dim: dim.order))


def _expand(
    facts: SpaceFacts, left: tuple[Dimension, ...], chosen: dict[str, Value], fixed: dict[str, int]
) -> Iterator[dict[str, Value]]:
    if not left:
        yield dict(chosen)
        return
    first, rest = left[0], left[1:]
    for value in first.values(facts, chosen):
        if fixed.get(first.name, value) == value:
            chosen[first.name] = value
            yield from _expand(facts, rest, chosen, fixed)
    chosen.pop(first.name, None)
