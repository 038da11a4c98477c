"""Copies of hot experts in every layer: how many, where experts are spread over ranks."""

from __future__ import annotations

from planner.ir.serving import BALANCING_ENGINES
from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return the allowed numbers with which all ranks hold equally many; without spreading none is needed."""
    ep = degree(chosen, "ep")
    if not facts.experts or ep == 1:
        return (0,)
    found = [n for n in facts.choices.redundant_experts if fills(facts, ep, n)]
    if facts.engine.software.engine not in BALANCING_ENGINES:
        found = [n for n in found if n == 0]
    return tuple(found)


def fills(facts: SpaceFacts, ep: int, num_redundant: int) -> bool:
    """Return whether experts and copies fill the ranks evenly."""
    return all((op.num_experts + num_redundant) % ep == 0 for op in facts.experts)


dimension = Dimension(name="redundant_experts", order=11, values=values)
