"""Weight format: those the user allows and the devices can execute."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value
from planner.space.engine import executed_on


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:  # noqa: ARG001 - protocol
    """Return the allowed formats that run on the group, weight-only where the device lacks the arithmetic."""
    return tuple(fmt for fmt in facts.choices.weight_fmts if executed_on(facts.group, fmt) is not None)


dimension = Dimension(name="weight_fmt", order=0, values=values)
