"""Attention data parallelism: ranks with their own requests that share one set of experts."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree, fits_domain, powers_of_two

WHOLE_STAGE_ENGINES = frozenset({"trtllm"})
"""Engines whose attention is data parallel over all ranks of a stage or over none (enable_attention_dp)."""


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return 1 for a model without experts (replicas do the same), else powers of two that fit."""
    tp = degree(chosen, "tp")
    if not facts.experts:
        return (1,)
    if tp > 1 and facts.engine.software.engine in WHOLE_STAGE_ENGINES:
        return (1,)
    degrees = powers_of_two(facts.max_devices // tp)
    return tuple(ranks for ranks in degrees if fits_domain(facts, tp * ranks))


dimension = Dimension(name="attention_dp", order=3, values=values)
