"""Context parallelism of decode: tensor ranks that would hold the same cache split it by position."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree, powers_of_two


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return degrees that divide the copies of the cache in a tensor group; 1 where nothing is copied."""
    tp = degree(chosen, "tp")
    if facts.role == "prefill" or facts.states or not facts.cores:
        return (1,)
    if any(core.window or core.compress_ratio or core.index_dim for core in facts.cores):
        return (1,)
    copies = min(tp if core.kind == "mla" else max(1, tp // core.num_kv_heads) for core in facts.cores)
    return tuple(cp for cp in powers_of_two(copies) if copies % cp == 0)


dimension = Dimension(name="decode_cp", order=7, values=values)
