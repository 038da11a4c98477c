"""Pipeline parallelism: stages of possibly unequal layer counts."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree

MAX_EVERY = 8
BEYOND = (10, 12, 14, 16, 20, 24, 32)


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return every depth up to 8 and selected ones beyond, as far as layers and devices go."""
    stage = degree(chosen, "tp") * degree(chosen, "attention_dp") * degree(chosen, "prefill_cp")
    limit = min(facts.model.num_layers, facts.max_devices // stage)
    pinned = facts.pinned("pp")
    if pinned is not None:
        return (pinned,) if 1 <= pinned <= limit else ()
    return (*range(1, min(MAX_EVERY, limit) + 1), *(depth for depth in BEYOND if depth <= limit))


dimension = Dimension(name="pp", order=8, values=values)
