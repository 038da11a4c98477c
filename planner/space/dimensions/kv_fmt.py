"""Cache format: those the user allows."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:  # noqa: ARG001 - protocol
    """Return the allowed cache formats."""
    return facts.choices.kv_fmts


dimension = Dimension(name="kv_fmt", order=1, values=values)
