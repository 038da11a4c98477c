"""Tensor parallelism: every rank gets whole heads and equal slices."""

from __future__ import annotations

from planner.ir.model_graph import Linear
from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, fits_domain


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:  # noqa: ARG001 - protocol
    """Return degrees that divide the heads and the split widths, inside a domain or over whole domains."""
    return tuple(
        tp for tp in range(1, facts.max_devices + 1) if fits_domain(facts, tp) and divides(facts, tp)
    )


def divides(facts: SpaceFacts, tp: int) -> bool:
    """Return whether `tp` ranks can share heads, KV heads (or replicate them evenly) and split widths."""
    heads_fit = all(
        core.num_heads % tp == 0 and (core.num_kv_heads % tp == 0 or tp % max(1, core.num_kv_heads) == 0)
        for core in facts.cores
        if core.kind == "gqa"
    )
    latent_fit = all(core.num_heads % tp == 0 for core in facts.cores if core.kind == "mla")
    states_fit = all(state.num_heads % tp == 0 for state in facts.states)
    return heads_fit and latent_fit and states_fit and all(_splits(op, tp) for op in facts.linears)


def _splits(op: Linear, tp: int) -> bool:
    if op.num_units:
        return op.shard not in ("column", "row") or op.num_units % tp == 0
    if op.shard == "column":
        return op.out_features % tp == 0
    return op.shard != "row" or op.in_features % tp == 0


dimension = Dimension(name="tp", order=2, values=values)
