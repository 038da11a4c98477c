"""Tensor split of each expert: what expert parallelism leaves of the stage's ranks."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return the one degree with ep * moe_tp equal to the ranks of a stage."""
    if not facts.experts:
        return (1,)
    stage = degree(chosen, "tp") * degree(chosen, "attention_dp") * degree(chosen, "prefill_cp")
    return (stage // degree(chosen, "ep"),)


dimension = Dimension(name="moe_tp", order=6, values=values)
